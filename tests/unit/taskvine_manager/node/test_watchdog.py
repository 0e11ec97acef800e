"""Looks at the processes of tasks: when they are due, and what they end."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from taskvine_manager import cleanup
from taskvine_manager.node import memory
from taskvine_manager.node.calls import Call, Need
from taskvine_manager.node.limits import Group, Kills
from taskvine_manager.node.watchdog import LOOK_AT_KILLS, Watchdog
from taskvine_manager.node_parameters import KEEPALIVE_INTERVAL, KEEPALIVE_TIMEOUT
from taskvine_manager.wire.messages import L2, Invocation, Profile
from tests.conftest import eventually


class Tasks:
    """The library and its slots, or L1 tasks, reduced to what the watchdog uses."""

    def __init__(self) -> None:
        self.tasks: list[tuple[int, Call]] = []
        self.pid = 0
        self.ended: list[str] = []

    def running(self) -> list[tuple[int, Call]]:
        return self.tasks

    def kill(self, why: str) -> None:
        self.ended.append(why)


class World:
    """A watchdog, the tasks that it watches, and the system's count of kills."""

    def __init__(self) -> None:
        self.count = 0
        self.slots, self.oneshots = Tasks(), Tasks()
        self.kills = Kills([Group("/group", 2)], 1000.0, lambda path: f"oom_kill {self.count}")
        slots: Any = self.slots
        oneshots: Any = self.oneshots
        self.watchdog = Watchdog([slots], slots, oneshots, self.kills)
        self.watchdog.tune({KEEPALIVE_INTERVAL: 1.0, KEEPALIVE_TIMEOUT: 2.0})
        self._started: list[subprocess.Popen[bytes]] = []

    def start(self) -> int:
        """Start a process that leads a process group."""
        command = [sys.executable, "-ISc", "import time; print(flush=True); time.sleep(1000)"]
        self._started.append(subprocess.Popen(command, stdout=subprocess.PIPE, start_new_session=True))
        stdout = self._started[-1].stdout
        assert stdout is not None
        stdout.readline()
        return self._started[-1].pid

    def stop(self, pid: int) -> None:
        os.kill(pid, signal.SIGSTOP)
        eventually(lambda: cleanup.is_stopped(pid))

    def look(self, *times: float) -> None:
        for now in times:
            self.watchdog.look(now)

    def wait(self, pid: int) -> int:
        return next(process for process in self._started if process.pid == pid).wait(10)

    def close(self) -> None:
        for process in self._started:
            process.kill()
            process.communicate()


@pytest.fixture
def world() -> Iterator[World]:
    made = World()
    yield made
    made.close()


def task(limit: float | None = None) -> Call:
    profile = Profile(1, "f", "name of f", L2, None, limit, None, None, 0.0, "f")
    return Call(Invocation(1, 1, b""), profile, Need(1.0, limit or 0.0))


SOON = [number / 2 for number in range(10)]
"""Times of looks, about as often as they are due."""


def test_nothing_is_due_without_tasks(world: World) -> None:
    assert world.watchdog.waits(busy=False) == []
    world.watchdog.tune({KEEPALIVE_INTERVAL: 0.0})
    assert world.watchdog.waits(busy=True) == []


def test_looks_are_due_while_there_are_tasks(world: World) -> None:
    assert world.watchdog.waits(busy=True) == [0.25]
    world.watchdog.limit(1)
    assert world.watchdog.waits(busy=True) == [memory.INTERVAL, 0.25]
    world.watchdog.release(1)
    world.watchdog.release(1)
    assert world.watchdog.waits(busy=True) == [0.25]


@pytest.mark.parametrize("kind", ["slots", "oneshots"])
def test_task_that_is_stopped_for_too_long_is_ended(world: World, kind: str) -> None:
    pid, call = world.start(), task()
    getattr(world, kind).tasks.append((pid, call))
    world.stop(pid)
    world.look(*SOON)
    assert world.wait(pid) == -signal.SIGKILL
    assert call.kill_record is not None
    reason = "while it ran name of f: its process had been stopped (SIGSTOP) for 2 s"
    assert pickle.loads(call.kill_record)["reason"] == reason
    assert world.slots.ended == []


def test_task_that_goes_on_is_not_ended(world: World) -> None:
    pid, call = world.start(), task()
    world.slots.tasks.append((pid, call))
    world.stop(pid)
    world.look(*SOON[:4])
    os.kill(pid, signal.SIGCONT)
    eventually(lambda: not cleanup.is_stopped(pid))
    world.look(*(2.0 + now for now in SOON))
    assert call.kill_record is None


def test_cancelled_task_keeps_its_reason(world: World) -> None:
    pid, call = world.start(), task()
    world.slots.tasks.append((pid, call))
    call.kill_record = b"cancelled"
    world.stop(pid)
    world.look(*SOON)
    assert call.kill_record == b"cancelled"


def test_library_that_is_stopped_for_too_long_is_ended(world: World) -> None:
    library, pid, call = world.start(), world.start(), task()
    world.slots.pid = library
    world.slots.tasks.append((pid, call))
    world.stop(library)
    world.look(*SOON)
    assert set(world.slots.ended) == {"its process had been stopped (SIGSTOP) for 2 s"}
    assert call.kill_record is None


def test_memory_is_measured_while_a_task_has_a_limit(world: World) -> None:
    pid, call = world.start(), task(1.0)
    world.oneshots.tasks.append((pid, call))
    world.look(1.0)
    assert call.kill_record is None, "it is not known to have a limit"
    world.watchdog.limit(1)
    world.look(2.0)
    assert call.kill_record is not None
    assert pickle.loads(call.kill_record)["kind"] == "memory"
    assert world.wait(pid) == -signal.SIGKILL


def test_memory_is_not_measured_all_the_time(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    looks: list[int] = []
    monkeypatch.setattr(memory, "enforce", lambda running: looks.append(len(running)))
    world.watchdog.limit(1)
    world.look(1.0, 1.0 + memory.INTERVAL / 2, 1.0 + 2 * memory.INTERVAL)
    assert looks == [0, 0]


def test_earlier_kill_does_not_explain_a_later_death(world: World) -> None:
    world.look(100.0)
    world.count = 1
    world.look(100.0 + LOOK_AT_KILLS / 2)  # too early
    world.look(100.0 + LOOK_AT_KILLS)
    later = 100.0 + LOOK_AT_KILLS + Kills.WINDOW
    assert world.kills.explain(later - 0.1) is not None
    assert world.kills.explain(later + 0.1) is None
