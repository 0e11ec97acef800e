"""Failures that spread along chains of tasks."""

from __future__ import annotations

import sys
import threading

from parsl.dataflow.errors import DependencyError, JoinError

from taskvine_exec.results.failures import FailureQueue, dependency_error


def test_failures_are_not_nested() -> None:
    failed: list[int] = []
    depth: list[int] = []

    def fail(number: int, error: Exception) -> None:
        failed.append(number)
        depth.append(len(depth_of_stack()))
        if number < 5 * sys.getrecursionlimit():
            queue.add(number + 1, error)

    def depth_of_stack() -> list[object]:
        frame, found = sys._getframe(), []
        while frame is not None:
            found.append(frame)
            frame = frame.f_back  # type: ignore[assignment]
        return found  # type: ignore[return-value]

    queue = FailureQueue(fail)
    queue.add(0, ValueError("first"))
    assert failed == list(range(5 * sys.getrecursionlimit() + 1))
    assert len(set(depth)) == 1


def test_failures_of_several_threads_are_all_reported() -> None:
    failed: list[int] = []
    queue = FailureQueue(lambda number, error: failed.append(number))
    threads = [
        threading.Thread(target=lambda first=first: [queue.add(first + n, ValueError()) for n in range(2000)])  # type: ignore[misc]
        for first in (0, 10_000, 20_000)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(failed) == [first + n for first in (0, 10_000, 20_000) for n in range(2000)]


def test_failure_added_during_another_is_not_lost() -> None:
    inside, go_on = threading.Event(), threading.Event()
    failed: list[tuple[int, str]] = []

    def fail(number: int, error: Exception) -> None:
        failed.append((number, threading.current_thread().name))
        if number == 0:
            inside.set()
            assert go_on.wait(30)

    queue = FailureQueue(fail)
    thread = threading.Thread(target=queue.add, args=(0, ValueError()), name="first")
    thread.start()
    assert inside.wait(30)
    queue.add(1, ValueError())  # returns at once: the thread that fails the other task fails this one too
    assert [number for number, _ in failed] == [0]
    go_on.set()
    thread.join()
    assert failed == [(0, "first"), (1, "first")]


def test_exception_of_a_callback_does_not_stop_the_queue() -> None:
    failed: list[int] = []

    def fail(number: int, error: Exception) -> None:
        failed.append(number)
        if number == 0:
            raise KeyboardInterrupt

    queue = FailureQueue(fail)
    try:
        queue.add(0, ValueError())
    except KeyboardInterrupt:
        pass
    queue.add(1, ValueError())
    assert failed == [0, 1]


def test_root_cause_is_named_once_in_a_long_chain() -> None:
    root = ValueError("no")
    error: BaseException = root
    for number in range(10_000):
        error = dependency_error(error, number, number + 1)
    assert error.__cause__ is root
    assert isinstance(error, DependencyError)
    ((before, name),) = error.dependent_exceptions_tids
    assert isinstance(before, DependencyError)
    assert (before.dependent_exceptions_tids, name) == ([(root, "... <- task 0")], "task 9999")
    assert error.task_id == 10_000
    assert len(str(error)) < 200
    assert "task 9999 <- ... <- task 0" in str(error)
    first = dependency_error(root, 1, 2)
    assert dependency_error(first, 2, 3).dependent_exceptions_tids == [(first, "task 2")]


def test_parsls_dependency_error_is_followed_to_its_root() -> None:
    root = ValueError("no")
    joined = JoinError([(root, "task 1"), (KeyError(), "task 2")], 3)
    error = dependency_error(joined, 3, 4)
    assert error.dependent_exceptions_tids == [(joined, "task 3")]
    assert error.__cause__ is root
    nested = DependencyError([(DependencyError([(root, "task 1")], 2), "task 2")], 3)
    assert "task 3 <- ... <- task 1" in str(dependency_error(nested, 3, 4))
