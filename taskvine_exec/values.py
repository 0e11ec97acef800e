"""Results that stay on nodes, seen from the user's process.

A :class:`Value` represents the result of one task of the DFK, even before the task is done. It is referred to by the
task's AppFuture, and by an :class:`Edge` in the arguments of each task that consumes it. When no reference is left, the
manager is told to forget the result. A value refers to no future, so that the last task of a chain does not keep the
whole chain in memory.
"""

from __future__ import annotations

import enum
import pickle
import threading
import weakref
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from typing import Any, NamedTuple

from parsl.data_provider.files import File
from parsl.dataflow.futures import AppFuture

from taskvine_exec.errors import ExecutorShutDown, FileLost, ResultNotSerializable, is_interruption
from taskvine_exec.parsl_hooks import futures
from taskvine_manager.runtime import failure, payload

_lock = threading.Lock()
_IMMUTABLE = frozenset({int, float, bool, str, bytes, complex, type(None)})


Loader = Callable[["Value", float | None], Any]
"""Fetches a value that is on nodes, in at most the given number of seconds."""


class Where(NamedTuple):
    """A replica of a result: its node, its path, its size in bytes, and its stamp when it was made."""

    node: str
    path: str
    size: int
    stamp: int


class Place(enum.Enum):
    """Location of a task's result."""

    PENDING = "not there yet"
    HOME = "in the user's process"
    NODES = "on nodes"
    NOWHERE = "nowhere: the task failed, or it has been forgotten"


class Value:
    """The result of one task.

    Parameters
    ----------
    number : str
        Name of the result among the executor's files.
    producer : int
        The DFK's id of the task.
    """

    __slots__ = (
        "__weakref__",
        "_at_home",
        "_encoded",
        "_end",
        "_load",
        "_waiting",
        "error",
        "has_edges",
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
        self.has_edges = False
        """Whether any task was given an edge to it."""
        self._waiting: list[Callable[[Value], None]] | None = []
        self._load: Loader | None = None
        self.is_read = False
        self.where: Where | None = None
        self._end: weakref.finalize[..., Value] | None = None

    @classmethod
    def unattended(cls, number: int) -> Value:
        """Make the value of a call that is not a task of the DFK. Nothing can refer to it before it is there."""
        value = cls(f"call-{number}", number)
        value._waiting = None
        return value

    @classmethod
    def dependent(cls, number: int) -> Value:
        """Make the value of a call that is not a task of the DFK, but whose result other calls read.

        ``number`` is that of the call among such calls. Whoever makes it calls :meth:`settle`.
        """
        return cls(f"dependent-{number}", number)

    @classmethod
    def of(cls, future: AppFuture) -> Value:
        """Return the value of a task's AppFuture. From now on, the future loads the value when its result is read."""
        tid: int = future.tid
        value, is_new = futures.value_of(future, lambda: cls(f"result-{tid}", tid))
        if is_new:
            future.add_done_callback(value.settle)
        return value

    def argument(self) -> Any:
        """Return a placeholder for a consumer's arguments: a copy if the result is small and here, or else an edge.

        The consumer always gets the result as its task returned it, even if the user's process has since changed its
        own copy.
        """
        with _lock:
            if self.place is Place.HOME:
                return self._at_home if self._encoded is None else Copy(self.number, self._encoded)
            self.has_edges = True
        return Edge(self)

    def comes_home(self, value: Any, encoded: bytes | None = None) -> None:
        """Store a small result; consumers get it with their arguments from now on.

        If ``encoded`` is given, they get what it decodes to.
        """
        with _lock:
            self.place = Place.HOME
            if encoded is None or type(value) in _IMMUTABLE or isinstance(value, File):  # the executor stages Files
                self._at_home, self._encoded = value, None
            else:
                self._at_home, self._encoded = None, encoded
            self.error = None

    def stays(self, load: Loader, where: Where | None = None) -> None:
        """Record that the result is on nodes and how to load it. Can be called again with another loader."""
        self.where = where
        self._load = load
        self.place = Place.NODES

    def lose(self, error: Exception) -> None:
        """Record that the result on nodes cannot be loaded any more: later attempts raise ``error``."""
        self.stays(partial(_fail, error))

    def load(self, timeout: float | None = None) -> Any:
        """Load a result that is on nodes; wait at most ``timeout`` seconds if it must be recreated.

        Raises
        ------
        ResultNotSerializable
            If the result's own methods raise an exception that would end the thread.
        """
        while True:
            load = self._load
            assert load is not None
            try:
                loaded = load(self, timeout)
            except ExecutorShutDown:
                if load is self._load:
                    raise
                continue  # its loader was replaced meanwhile
            except BaseException as error:
                if isinstance(error, Exception) or is_interruption(error):
                    raise
                reason = f"it cannot be loaded here: {failure.describe(error)}"
                raise ResultNotSerializable(task_id=self.producer, reason=reason, subject="the result") from error
            self.is_read = True
            return loaded

    def when_gone(self, forget: Callable[[str], None]) -> None:
        """Call ``forget`` with its number when nothing refers to it any more."""
        self._end = weakref.finalize(self, forget, self.number)
        self._end.atexit = False

    def forgotten(self) -> None:
        """Record that nodes have dropped it as the user asked; tasks that are given an edge to it fail."""
        self.place = Place.NOWHERE
        self.error = FileLost(task_id=self.producer, reason="its result has been forgotten", name=self.number)
        self._load = partial(_fail, self.error)
        if self._end is not None:
            self._end.detach()

    def when_settled(self, callback: Callable[[Value], None]) -> None:
        """Call back when the task is over for good; immediately if it already is."""
        with _lock:
            if self._waiting is not None:
                self._waiting.append(callback)
                return
        callback(self)

    def read(self) -> Any:
        """Return the result of a task that has ended, wherever it is.

        Raises
        ------
        Exception
            If the task failed, or as :meth:`load` does.
        """
        if self.error is not None:
            raise self.error
        if self.place is Place.NODES:
            return self.load()
        return self._at_home if self._encoded is None else payload.decode(self._encoded)

    def settle(self, future: Future[Any]) -> None:
        """Record that the task is over for good, with the outcome of its future."""
        self.error = future.exception()
        with _lock:
            if self.error is not None:
                self.place = Place.NOWHERE
            waiting, self._waiting = self._waiting, None
        for callback in waiting or ():
            callback(self)


def _fail(error: BaseException, value: Value, timeout: float | None) -> Any:
    raise error


class Edge:
    """Placeholder in a task's arguments for a value that the task will find on its node.

    It is pickled as a call that loads the value there.
    """

    __slots__ = ("_number", "_value")

    def __init__(self, value: Value) -> None:
        self._number = value.number
        self._value: Value | None = value

    def let_go(self) -> None:
        """Drop the reference to the value: the task is over for good, but its record may live for long."""
        self._value = None

    def __reduce__(self) -> tuple[Any, ...]:
        from taskvine_manager.runtime import values

        if self._value is None:
            raise pickle.PicklingError(f"the task that {self!r} was an argument of is over")
        _seen.edges[self] = self._value
        return values.fetch, (self._number,)

    def __repr__(self) -> str:
        place = "" if self._value is None else f", {self._value.place.value}"
        return f"<Edge to {self._number}{place}>"


class Copy:
    """Placeholder in a task's arguments for a small result that is here.

    It is pickled as a call that decodes what the result's task returned.
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
        self.edges: dict[Edge, Value] = {}


_seen = _Seen()


def collect(encode: Callable[..., Any], *args: Any) -> tuple[Any, list[Value], list[Edge]]:
    """Run a function that pickles arguments; return its result, the values that it met, each once, and their edges."""
    _seen.edges = {}
    made = encode(*args)
    edges, _seen.edges = _seen.edges, {}
    return made, list(dict.fromkeys(edges.values())), list(edges)
