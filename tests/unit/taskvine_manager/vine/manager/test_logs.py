"""Entries that are left out of TaskVine's log."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from taskvine_manager.vine.manager import logs


def change(task: int, before: str, after: str) -> bytes:
    states = ["INITIAL", "READY", "RUNNING", "WAITING_RETRIEVAL", "RETRIEVED", "DONE"]
    told = f"Task {task} state change: {before} ({states.index(before)}) to {after} ({states.index(after)})"
    return f"2026/01/02 03:04:05.06 vine_manager[7]vine: {told}\n".encode()


MISSED = b'2026/01/02 03:04:05.06 vine_manager[7]vine: task 2 does not match any submitted library named "sentinel"\n'
OTHER = b"2026/01/02 03:04:05.06 vine_manager[7]tcp: accepted connection from 127.0.0.1 port 2\n"
SENT = [change(1, "INITIAL", "READY"), change(1, "READY", "RUNNING")]
SENTINEL = [
    change(2, "INITIAL", "READY"),
    MISSED,
    change(2, "READY", "RETRIEVED"),
    change(2, "RETRIEVED", "DONE"),
]
ENDED = [
    change(1, "RUNNING", "WAITING_RETRIEVAL"),
    change(1, "WAITING_RETRIEVAL", "RETRIEVED"),
    change(1, "RETRIEVED", "DONE"),
]


def cleaned(tmp_path: Path, lines: list[bytes], **options: float) -> list[bytes]:
    (tmp_path / "vine-logs").mkdir()
    log = tmp_path / "vine-logs" / "debug"
    log.write_bytes(b"".join(lines))
    logs.clean(str(tmp_path), **options)
    assert os.listdir(tmp_path / "vine-logs") == ["debug"]
    return log.read_bytes().splitlines(keepends=True)


def test_tasks_never_sent_are_left_out(tmp_path: Path) -> None:
    lines = [*SENT, *SENTINEL[:2], OTHER, *SENTINEL[2:], *ENDED]
    assert cleaned(tmp_path, lines) == [*SENT, OTHER, *ENDED]


def test_cancelled_task_stays_without_its_unknown_state(tmp_path: Path) -> None:
    lines = [*SENT, change(1, "RUNNING", "READY"), change(1, "READY", "RETRIEVED"), ENDED[-1]]
    assert cleaned(tmp_path, lines) == [*lines[:3], lines[4]]


def test_invalid_text_stays(tmp_path: Path) -> None:
    lines = [b"\xff state change: \xfe\n", b"a line that was cut: Task"]
    assert cleaned(tmp_path, lines) == lines


def test_long_log_is_not_changed(tmp_path: Path) -> None:
    assert cleaned(tmp_path, SENTINEL, at_most=100) == SENTINEL


def test_the_log_remains_private(tmp_path: Path) -> None:
    cleaned(tmp_path, SENTINEL)
    assert (tmp_path / "vine-logs" / "debug").stat().st_mode & 0o777 == 0o600


def test_missing_log_is_ignored(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        logs.clean(str(tmp_path))
