"""Tasks that have not ended, and how they fail here."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from concurrent.futures import Future, InvalidStateError
from typing import Any

from taskvine_exec.results.failures import FailureQueue

logger = logging.getLogger(__name__)


class PendingTasks:
    """The futures of tasks that have not ended, by number.

    Any thread may call any method. No lock is needed: a task is taken out of the dict in one step, so only one thread
    completes it.

    Parameters
    ----------
    futures : dict
        Parsl's dict of the executor's tasks. Submission adds to it, and completions take from it.
    cancel : callable
        Tells the manager to cancel tasks, given their numbers.
    """

    def __init__(self, futures: dict[Any, Future[Any]], cancel: Callable[[list[int]], None]) -> None:
        self.futures = futures
        self._cancel = cancel
        self._failures = FailureQueue(self._fail_now)
        self.waiting = 0
        """How many of them wait for files of others, as the manager says. Negative: it also recreates lost files."""

    def outstanding(self) -> int:
        """Return the number of tasks that run or could run; at least 1 while a task waits."""
        total = len(self.futures)
        return max(total - self.waiting, 1 if total else 0)

    def fail(self, number: int, error: Exception) -> None:
        """Fail a task, and then the tasks that depend on it."""
        self._failures.add(number, error)

    def _fail_now(self, number: int, error: Exception) -> None:
        future = self.futures.pop(number, None)
        if future is not None:
            self._cancel([number])
            set_exception(future, error)

    def fail_all(self, error: Callable[[int], Exception], among: Iterable[int] | None = None) -> None:
        """Fail every task, or those ``among`` the given numbers, with the error that ``error`` makes for its number."""
        known = self.futures
        numbers = list(known) if among is None else [number for number in among if number in known]
        futures = [(number, known.pop(number, None)) for number in numbers]
        if numbers:
            self._cancel(numbers)
        for number, future in futures:
            if future is not None:
                set_exception(future, error(number))


def set_exception(future: Future[Any], error: BaseException) -> None:
    """Fail a future, unless it is done. Exceptions of its callbacks are logged."""
    try:
        future.set_exception(error)
    except InvalidStateError:
        pass
    except BaseException:  # concurrent.futures catches only Exceptions of callbacks
        logger.exception("a callback of a task's future raised an exception")
