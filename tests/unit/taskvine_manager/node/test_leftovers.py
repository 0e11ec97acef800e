"""Directories of nodes that could not clean up."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from pathlib import Path

import pytest

from taskvine_manager import cleanup
from taskvine_manager.node import leftovers, temporary

NOBODY = 65534
as_root = pytest.mark.skipif(os.getuid() != 0, reason="only root can give files to another user")


@pytest.fixture
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A node's directory, in an otherwise empty temporary directory."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))  # links are made there
    made = Path(tempfile.mkdtemp(prefix=leftovers.PREFIX))
    (made / "cache").mkdir()
    (made / "cache" / "file").write_bytes(b"data")
    return made


def test_directory_of_a_living_node_stays(directory: Path) -> None:
    descriptor = leftovers.claim(str(directory), "token", "node")
    assert leftovers.sweep(str(directory.parent)) == []
    other = os.dup(descriptor)  # as the process that cleans up has
    os.close(descriptor)
    assert leftovers.sweep(str(directory.parent)) == []
    os.close(other)
    link = temporary.link(str(directory / "tmp"))
    assert leftovers.sweep(str(directory.parent)) == [str(directory)]
    assert not directory.exists()
    assert not os.path.islink(link)


@pytest.mark.parametrize("name", ["node", ""])
def test_processes_of_a_dead_node_are_ended(directory: Path, name: str) -> None:
    """Directories of a node, or of a whole run."""
    token = str(directory)
    environment = {**os.environ, cleanup.TOKEN: token, cleanup.TOKEN + "_NODE": "node"}
    process = subprocess.Popen(["sleep", "100"], env=environment, start_new_session=True)
    try:
        os.close(leftovers.claim(str(directory), token, name))
        assert leftovers.sweep(str(directory.parent)) == [str(directory)]
        assert process.wait(10) < 0
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize("content", [None, json.dumps(["another-machine", "token", "node"]), "", "[1]"])
def test_doubtful_directories_stay(directory: Path, content: str | None) -> None:
    if content is not None:
        (directory / ".taskvine-node.lock").write_text(content)
    assert leftovers.sweep(str(directory.parent)) == []
    assert directory.exists()


def test_links_are_not_followed(directory: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    directory.rename(elsewhere)
    os.close(leftovers.claim(str(elsewhere), "token", "node"))
    (tmp_path / f"{leftovers.PREFIX}link").symlink_to(elsewhere)
    assert leftovers.sweep(str(directory.parent)) == []
    assert elsewhere.exists()


@as_root
def test_directories_of_other_users_stay(directory: Path) -> None:
    os.close(leftovers.claim(str(directory), "token", "node"))
    os.chown(directory, NOBODY, NOBODY)
    assert leftovers.sweep(str(directory.parent)) == []
    assert (directory / "cache" / "file").exists()


def test_removed_directories_are_named(capfd: pytest.CaptureFixture[str]) -> None:
    leftovers.say(["/tmp/taskvine-node-1"])
    leftovers.say_left()
    said = capfd.readouterr()
    assert "removed /tmp/taskvine-node-1" in said.err
    assert said.out == f"{leftovers.LEFT}\n"
