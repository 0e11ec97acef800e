"""The end of a task's process: the steps of Python's own shutdown, with a time limit.

Modules are not torn down, because that takes longer than all other steps. Destructors of objects that modules hold do
therefore not run.
"""

from __future__ import annotations

import atexit
import contextlib
import signal
import sys
import threading
import weakref

SECONDS = 1.0
"""Time limit for threads and exit handlers that tasks have left behind, which must not hold resources for longer."""


def run() -> None:
    """Wait for threads and run exit handlers; if this takes too long, SIGALRM kills the process."""
    try:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGALRM})
        signal.setitimer(signal.ITIMER_REAL, SECONDS)
        threading._shutdown()  # type: ignore[attr-defined]  # what the interpreter calls; it runs threading's handlers
        atexit._run_exitfuncs()
    except BaseException:
        sys.excepthook(*sys.exc_info())
    signal.setitimer(signal.ITIMER_REAL, 0)
    flush()


def flush() -> None:
    """Flush the standard streams."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(BaseException):  # the task may have closed the stream or replaced it by any object
            stream.flush()


def disinherit() -> None:
    """Drop the exit handlers, finalizers and children that this process inherited by a fork.

    They belong to its parent. multiprocessing does the same in processes that it forks.
    """
    atexit._clear()
    if (logging := sys.modules.get("logging")) is not None:
        atexit.register(logging.shutdown)
    for finalizer in list(weakref.finalize._registry):  # type: ignore[attr-defined]
        finalizer.atexit = False
    weakref.finalize._registered_with_atexit = True  # type: ignore[attr-defined]
    atexit.register(weakref.finalize._exitfunc)  # type: ignore[attr-defined]
    if (util := sys.modules.get("multiprocessing.util")) is not None:
        sys.modules["multiprocessing.process"]._children = set()  # type: ignore[attr-defined]
        util._finalizer_registry.clear()
        atexit.register(util._exit_function)
