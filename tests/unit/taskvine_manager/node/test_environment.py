"""Python environments that a node unpacks, and unusable ones."""

from __future__ import annotations

import os
import sys
import tarfile
from pathlib import Path

import pytest

from taskvine_manager.node.environment import EnvironmentBroken, activated, interpreter

UNPACK = """#!{python}
import os, sys
root = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
with open(os.path.join(root, "mended"), "a") as log:
    log.write(sys.executable)
sys.exit({status})
"""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Make a stand-in for an environment: its python is the one of this process."""
    root = tmp_path / "env"
    (root / "bin").mkdir(parents=True)
    (root / "bin" / "python").write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    (root / "bin" / "python").chmod(0o755)
    return root


@pytest.fixture
def unpacked(tmp_path: Path) -> Path:
    """A node's directory of environments."""
    directory = tmp_path / "environments"
    directory.mkdir()
    return directory


def pack(root: Path, within: str = ".", compression: str = "gz") -> str:
    path = str(root.parent / f"env.tar.{compression}")
    with tarfile.open(path, f"w:{compression}") as archive:  # type: ignore[call-overload]
        archive.add(root, within)
    return path


def test_without_an_environment_this_interpreter_is_used(unpacked: Path) -> None:
    assert interpreter(None, str(unpacked)) == sys.executable
    assert activated(None, sys.executable, {"PYTHONHOME": "/x"}) == {"PYTHONHOME": "/x"}


@pytest.mark.parametrize("within", [".", "name-of-the-env"])
@pytest.mark.parametrize("compression", ["gz", "bz2", "xz"])
def test_tarball_is_unpacked_once(root: Path, unpacked: Path, within: str, compression: str) -> None:
    tarball = pack(root, within, compression)
    python = interpreter(tarball, str(unpacked))
    (directory,) = unpacked.iterdir()
    assert Path(python) == directory / within / "bin" / "python"
    (directory / "mark").touch()
    assert interpreter(tarball, str(unpacked)) == python
    assert (directory / "mark").exists()


def test_prefixes_are_repaired_once(root: Path, unpacked: Path) -> None:
    (root / "bin" / "conda-unpack").write_text(UNPACK.format(python=sys.executable, status=0))
    tarball = pack(root)
    for _ in range(2):
        python = interpreter(tarball, str(unpacked))
    mended = Path(python).parent.parent / "mended"
    assert mended.read_text() == sys.executable


def test_users_directory_is_not_changed(root: Path, unpacked: Path) -> None:
    (root / "bin" / "conda-unpack").write_text(UNPACK.format(python=sys.executable, status=0))
    before = sorted(root.rglob("*"))
    assert interpreter(str(root), str(unpacked)) == str(root / "bin" / "python")
    assert sorted(root.rglob("*")) == before
    assert list(unpacked.iterdir()) == []


def broken(root: Path, how: str) -> str:
    python = root / "bin" / "python"
    if how == "no python":
        python.unlink()
    elif how == "python is no program":
        python.chmod(0o644)
    elif how == "python of another machine":
        python.write_bytes(b"\x7fELF\x02\x01\x01" + bytes(100))
    elif how == "python without its libraries":
        python.write_text("#!/bin/sh\necho libpython is missing >&2\nexit 127\n")
    elif how == "prefixes cannot be mended":
        (root / "bin" / "conda-unpack").write_text(UNPACK.format(python=sys.executable, status=5))
    elif how == "missing":
        return str(root / "missing.tar.gz")
    tarball = pack(root)
    if how == "cut short":
        os.truncate(tarball, os.path.getsize(tarball) // 2)
    elif how == "no tarball":
        Path(tarball).write_bytes(b"\x1f\x8b" + bytes(range(200)))
    elif how == "empty":
        os.truncate(tarball, 0)
    return tarball


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("no python", "no bin/python"),
        ("python is no program", "no bin/python"),
        ("python of another machine", "cannot be run"),
        ("python without its libraries", "libpython is missing"),
        ("prefixes cannot be mended", "failed with status 5"),
        ("missing", "cannot be unpacked: FileNotFoundError"),
        ("cut short", "cannot be unpacked: "),
        ("no tarball", "cannot be unpacked: "),
        ("empty", "cannot be unpacked: "),
    ],
)
def test_unusable_environments_are_refused(root: Path, unpacked: Path, how: str, words: str) -> None:
    tarball = broken(root, how)
    with pytest.raises(EnvironmentBroken, match=words):
        interpreter(tarball, str(unpacked))


def test_directory_without_an_environment_is_refused(tmp_path: Path, unpacked: Path) -> None:
    with pytest.raises(EnvironmentBroken, match="no bin/python"):
        interpreter(str(tmp_path), str(unpacked))


def test_environment_is_activated(tmp_path: Path) -> None:
    python = str(tmp_path / "env" / "bin" / "python")
    given = {"PATH": "/bin", "PYTHONHOME": "/usr", "OTHER": "kept"}
    assert activated("env.tar.gz", python, given) == {
        "PATH": f"{tmp_path}/env/bin:/bin",
        "VIRTUAL_ENV": f"{tmp_path}/env",
        "CONDA_PREFIX": f"{tmp_path}/env",
        "OTHER": "kept",
    }
    assert given["PYTHONHOME"] == "/usr"


HERE = tuple(sys.version_info[:2])


def test_minor_version_must_match_the_program(root: Path, unpacked: Path) -> None:
    """Bytecode of another minor version crashes or misbehaves."""
    tarball = pack(root)
    assert interpreter(None, str(unpacked), HERE) == sys.executable
    assert interpreter(tarball, str(unpacked), HERE).endswith("bin/python")
    for given, named in ((None, sys.executable), (tarball, f"of env_pack {tarball}")):
        with pytest.raises(EnvironmentBroken, match=r"your program Python 3\.99: functions cannot travel") as raised:
            interpreter(given, str(unpacked), (3, 99))
        assert named in str(raised.value)
        assert f"the node has Python {HERE[0]}.{HERE[1]}." in str(raised.value)


@pytest.mark.parametrize(("said", "words"), [("3.9.1", "is 3.9.1"), ("nonsense", "is nonsense"), ("", "or later")])
def test_unusable_python_of_an_environment_is_refused(root: Path, unpacked: Path, said: str, words: str) -> None:
    python = root / "bin" / "python"
    python.unlink()
    python.write_text(f"#!/bin/sh\necho {said}\n")
    python.chmod(0o755)
    with pytest.raises(EnvironmentBroken, match=words):
        interpreter(str(root), str(unpacked), HERE)
