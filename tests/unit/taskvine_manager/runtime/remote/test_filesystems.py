"""Files in storage that fsspec opens."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import pytest

from taskvine_manager.runtime.remote import filesystems
from taskvine_manager.runtime.remote.problems import Problem

fsspec = pytest.importorskip("fsspec")


@pytest.fixture
def memory() -> Any:
    made = fsspec.filesystem("memory")
    yield made
    made.store.clear()
    made.pseudo_dirs[:] = [""]


def test_files_and_directories_are_fetched(memory: Any, tmp_path: Path) -> None:
    memory.pipe({"/set/a": b"one", "/set/sub/b": b"two"})
    assert filesystems.get("memory://set/a", str(tmp_path / "a")).size == 3
    assert (tmp_path / "a").read_bytes() == b"one"
    filesystems.get("memory://set", str(tmp_path / "set"))
    found = {str(path.relative_to(tmp_path)): path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert found == {"a": b"one", "set/a": b"one", "set/sub/b": b"two"}


@pytest.mark.parametrize(
    ("url", "words"),
    [("memory://none", "FileNotFoundError"), ("no-such://a", "no-such"), ("s3a-not-known://a", "not known")],
)
def test_what_cannot_be_read(memory: Any, tmp_path: Path, url: str, words: str) -> None:
    with pytest.raises(Problem, match=words) as caught:
        filesystems.get(url, str(tmp_path / "a"))
    assert not caught.value.may_pass


def test_a_file_that_changes_meanwhile_is_a_problem_that_may_pass(
    memory: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory.pipe("/a", b"one")
    target = tmp_path / "a"
    info = lambda *_: {"size": 3, "ETag": "2" if target.exists() else "1", "type": "file"}  # noqa: E731
    monkeypatch.setattr(type(memory), "info", info)
    with pytest.raises(Problem, match="it changed while it was read") as caught:
        filesystems.get("memory://a", str(target))
    assert caught.value.may_pass


def test_the_length_and_the_checksum_are_checked(memory: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    memory.pipe("/a", b"one")
    for info, words in (({"size": 4}, "3 of 4 bytes"), ({"size": 3, "md5Hash": "AAAA"}, "its md5 is")):
        monkeypatch.setattr(type(memory), "info", lambda *_, info=info: {"type": "file", **info})
        with pytest.raises(Problem, match=words):
            filesystems.get("memory://a", str(tmp_path / "a"))


def test_a_file_appears_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "made").write_text("new")
    target = tmp_path / "folder" / "out"
    filesystems.put(str(tmp_path / "made"), f"local://{target}")
    assert target.read_text() == "new"

    def fail(self: Any, path: str, landing: str, **_: Any) -> None:
        Path(landing).write_text("ne")
        raise ConnectionError("cut")

    (tmp_path / "made").write_text("newer")
    monkeypatch.setattr(type(fsspec.filesystem("file")), "put_file", fail)
    with pytest.raises(Problem, match="cut") as caught:
        filesystems.put(str(tmp_path / "made"), f"local://{target}")
    assert caught.value.may_pass
    assert target.read_text() == "new"
    assert os.listdir(target.parent) == ["out"]


def test_objects_are_written_in_place(memory: Any, tmp_path: Path) -> None:
    (tmp_path / "made").write_text("new")
    filesystems.put(str(tmp_path / "made"), "memory://folder/out")
    assert memory.cat("/folder/out") == b"new"


def test_without_fsspec_the_error_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "fsspec.core", None)
    with pytest.raises(Problem, match=r"pip install 'taskvine-exec\[remote\]'"):
        filesystems.get("memory://a", str(tmp_path / "a"))


class _Renames:
    """A file system that does not rename over a file, and may fail after a number of renames."""

    def __init__(self, *, works_for: int = 99, replies: bool = True) -> None:
        self.files = {"d/out": "old"}
        self.left, self.replies = works_for, replies

    def makedirs(self, path: str, *, exist_ok: bool) -> None:
        pass

    def put_file(self, path: str, target: str) -> None:
        self.files[target] = "new"

    def exists(self, path: str) -> bool:
        return path in self.files

    def rm_file(self, path: str) -> None:
        del self.files[path]

    def mv(self, source: str, target: str) -> None:
        if target in self.files and self.replies:
            raise OSError("Failure")
        self.left -= 1
        if self.left < 0 and not source.endswith(".old"):
            raise ConnectionError("gone")
        self.files[target] = self.files.pop(source)
        if not self.replies:
            raise ConnectionError("no reply")


def test_older_output_is_replaced_where_renames_do_not() -> None:
    there = _Renames()
    filesystems._put_and_rename(there, "local", "d/out")
    assert there.files == {"d/out": "new"}


def test_older_output_survives_a_failed_replacement() -> None:
    there = _Renames(works_for=1)
    with pytest.raises(ConnectionError):
        filesystems._put_and_rename(there, "local", "d/out")
    assert there.files == {"d/out": "old"}


def test_output_survives_a_lost_reply() -> None:
    there = _Renames(replies=False)
    with pytest.raises(ConnectionError):
        filesystems._put_and_rename(there, "local", "d/out")
    assert there.files == {"d/out": "new"}
