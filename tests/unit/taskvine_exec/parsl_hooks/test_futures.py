"""AppFutures that load their result when it is read."""

from __future__ import annotations

import concurrent.futures
import functools
import gc
import queue
import threading
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import parsl
import pytest
from parsl.config import Config
from parsl.dataflow.dflow import DataFlowKernel
from parsl.dataflow.errors import DependencyError
from parsl.dataflow.futures import AppFuture
from parsl.dataflow.states import States
from parsl.executors.base import ParslExecutor

from taskvine_exec.parsl_hooks import futures
from taskvine_exec.parsl_hooks.conditions import LightFuture
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


class ByHand(ParslExecutor):
    """An executor whose futures a test completes."""

    def __init__(self) -> None:
        super().__init__()
        self.label = "by hand"
        self.futures: queue.Queue[LightFuture] = queue.Queue()

    def submit(self, func: Any, resource_specification: dict[str, Any], *args: Any, **kwargs: Any) -> LightFuture:
        future = LightFuture()
        self.futures.put(future)
        return future

    def launched(self) -> LightFuture:
        """Return the future of the next task, once the DFK has added its callback."""
        future = self.futures.get(timeout=60)
        while not future._done_callbacks:
            threading.Event().wait(0.001)
        return future

    def shutdown(self) -> None:
        super().shutdown()


@pytest.fixture
def by_hand(tmp_path: Path) -> Iterator[tuple[ByHand, DataFlowKernel]]:
    executor = ByHand()
    config = Config([executor], retries=1, run_dir=str(tmp_path), initialize_logging=False, strategy="none")
    kernel = DataFlowKernel(config)
    yield executor, kernel
    kernel.cleanup()


def wait_for_the_launching_thread(kernel: DataFlowKernel) -> None:
    """Its last step with a task sets the record's ``exec_fu``."""
    kernel._task_launch_pool.submit(int).result(60)


@pytest.mark.usefixtures("collector_is_off")
@pytest.mark.parametrize("fails", [False, True])
def test_any_finished_future_goes_with_its_last_reference(
    by_hand: tuple[ByHand, DataFlowKernel], fails: bool, switch: Switch
) -> None:
    on = switch(RECORDS)
    executor, kernel = by_hand
    app = parsl.python_app(abs, data_flow_kernel=kernel)
    first = app(1)
    second = app(first)
    tries = []
    for _ in range(2 if fails else 1):
        tries.append(executor.launched())
        wait_for_the_launching_thread(kernel)
        if fails:
            tries[-1].set_exception(ValueError("no"))
            assert first.done() is (len(tries) == 2), "a task that is tried again has not ended"
        else:
            tries[-1].set_result([1])
    if not fails:
        tries.append(executor.launched())
        wait_for_the_launching_thread(kernel)
        tries[-1].set_result([2])
    assert isinstance(second.exception(60), DependencyError if fails else type(None))
    wait_for_the_launching_thread(kernel)
    record: Any = first.task_record
    assert (record["id"], record["status"]) == (first.tid, States.failed if fails else States.exec_done)
    assert record["app_fu"] is first
    if not fails:  # an exception refers to frames of the DFK
        gone = weakref.ref(first)
        tries.clear()
        del first, second, record
        assert (gone() is None) is on
