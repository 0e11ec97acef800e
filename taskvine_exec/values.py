"""Results that other tasks read where they are, seen from the user's process.

A :class:`Value` stands for the result of one task of the DFK, before and after it is there. The task's AppFuture refers
to it, and so does every :class:`Edge` in the arguments of a task that consumes it; when neither is left, the manager is
told to forget it. It refers to no future: a chain of tasks must not be kept in memory by its last one.
"""

from __future__ import annotations

import collections
import enum
import gc
import pickle
import sys
import threading
import time
import weakref
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, NamedTuple, cast

from parsl.data_provider.files import File
from parsl.dataflow.futures import AppFuture

from taskvine_exec.errors import ExecutorShutDown, FileLost, ResultNotSerializable, is_interruption
from taskvine_manager.runtime import failure

_ATTRIBUTE = "_taskvine_value"
_lock = threading.Lock()
_IMMUTABLE = frozenset({int, float, bool, str, bytes, complex, type(None)})


Loader = Callable[["Value", float | None], Any]
"""Gets a value that is on nodes, in so many seconds at most."""


class Where(NamedTuple):
    """A replica of a result: the node that has it, its path, its size in bytes, and its stamp when it was made."""

    node: str
    path: str
    size: int
    stamp: int


class Place(enum.Enum):
    """Where the result of a task is."""

    PENDING = "not there yet"
    HOME = "in the user's process"
    NODES = "on nodes"
    NOWHERE = "nowhere: the task failed, or it has been forgotten"


class Value:
    """The result of one task.

    Parameters
    ----------
    number : str
        Its name among the files of the executor.
    producer : int
        The DFK's id of the task.
    """

    __slots__ = (
        "__weakref__",
        "_at_home",
        "_edges",
        "_encoded",
        "_end",
        "_load",
        "_waiting",
        "error",
        "is_read",
        "number",
        "place",
        "producer",
        "where",
    )

    def __init__(self, number: str, producer: int) -> None:
        self.number = number
        self.producer = producer
        self.place = Place.PENDING
        self.error: BaseException | None = None
        self._at_home: Any = None
        self._encoded: bytes | None = None
        self._edges = 0
        self._waiting: list[Callable[[Value], None]] | None = []
        self._load: Loader | None = None
        self.is_read = False
        self.where: Where | None = None
        self._end: weakref.finalize[..., Value] | None = None

    @classmethod
    def unattended(cls, number: int) -> Value:
        """The value of a call without a task of the DFK: nobody can refer to it before it is there."""
        value = cls(f"call-{number}", number)
        value._waiting = None
        return value

    @classmethod
    def of(cls, future: AppFuture) -> Value:
        """The value of a task's AppFuture; from now on the future resolves it when somebody asks for the result."""
        known: Value | None = future.__dict__.get(_ATTRIBUTE)
        if known is not None:
            return known
        with _lock:
            known = cast("Value | None", future.__dict__.get(_ATTRIBUTE))
            if known is not None:
                return known
            tid: int = future.tid
            value = cls(f"result-{tid}", tid)
            future.__dict__[_ATTRIBUTE] = value
            if type(future) is AppFuture:
                future.__class__ = ValueFuture
        future.add_done_callback(value._settle)
        return value

    def argument(self) -> Any:
        """What stands for the value in a consumer's arguments: a copy if it is small and has come, else an edge.

        Either way the consumer gets the result as its task returned it, whatever the user's process has written into
        its own copy since.
        """
        with _lock:
            if self.place is Place.HOME:
                return self._at_home if self._encoded is None else Copy(self.number, self._encoded)
            self._edges += 1
        return Edge(self)

    def comes_home(self, value: Any, encoded: bytes | None = None) -> None:
        """Say that the result is small and here: consumers get it with their arguments from now on.

        They get what was ``encoded``, if that is given.
        """
        with _lock:
            self.place = Place.HOME
            if encoded is None or type(value) in _IMMUTABLE or isinstance(value, File):  # the executor stages Files
                self._at_home, self._encoded = value, None
            else:
                self._at_home, self._encoded = None, encoded
            self.error = None

    def stays(self, load: Loader, where: Where | None = None) -> None:
        """Say that the result is on nodes, and how to get it; or that there is another way to get it now."""
        self.where = where
        self._load = load
        self.place = Place.NODES

    @property
    def has_edges(self) -> bool:
        """Whether any task has been given an edge to it."""
        return self._edges > 0

    def load(self, timeout: float | None = None) -> Any:
        """Get a result that is on nodes, waiting for so many seconds at most if it has to be made again.

        Raises
        ------
        ResultNotSerializable
            If its own methods raise an exception that would end the thread.
        """
        while True:
            load = self._load
            assert load is not None
            try:
                loaded = load(self, timeout)
            except ExecutorShutDown:
                if load is self._load:
                    raise
                continue  # it was brought home meanwhile
            except BaseException as error:
                if isinstance(error, Exception) or is_interruption(error):
                    raise
                reason = f"it cannot be loaded here: {failure.describe(error)}"
                raise ResultNotSerializable(task_id=self.producer, reason=reason, subject="the result") from error
            self.is_read = True
            return loaded

    def when_gone(self, forget: Callable[[str], None]) -> None:
        """Have its number forgotten when nobody can ask for it any more."""
        self._end = weakref.finalize(self, forget, self.number)
        self._end.atexit = False

    def forgotten(self) -> None:
        """Say that nodes no longer have it, because that was asked for: who is given an edge to it fails by that."""
        self.place = Place.NOWHERE
        self.error = self._forgotten()
        self._load = _refuse
        if self._end is not None:
            self._end.detach()

    def _forgotten(self) -> FileLost:
        return FileLost(task_id=self.producer, reason="its result has been forgotten", name=self.number)

    def when_settled(self, callback: Callable[[Value], None]) -> None:
        """Call back once the task is over for good, at once if it is."""
        with _lock:
            if self._waiting is not None:
                self._waiting.append(callback)
                return
        callback(self)

    def _settle(self, future: Future[Any]) -> None:
        self.error = future.exception()
        with _lock:
            if self.error is not None:
                self.place = Place.NOWHERE
            waiting, self._waiting = self._waiting, None
        for callback in waiting or ():
            callback(self)


def _refuse(value: Value, timeout: float | None) -> Any:
    raise value._forgotten()


class Kept:
    """The bytes that nodes keep because values are alive here.

    Parsl's AppFutures and their task records refer to each other, so that a result which nobody holds any more goes
    with Python's cyclic collection, and that goes by the number of objects, not by what they stand for. So it is had to
    run when so much has come to be kept as was left after it ran last. Not from several threads.
    """

    LEAST = 64 << 20
    """Bytes that are not worth a collection."""

    def __init__(self) -> None:
        self.bytes = 0
        self._gone: collections.deque[int] = collections.deque()
        self._limit = self.LEAST

    def gone(self, size: int) -> None:
        """A value is gone; callable from anywhere, a collection included."""
        self._gone.append(size)

    def add(self, size: int) -> None:
        """A value is kept; collect what is not held any more, if it is time for that."""
        self.bytes += size
        self._count()
        if self.bytes > self._limit:
            gc.collect()
            self._count()
            self._limit = max(self.LEAST, 2 * self.bytes)

    def _count(self) -> None:
        while self._gone:
            self.bytes -= self._gone.popleft()


class ValueFuture(AppFuture):
    """An AppFuture whose result may be on nodes until somebody asks for it."""

    def result(self, timeout: float | None = None) -> Any:
        """As of any future; a result on nodes is fetched, by mapping its file.

        Raises
        ------
        TimeoutError
            If the task is not done in time, or its result was lost and is not made again in time.
        FileLost
            If it was lost and cannot be made again.
        FileUnreadable
            If it cannot be read just now.
        """
        until = None if timeout is None else time.monotonic() + timeout
        error = self.exception(timeout)
        if error is not None:
            return super().result()
        return self._resolved(None if until is None else max(0.0, until - time.monotonic()))

    def _resolved(self, timeout: float | None) -> Any:
        result = self._result
        if type(result) is Value:
            result = result.load(timeout)
            self._result = result  # every later call returns the same object
        return result

    def _invoke_callbacks(self) -> None:
        super()._invoke_callbacks()  # type: ignore[misc]
        self._done_callbacks: list[Any] = []  # they have been called, and some refer to the task record
        record: Any = _Record(self)
        self.task_record = record

    # Who asked for the result before the DFK had launched the task is in Future.result, of a future that had not this
    # class yet. It ends there with a call of Future.__get_result, which is looked up then, and found here.
    def _Future__get_result(self) -> Any:
        if self._exception is not None:
            return super()._Future__get_result()  # type: ignore[misc]
        # How much of its time is left is not known: it gets as much again.
        return self._resolved(_timeout_of_result())


def _timeout_of_result() -> float | None:
    """Timeout of the call of ``Future.result`` two frames above; None if it has none, or there is no such call."""
    frame = sys._getframe(2)
    if frame.f_code is not Future.result.__code__:
        return None
    timeout = frame.f_locals.get("timeout")
    return timeout if isinstance(timeout, (int, float)) else None


class _Record(dict[str, Any]):
    """The task record of a future that is done: a copy that refers to the future weakly.

    The DFK's own record, which it goes on using, stays as it is. It and the future would refer to each other, and nodes
    would keep the result until Python's cyclic collector comes by. With this copy, a future goes as soon as the DFK
    has dropped its record and nobody else refers to the future.
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


class Edge:
    """Stands in a task's arguments for a value that the task will find on its node.

    It pickles as the call that looks the value up there.
    """

    __slots__ = ("_number", "_value")

    def __init__(self, value: Value) -> None:
        self._number = value.number
        self._value: Value | None = value

    def let_go(self) -> None:
        """Keep the value no longer: the task is over for good, and its record may be kept for long."""
        self._value = None

    def __reduce__(self) -> tuple[Any, ...]:
        from taskvine_manager.runtime import values

        if self._value is None:
            raise pickle.PicklingError(f"the task that {self!r} was an argument of is over")
        _seen.values.append(self._value)
        _seen.edges.append(self)
        return values.fetch, (self._number,)

    def __repr__(self) -> str:
        place = "" if self._value is None else f", {self._value.place.value}"
        return f"<Edge to {self._number}{place}>"


class Copy:
    """Stands in a task's arguments for a small result that is here.

    It pickles as the call that loads what the result's task returned.
    """

    __slots__ = ("_encoded", "_number")

    def __init__(self, number: str, encoded: bytes) -> None:
        self._number = number
        self._encoded = encoded

    def __reduce__(self) -> tuple[Any, ...]:
        from taskvine_manager.runtime import values

        return values.copy, (self._number, self._encoded)

    def __repr__(self) -> str:
        return f"<copy of {self._number}>"


class _Seen(threading.local):
    def __init__(self) -> None:
        self.values: list[Value] = []
        self.edges: list[Edge] = []


_seen = _Seen()


def collect(encode: Callable[..., Any], *args: Any) -> tuple[Any, list[Value], list[Edge]]:
    """Run what pickles arguments; return what it made, the values that it met, each once, and the edges to them."""
    _seen.values, _seen.edges = [], []
    made = encode(*args)
    found, edges = _seen.values, _seen.edges
    _seen.values, _seen.edges = [], []
    return made, list(dict.fromkeys(found)), edges
