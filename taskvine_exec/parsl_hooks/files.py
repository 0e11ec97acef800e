"""Files that are anywhere inside a task's arguments, found by the pickler.

Parsl's DataFlowKernel stages a ``File`` that is an argument itself, or an item of ``inputs``. One in a list, a dict, a
dataclass or any other object is just pickled. So ``File`` gets a ``__reduce_ex__`` that asks whoever is pickling
arguments in this thread what to pickle in its place. Elsewhere, and while nobody asks, it does what it always did. This
costs nothing where there are no such files.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, SupportsIndex, TypeVar

from parsl.data_provider.files import File

_T = TypeVar("_T")


class _Pickling(threading.local):
    stage: Callable[[File], File] | None = None


_pickling = _Pickling()


def staging(stage: Callable[[File], File], encode: Callable[..., _T], *args: Any) -> _T:
    """Call what pickles arguments, with every File that the pickler meets replaced by what ``stage`` makes of it."""
    _pickling.stage = stage
    try:
        return encode(*args)
    finally:
        _pickling.stage = None


def _reduce(self: File, protocol: SupportsIndex) -> Any:
    stage = _pickling.stage
    return object.__reduce_ex__(self if stage is None else stage(self), protocol)


File.__reduce_ex__ = _reduce  # type: ignore[method-assign, assignment]
