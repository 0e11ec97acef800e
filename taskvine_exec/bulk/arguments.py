"""Arguments taken from the user's iterables, a limited number of bytes at a time."""

from __future__ import annotations

import itertools
import operator
from collections.abc import Iterable, Iterator
from typing import Any

from taskvine_exec.bulk.sizes import ARGUMENT_BYTES
from taskvine_manager.runtime.bulk import Columns

_STEP = 64
"""Most calls whose arguments are taken before their bytes are counted. The first call's are counted at once."""
_SCALARS = frozenset({int, float, bool, type(None), complex})
_SIZED = frozenset({bytes, str, bytearray})


class Arguments:
    """The arguments of many calls, as in :func:`map`: the shortest iterable ends them.

    Parameters
    ----------
    iterables : iterable of iterable
        One iterable for each parameter. They are read only when arguments are taken.
    """

    def __init__(self, iterables: Iterable[Iterable[Any]]) -> None:
        self._iterators = [iter(each) for each in iterables]
        self._rows: Iterator[tuple[Any, ...]] = zip(*self._iterators, strict=False)
        self._taken = 0
        self._last: tuple[Any, ...] = ()  # arguments of the last call: the next ones may be the same objects
        hints = [operator.length_hint(each, -1) for each in self._iterators]
        self._known = min(hints) if hints and -1 not in hints else None

    @property
    def left(self) -> int | None:
        """Number of calls that remain, if the iterables know their lengths."""
        return None if self._known is None else max(1, self._known - self._taken)

    def take(self, count: int) -> Columns | None:
        """Return the arguments of up to ``count`` calls; None if there are no more.

        There are fewer calls if their arguments are large. An argument that several calls share counts once.
        """
        if len(self._iterators) == 1:
            column: list[Any] = []
            self._collect(count, self._iterators[0], column)
            columns: Columns = (column,)
        else:
            rows: list[tuple[Any, ...]] = []
            self._collect(count, self._rows, rows)
            columns = tuple(map(list, zip(*rows, strict=True)))
        if not columns or not columns[0]:
            return None
        self._taken += len(columns[0])
        return columns

    def _collect(self, count: int, source: Iterator[Any], items: list[Any]) -> None:
        seen = set(map(id, self._last))
        size, step = 0, 1
        while len(items) < count and size < ARGUMENT_BYTES:
            some = list(itertools.islice(source, min(step, count - len(items))))
            if not some:
                return
            items += some
            if not _SCALARS.issuperset(map(type, some)):
                size += sum(_weight(item, seen) for item in some)
            step = min(2 * step, _STEP)
            self._last = some[-1] if type(some[-1]) is tuple else (some[-1],)


def _weight(value: Any, seen: set[int]) -> int:
    """Return the approximate bytes of a value, unless it was seen before. Nothing of a lazy proxy is loaded."""
    kind = type(value)
    if kind in _SCALARS:
        return 0
    if kind is tuple:
        return sum(_weight(item, seen) for item in value)
    if id(value) in seen:
        return 0
    seen.add(id(value))  # the caller keeps the value
    if kind in _SIZED:
        return len(value)
    size = value.nbytes if hasattr(kind, "nbytes") else 0
    return size if type(size) is int else 0
