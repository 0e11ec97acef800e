"""Calls that succeed, in both modes."""

from __future__ import annotations

import builtins
import sys
import traceback
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from taskvine_exec import TaskVineExecutor

Make = Callable[..., TaskVineExecutor]
ExceptionGroup: Any = getattr(builtins, "ExceptionGroup", None)


def test_call_returns(make_executor: Make, mode: str) -> None:
    executor = make_executor(function_exec_mode=mode)
    assert executor.submit(lambda x, y=0: x + y, {}, 2, y=3).result(30) == 5


def test_exception_has_the_remote_traceback(make_executor: Make, mode: str) -> None:
    def inner() -> None:
        raise KeyError("missing")

    def outer() -> None:
        try:
            inner()
        except KeyError as error:
            raise ValueError("no") from error

    error = make_executor(function_exec_mode=mode).submit(outer, {}).exception(30)
    assert isinstance(error, ValueError)
    assert isinstance(error.__cause__, KeyError)
    frames = []
    trace = error.__traceback__
    while trace is not None:
        frames.append(trace.tb_frame.f_code.co_name)
        trace = trace.tb_next
    assert frames == ["outer"]


@pytest.mark.skipif(sys.version_info < (3, 11), reason="exception groups and notes came with Python 3.11")
def test_exception_has_members_context_and_notes(make_executor: Make, mode: str) -> None:
    def member() -> None:
        raise KeyError("member")

    def outer() -> None:
        try:
            member()
        except KeyError as error:
            group = ExceptionGroup("several", [error, ValueError("other")])
        group.add_note("a note")
        try:
            int("no number")
        except ValueError:
            raise group  # noqa: B904  (its context is what is tested)

    error: Any = make_executor(function_exec_mode=mode).submit(outer, {}).exception(30)
    assert [type(each) for each in error.exceptions] == [KeyError, ValueError]
    assert [frame.name for frame in traceback.extract_tb(error.exceptions[0].__traceback__)] == ["outer", "member"]
    assert error.__notes__ == ["a note"]
    assert isinstance(error.__context__, ValueError)
    assert traceback.extract_tb(error.__context__.__traceback__)[0].name == "outer"


@pytest.mark.parametrize("megabytes", [0.001, 1, 16])
def test_arrays_are_writable_and_private(make_executor: Make, mode: str, megabytes: float) -> None:
    def double(array: np.ndarray) -> np.ndarray:
        array *= 2
        return array

    given = np.arange(int(megabytes * 2**17), dtype=np.float64)
    future = make_executor(function_exec_mode=mode).submit(double, {}, given)
    result = future.result(30)
    assert np.array_equal(result, np.arange(given.size) * 2.0)
    assert np.array_equal(given, np.arange(given.size))
    result[0] = -1.0


def test_many_short_calls_return_their_own_results(make_executor: Make) -> None:
    executor = make_executor()
    futures = [executor.submit(lambda x: x * x, {}, number) for number in range(2000)]
    assert [future.result(60) for future in futures] == [number * number for number in range(2000)]
