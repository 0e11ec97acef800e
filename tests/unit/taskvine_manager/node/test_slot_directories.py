"""The directories, logs and failure reports of slots."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from taskvine_manager.node.slot_directories import SlotDirectories
from taskvine_manager.node.slot_process import SlotProcess
from tests.conftest import settle


def made(directory: Path, **config: Any) -> SlotDirectories:
    """Make the directories of a node whose slots each build the context."""
    for name in ("scratch", "log", "short"):
        (directory / name).mkdir()
    return SlotDirectories(
        {
            "scratch": str(directory / "scratch"),
            "log": str(directory / "log"),
            "temporary": str(directory / "short"),
            "context": b"setup",
            "context_scope": "slot",
            "start_timeout": 10.0,
            **config,
        }
    )


@pytest.fixture
def slot() -> Iterator[SlotProcess]:
    process = SlotProcess(3, (1.0, 0.0, 0), ())
    yield process
    process.close()


def test_slot_has_a_temporary_directory(tmp_path: Path) -> None:
    environment = made(tmp_path).make(3)
    assert environment == dict.fromkeys(("TMPDIR", "TEMP", "TMP"), str(tmp_path / "short" / "s3"))
    assert (tmp_path / "short" / "s3").is_dir()


def test_slot_may_use_the_nodes_temporary_directory(tmp_path: Path) -> None:
    assert made(tmp_path, temporary=None).make(3) == {}


@pytest.mark.parametrize("left", [None, "file", "folder/file"])
def test_directories_of_a_slot_are_removed(tmp_path: Path, left: str | None) -> None:
    directories = made(tmp_path)
    directories.make(3)
    private, temporary = tmp_path / "scratch" / "slot-3", tmp_path / "short" / "s3"
    private.mkdir()
    for directory in (private, temporary):
        if left is not None:
            (directory / left).parent.mkdir(exist_ok=True)
            (directory / left).touch()
    directories.clear(3)
    assert not settle(lambda: private.exists() or temporary.exists())
    directories.clear(3)  # a slot that has removed them itself


def test_slot_that_reports_why_its_context_failed(tmp_path: Path, slot: SlotProcess) -> None:
    directories = made(tmp_path)
    (tmp_path / "scratch" / "context-failed-3").write_bytes(b"record")
    assert directories.context_failure(slot) == b"record"
    assert directories.context_failure(slot) is None, "a slot with the same number would be taken for it"


def test_slot_whose_context_was_not_ready_in_time(tmp_path: Path, slot: SlotProcess) -> None:
    directories = made(tmp_path)
    Path(directories.log(3)).write_text("where it hangs")
    assert directories.context_failure(slot) is None
    slot.made -= 10.5
    record = directories.context_failure(slot)
    assert record is not None
    said = pickle.loads(record)
    reason = f"the context is not ready after 10 s (start_timeout of library_config); see {tmp_path}/log/slot-3.log"
    assert (said["kind"], said["reason"], said["stderr"]) == ("library", reason, "where it hangs")


@pytest.mark.parametrize("config", [{"context": None}, {"context_scope": "library"}, {}])
def test_slot_that_died_for_another_reason(tmp_path: Path, slot: SlotProcess, config: dict[str, Any]) -> None:
    directories = made(tmp_path, **config)
    slot.has_spoken = not config  # a slot that has answered a task has a context
    slot.made -= 1000
    assert directories.context_failure(slot) is None
