"""AppFutures that load their result when it is read."""

from __future__ import annotations

import concurrent.futures
import functools
import gc
import threading
import weakref
from collections.abc import Iterator
from typing import Any

import pytest
from parsl.dataflow.futures import AppFuture

from taskvine_exec.parsl_hooks import futures
from taskvine_exec.parsl_hooks.switches import FUTURES, RECORDS
from tests.unit.taskvine_exec.parsl_hooks.conftest import Switch


class Elsewhere:
    """A value, and the timeouts with which it was loaded."""

    def __init__(self) -> None:
        self.loads: list[float | None] = []

    def load(self, timeout: float | None = None) -> Any:
        self.loads.append(timeout)
        return ["loaded"]


def made() -> AppFuture:
    """A future as the DFK makes it: it and its task record refer to each other."""
    record: Any = {"id": 7, "dfk": None, "kwargs": {}}
    future = record["app_fu"] = AppFuture(record)
    return future


@pytest.fixture
def collector_is_off() -> Iterator[None]:
    gc.disable()
    yield
    gc.enable()


def test_a_future_has_one_value() -> None:
    future = made()
    value, is_new = futures.value_of(future, Elsewhere)
    assert is_new
    assert futures.value_of(future, Elsewhere) == (value, False)


def test_a_result_is_loaded_when_it_is_read(switch: Switch) -> None:
    on = switch(FUTURES)
    future = made()
    value, _ = futures.value_of(future, Elsewhere)
    future.set_result(futures.as_result(value))
    assert len(value.loads) == (0 if on else 1)
    result = future.result()
    assert result == ["loaded"]
    assert future.result(5) is result
    assert len(value.loads) == 1


@pytest.mark.parametrize("timeout", [None, 50])
def test_early_waiter_gets_the_result(timeout: float | None, switch: Switch) -> None:
    on = switch(FUTURES)
    future = made()
    said: list[Any] = []
    waiter = threading.Thread(target=lambda: said.append(future.result(timeout)))
    waiter.start()
    while not future._condition._waiters:  # type: ignore[attr-defined]
        threading.Event().wait(0.001)
    value, _ = futures.value_of(future, Elsewhere)
    future.set_result(futures.as_result(value))
    waiter.join()
    assert said == [["loaded"]]
    assert value.loads == [timeout if on else None]


def test_remaining_time_is_passed_on() -> None:
    future = made()
    value, _ = futures.value_of(future, Elsewhere)
    with pytest.raises(concurrent.futures.TimeoutError):
        future.result(0.01)
    future.set_result(value)
    future.result(100)
    (left,) = value.loads
    assert left is not None
    assert 90 < left <= 100


def test_results_and_errors_of_all_kinds_are_unchanged(switch: Switch) -> None:
    switch(FUTURES)
    other = Elsewhere()
    for result in (None, 1, other):
        future = made()
        futures.value_of(future, Elsewhere)
        future.set_result(result)
        assert future.result() is result
    assert other.loads == [], "the value of another future was loaded"
    failed = made()
    futures.value_of(failed, Elsewhere)
    failed.set_exception(ValueError("no"))
    with pytest.raises(ValueError, match="no"):
        failed.result()


@pytest.mark.usefixtures("collector_is_off")
def test_finished_future_is_freed_with_its_last_reference(switch: Switch) -> None:
    on = switch(RECORDS)
    future = made()
    record: Any = future.task_record
    value, _ = futures.value_of(future, Elsewhere)
    calls: list[Any] = []
    future.add_done_callback(functools.partial(lambda known, done: calls.append(known["id"]), record))
    future.set_result(value)
    assert calls == [7]
    gone = weakref.ref(future)
    del future, record, value
    assert (gone() is None) is on


def test_record_of_a_finished_future_is_complete(switch: Switch) -> None:
    switch(RECORDS)
    future = made()
    record = future.task_record
    value, _ = futures.value_of(future, Elsewhere)
    future.set_result(value)
    assert future.tid == 7
    assert future.task_record["app_fu"] is future
    assert record["app_fu"] is future, "the DFK's own record was changed"
    with pytest.raises(KeyError):
        future.task_record["nothing"]  # type: ignore[typeddict-item]
