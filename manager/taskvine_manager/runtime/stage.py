"""The state of a slot's process in which each task starts."""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # a hundred times faster than signal, which makes enums
import os
import signal
import sys
from typing import TextIO

from taskvine_manager.runtime import sandbox
from taskvine_manager.runtime.limits import SHORT
from taskvine_manager.runtime.removal import remove

_TIMERS = (signal.ITIMER_REAL, signal.ITIMER_VIRTUAL, signal.ITIMER_PROF)


_ENCODINGS: tuple[tuple[str | None, str | None], ...] = tuple(
    (getattr(stream, "encoding", None), getattr(stream, "errors", None))
    for stream in (sys.__stdin__, sys.__stdout__, sys.__stderr__)
)
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
        count = sum(number < signal.SIGRTMIN for number in self._signals)
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
