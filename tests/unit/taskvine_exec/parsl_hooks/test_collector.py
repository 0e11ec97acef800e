"""Thresholds of the cyclic collector: raised while executors are busy, and put back; the user's have priority."""

from __future__ import annotations

import gc
import mmap
import os
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from parsl.config import Config
from parsl.dataflow.dflow import DataFlowKernel
from parsl.dataflow.states import States
from parsl.executors import ThreadPoolExecutor

from taskvine_exec.parsl_hooks import collector, frames
from taskvine_exec.parsl_hooks.collector import LULL, MANY, PERIOD, THRESHOLD, Pace
from taskvine_exec.parsl_hooks.switches import COLLECTOR, FRAMES, Hook
from tests.unit.taskvine_exec.parsl_hooks.conftest import Switch

USERS = (600, 7, 8)
RAISED = (600, THRESHOLD, 8)
BUSY, FREE = range(MANY), range(3)


class Clock:
    """The time that the module sees."""

    now = 1000.0


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[Clock]:
    """The time, which a test sets. The thresholds are the user's at the start; the tests' own are put back."""
    made, before = Clock(), gc.get_threshold()
    monkeypatch.setattr(collector.time, "monotonic", lambda: made.now)
    monkeypatch.setattr(COLLECTOR, "on", True)
    gc.set_threshold(*USERS)
    yield made
    collector._collector.reset()
    gc.set_threshold(*before)


@pytest.fixture
def collections() -> Iterator[list[int]]:
    """The generations that were collected."""
    found: list[int] = []

    def note(phase: str, info: dict[str, int]) -> None:
        if phase == "start":
            found.append(info["generation"])

    gc.callbacks.append(note)
    yield found
    gc.callbacks.remove(note)


@pytest.fixture
def pace(clock: Clock) -> Callable[..., Pace]:
    """Makes an executor with some tasks, whose thread looks."""

    def made(tasks: Any, looks: int = 1) -> Pace:
        executor = Pace(tasks)
        for _ in range(looks):
            clock.now += 1
            executor.look()
        return executor

    return made


def test_the_threshold_is_raised_while_many_tasks_are_in_flight(
    pace: Callable[..., Pace], clock: Clock, switch: Switch
) -> None:
    on = switch(COLLECTOR)
    tasks = dict.fromkeys(range(MANY - 1))
    executor = pace(tasks)
    assert gc.get_threshold() == USERS
    tasks[MANY] = None
    clock.now += 1
    again = executor.look()
    assert gc.get_threshold() == (RAISED if on else USERS)
    assert (again is not None) is on, "it must look again when nothing happens"
    tasks.clear()
    clock.now += LULL / 2
    executor.look()
    assert gc.get_threshold() == (RAISED if on else USERS), "there may be more tasks soon"
    clock.now += LULL
    assert executor.look() is None
    assert gc.get_threshold() == USERS


def test_looks_are_rare(pace: Callable[..., Pace], clock: Clock) -> None:
    tasks: dict[int, None] = {}
    executor = pace(tasks)
    tasks.update(dict.fromkeys(BUSY))
    clock.now += collector.PAUSE / 2
    executor.look()
    assert gc.get_threshold() == USERS


@pytest.mark.parametrize("hook", [COLLECTOR, FRAMES])
def test_tasks_of_the_kernel_count(hook: Hook, switch: Switch, clock: Clock, tmp_path: Path) -> None:
    on = switch(hook)

    class Executor(ThreadPoolExecutor):
        def start(self) -> None:
            self.pace = Pace(())
            if (kernel := frames.starting()) is not None:
                self.pace.count(kernel)
            super().start()  # type: ignore[no-untyped-call]

    executor = Executor(label="ex")
    dfk = DataFlowKernel(Config([executor], run_dir=str(tmp_path), initialize_logging=False, strategy="none"))
    try:
        executor.pace.look()
        assert gc.get_threshold() == USERS
        dfk.task_state_counts[States.pending] += MANY  # they wait for the launching thread or for other tasks
        clock.now += 1
        executor.pace.look()
        assert gc.get_threshold() == (RAISED if on else USERS)
        dfk.task_state_counts[States.pending] -= MANY
        clock.now += 2 * LULL
        executor.pace.look()
        assert gc.get_threshold() == USERS
        dfk.task_count += MANY  # they are done, but all were called within a second
        clock.now += 0.5
        executor.pace.look()
        assert gc.get_threshold() == (RAISED if on else USERS)
        dfk.task_count = 0
    finally:
        executor.pace.end()
        dfk.cleanup()
    assert gc.get_threshold() == USERS


def test_a_kernel_is_not_kept_alive() -> None:
    class Kernel(SimpleNamespace):
        pass

    kernel = Kernel(task_count=0)
    executor = Pace(BUSY)
    executor.count(kernel)
    gone = weakref.ref(kernel)
    del kernel
    assert gone() is None
    executor.look()  # its own tasks still count


def test_the_last_of_several_executors_puts_it_back(pace: Callable[..., Pace]) -> None:
    first, second = pace(BUSY), pace(BUSY)
    first.end()
    assert gc.get_threshold() == RAISED
    first.end()  # twice makes no difference
    second.end()
    assert gc.get_threshold() == USERS


@pytest.mark.parametrize("chosen", [(0, 10, 10), (0, 0, 0), (600, THRESHOLD, 8), (600, 2 * THRESHOLD, 8)])
def test_no_threshold_is_lowered_and_nothing_is_switched_on(chosen: Any, pace: Callable[..., Pace]) -> None:
    gc.set_threshold(*chosen)
    executor = pace(BUSY)
    assert gc.get_threshold() == chosen
    executor.end()
    assert gc.get_threshold() == chosen


def test_a_threshold_that_the_user_sets_meanwhile_stays(
    pace: Callable[..., Pace], clock: Clock, collections: list[int]
) -> None:
    executor = pace(BUSY)
    gc.set_threshold(300, 20, 20)
    clock.now += 2 * PERIOD
    executor.look()
    assert 2 not in collections, "the user now decides when to collect"
    executor.end()
    assert gc.get_threshold() == (300, 20, 20)
    executor = pace(BUSY)
    assert gc.get_threshold() == (300, THRESHOLD, 20)
    executor.end()
    assert gc.get_threshold() == (300, 20, 20)


def test_nothing_is_collected_while_the_user_has_disabled_it(
    pace: Callable[..., Pace], clock: Clock, collections: list[int]
) -> None:
    gc.disable()
    try:
        executor = pace(BUSY)
        clock.now += 2 * PERIOD
        executor.look()
        assert not gc.isenabled()
        assert collections == []
        executor.end()
        assert not gc.isenabled()
    finally:
        gc.enable()
    assert gc.get_threshold() == USERS


def test_everything_is_collected_from_time_to_time(
    pace: Callable[..., Pace], clock: Clock, collections: list[int]
) -> None:
    executor = pace(BUSY)
    clock.now += PERIOD - 1
    executor.look()
    assert collections.count(2) == 0
    clock.now += 2
    executor.look()
    assert collections.count(2) == 1
    clock.now += PERIOD - 1
    executor.look()
    assert collections.count(2) == 1


def test_slow_collections_are_rare(pace: Callable[..., Pace], clock: Clock, collections: list[int]) -> None:
    executor = pace(BUSY)

    def slow(phase: str, info: dict[str, int]) -> None:
        if phase == "stop" and info["generation"] == 2:
            clock.now += 1

    gc.callbacks.append(slow)
    try:
        clock.now += PERIOD + 1
        executor.look()
        clock.now += PERIOD + 1
        executor.look()
        assert collections.count(2) == 1
        clock.now += 1 / collector.SHARE
        executor.look()
        assert collections.count(2) == 2
    finally:
        gc.callbacks.remove(slow)


def test_size_of_the_process_has_its_mappings_and_its_memory() -> None:
    before = collector._sizes()
    with mmap.mmap(-1, 64 << 20) as mapped:
        mapped.write(bytes(64 << 20))
        assert all(now - then >= 32 << 20 for now, then in zip(collector._sizes(), before, strict=True))


def test_large_garbage_goes_when_the_process_has_grown(
    pace: Callable[..., Pace], clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each result is in a cycle and old: only a collection of all objects frees it."""

    class Result:
        def __init__(self) -> None:
            self.me = self

    results: list[weakref.ref[Result]] = []

    def alive() -> int:
        return sum(each() is not None for each in results)

    monkeypatch.setattr(collector, "_sizes", lambda: [alive() << 20, 0])  # as if each had a megabyte
    monkeypatch.setattr(collector, "GROWTH", 20 << 20)
    executor = pace(BUSY)
    most = 0
    for _ in range(100):
        result = Result()
        gc.collect(1)
        results.append(weakref.ref(result))
        del result
        most = max(most, alive())
        clock.now += collector.PAUSE
        executor.look()
    assert 20 <= most <= 22


def test_a_forked_child_has_the_users_thresholds(pace: Callable[..., Pace]) -> None:
    executor = pace(BUSY)
    assert gc.get_threshold() == RAISED
    read, write = os.pipe()
    child = os.fork()
    if not child:
        os.write(write, repr(gc.get_threshold()).encode())
        os._exit(0)
    os.waitpid(child, 0)
    assert os.read(read, 100).decode() == repr(USERS)
    os.close(read)
    os.close(write)
    assert gc.get_threshold() == RAISED
    executor.end()


def test_a_collection_may_end_an_executor(pace: Callable[..., Pace], clock: Clock) -> None:
    executor = pace(BUSY)

    class Garbage:
        def __init__(self) -> None:
            self.me = self

        def __del__(self) -> None:
            executor.end()

    Garbage()
    clock.now += 2 * PERIOD
    executor.look()
    assert gc.get_threshold() == USERS
