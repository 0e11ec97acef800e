"""Chunks: many short calls of one function as a single task.

The task of a chunk calls the function for one set of arguments after another. It ends early if its calls take longer
than expected or return much data; the user's process then sends the rest again. A call that raises costs only itself.
"""

from __future__ import annotations

import os
import pickle
import time
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from taskvine_manager.runtime import execution, failure, pickling

LONGEST_SECONDS = 0.25
"""Run time after which a chunk starts no further call."""
LARGEST_RESULTS = 4 << 20
"""Bytes of results after which a chunk starts no further call."""
_OUT_OF_BAND = 16 * 1024
_NUMBERS = frozenset({int, float, bool, type(None), complex})
_DEPTH = 3

Columns = tuple[list[Any], ...]
"""The arguments of a chunk's calls: for each parameter, the list of its values."""


class Outcomes(NamedTuple):
    """The outcomes of a chunk's first calls.

    Parameters
    ----------
    results
        One item for each call: an immutable result, or the bytes of a pickled result or of a failure record.
    pickled
        The positions of pickled results, with their large buffers.
    failed
        The positions of failure records (see :mod:`taskvine_manager.runtime.failure`).
    seconds
        The run time of these calls.
    """

    results: list[Any]
    pickled: dict[int, list[Any]]
    failed: set[int]
    seconds: float


class Chunk:
    """A function that takes the arguments of many calls.

    Results that can change are pickled as soon as their call has ended, each separately. A later call therefore cannot
    change them, and a result that cannot be pickled fails only its call.

    Parameters
    ----------
    function : callable
        The user's function.
    spread : bool
        Whether there is one list, whose items are tuples of arguments. Default: there is one list for each parameter.
    """

    def __init__(self, function: Callable[..., Any], *, spread: bool = False) -> None:
        self.function = function
        self.spread = spread
        self.__name__ = f"calls of {execution.name_of(function)}"
        self._special: set[type] = set()  # types of results that the standard pickler refuses

    def __call__(self, columns: Columns) -> Outcomes:
        """Call the function; stop early after :data:`LONGEST_SECONDS` or :data:`LARGEST_RESULTS`."""
        function = self.function
        calls: Iterable[tuple[Any, ...]] = columns[0] if self.spread else zip(*columns, strict=True)
        outcomes = Outcomes([], {}, set(), 0.0)
        append, clock, forks, size = outcomes.results.append, time.perf_counter, _forks, 0
        begun = clock()
        until = begun + LONGEST_SECONDS
        for arguments in calls:
            try:
                result = function(*arguments)
            except BaseException as error:  # such as SystemExit, which would end the slot
                size += _fail(outcomes, function, error)
            else:
                if type(result) in _NUMBERS:
                    append(result)
                else:
                    size += self._keep(outcomes, result, LARGEST_RESULTS - size)
            if _forks != forks:
                os._exit(0)  # a child that the function has forked; its parent goes on
            if clock() >= until or size >= LARGEST_RESULTS:
                break
        return outcomes._replace(seconds=clock() - begun)

    def _keep(self, outcomes: Outcomes, result: Any, room: int) -> int:
        """Add a result to the outcomes; return its size in bytes. Less than ``room`` bytes do not end the chunk."""
        weight = _weight(result)
        if weight is not None:
            outcomes.results.append(result)
            return weight
        if (error := execution.carried(result)) is not None:
            return _fail(outcomes, self.function, error)
        try:
            body, views = self._pickled(result)
            size: int = len(body) + sum(view.nbytes for view in views)
            # A later call of this chunk could change an array by returning it again.
            kept = list(map(_copy, views)) if size < room else views
        except BaseException as problem:  # the result's own methods run here and may raise anything
            return _add_failure(outcomes, execution.not_pickled(self.function, result, problem))
        outcomes.pickled[len(outcomes.results)] = list(map(pickle.PickleBuffer, kept))
        outcomes.results.append(body)
        return size

    def _pickled(self, result: Any) -> tuple[bytes, list[Any]]:
        """Pickle a result; return its pickle and its large buffers.

        The standard pickler is ten times faster than ours. It refuses what it cannot import here, such as classes of
        the user's script.
        """
        views: list[Any] = []

        def is_in_band(buffer: pickle.PickleBuffer) -> bool:
            raw = buffer.raw()
            if raw.nbytes < _OUT_OF_BAND:
                return True
            views.append(raw)
            return False

        if type(result) not in self._special:
            try:
                return pickle.dumps(result, 5, buffer_callback=is_in_band), views
            except Exception:
                self._special.add(type(result))
                views.clear()
        return pickling.dumps(result, buffer_callback=is_in_band), views


def _copy(view: memoryview) -> bytes | bytearray:
    return bytes(view) if view.readonly else bytearray(view)


_forks = 0
"""Number of forks between the first process and this one."""


def _count_fork() -> None:
    global _forks
    _forks += 1


os.register_at_fork(after_in_child=_count_fork)


def _fail(outcomes: Outcomes, function: Callable[..., Any], error: BaseException) -> int:
    """Add an exception to the outcomes; return the size of its record in bytes."""
    if isinstance(error, Exception):
        return _add_failure(outcomes, failure.raised(error, (*execution.OWN_FILES, __file__)))
    return _add_failure(outcomes, execution.exited(function, error))


def _add_failure(outcomes: Outcomes, record: bytes) -> int:
    outcomes.failed.add(len(outcomes.results))
    outcomes.results.append(record)
    return len(record)


def _weight(value: Any, depth: int = _DEPTH) -> int | None:
    """Return the approximate size in bytes of a value that cannot change; None for any other value."""
    kind = type(value)
    if kind in _NUMBERS:
        return 0
    if kind is str or kind is bytes:
        return len(value)
    if kind is not tuple or not depth:
        return None
    total = 8 * len(value)
    for item in value:
        weight = _weight(item, depth - 1)
        if weight is None:
            return None
        total += weight
    return total
