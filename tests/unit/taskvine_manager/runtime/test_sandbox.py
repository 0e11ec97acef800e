"""A task's private directory: files left in it, and how files outside are found from it."""

from __future__ import annotations

import os
import pickle
from collections.abc import Iterator
from pathlib import Path

import pytest

from taskvine_manager.runtime import sandbox


class Named:
    """Makes a File of a URL, as locate() does."""

    local_path: str

    def __init__(self, url: str) -> None:
        self.url = url


def fill(directory: Path, *names: str) -> None:
    for name in names:
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).touch()


def test_undeclared_files_are_found(tmp_path: Path) -> None:
    fill(tmp_path, "a", "b/c", "b/d", "tree/x/y", "e")
    (tmp_path / "empty").mkdir()
    (tmp_path / "link").symlink_to(tmp_path)
    assert sandbox.left_in(str(tmp_path), ["b/./c", "tree", "not there"]) == ("a", "b/d", "e", "link")
    assert sandbox.left_in(str(tmp_path / "empty")) == ()
    assert sandbox.left_in(str(tmp_path / "gone")) == ()


def test_number_of_named_files_is_limited(tmp_path: Path) -> None:
    fill(tmp_path, *(f"{number:02}" for number in range(20)))
    assert len(sandbox.left_in(str(tmp_path))) == sandbox.MOST_LEFT


@pytest.fixture
def _none_afterwards() -> Iterator[None]:
    yield
    sandbox.use(None)


@pytest.mark.usefixtures("_none_afterwards")
def test_files_are_located_from_the_sandbox() -> None:
    state = {"local_path": os.path.join("folder", "a"), "other": 1}
    sandbox.use("/box")
    made = sandbox.locate(Named, "taskvinetemp:///a", state)
    assert (made.url, made.local_path, made.other) == ("taskvinetemp:///a", "/box/folder/a", 1)
    sandbox.use(None)
    assert sandbox.locate(Named, "taskvinetemp:///a", state).local_path == "folder/a"
    assert pickle.loads(pickle.dumps(sandbox.locate)) is sandbox.locate
