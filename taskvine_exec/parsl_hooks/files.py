"""Files anywhere inside a task's arguments, found by the pickler.

Parsl's DataFlowKernel stages a ``File`` only if it is an argument itself, or an item of ``inputs``. A File in a list, a
dict, a dataclass or any other object is just pickled. This module therefore gives ``File`` a ``__reduce_ex__``. While
:func:`staging` runs in the current thread, it pickles the replacement that ``stage`` returns. Otherwise it pickles the
File as before. Arguments without such files cost no extra time.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, SupportsIndex, TypeVar

from parsl.data_provider.files import File

from taskvine_exec.parsl_hooks.switches import FILES

_T = TypeVar("_T")


class _Pickling(threading.local):
    stage: Callable[[File], File] | None = None


_pickling = _Pickling()


def staging(stage: Callable[[File], File], encode: Callable[..., _T], *args: Any) -> _T:
    """Call a function that pickles arguments; each File that it meets is replaced by what ``stage`` returns for it."""
    if not FILES.on:
        return encode(*args)
    _pickling.stage = stage
    try:
        return encode(*args)
    finally:
        _pickling.stage = None


def _reduce(self: File, protocol: SupportsIndex) -> Any:
    stage = _pickling.stage
    return object.__reduce_ex__(self if stage is None else stage(self), protocol)


if FILES.on:
    File.__reduce_ex__ = _reduce  # type: ignore[method-assign, assignment]
