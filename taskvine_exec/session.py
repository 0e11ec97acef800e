"""The session of an executor with its manager: not started, open, failed, or over."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable
from typing import Any

from taskvine_exec.errors import ExecutorNotStarted, ExecutorShutDown, ManagerLost, TaskCancelled
from taskvine_exec.link import ManagerLink


class Session:
    """Whether an executor takes tasks, and its way to the manager.

    Any thread may call any method. The lock makes sure that one thread alone ends the session; every other step sets or
    reads a single attribute. A thread that submits a task reads :attr:`is_open` again afterwards: the session may
    have ended in between, and the thread that ended it may have missed the task.

    Parameters
    ----------
    label : str
        Label of the executor.
    bad_state : callable
        Makes Parsl's exception for calls after a failure.
    """

    def __init__(self, label: str, bad_state: Callable[[], Exception]) -> None:
        self._label = label
        self._bad_state = bad_state
        self._ending = threading.Lock()
        self._link: ManagerLink | None = None
        self._reason = ""
        self._failure: Exception | None = None
        self.is_open = False
        """Whether the executor takes tasks."""
        self.is_over = False
        """Whether the executor was shut down."""

    def begin(self, link: ManagerLink) -> None:
        """Open the session."""
        self._link = link
        self.is_open = True

    def fail(self, error: Exception) -> None:
        """Take no more tasks, because of an error."""
        self._failure = error
        self.is_open = False

    def end(self) -> bool:
        """End the session; return False if it was over already."""
        with self._ending:
            if self.is_over:
                return False
            self.is_over, self.is_open = True, False
            return True

    def leave_to_parent(self) -> None:
        """End the session in a forked child: it belongs to the parent, whose threads do not exist here."""
        self._ending = threading.Lock()
        self._reason = "this process was forked from the one that started it"
        self.end()

    def link(self) -> ManagerLink:
        """Return the link to the manager.

        Raises
        ------
        ExecutorNotStarted, ExecutorShutDown, BadStateException
            If the session is not open.
        """
        if self.is_open and self._link is not None:
            return self._link
        if self.is_over:
            raise ExecutorShutDown(label=self._label, reason=self._reason)
        if self._link is None:
            raise ExecutorNotStarted(label=self._label)
        raise self._bad_state()

    def error(self, number: int) -> Exception:
        """Make the exception of a task that had not ended when the session did."""
        if self.is_over:
            return TaskCancelled(task_id=number, reason="the executor shut down")
        if isinstance(self._failure, ManagerLost):
            return dataclasses.replace(self._failure, task_id=number)
        return self._bad_state()

    def ask(self, kind: str, *rest: Any, timeout: float | None) -> Any:
        """Ask the manager, and wait for its answer for at most ``timeout`` seconds.

        Raises
        ------
        ExecutorNotStarted, ExecutorShutDown, BadStateException
            If the session is not open, or fails or ends before the answer.
        TimeoutError
            If there is no answer in time.
        """
        try:
            return self.link().ask(kind, *rest, timeout=timeout).result(timeout)
        except ConnectionError:
            self.link()  # raises a more precise error
            raise

    def say(self, *message: Any) -> None:
        """Tell the manager something, unless there is none."""
        # A forked child must leave the link alone: a thread of the parent may have held one of its locks.
        if self._link is not None and not self.is_over:
            self._link.say(*message)

    def retire(self, profiles: list[int], size: int) -> None:
        """Tell the manager that a function of ``size`` bytes will not be called again, unless there is no manager."""
        if self._link is not None and not self.is_over:
            self._link.retire(profiles, size)
