"""Propagation of a task's failure to the tasks that depend on it."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable

from parsl.dataflow.errors import DependencyError, PropagatedException

_ARROW = " <- "


class FailureQueue:
    """A queue that fails tasks one after another, so that a long chain of dependent tasks causes no recursion.

    Failing a task runs the callbacks of its future, and these fail the tasks that read its result. Direct calls would
    recurse once per link of the chain, up to Python's recursion limit.

    Parameters
    ----------
    fail : callable
        Called with the number of a task and its exception. Calls are never nested.
    """

    def __init__(self, fail: Callable[[int, Exception], None]) -> None:
        self._fail = fail
        self._waiting: deque[tuple[int, Exception]] = deque()
        self._draining = threading.Lock()

    def add(self, number: int, error: Exception) -> None:
        """Fail a task, now or as soon as the call in progress returns. Thread-safe."""
        self._waiting.append((number, error))
        # Look again after each release: another thread may have appended just before it and found the lock taken.
        while self._waiting and self._draining.acquire(blocking=False):
            try:
                while self._waiting:
                    self._fail(*self._waiting.popleft())
            finally:
                self._draining.release()


def dependency_error(error: BaseException, producer: object, consumer: int) -> DependencyError:
    """Make the error of a task whose dependency failed.

    As in Parsl, the error refers to the dependency's error, and its cause is the root cause. Errors of a longer chain
    are left out, so at most two steps lead to the root cause: if each of N errors referred to the one before it, their
    messages would have N² characters in total.

    Parameters
    ----------
    error : BaseException
        The error of the dependency.
    producer : object
        Number of the task that failed to make the dependency.
    consumer : int
        Number of the task that fails because of it.
    """
    return DependencyError([(_shortened(error), f"task {producer}")], consumer)


def _shortened(error: BaseException) -> BaseException:
    """Return an error; for one in a longer chain, a copy that refers directly to the root cause."""
    if not isinstance(error, PropagatedException) or error.__cause__ is None:
        return error
    if not isinstance(error.dependent_exceptions_tids[0][0], PropagatedException):
        return error
    last, name = error.dependent_exceptions_tids[0]
    while isinstance(last, PropagatedException) and last.dependent_exceptions_tids:
        others = " (+ others)" if len(last.dependent_exceptions_tids) > 1 else ""
        last, name = last.dependent_exceptions_tids[0]
        name = f"{name}{others}"
    path = f"...{_ARROW}{name.rpartition(_ARROW)[2]}"
    return DependencyError([(error.__cause__, path)], error.task_id)
