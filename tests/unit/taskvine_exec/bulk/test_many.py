"""Futures of many calls."""

from __future__ import annotations

import threading
from concurrent.futures import CancelledError, wait
from typing import Any

import pytest

from taskvine_exec.bulk.many import Many
from taskvine_exec.bulk.sizes import Sizes, window
from taskvine_exec.errors import ArgumentNotSerializable, ExecutorShutDown, SlotDied
from tests.unit.taskvine_exec.bulk.tasks import LocalTasks, Unsent

SECONDS = 30.0


def submitted(local: LocalTasks, calls: Any, chunksize: int | None = None) -> list[Any]:
    return Many(local.tasks, calls, Sizes(chunksize)).futures()


def test_each_call_has_a_future() -> None:
    local = LocalTasks(pow, spread=True)
    futures = submitted(local, [(2, 3), (3, 2), (7, 2, 5)])
    assert [future.result(SECONDS) for future in futures] == [8, 9, 4]
    assert submitted(local, []) == []


def test_chunks_grow_and_none_waits_for_a_reader() -> None:
    local = LocalTasks(abs, spread=True)
    futures = submitted(local, zip(range(5000)))
    assert all(future.done() for future in futures)
    assert max(local.sizes) > 64


def test_few_chunks_are_in_flight() -> None:
    local = LocalTasks(abs, at_once=False, spread=True)
    futures = submitted(local, [(n,) for n in range(100)], chunksize=2)
    while local.waiting:
        assert len(local.waiting) <= window(2)
        local.run()
    assert [future.result(SECONDS) for future in futures] == list(range(100))


@pytest.mark.parametrize("wrong", [5, [5], "ab"])
def test_arguments_are_tuples(wrong: Any) -> None:
    local = LocalTasks(abs, spread=True)
    with pytest.raises(TypeError, match=r"call 1 are not a tuple .* write \(x,\)"):
        submitted(local, [(1,), wrong])
    assert local.sizes == []


def test_calls_fail_alone() -> None:
    def work(x: Any) -> Any:
        if x == 3:
            raise LookupError(x)
        return LocalTasks.KILLER if x == 5 else x

    local = LocalTasks(work, spread=True)
    futures = submitted(local, [*((n,) for n in range(8)), (Unsent(),), (9,)], chunksize=10)
    errors = {number: type(future.exception(SECONDS)) for number, future in enumerate(futures) if future.exception()}
    assert errors == {3: LookupError, 5: SlotDied, 8: ArgumentNotSerializable}
    assert [future.result() for number, future in enumerate(futures) if number not in errors] == [0, 1, 2, 4, 6, 7, 9]


def test_many_calls_that_cannot_be_sent_need_no_deep_stack() -> None:
    local = LocalTasks(abs, spread=True)
    futures = submitted(local, [(Unsent(),)] * 3000, chunksize=1)
    assert {type(future.exception(SECONDS)) for future in futures} == {ArgumentNotSerializable}


def test_call_can_be_cancelled_until_its_chunk_is_sent() -> None:
    local = LocalTasks(abs, at_once=False, spread=True)
    futures = submitted(local, [(n,) for n in range(40)], chunksize=4)
    sent = 4 * window(2)
    assert not futures[0].cancel()
    assert futures[sent + 1].cancel()
    assert futures[sent + 2].cancel()
    while local.waiting:
        local.run()
    done, left = wait(futures, SECONDS)
    assert (len(done), len(left)) == (40, 0)
    with pytest.raises(CancelledError):
        futures[sent + 1].result()
    assert [futures[at].result() for at in (0, sent, sent + 3, 39)] == [0, sent, sent + 3, 39]
    assert sum(local.sizes) == 38


def test_all_of_a_chunk_cancelled() -> None:
    local = LocalTasks(abs, at_once=False, spread=True)
    futures = submitted(local, [(n,) for n in range(40)], chunksize=4)
    for future in futures:
        future.cancel()
    while local.waiting:
        local.run()
    assert sum(local.sizes) == 4 * window(2)
    assert all(future.done() for future in futures)


def test_refused_submission_fails_the_calls() -> None:
    local = LocalTasks(abs, spread=True)
    local.refusal = ExecutorShutDown(label="it")
    futures = submitted(local, [(1,), (2,)])
    assert [type(future.exception(SECONDS)) for future in futures] == [ExecutorShutDown] * 2


def test_interrupted_submission_cancels_what_was_sent() -> None:
    local = LocalTasks(abs, at_once=False, spread=True)
    made = Many(local.tasks, [(n,) for n in range(10)], Sizes(1))
    submit, count = local.tasks.submit, 0

    def interrupted(*args: Any) -> Any:
        nonlocal count
        count += 1
        if count > 3:
            raise KeyboardInterrupt
        return submit(*args)

    object.__setattr__(local.tasks, "submit", interrupted)
    with pytest.raises(KeyboardInterrupt):
        made.futures()
    assert local.cancelled == [0, 1, 2]


@pytest.mark.parametrize("error", [ValueError, SystemExit])
def test_callback_that_raises_harms_no_other_call(error: type[BaseException]) -> None:
    def fail(future: Any) -> None:
        raise error

    local = LocalTasks(abs, at_once=False, spread=True)
    futures = submitted(local, [(1,), (2,), (3,)], chunksize=3)
    futures[1].add_done_callback(fail)
    local.run()
    assert [future.result(SECONDS) for future in futures] == [1, 2, 3]


def test_chunks_end_in_another_thread() -> None:
    local = LocalTasks(abs, at_once=False, spread=True)
    futures = submitted(local, [(n,) for n in range(2000)], chunksize=3)

    def run() -> None:
        while local.waiting:
            local.run()

    thread = threading.Thread(target=run)
    thread.start()
    assert sum(future.result(SECONDS) for future in futures) == sum(range(2000))
    thread.join(SECONDS)
