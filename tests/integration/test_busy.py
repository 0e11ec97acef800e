"""The user's process while many apps are in flight: thresholds of the cyclic collector, and memory."""

from __future__ import annotations

import gc
import logging
import threading
import time
import weakref
from collections.abc import Callable
from typing import Any

import parsl
import pytest
from parsl.dataflow.dflow import DataFlowKernel

from taskvine_exec.parsl_hooks import collector
from taskvine_exec.parsl_hooks.switches import COLLECTOR, RECORDS

Load = Callable[..., DataFlowKernel]


@pytest.fixture(autouse=True)
def hooks_are_on(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """Parsl's log is off: pytest would keep a dozen records of each app."""
    caplog.set_level(logging.WARNING, "parsl")
    monkeypatch.setattr(COLLECTOR, "on", True)
    monkeypatch.setattr(RECORDS, "on", True)


@parsl.python_app
def noop(number: int) -> int:
    return number


@parsl.python_app
def make(size: int) -> bytes:
    return b"x" * size


def put_back(before: tuple[int, ...]) -> bool:
    until = time.monotonic() + 30
    while gc.get_threshold() != before and time.monotonic() < until:
        threading.Event().wait(0.01)
    return gc.get_threshold() == before


def test_thresholds_are_raised_for_many_apps_and_put_back(load: Load) -> None:
    before = gc.get_threshold()
    load()
    for _ in range(2):
        futures = [noop(number) for number in range(3000)]
        during = [(gc.get_threshold(), future.result(60)) for future in futures]
        assert [result for _, result in during] == list(range(3000))
        assert (before[0], collector.THRESHOLD, *before[2:]) in [threshold for threshold, _ in during]
        assert put_back(before)


def test_they_are_put_back_when_the_executor_ends(load: Load) -> None:
    before = gc.get_threshold()
    dfk = load()
    futures = [noop(number) for number in range(3000)]
    for future in futures:
        future.exception(60)
        if gc.get_threshold() != before:
            break
    else:
        pytest.fail("they were not raised")
    dfk.cleanup()
    assert gc.get_threshold() == before


def test_ended_tasks_leave_nothing_for_the_collector(load: Load) -> None:
    load()
    noop(0).result(60)
    gc.collect()
    gc.disable()
    try:
        before = len(gc.get_objects())
        futures = [noop(number) for number in range(1000)]
        for future in futures:
            future.result(60)
        del futures, future
        parsl.dfk().wait_for_current_tasks()
        assert len(gc.get_objects()) - before < 3000, "a task leaves more than 3 of its 60 objects"
    finally:
        gc.enable()


def test_large_results_in_cycles_go_in_time(load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    """The user's process keeps each result in a cycle, which is old when it becomes garbage."""
    sizes, base = collector._sizes, collector._sizes()
    monkeypatch.setattr(collector, "_sizes", lambda: [now - start for now, start in zip(sizes(), base, strict=True)])
    monkeypatch.setattr(collector, "GROWTH", 20 << 20)

    class Holder:
        def __init__(self, result: Any) -> None:
            self.me, self.result = self, result

    load()
    small = [noop(number) for number in range(3000)]
    holders: list[weakref.ref[Holder]] = []
    alive = []
    while len(holders) < 300:
        large = [make(1_000_000) for _ in range(20)]
        small += [noop(0) for _ in range(300)]  # the executor stays busy
        for future in large:
            holder = Holder(future.result(60))
            gc.collect(1)
            holders.append(weakref.ref(holder))
            del holder
        del large, future
        alive.append(sum(each() is not None for each in holders))
    assert 10 < max(alive) < 200
    assert small[-1].result(60) == 0
