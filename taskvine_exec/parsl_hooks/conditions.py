"""A future that leaves little behind, because hardly anybody waits for it.

Under the DFK, no thread waits for an executor's futures, because the DFK has its own. A ``threading.Condition``
consists of nine objects that every cyclic garbage collection visits. That is a quarter of the objects kept for a task.
"""

from __future__ import annotations

import threading
from concurrent.futures import Future
from typing import Any

from taskvine_exec.parsl_hooks.futures import end_cycles
from taskvine_exec.parsl_hooks.switches import CONDITIONS


class LightFuture(Future[Any]):
    """A future with a small condition, which drops its callbacks once they were called."""

    def __init__(self) -> None:
        if not CONDITIONS.on:
            super().__init__()
            return
        # Like Future.__init__, except for the condition.
        self._condition = _Condition()  # type: ignore[assignment]
        self._state = "PENDING"
        self._result = None
        self._exception = None
        self._waiters: list[Any] = []
        self._done_callbacks: list[Any] = []

    def _invoke_callbacks(self) -> None:
        super()._invoke_callbacks()  # type: ignore[misc]
        end_cycles(self._done_callbacks)
        if CONDITIONS.on:
            self._done_callbacks.clear()  # the DFK keeps this future as long as its own


class _Condition:
    """The parts of ``threading.Condition`` that a future uses. A real condition is made when a thread waits."""

    __slots__ = ("_lock", "_real")

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._real: threading.Condition | None = None

    def __enter__(self) -> bool:
        return self._lock.acquire()

    def __exit__(self, *error: object) -> None:
        self._lock.release()

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        return self._lock.acquire(blocking, timeout)

    def release(self) -> None:
        self._lock.release()

    def wait(self, timeout: float | None = None) -> bool:
        if self._real is None:  # the caller holds the lock
            self._real = threading.Condition(self._lock)
        return self._real.wait(timeout)

    def notify_all(self) -> None:
        if self._real is not None:
            self._real.notify_all()
