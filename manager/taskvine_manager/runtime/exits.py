"""How the process of a task ends: as Python ends a process, within a time.

Modules are not taken down, for that takes longer than all the rest: destructors of what modules hold do not run.
"""

from __future__ import annotations

import atexit
import contextlib
import signal
import sys
import threading
import weakref

SECONDS = 1.0
"""Time for threads and exit handlers that tasks have left behind: they must not keep resources for longer."""


def run() -> None:
    """Wait for threads and run exit handlers; the process is killed by SIGALRM if that takes too long."""
    try:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGALRM})
        signal.setitimer(signal.ITIMER_REAL, SECONDS)
        threading._shutdown()  # type: ignore[attr-defined]  # what the interpreter calls, with handlers of its own
        atexit._run_exitfuncs()
    except BaseException:
        sys.excepthook(*sys.exc_info())
    signal.setitimer(signal.ITIMER_REAL, 0)
    flush()


def flush() -> None:
    """Write out what is buffered in the standard streams."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(BaseException):  # the task may have closed it, or put anything in its place
            stream.flush()


def disinherit() -> None:
    """Leave the exit handlers, finalizers and children of the process that this one was forked from to that process.

    multiprocessing does so in processes that it forks.
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
