"""A node's library: its process, and the socket over which it forks slots.

:mod:`taskvine_manager.runtime.library` describes the packets.
"""

from __future__ import annotations

import math
import os
import pickle
import socket
import subprocess
import time
from collections.abc import Callable, Mapping
from typing import Any

from taskvine_manager import cleanup
from taskvine_manager.node import deaths
from taskvine_manager.node.commands import INIT_FAILED, SHELL, open_log, start_directory
from taskvine_manager.node.limits import Kills
from taskvine_manager.node.steps import ENDED, READY, STARTED, Steps
from taskvine_manager.runtime import failure
from taskvine_manager.runtime.slot import PACKET_LIMIT

RETRIES = 3
"""Restarts of a library that is killed before it is ready; ``max-library-retries`` overrides it."""
FIRST_NOTICE, NEXT_NOTICE = 30.0, 300.0
"""Seconds after which the user is told that a library has not started. The first notice comes no later than after half
of ``start_timeout``."""
TRACE_SECONDS = 0.5
"""Seconds for a stuck library to write its stack trace before it is killed."""
LOOK_AT_START = 1.0
"""Seconds between checks of a starting library."""


class Library:
    """The process of a library, which may be started again after its death.

    Parameters
    ----------
    command : list of str
        Command that starts it; a descriptor and the parent's process id are appended.
    environment : dict of str to str
        Environment variables of the library and its slots.
    config : dict
        First packet to the library, see :class:`taskvine_manager.runtime.library.Library`.
    kills : Kills
        Detects processes that the system has killed for lack of memory.
    notice : callable
        Sends a notice to the user.
    steps : Steps, optional
        Keeps its starts and ends, and those of its context and slots, for the record of the run.
    """

    def __init__(
        self,
        command: list[str],
        environment: dict[str, str],
        config: dict[str, Any],
        kills: Kills,
        notice: Callable[[str], None],
        steps: Steps | None = None,
    ) -> None:
        self._command = command
        self._environment = environment
        self._config = config
        self._kills = kills
        self._notice = notice
        name = config.get("name")
        self.steps = Steps(wanted=False) if steps is None else steps
        self._label: str = name or ""
        self._has_context = config.get("context") is not None and config.get("context_scope") == "library"
        self._name = "the library" if name is None else f"the library {name!r}"
        self._settings = "library_config" if name is None else f"libraries[{name!r}]"
        self._log = os.path.join(config["log"], "library.log" if name is None else f"library-{name}.log")
        self._timeout: float = config["start_timeout"]
        self._process: subprocess.Popen[bytes] | None = None
        self.channel: socket.socket | None = None
        """The socket at which it is heard; None if it was not started, or has ended."""
        self.is_warm = False
        """Whether it can fork slots."""
        self.retries = RETRIES
        self._cold_deaths = 0
        self._is_ready = False
        self._starting = 0.0
        self._looked = 0.0
        self._notice_at = 0.0
        self._hung: str | None = None
        self._broken: bytes | None = None

    def start(self, environment: Mapping[str, str] | None = None) -> socket.socket:
        """Start the process without waiting for it; return the socket at which it is heard.

        Parameters
        ----------
        environment : dict of str to str, optional
            Further environment variables.
        """
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.send(pickle.dumps(self._config))  # sent first: the process may end without reading it
        with open_log(self._log) as output, theirs:
            self._process = subprocess.Popen(
                [*self._command, str(theirs.fileno()), str(os.getpid())],
                pass_fds=(theirs.fileno(),),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env={**self._environment, **(environment or {})},
                cwd=start_directory(self._config["directory"], self._config["scratch"]),
                start_new_session=True,  # Ctrl-C in a terminal does not reach it
            )
        self.is_warm = self._is_ready = False
        self._starting, self._looked, self._hung, self._broken = 0.0, time.monotonic(), None, None
        self._notice_at = min(FIRST_NOTICE, self._timeout / 2)
        self.channel = ours
        self.steps.add("library", self._label, STARTED)
        return ours

    @property
    def pid(self) -> int:
        """Its last process; 0 if it was never started."""
        return 0 if self._process is None else self._process.pid

    def receive(self) -> tuple[Any, ...] | None:
        """Return the next packet, or ``("gone",)`` at the end of the socket.

        Return None if there is no packet yet, or if it was malformed. Then the process is killed.
        """
        assert self.channel is not None
        try:
            packet = self.channel.recv(PACKET_LIMIT)
        except BlockingIOError:
            return None
        except ConnectionResetError:
            packet = b""
        if not packet:
            return ("gone",)
        try:
            message: tuple[Any, ...] = pickle.loads(packet)
            kind, *rest = message
        except Exception as error:
            self.kill(f"it sent a malformed packet ({failure.describe(error)})")
            return None
        if kind == "ready":
            self._is_ready, self._starting = True, 0.0
            if self._has_context:
                self.steps.add("context", self._label, STARTED)
        elif kind == "warm":
            self.is_warm, self._cold_deaths = True, 0
            self.steps.add("library", self._label, READY)
            if self._has_context:
                self.steps.add("context", self._label, READY)
        elif kind == "gpu":
            self._notice(
                f"the context or a module of {self._name} has used a gpu before the library forks its slots. CUDA does "
                "not work in them then: give the context the scope 'slot', or import the module in the function"
            )
        elif kind == "failed":
            self._broken = rest[1]
        return message

    def fork(
        self, number: int, environment: dict[str, str], memory: float, cpus: tuple[int, ...], end: socket.socket
    ) -> bool:
        """Fork a slot that serves a socket; return false if the library has died, as its socket is about to tell.

        Parameters
        ----------
        memory : float
            Limit of its tasks in MB, 0 for none.
        cpus : tuple of int
            The CPUs that it is bound to; empty for those of the library.
        """
        assert self.channel is not None
        try:
            socket.send_fds(self.channel, [pickle.dumps(("fork", number, environment, memory, cpus))], [end.fileno()])
        except (BrokenPipeError, ConnectionResetError):
            return False
        return True

    @property
    def wait(self) -> float | None:
        """Seconds until :meth:`look` should be called; None if it need not be."""
        return min(LOOK_AT_START, self._timeout / 2) if self.channel is not None and not self.is_warm else None

    def look(self, now: float) -> None:
        """Notify the user of a library that is slow to start, and kill it after ``start_timeout``.

        Time in which this process was stopped does not count.
        """
        if self.channel is None or self.is_warm:
            return
        self._starting += min(now - self._looked, 2 * LOOK_AT_START)
        self._looked = now
        if self._hung is None and self._starting >= self._timeout + TRACE_SECONDS * self._is_ready:
            self._hung = f"{self._phase()} after {self._timeout:g} s (start_timeout of {self._settings})"
            self.kill(None)
        elif self._starting >= self._notice_at:
            self._notice_at = NEXT_NOTICE if self._notice_at < NEXT_NOTICE else math.inf
            self._notice(f"{self._phase()} after {self._starting:.0f} s; see {self._log}")

    def _phase(self) -> str:
        """Describe the step that it has not finished."""
        if self._is_ready:
            return f"import_modules and the context of {self._name} are not ready"
        if self._command[:1] == [SHELL]:
            return f"init_command of {self._name} has not ended"
        return f"the Python of {self._name} has not started"

    def kill(self, why: str | None) -> None:
        """Kill it, and tell the user why; its slots end with it."""
        if self._process is None or self.channel is None:
            return
        if why is not None:
            self._notice(f"{self._name} is killed: {why}")
        cleanup.kill_group(self._process.pid)

    def bury(self) -> tuple[bytes, bool]:
        """Reap the process, at the end of its socket, and record its end.

        Returns
        -------
        record : bytes
            Failure record of the tasks that are lost with it.
        may_start : bool
            Whether to start it again for pending tasks: it was warm, or was killed before that, but not too often.
        """
        assert self._process is not None
        assert self.channel is not None
        self.channel.close()
        self.channel = None
        status = self._process.wait()
        was_ready = self._is_ready
        record, may_start = self._buried(status)
        reason = failure.brief(record)
        if self._has_context and was_ready:
            self.steps.add("context", self._label, ENDED, None, reason)
        self.steps.add("library", self._label, ENDED, status, reason)
        return record, may_start

    def _buried(self, status: int) -> tuple[bytes, bool]:
        was_warm, self.is_warm = self.is_warm, False
        if self._hung is not None:
            kind = "library" if self._is_ready else "environment"
            return failure.lost(kind, self._hung, stderr=_last_trace(deaths.tail(self._log, 50_000))), was_warm
        if not was_warm and self._broken is None and status == INIT_FAILED:
            return failure.lost("environment", "init_command failed", stderr=deaths.tail(self._log)), False
        record = self._broken or deaths.killed(self._name, status, self._kills)
        if record is None:
            reason = f"{self._name} {deaths.describe(status)}"
            record = failure.lost("library", reason, stderr=deaths.tail(self._log))
        is_retried = not was_warm and status < 0 and self._cold_deaths < self.retries
        self._cold_deaths += is_retried
        return record, was_warm or is_retried

    def stop(self) -> None:
        """Kill and reap it, if it was started."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        if self.channel is not None:
            self.channel.close()


def _last_trace(text: str) -> str:
    """Return the last stack trace of faulthandler, innermost frame first; without one, the end of the text."""
    return text[text.rfind("Timeout (") :][:2000] if "Timeout (" in text else text[-2000:]
