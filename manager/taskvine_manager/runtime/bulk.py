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

    def __call__(self, columns: Columns) -> Outcomes:
        """Call the function; stop early after :data:`LONGEST_SECONDS` or :data:`LARGEST_RESULTS`."""
        function = self.function
        calls: Iterable[tuple[Any, ...]] = columns[0] if self.spread else zip(*columns, strict=True)
        results: list[Any] = []
        pickled: dict[int, list[Any]] = {}
        failed: set[int] = set()
        process, size = os.getpid(), 0
        clock = time.perf_counter
        begun = clock()
        until = begun + LONGEST_SECONDS
        for arguments in calls:
            record: bytes | None = None
            try:
                result = function(*arguments)
            except BaseException as error:  # such as SystemExit, which would end the slot
                result, record = None, _record(function, error)
            if os.getpid() != process:
                os._exit(0)  # a child that the function has forked; its parent goes on
            if record is None and type(result) not in _NUMBERS:
                weight = _weight(result)
                if weight is None:
                    if (carried := execution.carried(result)) is not None:
                        record = _record(function, carried)
                    else:
                        result, buffers, weight, record = _pickled(function, result, LARGEST_RESULTS - size)
                        if record is None:
                            pickled[len(results)] = buffers
                size += weight or 0
            if record is not None:
                failed.add(len(results))
                result = record
                size += len(record)
            results.append(result)
            if size >= LARGEST_RESULTS or clock() >= until:
                break
        return Outcomes(results, pickled, failed, clock() - begun)


def _record(function: Callable[..., Any], error: BaseException) -> bytes:
    if isinstance(error, Exception):
        return failure.raised(error, (*execution.OWN_FILES, __file__))
    return execution.exited(function, error)


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


def _pickled(
    function: Callable[..., Any], result: Any, room: int
) -> tuple[bytes, list[pickle.PickleBuffer], int, bytes | None]:
    """Pickle a result; return its pickle, large buffers and size in bytes, or a failure record in the last place.

    Buffers are copied unless the result fills the ``room`` that is left, and so ends the chunk: later calls could
    change the bytes of an array that they return again.
    """
    views: list[memoryview] = []

    def is_in_band(buffer: pickle.PickleBuffer) -> bool:
        raw = buffer.raw()
        if raw.nbytes < _OUT_OF_BAND:
            return True
        views.append(raw)
        return False

    try:
        body = pickling.dumps(result, buffer_callback=is_in_band)
        size = len(body) + sum(view.nbytes for view in views)
        if size < room:
            copies = [bytes(view) if view.readonly else bytearray(view) for view in views]
            return body, [pickle.PickleBuffer(copy) for copy in copies], size, None
        return body, [pickle.PickleBuffer(view) for view in views], size, None
    except BaseException as error:  # the result's own methods run here and may raise anything
        return b"", [], 0, execution.not_pickled(function, result, error)
