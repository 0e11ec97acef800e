"""AppFutures that load their result when it is read, and are freed with their last reference.

The DFK has no hook for another class of futures, and sets the result itself. The AppFuture of a task that keeps its
result on a node is therefore given another class. A *value* here is an object with the method ``load(timeout)``, which
the DFK sets as the future's result.
"""

from __future__ import annotations

import sys
import threading
import time
import weakref
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from typing import Any, Protocol, TypeVar, cast

from parsl.dataflow.dflow import DataFlowKernel
from parsl.dataflow.futures import AppFuture

from taskvine_exec.parsl_hooks.switches import FUTURES, RECORDS

_ATTRIBUTE = "_taskvine_value"
_lock = threading.Lock()


class Loadable(Protocol):
    """A result that is elsewhere."""

    def load(self, timeout: float | None = None) -> Any:
        """Load it, in at most ``timeout`` seconds."""


_Value = TypeVar("_Value", bound=Loadable)


def value_of(future: AppFuture, make: Callable[[], _Value]) -> tuple[_Value, bool]:
    """Return the value that belongs to a future, and whether it was made now.

    From now on, the future loads this value if the DFK sets it as the result.
    """
    # AppFuture's __getattr__ submits a task for each name that the future does not have.
    known = cast("_Value | None", future.__dict__.get(_ATTRIBUTE))
    if known is not None:
        return known, False
    with _lock:
        known = cast("_Value | None", future.__dict__.get(_ATTRIBUTE))
        if known is not None:
            return known, False
        value = future.__dict__[_ATTRIBUTE] = make()
        if FUTURES.on and type(future) is AppFuture:
            future.__class__ = ValueFuture
    return value, True


def as_result(value: Loadable) -> Any:
    """Return what the DFK gets as the result of a task: its value, or the loaded object if futures cannot load it."""
    return value if FUTURES.on else value.load()


class ValueFuture(AppFuture):
    """An AppFuture whose result may be on nodes until it is read."""

    def result(self, timeout: float | None = None) -> Any:
        """Return the result, as any future does. A result on nodes is loaded first, by mapping its file.

        Raises
        ------
        TimeoutError
            If the task is not done in time, or its lost result is not recreated in time.
        FileLost
            If the result was lost and cannot be recreated.
        FileUnreadable
            If the result's file exists but cannot be read now.
        """
        until = None if timeout is None else time.monotonic() + timeout
        error = self.exception(timeout)
        if error is not None:
            return super().result()
        return self._resolved(None if until is None else max(0.0, until - time.monotonic()))

    def _resolved(self, timeout: float | None) -> Any:
        result = self._result
        if result is self.__dict__[_ATTRIBUTE]:
            result = result.load(timeout)
            self._result = result  # every later call returns the same object
        return result

    def _invoke_callbacks(self) -> None:
        super()._invoke_callbacks()  # type: ignore[misc]
        if RECORDS.on:
            _end_cycle(self)

    # A thread that asked for the result before the task was launched runs Future.result: the future did not have this
    # class yet. Future.result ends with a call of Future.__get_result, which is looked up late and finds this method.
    def _Future__get_result(self) -> Any:
        if self._exception is not None:
            return super()._Future__get_result()  # type: ignore[misc]
        # The remaining time is not known, so the load gets the full timeout again.
        return self._resolved(_timeout_of_result())


def _timeout_of_result() -> float | None:
    """Return the timeout of the call of ``Future.result`` two frames above; None without such a call or timeout."""
    frame = sys._getframe(2)
    if frame.f_code is not Future.result.__code__:
        return None
    timeout = frame.f_locals.get("timeout")
    return timeout if isinstance(timeout, (int, float)) else None


_UPDATE = DataFlowKernel.handle_exec_update


def end_cycles(callbacks: list[Any]) -> None:
    """End the cycle of an AppFuture with its task record, given the called callbacks of the executor's future."""
    if not RECORDS.on:
        return
    for callback in callbacks:
        if type(callback) is partial and getattr(callback.func, "__func__", None) is _UPDATE:
            future = callback.args[0]["app_fu"]
            if type(future) is AppFuture and future.done():  # not if the task is retried, or joins others
                _end_cycle(future)


def _end_cycle(future: Any) -> None:
    future._done_callbacks = []  # all were called, and some refer to task records
    future.task_record = _Record(future)


class _Record(dict[str, Any]):
    """A copy of the task record of a done future, with a weak reference to the future.

    The DFK keeps using its own record, which does not change. If the future referred to that record, the two would form
    a cycle, and the result would stay in memory and on nodes until Python's garbage collector runs. With this copy, the
    future is freed as soon as the DFK has dropped its record and nothing else refers to the future.
    """

    __slots__ = ("_future",)

    def __init__(self, future: AppFuture) -> None:
        super().__init__(future.task_record)
        self.pop("app_fu", None)
        self._future = weakref.ref(future)

    def __missing__(self, key: str) -> Any:
        if key == "app_fu" and (future := self._future()) is not None:
            return future
        raise KeyError(key)
