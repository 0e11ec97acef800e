"""Members of archives, also of malicious and damaged ones."""

from __future__ import annotations

import contextlib
import io
import os
import tarfile
import zipfile
from pathlib import Path

import pytest

from taskvine_manager.runtime.remote.archives import unpack
from taskvine_manager.runtime.remote.problems import Problem


def make(kind: str, path: Path, names: list[str]) -> str:
    if kind == "zip":
        with zipfile.ZipFile(path, "w") as zipped:
            for name in names:
                entry = zipfile.ZipInfo(name)
                entry.external_attr = 0o755 << 16
                zipped.writestr(entry, name)
    else:
        with tarfile.open(path, "w:xz") as tarred:
            for name in names:
                member = tarfile.TarInfo(name)
                member.size, member.mode = len(name), 0o755
                tarred.addfile(member, io.BytesIO(name.encode()))
    return str(path)


def files(directory: Path) -> list[str]:
    return sorted(str(path.relative_to(directory)) for path in directory.rglob("*") if path.is_file())


@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_members(tmp_path: Path, kind: str) -> None:
    archive = make(kind, tmp_path / "archive", ["a", "b/c", "b/d/e", "bb"])
    for member, expected in {"": ["a", "b/c", "b/d/e", "bb"], "b": ["c", "d/e"], "./b/d": ["e"]}.items():
        target = tmp_path / f"made-{len(member)}"
        unpack(archive, kind, member, str(target))
        assert files(target) == expected
    unpack(archive, kind, "b/d/e", str(tmp_path / "one"))
    assert (tmp_path / "one").read_text() == "b/d/e"
    assert os.access(tmp_path / "one", os.X_OK)
    with pytest.raises(Problem, match="the archive has no member 'd'"):
        unpack(archive, kind, "d", str(tmp_path / "none"))


@pytest.mark.parametrize("kind", ["zip", "tar"])
@pytest.mark.parametrize("name", ["../out", "/tmp/of-an-archive", "a/../../out"])
def test_nothing_leaves_the_directory(tmp_path: Path, kind: str, name: str) -> None:
    (tmp_path / "in").mkdir()
    archive = make(kind, tmp_path / "archive", [name])
    with contextlib.suppress(Problem):  # zip archives are unpacked without the part that leads out
        unpack(archive, kind, "", str(tmp_path / "in" / "made"))
    assert not os.path.lexists("/tmp/of-an-archive")
    assert sorted(os.listdir(tmp_path)) == ["archive", "in"]


def test_a_link_that_leads_out_is_refused(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "archive", "w") as archive:
        link = tarfile.TarInfo("link")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
    with pytest.raises(Problem, match="it cannot be unpacked"):
        unpack(str(tmp_path / "archive"), "tar", "", str(tmp_path / "made"))


@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_damaged_archives(tmp_path: Path, kind: str) -> None:
    archive = Path(make(kind, tmp_path / "archive", ["a", "b"]))
    whole = archive.read_bytes()
    for number, content in enumerate([b"", b"not an archive", whole[: len(whole) // 2]]):
        archive.write_bytes(content)
        with pytest.raises(Problem):
            unpack(str(archive), kind, "", str(tmp_path / f"made-{number}"))
