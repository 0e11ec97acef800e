"""Tasks that have not ended."""

from __future__ import annotations

import logging
from concurrent.futures import Future
from functools import partial
from typing import Any

import pytest

from taskvine_exec.results.pending import PendingTasks, set_exception


def pending(count: int) -> tuple[PendingTasks, list[Future[Any]], list[list[int]]]:
    """Tasks with numbers from 0, their futures, and the numbers that were cancelled at the manager."""
    futures: list[Future[Any]] = [Future() for _ in range(count)]
    cancelled: list[list[int]] = []
    return PendingTasks(dict(enumerate(futures)), cancelled.append), futures, cancelled


def test_one_task_fails() -> None:
    tasks, futures, cancelled = pending(2)
    tasks.fail(1, ValueError("one"))
    tasks.fail(1, ValueError("again"))
    tasks.fail(7, ValueError("there is no such task"))
    assert str(futures[1].exception(0)) == "one"
    assert not futures[0].done()
    assert list(tasks.futures) == [0]
    assert cancelled == [[1]]


def test_a_long_chain_fails_without_recursion() -> None:
    tasks, futures, _ = pending(5000)
    for number, future in enumerate(futures[:-1]):
        future.add_done_callback(lambda _, after=number + 1: tasks.fail(after, ValueError("before")))  # type: ignore[misc]
    tasks.fail(0, ValueError("first"))
    assert all(future.exception(0) for future in futures)
    assert not tasks.futures


def test_all_tasks_fail_each_with_its_error() -> None:
    tasks, futures, cancelled = pending(3)
    futures[0].add_done_callback(lambda _: tasks.fail_all(partial(ValueError, "by a callback")))  # type: ignore[arg-type]
    tasks.fail_all(lambda number: ValueError(f"task {number}"))
    assert [str(future.exception(0)) for future in futures] == ["task 0", "task 1", "task 2"]
    assert cancelled == [[0, 1, 2]]


def test_done_future_is_not_changed(caplog: pytest.LogCaptureFixture) -> None:
    future: Future[Any] = Future()
    future.set_result(1)
    set_exception(future, ValueError())
    assert future.result(0) == 1
    assert not caplog.text


def test_callback_may_raise_anything(caplog: pytest.LogCaptureFixture) -> None:
    def leave(future: Future[Any]) -> None:
        raise SystemExit(3)

    future: Future[Any] = Future()
    future.add_done_callback(leave)
    with caplog.at_level(logging.ERROR):
        set_exception(future, ValueError("why"))
    assert str(future.exception(0)) == "why"
    assert "a callback of a task's future raised" in caplog.text


@pytest.mark.parametrize(("count", "waiting", "outstanding"), [(0, 0, 0), (3, 0, 3), (3, 2, 1), (3, 3, 1), (2, -4, 6)])
def test_number_of_tasks_that_could_run(count: int, waiting: int, outstanding: int) -> None:
    tasks, _, _ = pending(count)
    tasks.waiting = waiting
    assert tasks.outstanding() == outstanding
