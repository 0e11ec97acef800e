"""Advice about files that a task did not find, and about files that it left."""

from __future__ import annotations

from pathlib import Path

import pytest

from taskvine_exec.results.advice import WorkingDirectories, about_left
from taskvine_manager.runtime.sandbox import MOST_LEFT


@pytest.fixture
def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    directory = tmp_path / "start"
    directory.mkdir()
    (directory / "data.txt").touch()
    monkeypatch.chdir(directory)
    return directory


def test_missing_declaration_is_pointed_out(start: Path) -> None:
    said = WorkingDirectories(str(start), in_place=False).about_missing(["no", "data.txt"], "/box", "n1")
    assert said is not None
    assert said.startswith(f"'data.txt' exists in {start}, but the task ran in /box on node n1, a private directory")
    assert "inputs=[File('data.txt')]" in said


def test_changed_working_directory_is_pointed_out(start: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "later.txt").touch()
    monkeypatch.chdir(tmp_path)
    directories = WorkingDirectories(str(start), in_place=True)
    said = directories.about_missing(["later.txt"], str(start), "n1")
    assert said is not None
    assert said.startswith(f"'later.txt' exists in {tmp_path}, but the task ran in {start} on node n1. ")
    assert "File(" not in said


@pytest.mark.parametrize("missing", [[], ["no"]])
def test_file_missing_everywhere_gets_no_advice(start: Path, missing: list[str]) -> None:
    assert WorkingDirectories(str(start), in_place=False).about_missing(missing, "/box", "n1") is None
    assert WorkingDirectories(None, in_place=False).about_missing(missing, "/box", "n1") is None


def test_file_that_exists_by_now_gets_no_advice(start: Path) -> None:
    assert WorkingDirectories(str(start), in_place=True).about_missing(["data.txt"], str(start), "n1") is None


def test_limited_number_of_left_files_is_named() -> None:
    assert "declare: 'a', 'b'. They" in about_left("app", ["a", "b"], "n1")
    names = [f"f{number:02}" for number in range(MOST_LEFT)]
    said = about_left("app", names, "n1")
    assert f"{names[-2]!r} and others. " in said
    assert names[-1] not in said
