"""Directories of tasks are removed with any content, and targets of links stay."""

from __future__ import annotations

import os
import resource
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from taskvine_manager.runtime.removal import remove


@pytest.fixture
def few_descriptors() -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/proc/self/fd")) + 20, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


def make_deep(top: Path, levels: int) -> None:
    """Make a chain of nested directories with a file in each."""
    top.mkdir()
    descriptor = os.open(top, os.O_RDONLY)
    for _ in range(levels):
        os.mkdir("d", dir_fd=descriptor)
        os.close(os.open("file", os.O_WRONLY | os.O_CREAT, dir_fd=descriptor))
        inner = os.open("d", os.O_RDONLY, dir_fd=descriptor)
        os.close(descriptor)
        descriptor = inner
    os.close(descriptor)


@pytest.mark.parametrize("levels", [3, 1500])
def test_deep_directories_are_removed(tmp_path: Path, few_descriptors: None, levels: int) -> None:
    make_deep(tmp_path / "top", levels)
    remove(str(tmp_path / "top"))
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("works", [True, False], ids=["rmtree", "without rmtree"])
def test_links_are_not_followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, works: bool) -> None:
    if not works:  # removing fails in directories without permission, except for root
        monkeypatch.setattr(shutil, "rmtree", lambda *_, **__: None)
    precious = tmp_path / "precious"
    precious.mkdir(0o500)
    (tmp_path / "kept").write_text("kept")
    top = tmp_path / "top"
    (top / "a" / "b").mkdir(parents=True)
    for folder in (top, top / "a", top / "a" / "b"):
        (folder / "folder").symlink_to(precious)
        (folder / "file").symlink_to(tmp_path / "kept")
        os.link(tmp_path / "kept", folder / "second name")
        os.mkfifo(folder / "pipe")
    (top / "a" / "b").chmod(0o000)
    (top / "a").chmod(0o000)
    remove(str(top))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["kept", "precious"]
    assert stat.S_IMODE(precious.stat().st_mode) == 0o500


def test_link_in_place_of_the_directory_is_removed(tmp_path: Path) -> None:
    (tmp_path / "user").mkdir()
    (tmp_path / "user" / "file").touch()
    (tmp_path / "link").symlink_to(tmp_path / "user")
    remove(str(tmp_path / "link"))
    assert [path.name for path in tmp_path.iterdir()] == ["user"]
    assert (tmp_path / "user" / "file").exists()


def test_file_or_missing_path_is_accepted(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for _ in range(2):
        remove(str(tmp_path / "file"))
    assert not any(tmp_path.iterdir())
