"""A function slot: a process, forked from its library, that runs one invocation after another.

The slot reads one packet at a time from a ``SOCK_SEQPACKET`` socket. Packets that it has not read stay in the socket,
where the node can take them back: a long call at the head of a queue holds nobody up, and the crash of one call takes
no other with it. Packets are pickled tuples; see :func:`serve`.
"""

from __future__ import annotations

import os
import pickle
import shutil
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

from taskvine_manager.runtime import failure, payload

PACKET_LIMIT = 160 * 1024
"""Largest packet in bytes: below Linux's default socket buffer (net.core.wmem_default, 212,992)."""
_OWN_FILES = (__file__, payload.__file__)


class Stage:
    """Where calls run: each finds the directory, standard streams and signal handlers that the first one found."""

    def __init__(self, scratch: str) -> None:
        os.makedirs(scratch, exist_ok=True)
        self.scratch = scratch
        self._directory = os.open(scratch, os.O_RDONLY | os.O_DIRECTORY)
        self._streams = (sys.stdin, sys.stdout, sys.stderr)
        self._copies = {number: os.dup(number) for number in (1, 2)}
        self._handlers = {
            number: signal.getsignal(number)
            for number in (
                signal.SIGINT,
                signal.SIGTERM,
                signal.SIGALRM,
                signal.SIGCHLD,
                signal.SIGUSR1,
                signal.SIGUSR2,
            )
        }

    def enter(self, sandbox: str | None) -> None:
        """Make the working directory of the next call current."""
        if sandbox is not None:
            os.chdir(sandbox)
        else:
            os.fchdir(self._directory)

    def restore(self) -> None:
        """Undo what a call may have done to this process."""
        os.fchdir(self._directory)
        try:
            left = os.listdir(self.scratch)
        except (
            FileNotFoundError
        ):  # the call removed it: an open descriptor keeps it alive but nothing can be made in it
            os.makedirs(self.scratch)
            os.close(self._directory)
            self._directory = os.open(self.scratch, os.O_RDONLY | os.O_DIRECTORY)
            left = []
        for name in left:
            _remove(os.path.join(self.scratch, name))
        for number, copy in self._copies.items():
            try:
                os.fstat(number)
            except OSError:
                os.dup2(copy, number)
        if (sys.stdin, sys.stdout, sys.stderr) != self._streams or sys.stdout.closed or sys.stderr.closed:
            self._reopen()
        for handled, handler in self._handlers.items():
            if signal.getsignal(handled) is not handler:
                signal.signal(handled, handler)
        if threading.active_count() > 1:
            _join_timers()

    def _reopen(self) -> None:
        stdin, stdout, stderr = self._streams
        if stdout.closed:
            stdout = open(1, "w", buffering=1, closefd=False)
        if stderr.closed:
            stderr = open(2, "w", buffering=1, closefd=False)
        self._streams = (stdin, stdout, stderr)
        sys.stdin, sys.stdout, sys.stderr = self._streams


def _remove(path: str) -> None:
    if os.path.isdir(path) and not os.path.islink(path):
        shutil.rmtree(path, ignore_errors=True)
    else:
        try:
            os.unlink(path)
        except OSError:
            pass


def _join_timers() -> None:
    # Parsl's walltime is a threading.Timer that throws AppTimeout into this thread. One that fired just as its call
    # returned must land here and not in the slot's own loop.
    for thread in threading.enumerate():
        if isinstance(thread, threading.Timer) and thread.finished.is_set():
            thread.join(1.0)


class Functions:
    """The functions that a process has loaded, by content hash."""

    def __init__(self) -> None:
        self._encoded: dict[str, payload.Payload] = {}
        self._loaded: dict[str, Callable[..., Any]] = {}

    def add(self, key: str, encoded: payload.Payload) -> None:
        """Keep an encoded function; it is loaded by the first call that needs it."""
        self._encoded[key] = encoded

    def get(self, key: str) -> Callable[..., Any] | None:
        """The function if it is loaded."""
        return self._loaded.get(key)

    def load(self, key: str) -> Callable[..., Any]:
        """Load a function, importing what it needs."""
        function: Callable[..., Any] = payload.decode(self._encoded[key])
        self._loaded[key] = function
        return function


def call(
    function: Callable[..., Any], arguments: payload.Payload, spool: str
) -> tuple[int, payload.Payload, float, float]:
    """Run one invocation.

    Parameters
    ----------
    function : callable
        The loaded function.
    arguments : bytes or str
        Encoded ``(args, kwargs)``.
    spool : str
        Directory for the file of a large result.

    Returns
    -------
    outcome : int
        ``RETURNED``, ``RAISED`` or ``LOST`` of :mod:`taskvine_manager.runtime.failure`.
    body : bytes or str
        The encoded result, or a failure record.
    started : float
        When the function was entered, seconds since the epoch.
    seconds : float
        How long it ran.
    """
    started = time.time()
    try:
        args, kwargs = payload.decode(arguments)
    except Exception as error:
        return failure.LOST, _not_loadable("argument-load", function, error), started, 0.0
    started = time.time()
    clock = time.perf_counter()
    try:
        result = function(*args, **kwargs)
    except Exception as error:
        return failure.RAISED, failure.raised(error, _OWN_FILES), started, time.perf_counter() - clock
    except BaseException as error:
        # SystemExit and KeyboardInterrupt end a process, and the process here is the slot's: they are reported instead.
        code = getattr(error, "code", None)
        record = failure.lost(
            "exit",
            f"{_name(function)} raised {type(error).__name__}({'' if code is None else code!r})",
            exc_type=type(error).__name__,
            code=str(code),
            remote_traceback=failure.text(error, _OWN_FILES),
        )
        return failure.LOST, record, started, time.perf_counter() - clock
    seconds = time.perf_counter() - clock
    return (*_encode_result(result, function, spool), started, seconds)


def _encode_result(result: Any, function: Callable[..., Any], spool: str) -> tuple[int, payload.Payload]:
    if type(result) in _PLAIN:
        body = pickle.dumps(result, 5)
        if len(body) <= payload.INLINE_LIMIT:
            return failure.RETURNED, body
    import cloudpickle

    try:
        return failure.RETURNED, payload.encode(result, spool, cloudpickle.dumps)
    except OSError as error:
        return failure.LOST, failure.lost("disk-full", f"the result cannot be written: {error}", path=spool)
    except Exception as error:
        reason = f"the result of {_name(function)}, a {type(result).__name__}, cannot be pickled: {error}"
        text = failure.text(error, ())
        return failure.LOST, failure.lost("result-dump", reason, subject=_name(function), remote_traceback=text)


_PLAIN = frozenset({int, float, bool, str, bytes, type(None)})


def _name(function: Callable[..., Any]) -> str:
    return getattr(function, "__name__", type(function).__name__)


def _not_loadable(kind: str, function: Callable[..., Any] | None, error: Exception) -> bytes:
    subject = "the function" if kind == "function-load" else f"the arguments of {_name(function) if function else '?'}"
    reason = f"{subject} cannot be loaded on the node: {type(error).__name__}: {error}"
    return failure.lost(kind, reason, subject=subject, remote_traceback=failure.text(error, _OWN_FILES))


def load_or_explain(functions: Functions, key: str) -> Callable[..., Any] | bytes:
    """Load a function, or make the record that says why it cannot be."""
    try:
        return functions.load(key)
    except Exception as error:
        return _not_loadable("function-load", None, error)


def serve(channel: socket.socket, scratch: str, spool: str) -> None:
    """Read packets and answer them until the node closes the socket.

    Packets read are ``("f", key, encoded function)`` and ``("c", id, key, encoded arguments, sandbox or None)``.
    Packets sent are ``("m", key, modules)``, the modules that a first load or call of a function imported, and
    ``("r", id, outcome, body, started, seconds)``.
    """
    stage = Stage(scratch)
    functions = Functions()
    buffer = memoryview(bytearray(PACKET_LIMIT))
    tried: set[str] = set()
    while size := channel.recv_into(buffer):
        packet = pickle.loads(buffer[:size])
        if packet[0] == "f":
            functions.add(packet[1], packet[2])
            continue
        try:
            _answer(channel, packet, functions, tried, stage, spool)
        except (BrokenPipeError, ConnectionResetError):
            return


def _answer(
    channel: socket.socket, packet: tuple[Any, ...], functions: Functions, tried: set[str], stage: Stage, spool: str
) -> None:
    _, identity, key, arguments, sandbox = packet
    function = functions.get(key)
    if function is None:
        before = set(sys.modules)
        loaded = load_or_explain(functions, key)
        channel.send(pickle.dumps(("m", key, _imported(before))))
        if isinstance(loaded, bytes):
            channel.send(pickle.dumps(("r", identity, failure.LOST, loaded, time.time(), 0.0)))
            return
        function = loaded
    before = set() if key in tried else set(sys.modules)
    stage.enter(sandbox)
    outcome, body, started, seconds = call(function, arguments, spool)
    try:
        stage.restore()
    except Exception:
        raise
    except BaseException:  # a walltime that fired after its call had returned
        stage.restore()
    if key not in tried:
        tried.add(key)
        if modules := _imported(before):
            channel.send(pickle.dumps(("m", key, modules)))
    if len(body) > payload.INLINE_LIMIT and isinstance(body, bytes):
        body = _spill(body, spool)
    channel.send(pickle.dumps(("r", identity, outcome, body, started, seconds)))


def _spill(record: bytes, spool: str) -> payload.Payload:
    # Only failure records get here: large results are files already.
    try:
        return payload.write_file(record, (), spool)
    except OSError as error:
        return failure.lost("disk-full", f"the exception cannot be written: {error}", path=spool)


def _imported(before: set[str]) -> list[str]:
    # Only what another process can import by name: not modules made at run time, and not __main__.
    return [
        name
        for name, module in list(sys.modules.items())
        if name not in before and name != "__mp_main__" and getattr(module, "__spec__", None) is not None
    ]
