"""Proxies that show their own class to code that only passes values on.

Such code must not load the value of a proxy. However, ``isinstance`` reads the object's ``__class__``, and a proxy
resolves itself to answer. The DataFlowKernel would load every result just to see that it is not a Future. This module
looks at the module of the calling frame. To the packages in ``_MACHINERY``, an unresolved proxy shows its real class.

Only a proxy of an installed proxystore comes here; this module does not import it.
"""

from __future__ import annotations

import sys
from types import FrameType

from taskvine_exec.parsl_hooks.switches import PROXIES

_MACHINERY = frozenset({"parsl", "taskvine_exec", "cloudpickle", "dill", "concurrent", "asyncio"})
"""Packages that pass values on without using them. They look at their classes at most, as a Future's repr does."""
_IN_BETWEEN = frozenset({"functools", "typing", "abc"})


def only_passes_on() -> bool:
    """Whether the code that asks for ``__class__`` only passes values on. To be called in that property."""
    frame: FrameType | None = sys._getframe(2) if PROXIES.on else None
    while frame is not None:
        package = str(frame.f_globals.get("__name__", "")).partition(".")[0]
        if package not in _IN_BETWEEN:
            return package in _MACHINERY
        frame = frame.f_back
    return False
