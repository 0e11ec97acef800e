"""Results in the order of the calls, with few chunks at a time."""

from __future__ import annotations

import gc
import itertools
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, TimeoutError
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taskvine_exec.bulk.arguments import Arguments
from taskvine_exec.bulk.mapping import Mapping
from taskvine_exec.bulk.sizes import Sizes, window
from taskvine_exec.errors import ArgumentNotSerializable, ExecutorShutDown, NodeLost, SlotDied, TaskCancelled
from tests.unit.taskvine_exec.bulk.tasks import LocalTasks, Unsent

SECONDS = 30.0


def mapped(
    local: LocalTasks, *iterables: Any, chunksize: int | None = None, timeout: float | None = None
) -> Iterator[Any]:
    return Mapping(local.tasks, Arguments(iterables), Sizes(chunksize), timeout).results()


@given(st.integers(0, 3000), st.none() | st.integers(1, 400), st.integers(1, 5))
def test_results_are_those_of_map(count: int, chunksize: int | None, slots: int) -> None:
    local = LocalTasks(lambda x, y: (x, y), slots)
    assert list(mapped(local, range(count), itertools.count(), chunksize=chunksize)) == list(
        zip(range(count), range(count), strict=True)
    )
    if chunksize is None and count > 1000:
        assert max(local.sizes) > 8


@given(st.data())
def test_order_does_not_depend_on_which_chunk_ends_first(data: Any) -> None:
    local = LocalTasks(lambda x: [x], at_once=False)
    results = mapped(local, range(60), chunksize=data.draw(st.integers(1, 20)))
    for number in range(60):
        for waiting in data.draw(st.permutations(sorted(local.waiting))):
            local.run(waiting)
        assert next(results) == [number]
    assert list(results) == []


def test_iterables_are_read_no_further_than_the_window() -> None:
    read: list[int] = []

    def numbers() -> Iterator[int]:
        for number in itertools.count():
            read.append(number)
            yield number

    local = LocalTasks(lambda x: x, slots=3)
    results = mapped(local, numbers(), chunksize=5)
    assert len(read) == 5 * window(3), "sent before the first result is asked for"
    assert list(itertools.islice(results, 1000)) == list(range(1000))
    assert len(read) <= 1000 + 5 * (window(3) + 1)
    results.close()  # type: ignore[attr-defined]


def test_first_exception_ends_the_iterator() -> None:
    def invert(x: int) -> float:
        return 1 / x

    local = LocalTasks(invert)
    results = mapped(local, [1, 2, 0, 4, 0], chunksize=10)
    assert [next(results), next(results)] == [1.0, 0.5]
    with pytest.raises(ZeroDivisionError):
        next(results)
    assert list(results) == []


@pytest.mark.parametrize("killers", [{0}, {499}, {17, 18, 300}])
def test_call_that_kills_its_process_fails_alone(killers: set[int]) -> None:
    local = LocalTasks(lambda x: LocalTasks.KILLER if x in killers else x)
    results = mapped(local, range(500), chunksize=100)
    for number in range(min(killers)):
        assert next(results) == number
    with pytest.raises(SlotDied):
        next(results)


def test_lost_chunk_runs_again_before_others() -> None:
    local = LocalTasks(lambda x: x, at_once=False)
    results = mapped(local, range(20), chunksize=10)
    local.lose(NodeLost(task_id=0))
    assert not any(local.again[:2])
    assert all(local.again[2:])
    while local.waiting:
        local.run()
    assert list(results) == list(range(20))


def test_other_failures_are_those_of_all_calls() -> None:
    local = LocalTasks(lambda x: x, at_once=False)
    results = mapped(local, range(20), chunksize=10)
    local.lose(TaskCancelled(task_id=0, reason="shut down"))
    with pytest.raises(TaskCancelled, match="shut down"):
        next(results)
    assert local.sizes == [10, 10]


def test_argument_that_cannot_be_sent_fails_its_call() -> None:
    local = LocalTasks(lambda x: x)
    results = mapped(local, [1, 2, Unsent(), 4], chunksize=4)
    assert [next(results), next(results)] == [1, 2]
    with pytest.raises(ArgumentNotSerializable, match="it stays here"):
        next(results)


def test_future_among_arguments_is_named() -> None:
    local = LocalTasks(lambda x, y: x)
    results = mapped(local, [1, 2, 3], [1, Future(), 3], chunksize=3)
    assert next(results) == 1
    with pytest.raises(ArgumentNotSerializable, match="argument 1 of call 1 is a future"):
        next(results)


def test_no_calls() -> None:
    local = LocalTasks(abs)
    assert list(mapped(local)) == []
    assert list(mapped(local, [])) == []
    assert local.sizes == []


@pytest.mark.parametrize("read", [0, 3])
@pytest.mark.parametrize("how", ["closed", "dropped"])
def test_end_of_the_iterator_cancels_what_has_not_begun(read: int, how: str) -> None:
    local = LocalTasks(lambda x: x, at_once=False)
    results: Any = mapped(local, itertools.count(), chunksize=1)
    assert len(local.waiting) == window(2)
    for number in range(read):
        local.run()
        assert next(results) == number
    waiting = sorted(local.waiting)
    if how == "closed":
        results.close()
    del results
    gc.collect()
    assert sorted(local.cancelled) == waiting
    assert not local.waiting


def test_exception_cancels_the_rest() -> None:
    local = LocalTasks(lambda x: 1 // x, at_once=False)
    results = mapped(local, [0, 1, 2], chunksize=1)
    local.run()
    with pytest.raises(ZeroDivisionError):
        next(results)
    assert local.cancelled == [1, 2]


def test_iterable_that_raises_at_once_cancels_what_was_sent() -> None:
    def numbers() -> Iterator[int]:
        yield from range(3)
        raise LookupError("no more")

    local = LocalTasks(lambda x: x, at_once=False)
    with pytest.raises(LookupError):
        mapped(local, numbers(), chunksize=1)
    assert local.cancelled == [0, 1, 2]


def test_refused_submission_is_raised_at_its_result() -> None:
    local = LocalTasks(abs)
    local.refusal = ExecutorShutDown(label="it")
    with pytest.raises(ExecutorShutDown):
        next(mapped(local, [1], chunksize=1))


def test_interrupted_submission_ends_all() -> None:
    local = LocalTasks(abs, at_once=False)
    results = mapped(local, itertools.count(), chunksize=1)
    local.refusal = KeyboardInterrupt()
    local.run()
    with pytest.raises(KeyboardInterrupt):
        next(results)
    assert not local.waiting


def test_result_that_does_not_come_in_time() -> None:
    local = LocalTasks(abs, at_once=False)
    results = mapped(local, [1, 2], chunksize=1, timeout=0.01)
    with pytest.raises(TimeoutError, match=r"call 0 did not come within 0\.01 s"):
        next(results)
    assert local.cancelled == [0, 1]


def test_results_in_time() -> None:
    local = LocalTasks(abs, at_once=False)
    results = mapped(local, [1, 2], chunksize=2, timeout=SECONDS)
    threading.Timer(0.01, local.run).start()
    assert list(results) == [1, 2]


def test_chunks_that_end_early_are_continued(monkeypatch: pytest.MonkeyPatch) -> None:
    def work(x: int) -> bytes:
        return bytes(1 << 20)

    local = LocalTasks(work)
    assert sum(map(len, mapped(local, range(20), chunksize=20))) == 20 << 20
    assert local.sizes[:3] == [20, 16, 12]


def test_reader_sleeps_until_a_chunk_ends() -> None:
    local = LocalTasks(abs, at_once=False)
    results = mapped(local, [1], chunksize=1)
    used: list[float] = []

    def read() -> None:
        begun = time.thread_time()
        next(results)
        used.append(time.thread_time() - begun)

    reader = threading.Thread(target=read)
    reader.start()
    reader.join(0.1)
    assert reader.is_alive()
    local.run()
    reader.join(SECONDS)
    assert used[0] < 0.05
