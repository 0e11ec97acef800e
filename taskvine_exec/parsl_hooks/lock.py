"""A lock on the DataFlowKernel's counters of states that makes no convoy.

The DFK holds ``task_state_counts_lock`` while it formats a log record. If a thread loses the interpreter lock there,
the other threads of the DFK block on this lock. Each of them then gets it without having the interpreter lock, and
while it waits for that, the next one blocks. From then on, threads switch at every task. A thread that only tries to
take the lock never owns it while it waits for the interpreter lock, so this ends at once.
"""

from __future__ import annotations

import sys
import time
from itertools import repeat
from threading import Lock
from typing import Any

from taskvine_exec.parsl_hooks.switches import LOCK

_ATTRIBUTE = "task_state_counts_lock"
_PLAIN: type = type(Lock())


def replace(kernel: Any) -> None:
    """Replace the lock of a DFK.

    The new lock takes the old one, so threads may use both, and it need not be put back.
    """
    if not LOCK.on or not getattr(sys, "_is_gil_enabled", lambda: True)():
        return
    held = getattr(kernel, _ATTRIBUTE, None)
    if type(held) is _PLAIN:  # otherwise it has been replaced, or this version of Parsl does something else
        setattr(kernel, _ATTRIBUTE, without_convoy(held))


class _Outcomes(dict[bool, bool]):
    """Returns True for True. For False, sleeps for no time, so that other threads run, and returns None."""

    __missing__ = time.sleep  # sleep(False) is sleep(0); as an attribute of a class, a built-in function gets no self


_taken = _Outcomes({True: True}).__getitem__


def without_convoy(lock: Any) -> Any:
    """Return a context manager that tries to take a lock again and again, and lets other threads run in between.

    Python calls signal handlers only between two instructions of Python code. If ``__enter__`` was Python code, Ctrl-C
    could raise KeyboardInterrupt after the lock is taken and before the ``with`` statement would release it. So
    ``__enter__`` consists of built-in functions: each ``next`` of this iterator tries until the lock is taken.
    """
    attempts = filter(_taken, map(lock.acquire, repeat(False)))
    methods = {
        "__slots__": (),
        "__doc__": "A lock that nobody owns while waiting for the interpreter lock.",
        "__enter__": attempts.__next__,
        "__exit__": lock.__exit__,
        "acquire": lock.acquire,
        "release": lock.release,
        "locked": lock.locked,
    }
    return type("LockWithoutConvoy", (), methods)()
