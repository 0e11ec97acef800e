"""Running one task: its function is loaded and called with its arguments, and its result or failure is encoded."""

from __future__ import annotations

import ctypes
import os
import pickle
import threading
import time
from collections.abc import Callable
from typing import Any

from taskvine_manager.runtime import failure, functions, payload, values
from taskvine_manager.runtime.limits import Limits
from taskvine_manager.runtime.remote import outputs

OWN_FILES = (__file__, functions.__file__, payload.__file__)
"""Source files whose frames are left out at the top of a task's traceback."""
_PLAIN = frozenset({int, float, bool, str, bytes, type(None)})
"""Types whose values are pickled without our pickler."""


def call(
    function: Callable[..., Any],
    arguments: payload.Payload,
    spool: str,
    limits: Limits,
    limit: int = payload.INLINE_LIMIT,
) -> tuple[int, payload.Payload, float, float]:
    """Run one task.

    Parameters
    ----------
    function : callable
        The loaded function.
    arguments : bytes or str
        Encoded ``(args, kwargs)``.
    spool : str
        Directory for the file of a large result.
    limits : Limits
        Restored when the function has ended, so that they do not affect the encoding of the result.
    limit : int
        Largest encoded result, in bytes, that is not written to a file.

    Returns
    -------
    outcome : int
        ``RETURNED``, ``RAISED`` or ``LOST`` of :mod:`taskvine_manager.runtime.failure`.
    body : bytes or str
        The encoded result, or a failure record.
    started : float
        Time when the function was entered, in seconds since the epoch.
    seconds : float
        Duration of the function.
    """
    started = time.time()
    try:
        args, kwargs = values.decode(arguments)
    except values.Lost as lost:
        outputs.discard()
        return failure.LOST, failure.lost("file-lost", lost.reason, name=lost.number), started, 0.0
    except BaseException as problem:
        outputs.discard()
        return failure.LOST, _not_loadable("argument-load", function, problem), started, 0.0
    process = os.getpid()
    started = time.time()
    clock = time.perf_counter()
    result, error = _run(function, args, kwargs)
    seconds = time.perf_counter() - clock
    if os.getpid() != process:
        os._exit(0)  # this is a child that the function has forked; the parent sends the result
    limits.restore(seconds)
    if type(result) not in _PLAIN:
        error = carried(result)
    if error is None:
        outcome, body = _encode_result(result, function, spool, limit, limits.lowered)
    elif isinstance(error, failure.Lost):
        outcome, body = failure.LOST, error.record
    elif isinstance(error, Exception):
        outcome, body = failure.RAISED, failure.raised(error, OWN_FILES)
    else:
        outcome, body = failure.LOST, exited(function, error)
    if outputs.expected():
        outcome, body = _send_outputs(outcome, body)
    if outcome != failure.RETURNED and isinstance(body, bytes) and len(body) > payload.INLINE_LIMIT:
        body = _spill(body, spool, limits.lowered)
    return outcome, body, started, seconds


def _send_outputs(outcome: int, body: payload.Payload) -> tuple[int, payload.Payload]:
    """Send the remote outputs of a task that has returned; return how the task ends."""
    if outcome != failure.RETURNED:
        outputs.discard()
        return outcome, body
    if (record := outputs.send()) is None:
        return outcome, body
    payload.discard(body)
    return failure.LOST, record


def _run(
    function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[Any, BaseException | None]:
    """Call a function; return its result or its exception. A late exception of a walltime is caught here."""
    ending: tuple[Any, BaseException | None] | None = None
    while True:
        try:
            if ending is None:
                try:
                    ending = function(*args, **kwargs), None
                except BaseException as error:
                    ending = None, _timed_out(error)
            _end_walltimes()
            return ending
        except BaseException as late:
            if ending is None:
                ending = None, late


def _timed_out(error: BaseException) -> BaseException:
    """Return the AppTimeout of a walltime that was over before its timer's ``start()`` had returned.

    ``Thread.start`` then handles AppTimeout as a failure to start, and raises KeyError: the thread has started.
    """
    key = error.args[0] if isinstance(error, KeyError) and error.args else None
    if isinstance(key, threading.Timer) and error.__context__ is not None:
        return error.__context__
    return error


def _end_walltimes() -> None:
    """Stop the timers of walltimes, and let one that has just fired raise here.

    Parsl's walltime is a threading.Timer that raises AppTimeout in the thread of the task. A timer that fires as its
    task ends, or is left running by a task that raised, must not interrupt this thread later.
    """
    if threading.active_count() > 1:
        for thread in threading.enumerate():
            function = getattr(thread, "function", None)
            if isinstance(thread, threading.Timer) and getattr(function, "__module__", "") == "parsl.app.python":
                thread.cancel()
                thread.join()
        ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(threading.get_ident()), None)


def carried(result: Any) -> BaseException | None:
    """Return the exception in a result, if the result is what Parsl's wrapper ``wrap_error`` returns for one.

    The consumers of such a task must not get it as a value. The user's process takes this wrapper off before it sends a
    function, unless another one is around it, such as that of a walltime.
    """
    kind = type(result)
    if kind.__name__ != "RemoteExceptionWrapper" or kind.__module__ != "parsl.app.errors":
        return None
    error: BaseException = result.get_exception()
    return error


def exited(function: Callable[..., Any], error: BaseException) -> bytes:
    """Make the failure record of a SystemExit or KeyboardInterrupt, which would end the slot's process."""
    code = getattr(error, "code", None)
    try:
        code = "" if code is None else str(code)
    except BaseException as problem:
        code = f"<its __str__ raised {type(problem).__name__}>"
    return failure.lost(
        "exit",
        f"in {name_of(function)}",
        exc_type=type(error).__name__,
        code=code,
        remote_traceback=failure.text(error, OWN_FILES),
    )


def _encode_result(
    result: Any, function: Callable[..., Any], spool: str, limit: int, lowered: list[str]
) -> tuple[int, payload.Payload]:
    if type(result) in _PLAIN:
        body = pickle.dumps(result, 5)
        if len(body) <= limit:
            return failure.RETURNED, body
    from taskvine_manager.runtime import pickling

    try:
        return failure.RETURNED, payload.encode(result, spool, pickling.dumps, limit)
    except BaseException as error:  # the result's own methods run here and may raise anything
        if payload.is_full(error):
            return failure.LOST, failure.lost("disk-full", f"the result cannot be written: {error}", path=spool)
        return failure.LOST, not_pickled(function, result, error, _hint(lowered))


def not_pickled(function: Callable[..., Any], result: Any, error: BaseException, hint: str = "") -> bytes:
    """Make the failure record of a result that cannot be pickled."""
    return failure.lost(
        "result-dump",
        f"a {type(result).__name__}: {failure.describe(error)}{hint}",
        subject=name_of(function),
        remote_traceback=failure.text(error, ()),
    )


def _hint(lowered: list[str]) -> str:
    return f" (the task lowered {', '.join(lowered)} for good)" if lowered else ""


def name_of(function: Callable[..., Any]) -> str:
    """Return the name of a function or callable object."""
    try:
        return str(getattr(function, "__name__", type(function).__name__))
    except BaseException:  # a callable object's own methods may raise anything
        return type(function).__name__


def _not_loadable(kind: str, function: Callable[..., Any] | None, error: BaseException) -> bytes:
    subject = "" if function is None else name_of(function)
    text = failure.text(error, OWN_FILES)
    return failure.lost(kind, failure.describe(error), subject=subject, remote_traceback=text)


def no_directory(error: OSError) -> bytes:
    """Make the failure record of a task whose working directory its node does not see."""
    return failure.lost("directory-missing", error.strerror or str(error), path=error.filename)


def _spill(record: bytes, spool: str, lowered: list[str]) -> payload.Payload:
    # Only failure records are written here; large results are in files already.
    try:
        return payload.write_file(record, (), spool)
    except OSError as error:
        reason = f"the exception cannot be written: {error}{_hint(lowered)}"
        return failure.lost("disk-full" if payload.is_full(error) else "exception-dump", reason, path=spool)


def load_or_explain(known: functions.Functions, key: str) -> Callable[..., Any] | bytes:
    """Load a function, or make a failure record that says why it cannot be loaded."""
    try:
        return known.load(key)
    except BaseException as error:  # importing a module runs it, and it may call sys.exit
        return _not_loadable("function-load", None, error)
