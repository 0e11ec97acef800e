"""A function slot: a process, forked from its library, that runs one task after another.

The slot reads one packet at a time from a ``SOCK_SEQPACKET`` socket. Packets that it has not read stay in the socket,
where the node can take them back. A long task at the head of a queue therefore delays no other, and a crash affects
only the task that runs. Packets are pickled tuples; see :func:`serve`.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # a hundred times faster than signal, which makes enums
import ctypes
import errno
import gc
import os
import pickle
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, TextIO

from taskvine_manager.runtime import exits, failure, payload, release, sandbox, search_path, values
from taskvine_manager.runtime.limits import SHORT, Limits, Room
from taskvine_manager.runtime.removal import remove

if TYPE_CHECKING:  # L1 tasks need no sockets, and each import of this module delays every one of them
    import socket

PACKET_LIMIT = 160 * 1024
"""Largest packet in bytes: below Linux's default socket buffer (net.core.wmem_default, 212,992)."""
_OWN_FILES = (__file__, payload.__file__)
_TIMERS = (signal.ITIMER_REAL, signal.ITIMER_VIRTUAL, signal.ITIMER_PROF)


def _encodings() -> tuple[tuple[str | None, str | None], ...]:
    streams = (sys.__stdin__, sys.__stdout__, sys.__stderr__)
    return tuple((getattr(stream, "encoding", None), getattr(stream, "errors", None)) for stream in streams)


_ENCODINGS = _encodings()
"""Encoding and error handler of each standard stream at the start of this process. They depend on the locale, on
``PYTHONIOENCODING`` and ``PYTHONUTF8``, and differ between streams."""


def standard_stream(number: int) -> TextIO:
    """Open a standard stream as in a fresh process, but line-buffered, so that a task's output survives a crash."""
    encoding, errors = _ENCODINGS[number]
    mode, buffering = ("w", 1) if number else ("r", -1)
    stream = open(number, mode, buffering, encoding=encoding, errors=errors, newline="\n", closefd=False)
    stream.buffer.raw.name = f"<{('stdin', 'stdout', 'stderr')[number]}>"  # type: ignore[attr-defined]
    return stream  # type: ignore[return-value]


class Stage:
    """The state of a slot's process in which each task starts: directory, standard streams and signal handlers.

    Parameters
    ----------
    scratch : str
        The slot's private directory. If there is no ``directory``, tasks without a sandbox run in it. It is emptied
        after each task.
    directory : str or None
        The user's directory, in which all tasks run. Nothing in it is ever removed.
    """

    def __init__(self, scratch: str, directory: str | None = None) -> None:
        self.scratch = os.path.realpath(scratch)
        self._directory = directory
        self._home = ""
        self._is_empty = False
        self._make_directory()
        if directory is not None:
            self._try_to_go_home()
        self._streams = [sys.stdin, sys.stdout, sys.stderr]
        self._copies = [(number, os.dup(number)) for number in (0, 1, 2)]
        self._signals = sorted(signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP})
        self._handlers = [_signal.getsignal(number) for number in self._signals]
        count = sum(number < getattr(signal, "SIGRTMIN", signal.NSIG) for number in self._signals)
        self._usual = self._signals[:count], self._handlers[:count]
        self._mask = _signal.pthread_sigmask(_signal.SIG_BLOCK, ())
        self._group = os.getpgrp()

    def _make_directory(self) -> None:
        os.makedirs(self.scratch, mode=0o700, exist_ok=True)
        os.chdir(self.scratch)

    def enter(self, call_sandbox: str | None) -> None:
        """Change to the working directory of the next task.

        Raises
        ------
        OSError
            If that is the user's directory, and this node does not see it.
        """
        sandbox.use(call_sandbox)
        if self._directory is not None:
            if not self._is_at_home():
                self._go_home()
        elif call_sandbox is not None:
            os.chdir(call_sandbox)

    def _is_at_home(self) -> bool:
        try:
            return os.getcwd() == self._home
        except OSError:  # it has been removed
            return False

    def _go_home(self) -> None:
        assert self._directory is not None
        os.chdir(self._directory)
        self._home = os.getcwd()  # without links, which the given path may contain

    def _try_to_go_home(self) -> None:
        """Change to the user's directory if possible; otherwise, the next task reports the error."""
        if not self._is_at_home():
            try:
                self._go_home()
            except OSError:
                os.chdir("/")

    def left(self, call_sandbox: str | None) -> tuple[str, ...]:
        """Return the files that the task has left in the slot's directory. The node itself checks sandboxes."""
        if self._directory is not None or call_sandbox is not None:
            return ()
        try:
            if os.getcwd() == self.scratch:
                self._is_empty = not os.listdir()
                if self._is_empty:
                    return ()
            elif os.path.islink(self.scratch):  # the link's target is not removed
                return ()
        except OSError:  # the task has removed the directory
            return ()
        return sandbox.left_in(self.scratch)

    def restore(self, seconds: float) -> None:
        """Undo the changes that a task may have made to this process.

        Parameters
        ----------
        seconds : float
            Duration of the task. Handlers of real-time signals are restored only after a task that took longer than
            :data:`~taskvine_manager.runtime.limits.SHORT`.

        Raises
        ------
        OSError
            If a change cannot be undone. The process cannot be used any more.
        """
        if self._directory is None:
            self._restore_scratch()
        for number, copy in self._copies:
            os.dup2(copy, number)
        # Compared by identity, because an object that a task has put there may have any __eq__.
        stdin, stdout, stderr = self._streams
        are_same = sys.stdin is stdin and sys.stdout is stdout and sys.stderr is stderr
        if not are_same or stdin.closed or stdout.closed or stderr.closed:
            self._reopen()
        for timer in _TIMERS:
            signal.setitimer(timer, 0)
        signals, handlers = self._usual if seconds < SHORT else (self._signals, self._handlers)
        if list(map(_signal.getsignal, signals)) != handlers:
            for number, handler in zip(self._signals, self._handlers, strict=True):
                if handler is not None and _signal.getsignal(number) is not handler:
                    _signal.signal(number, handler)
        _signal.pthread_sigmask(_signal.SIG_SETMASK, self._mask)
        if os.getpgrp() != self._group:
            # Fails if the task has made this process the leader of a session, which cannot be undone.
            os.setpgid(0, self._group)

    def _restore_scratch(self) -> None:
        if self._is_empty:  # left() has just checked it
            self._is_empty = False
            return
        try:
            if os.getcwd() != self.scratch:
                os.chdir(self.scratch)
                if os.getcwd() != self.scratch:
                    raise NotADirectoryError(self.scratch)  # a link, whose target must not be emptied
            left = os.listdir()
        except OSError:
            os.chdir("/")
            remove(self.scratch)
            self._make_directory()
            return
        for name in left:
            remove(os.path.join(self.scratch, name))

    def _reopen(self) -> None:
        for number, stream in enumerate(self._streams):
            if stream.closed:
                self._streams[number] = standard_stream(number)
        sys.stdin, sys.stdout, sys.stderr = self._streams

    def leave(self) -> None:
        """Remove the directory."""
        os.chdir("/")
        remove(self.scratch)


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


class Functions:
    """The functions that a process has loaded, by content hash."""

    def __init__(self) -> None:
        self._encoded: dict[str, payload.Payload] = {}
        self._loaded: dict[str, Callable[..., Any]] = {}
        self._paths: dict[str, search_path.SearchPath] = {}
        self._sizes: dict[str, int] = {}
        self._freed = 0

    def add(self, key: str, encoded: payload.Payload) -> None:
        """Keep an encoded function. The first task that needs it loads it."""
        self._encoded[key] = encoded

    def __contains__(self, key: str) -> bool:
        return key in self._encoded

    def __getitem__(self, key: str) -> Callable[..., Any]:
        return self._loaded[key]

    def __len__(self) -> int:
        """Return the number of loaded functions."""
        return len(self._loaded)

    def get(self, key: str) -> Callable[..., Any] | None:
        """Return a function if it is loaded, and switch to its search path."""
        function = self._loaded.get(key)
        if function is not None:
            search_path.use(self._paths.get(key))
        return function

    def load(self, key: str) -> Callable[..., Any]:
        """Load a function and import the modules that it needs."""
        encoded = self._encoded[key]
        size = payload.size(encoded)
        search_path.use(None)  # the previous task may have used another path
        function: Any = payload.decode(encoded)
        if isinstance(function, search_path.OnPath):
            self._paths[key] = function.path
            search_path.use(function.path)
            function = pickle.loads(function.body)
        self._loaded[key] = function
        self._encoded[key] = b""
        self._sizes[key] = size
        del function  # see _answer
        return self._loaded[key]

    def forget(self, keys: Iterable[str]) -> None:
        """Forget functions that no further task will call."""
        size = 0
        for key in keys:
            size += self._sizes.pop(key, 0) + len(self._encoded.pop(key, b""))
            self._loaded.pop(key, None)
            self._paths.pop(key, None)
        self._freed += size
        if self._freed >= release.ENOUGH:
            self._freed = 0
            gc.collect()  # functions refer to themselves through their globals
            # Dicts never shrink, so they are copied.
            self._encoded, self._loaded = dict(self._encoded), dict(self._loaded)
            self._paths, self._sizes = dict(self._paths), dict(self._sizes)
            release.trim()


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
        return failure.LOST, failure.lost("file-lost", lost.reason, name=lost.number), started, 0.0
    except BaseException as problem:
        return failure.LOST, _not_loadable("argument-load", function, problem), started, 0.0
    process = os.getpid()
    started = time.time()
    clock = time.perf_counter()
    result, error = _run(function, args, kwargs)
    seconds = time.perf_counter() - clock
    if os.getpid() != process:
        os._exit(0)  # this is a child that the function has forked; the parent sends the result
    limits.restore(seconds)
    if error is None:
        outcome, body = _encode_result(result, function, spool, limit, limits.lowered)
    elif isinstance(error, Exception):
        outcome, body = failure.RAISED, failure.raised(error, _OWN_FILES)
    else:
        outcome, body = failure.LOST, _exited(function, error)
    if outcome != failure.RETURNED and isinstance(body, bytes) and len(body) > payload.INLINE_LIMIT:
        body = _spill(body, spool, limits.lowered)
    return outcome, body, started, seconds


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
                    ending = None, error
            _end_walltimes()
            return ending
        except BaseException as late:
            if ending is None:
                ending = None, late


def _exited(function: Callable[..., Any], error: BaseException) -> bytes:
    # SystemExit and KeyboardInterrupt would end the slot's process. They are reported instead.
    code = getattr(error, "code", None)
    try:
        code = "" if code is None else str(code)
    except BaseException as problem:
        code = f"<its __str__ raised {type(problem).__name__}>"
    return failure.lost(
        "exit",
        f"in {_name(function)}",
        exc_type=type(error).__name__,
        code=code,
        remote_traceback=failure.text(error, _OWN_FILES),
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
        if _is_full(error):
            return failure.LOST, failure.lost("disk-full", f"the result cannot be written: {error}", path=spool)
        return failure.LOST, failure.lost(
            "result-dump",
            f"a {type(result).__name__}: {failure.describe(error)}{_hint(lowered)}",
            subject=_name(function),
            remote_traceback=failure.text(error, ()),
        )


def _is_full(error: BaseException) -> bool:
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)


def _hint(lowered: list[str]) -> str:
    return f" (the task lowered {', '.join(lowered)} for good)" if lowered else ""


_PLAIN = frozenset({int, float, bool, str, bytes, type(None)})


def _name(function: Callable[..., Any]) -> str:
    try:
        return str(getattr(function, "__name__", type(function).__name__))
    except BaseException:  # a callable object's own methods may raise anything
        return type(function).__name__


def _not_loadable(kind: str, function: Callable[..., Any] | None, error: BaseException) -> bytes:
    subject = "" if function is None else _name(function)
    text = failure.text(error, _OWN_FILES)
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
        return failure.lost("disk-full" if _is_full(error) else "exception-dump", reason, path=spool)


def load_or_explain(functions: Functions, key: str) -> Callable[..., Any] | bytes:
    """Load a function, or make a failure record that says why it cannot be loaded."""
    try:
        return functions.load(key)
    except BaseException as error:  # importing a module runs it, and it may call sys.exit
        return _not_loadable("function-load", None, error)


def serve(
    channel: socket.socket,
    scratch: str,
    spool: str,
    limit: int = payload.INLINE_LIMIT,
    memory: float = 0.0,
    directory: str | None = None,
    own: float = 0.0,
) -> None:
    """Read packets and answer them until the node closes the socket, or this process cannot be used any more.

    Packets read are

    - ``("f", key, encoded function)``;
    - ``("d", keys)``: functions to forget;
    - ``("c", id, key, encoded arguments, sandbox or None, results or None)``: a task to run. ``results`` is an encoded
      dict of the encoded results that the arguments refer to.

    Packets sent are

    - ``("r", id, outcome, body, started, seconds, left)``: the answer to a task; ``left`` is from :meth:`Stage.left`;
    - ``("u", id)``: the function of a task never came, because the node took it back just before;
    - ``("l", key)``: a function is loaded, and a task that calls it starts now. Sent only if tasks have a memory limit;
    - ``("e", id or None, MB, fresh)``: the last packet; the process ends. If a task is named, it has not started,
      because the process holds ``MB`` of memory, more than the limit. A fresh process has run nothing and has loaded
      only this function, so any other slot would need as much memory.

    Parameters
    ----------
    channel : socket.socket
        Connected to the node.
    scratch, spool : str
        Directories in which tasks run, and for large results.
    limit : int
        Largest encoded result, in bytes, that is not written to a file.
    memory : float
        Memory limit in MB of this slot's tasks; 0 for none.
    directory : str, optional
        The user's directory, in which tasks run. Default: a task's sandbox, or ``scratch`` if it has none.
    own : float
        See :class:`~taskvine_manager.runtime.limits.Room`.
    """
    stage = Stage(scratch, directory)
    functions = Functions()
    room = Room(memory, own)
    limits = Limits()
    buffer = memoryview(bytearray(PACKET_LIMIT))
    try:
        while size := channel.recv_into(buffer):
            packet = pickle.loads(buffer[:size])
            if packet[0] == "f":
                functions.add(packet[1], packet[2])
            elif packet[0] == "d":
                functions.forget(packet[1])
            elif not _answer(channel, packet, functions, room, limits, stage, spool, limit):
                break
    except (BrokenPipeError, ConnectionResetError):
        pass
    exits.run()
    stage.leave()


def _answer(
    channel: socket.socket,
    packet: tuple[Any, ...],
    functions: Functions,
    room: Room,
    limits: Limits,
    stage: Stage,
    spool: str,
    limit: int,
) -> bool:
    """Run a task and answer it; return whether this process can run another task."""
    _, identity, key, arguments, call_sandbox, given = packet
    is_new = functions.get(key) is None
    if is_new:
        if key not in functions:
            channel.send(pickle.dumps(("u", identity)))
            return True
        loaded = load_or_explain(functions, key)
        if isinstance(loaded, bytes):
            room.used = True  # modules that it imported before the failure use memory
            stage.restore(SHORT)
            if given is not None:
                payload.discard(given)
            channel.send(pickle.dumps(("r", identity, failure.LOST, loaded, time.time(), 0.0, ())))
            return True
        # If a module keeps an exception raised during its import, this frame stays alive and would keep the function.
        del loaded
    if room.limit:
        if excess := room.excess(look=is_new):
            channel.send(pickle.dumps(("e", identity, excess, not room.used and len(functions) == 1)))
            return False
        if is_new:
            channel.send(pickle.dumps(("l", key)))
        room.used = True
    try:
        stage.enter(call_sandbox)
    except OSError as error:
        if given is not None:
            payload.discard(given)
        channel.send(pickle.dumps(("r", identity, failure.LOST, no_directory(error), time.time(), 0.0, ())))
        return True
    if given is not None:
        values.provide(payload.decode(given))
        payload.discard(given)
    ending = call(functions[key], arguments, spool, limits, limit)
    channel.send(pickle.dumps(("r", identity, *ending, stage.left(call_sandbox))))
    try:
        stage.restore(ending[-1])  # after the answer, which need not wait for it
        if not limits.lowered:
            return True
    except OSError:
        sys.excepthook(*sys.exc_info())
    channel.send(pickle.dumps(("e", None, 0.0, False)))
    return False
