"""Chunks: many calls of a function, each with its own outcome."""

from __future__ import annotations

import os
import pickle
import sys
from typing import Any

import numpy as np
import pytest

from taskvine_manager.runtime import bulk, failure
from taskvine_manager.runtime.bulk import Chunk, Outcomes


def run(function: Any, *columns: list[Any], spread: bool = False) -> Outcomes:
    return Chunk(function, spread=spread)(columns)


def loaded(outcomes: Outcomes) -> list[Any]:
    """The results, after they were sent."""
    sent = pickle.loads(pickle.dumps(outcomes, 5))
    return [
        pickle.loads(each, buffers=sent.pickled[at]) if at in sent.pickled else each
        for at, each in enumerate(sent.results)
    ]


def test_columns_are_arguments() -> None:
    assert run(pow, [2, 3], [4, 5]).results == [16, 243]
    assert run(pow, [(2, 3), (3, 2), (7, 2, 5)], spread=True).results == [8, 9, 4]


def test_call_that_raises_fails_alone() -> None:
    def invert(x: int) -> float:
        return 1 / x

    outcomes = run(invert, [1, 0, 2])
    assert outcomes.results[::2] == [1.0, 0.5]
    assert outcomes.failed == {1}
    error = failure.rebuild(pickle.loads(outcomes.results[1]))
    assert isinstance(error, ZeroDivisionError)
    assert error.__traceback__ is not None
    assert error.__traceback__.tb_frame.f_code.co_name == "invert", "the traceback begins in the user's function"


@pytest.mark.parametrize("leave", [lambda: sys.exit(3), lambda: (_ for _ in ()).throw(KeyboardInterrupt)])
def test_call_that_exits_fails_alone(leave: Any) -> None:
    outcomes = run(lambda x: x or leave(), [1, 0, 2])
    assert outcomes.failed == {1}
    assert failure.lost_kind(outcomes.results[1]) == "exit"
    assert outcomes.results[::2] == [1, 2]


def test_stop_iteration_ends_nothing() -> None:
    outcomes = run(next, [iter([]), iter([1])])
    assert outcomes.failed == {0}
    assert outcomes.results[1] == 1


def test_result_that_cannot_be_pickled_fails_alone() -> None:
    outcomes = run(lambda x: sys._getframe() if x else [x], [0, 1, 0])
    assert outcomes.failed == {1}
    assert failure.lost_kind(outcomes.results[1]) == "result-dump"
    assert loaded(outcomes)[::2] == [[0], [0]]


def test_wrapped_exception_is_raised() -> None:
    class RemoteExceptionWrapper:
        def get_exception(self) -> Exception:
            return ValueError("inside")

    RemoteExceptionWrapper.__module__ = "parsl.app.errors"
    outcomes = run(lambda x: RemoteExceptionWrapper(), [0])
    assert isinstance(failure.rebuild(pickle.loads(outcomes.results[0])), ValueError)


@pytest.mark.parametrize("size", [1, 100_000])
def test_results_are_as_they_were_when_their_calls_ended(size: int) -> None:
    kept = np.zeros(size)

    def fill(x: int) -> Any:
        kept[:] = x
        return kept

    assert [float(each[0]) for each in loaded(run(fill, [1, 2, 3]))] == [1.0, 2.0, 3.0]


def test_arrays_stay_writable() -> None:
    array = loaded(run(np.zeros, [10_000]))[0]
    array[0] = 1.0
    assert array.sum() == 1.0


def test_immutable_results_are_sent_as_they_are() -> None:
    values: list[Any] = [1, 2.5, None, True, 1j, "text", b"bytes", (1, ("a", None)), ()]
    outcomes = run(lambda x: x, values)
    assert outcomes.results == values
    assert not outcomes.pickled


def test_other_results_are_pickled() -> None:
    values: list[Any] = [[1], {"a": 1}, ([],), np.float64(1.5), frozenset({1}), ((((1,),),),)]
    outcomes = run(lambda x: x, values)
    assert set(outcomes.pickled) == set(range(len(values)))
    assert loaded(outcomes) == values


@pytest.mark.parametrize(
    "make", [bytes, bytearray, lambda count: np.zeros(count, np.uint8), lambda count: (b"x" * count,)]
)
def test_chunk_ends_when_its_results_are_large(make: Any) -> None:
    piece = bulk.LARGEST_RESULTS // 4 + 1
    assert len(run(make, [piece] * 10).results) == 4


def test_failures_count_as_results() -> None:
    def fail(size: int) -> None:
        raise ValueError("x" * size)

    outcomes = run(fail, [bulk.LARGEST_RESULTS] * 3)
    assert outcomes.failed == {0}


def test_chunk_ends_after_some_time(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0

    def work(x: int) -> int:
        nonlocal now
        now += 0.1
        return x

    monkeypatch.setattr(bulk.time, "perf_counter", lambda: now)
    outcomes = run(work, [1] * 10)
    assert len(outcomes.results) == 3
    assert outcomes.seconds == pytest.approx(0.3)


def test_forked_child_makes_no_further_call(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bulk, "LONGEST_SECONDS", 60.0)

    def fork(x: int) -> int:
        (tmp_path / f"{os.getpid()}-{x}").touch()
        child = os.fork() if x == 0 else 0
        if child:
            os.waitpid(child, 0)
        return x

    assert run(fork, [0, 1]).results == [0, 1]
    assert len(list(tmp_path.iterdir())) == 2


def test_name_is_that_of_the_function() -> None:
    assert Chunk(abs).__name__ == "calls of abs"


def test_results_of_classes_that_others_cannot_import() -> None:
    class Local:
        def __init__(self, x: int) -> None:
            self.x = x

    assert [each.x for each in loaded(run(Local, [1, 2, 3]))] == [1, 2, 3]
    mixed = run(lambda x: [Local(x)] if x % 2 else [x], [0, 1, 2])
    assert loaded(mixed)[::2] == [[0], [2]]
    assert loaded(mixed)[1][0].x == 1


class HalfPickled:
    """The standard pickler meets an array, and then something that it refuses."""

    def __init__(self, x: int) -> None:
        self.array, self.refused = np.full(10_000, x), lambda: x


def test_buffers_are_sent_once() -> None:
    outcomes = run(HalfPickled, [1, 2])
    assert [len(buffers) for buffers in outcomes.pickled.values()] == [1, 1]
    assert [(each.array[-1], each.refused()) for each in loaded(outcomes)] == [(1, 1), (2, 2)]
