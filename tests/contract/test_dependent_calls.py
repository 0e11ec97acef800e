"""Calls that read results of other calls, without a DataFlowKernel."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from parsl.dataflow.errors import DependencyError

from taskvine_exec import TaskVineExecutor
from taskvine_exec.bulk.dependent import DependentCalls
from taskvine_exec.errors import ExecutorNotStarted, TaskCancelled
from taskvine_exec.values import Place, Value
from tests.conftest import Gate, eventually

Make = Callable[..., TaskVineExecutor]


def settled(value: Value) -> Value:
    """Wait until a call has ended for good."""
    event = threading.Event()
    value.when_settled(lambda _: event.set())
    assert event.wait(60)
    return value


def submit(calls: DependentCalls, function: Callable[..., Any], *args: Any, retries: int = 0) -> Value:
    return calls.submit(calls.prepare(function), args, {}, retries)


def large(fill: float) -> Any:
    return np.full(100_000, fill)


def total(items: list[Any]) -> Any:
    return sum(items)


def test_results_stay_on_nodes_until_nothing_refers_to_them(make_executor: Make) -> None:
    executor = make_executor()
    calls = executor.dependent_calls()
    parts = [submit(calls, large, float(number)) for number in range(3)]
    last = settled(submit(calls, total, [part.argument() for part in parts]))
    assert last.place is Place.NODES
    assert set(last.read()) == {3.0}
    assert executor.stats()["bytes_stored"] >= 4 * 800_000
    del parts, last
    eventually(lambda: executor.stats()["bytes_stored"] == 0)


def test_small_results_are_copies(make_executor: Make) -> None:
    calls = make_executor().dependent_calls()
    first = settled(submit(calls, list, (1, 2)))
    first.read().append(3)
    assert settled(submit(calls, total, first.argument())).read() == 3


def test_a_failure_reaches_the_calls_that_depend_on_it(make_executor: Make) -> None:
    calls = make_executor().dependent_calls()
    failed = submit(calls, int, "no number")
    last = settled(submit(calls, total, [submit(calls, total, [failed.argument()]).argument()]))
    with pytest.raises(DependencyError) as caught:
        last.read()
    assert isinstance(caught.value.__cause__, ValueError)


def test_a_failed_call_runs_again_before_its_readers_fail(make_executor: Make, tmp_path: Path) -> None:
    def once(path: str) -> Any:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL))
        raise OSError("the first attempt")

    def second(path: str) -> Any:
        if not os.path.exists(path):
            once(path)
        return np.ones(100_000)

    calls = make_executor().dependent_calls()
    value = submit(calls, second, str(tmp_path / "tried"), retries=1)
    assert set(settled(submit(calls, total, [value.argument()])).read()) == {1.0}
    (tmp_path / "tried").unlink()
    with pytest.raises(OSError, match="the first attempt"):
        settled(submit(calls, second, str(tmp_path / "tried"))).read()


def test_cancelled_calls_fail_and_are_not_repeated(make_executor: Make, gate: Gate) -> None:
    executor = make_executor()
    calls = executor.dependent_calls()
    values = [submit(calls, gate.task, number, retries=2) for number in range(4)]
    gate.wait(2)
    calls.cancel("the test says so")
    for value in values:
        with pytest.raises(TaskCancelled, match="the test says so"):
            settled(value).read()
    late = submit(calls, gate.task, "late")
    assert isinstance(settled(late).error, TaskCancelled)
    eventually(lambda: not executor.outstanding())


def test_an_executor_that_was_not_started_takes_no_calls() -> None:
    with pytest.raises(ExecutorNotStarted):
        TaskVineExecutor(engine="embedded").dependent_calls()
