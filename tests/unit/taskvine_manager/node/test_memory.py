"""Memory limits: a task whose processes use more is ended."""

from __future__ import annotations

import pickle
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator

import pytest

from taskvine_manager import cleanup
from taskvine_manager.node import memory
from taskvine_manager.node.calls import Call, Need
from taskvine_manager.wire.messages import L2, Invocation, Profile

HOLD = f"held = b'x' * {64 * 2**20}"
"""Statement of a program that holds 64 MB."""
FORK = "ours, theirs = os.pipe()\nchild = os.fork()\n"

Start = Callable[[str], subprocess.Popen[bytes]]


def task(limit: float | None) -> Call:
    profile = Profile(1, "f", "name of f", L2, None, limit, None, None, 0.0, "f")
    return Call(Invocation(1, 1, b""), profile, Need(1.0, limit or 0.0))


@pytest.fixture
def start() -> Iterator[Start]:
    """Start a program, and return its process after the program has finished its statements."""
    made: list[subprocess.Popen[bytes]] = []

    def begin(program: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-ISc", f"import os, time\n{program}\nos.write(1, b'x')\ntime.sleep(1000)"]
        made.append(subprocess.Popen(command, stdout=subprocess.PIPE, start_new_session=True, bufsize=0))
        stdout = made[-1].stdout
        assert stdout is not None
        assert stdout.read(1) == b"x"
        return made[-1]

    yield begin
    for process in made:
        cleanup.kill_group(process.pid)
        process.communicate()


def test_task_above_its_limit_is_ended(start: Start) -> None:
    process, call = start(HOLD), task(40.0)
    memory.enforce([(process.pid, call)])
    assert process.wait(10) == -signal.SIGKILL
    assert call.kill_record is not None
    record = pickle.loads(call.kill_record)
    assert (record["kind"], record["reason"], record["limit_mb"]) == ("memory", "while it ran name of f", 40.0)
    assert 64 < record["used_mb"] < 120


@pytest.mark.parametrize("limit", [None, 1000.0])
def test_task_within_its_limit_runs_on(start: Start, limit: float | None) -> None:
    process, call = start(HOLD), task(limit)
    memory.enforce([(process.pid, call)])
    assert call.kill_record is None
    assert process.poll() is None


def test_task_that_is_ended_already_is_not_ended_again(start: Start) -> None:
    process, call = start(HOLD), task(40.0)
    call.kill_record = b"cancelled"
    memory.enforce([(process.pid, call)])
    assert call.kill_record == b"cancelled"
    assert process.poll() is None


def test_memory_of_child_processes_counts(start: Start) -> None:
    begun = f"if child == 0: {HOLD}; os.write(theirs, b'x'); time.sleep(1000)\nos.read(ours, 1)"
    process, call = start(FORK + begun), task(60.0)
    memory.enforce([(process.pid, call)])
    assert call.kill_record is not None
    assert process.wait(10) == -signal.SIGKILL


def test_memory_that_processes_share_does_not_count(start: Start) -> None:
    process, call = start(f"{HOLD}\n{FORK}if child == 0: time.sleep(1000)"), task(40.0)
    memory.enforce([(process.pid, call)])
    assert call.kill_record is None
    assert process.poll() is None


def test_task_that_has_ended_holds_nothing() -> None:
    process = subprocess.Popen([sys.executable, "-ISc", ""])
    process.wait()
    call = task(1.0)
    memory.enforce([(process.pid, call)])
    assert call.kill_record is None
