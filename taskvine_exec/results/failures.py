"""Failures of tasks that spread to the tasks depending on them."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable

from parsl.dataflow.errors import DependencyError, PropagatedException

_ARROW = " <- "


class FailureQueue:
    """Fails tasks one after another, however long the chain of tasks that depend on each other.

    Failing a task runs the callbacks of its future, and these fail the tasks that read its result. Called directly,
    they would recurse once for each link of a chain, up to Python's recursion limit.

    Parameters
    ----------
    fail : callable
        Called with the number of a task and its exception, never from within another call of itself.
    """

    def __init__(self, fail: Callable[[int, Exception], None]) -> None:
        self._fail = fail
        self._waiting: deque[tuple[int, Exception]] = deque()
        self._draining = threading.Lock()

    def add(self, number: int, error: Exception) -> None:
        """Fail a task, now or as soon as the call in progress returns; safe in any thread."""
        self._waiting.append((number, error))
        # Look again after each release: another thread may have appended just before, and found the lock taken.
        while self._waiting and self._draining.acquire(blocking=False):
            try:
                while self._waiting:
                    self._fail(*self._waiting.popleft())
            finally:
                self._draining.release()


def dependency_error(error: BaseException, producer: object, consumer: int) -> DependencyError:
    """Make the error of a task whose dependency failed.

    As under Parsl, it refers to the dependency's error, and its cause is the root cause, in two steps at most:
    if each of N errors in a chain referred to the one before, their messages would take N² characters together.

    Parameters
    ----------
    error : BaseException
        What the dependency failed with.
    producer : object
        Number of the task that was to make the dependency.
    consumer : int
        Number of the task that fails with it.
    """
    return DependencyError([(_shortened(error), f"task {producer}")], consumer)


def _shortened(error: BaseException) -> BaseException:
    """Return an error, or in the place of one in a chain a copy that refers straight to the root cause."""
    if not isinstance(error, PropagatedException) or error.__cause__ is None:
        return error
    if not isinstance(error.dependent_exceptions_tids[0][0], PropagatedException):
        return error
    names = [name for step in getattr(error, "_cause_sequence", ()) for name in step.split(_ARROW)]
    path = _ARROW.join(["...", *names[-1:]])
    return DependencyError([(error.__cause__, path)], error.task_id)
