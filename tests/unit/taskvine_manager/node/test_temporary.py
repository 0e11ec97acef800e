"""Short temporary directories."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest

from taskvine_manager.node import staging, temporary
from tests.conftest import settle


def test_link_is_short_and_leads_to_its_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for root in (tempfile.gettempdir(), str(tmp_path / ("x" * 80))):
        os.makedirs(root, exist_ok=True)
        monkeypatch.setattr(tempfile, "tempdir", root)
        path = temporary.link(str(tmp_path / "workspace" / "tmp"))
        try:
            assert len(path) <= temporary.LONGEST_ROOT + len("/tv-12345678")
            Path(path, "file").touch()
            assert (tmp_path / "workspace" / "tmp" / "file").exists()
            temporary.empty(path)
            assert os.listdir(path) == []
        finally:
            temporary.unlink(path)
        temporary.unlink(path)
        assert not os.path.lexists(path)
        assert (tmp_path / "workspace" / "tmp").is_dir()


def test_folders_are_made_and_removed(tmp_path: Path) -> None:
    folders = temporary.Folders(str(tmp_path))
    made = folders.make("s0")
    assert made == dict.fromkeys(("TMPDIR", "TEMP", "TMP"), str(tmp_path / "s0"))
    (tmp_path / "s0" / "deeper").mkdir()
    folders.remove("s0")
    assert not settle(lambda: os.listdir(tmp_path))
    folders.remove("s0")


def test_without_a_root_there_is_no_directory() -> None:
    folders = temporary.Folders(None)
    assert folders.make("s0") == {}
    folders.remove("s0")


def test_links_into_a_run_are_removed_with_it(tmp_path: Path) -> None:
    run, other = tmp_path / "run", tmp_path / "run-of-another"
    gone, kept = (temporary.link(str(directory / "nodes" / "b0-1" / "tmp")) for directory in (run, other))
    try:
        staging.remove_run(str(run))
        assert not os.path.lexists(gone)
        assert os.path.isdir(kept)
    finally:
        temporary.unlink(kept)


def test_next_worker_removes_dangling_links(tmp_path: Path) -> None:
    gone = temporary.link(str(tmp_path / "killed" / "tmp"))
    used = temporary.link(str(tmp_path / "runs" / "tmp"))
    (tmp_path / "killed" / "tmp").rmdir()
    new = temporary.link(str(tmp_path / "new" / "tmp"))
    try:
        assert [os.path.lexists(path) for path in (gone, used, new)] == [False, True, True]
    finally:
        temporary.unlink(used)
        temporary.unlink(new)
