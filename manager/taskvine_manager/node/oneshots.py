"""L1 tasks of a node: each a fresh Python process in a directory of its own."""

from __future__ import annotations

import contextlib
import errno
import os
import pickle
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterable, Mapping
from typing import Any

from taskvine_manager import cleanup
from taskvine_manager.node.hardware import thread_limits
from taskvine_manager.node.limits import Kills
from taskvine_manager.node.slots import (
    INIT_FAILED,
    Call,
    Report,
    Resources,
    died,
    open_log,
    start_directory,
    tail,
    with_init,
)
from taskvine_manager.node.temporary import Folders
from taskvine_manager.runtime import failure, keeper
from taskvine_manager.runtime.payload import Payload


class OneShots:
    """Processes of L1 tasks.

    Parameters
    ----------
    command : list of str
        Starts a task's process; its directory and the parent's process id are appended.
    init_command : str
        The user's, run before each task in its shell.
    environment : dict of str to str
        Of every task, before what its own resources add.
    config : dict
        ``sys_path``, ``spool``, ``inline_limit``, ``context``, ``directory``, ``log``, ``env_vars``, ``has_gpus`` and
        ``temporary``, as for the library.
    resources : Resources
        Of the node, shared with its slots.
    report : callable
        As for :class:`~taskvine_manager.node.slots.SlotPool`.
    kills : Kills
        The same.
    """

    def __init__(
        self,
        command: list[str],
        init_command: str,
        environment: dict[str, str],
        config: dict[str, Any],
        resources: Resources,
        report: Report,
        kills: Kills,
    ) -> None:
        self._command = command
        self._init_command = init_command
        self._environment = environment
        self._config = config
        self._folders = Folders(config["temporary"])
        self._resources = resources
        self._report = report
        self._kills = kills
        self._functions: dict[str, Payload] = {}
        self.pending: deque[Call] = deque()
        self._running: dict[subprocess.Popen[bytes], tuple[Call, tuple[str, ...]]] = {}
        self._most_output = sys.maxsize

    def tune(self, parameters: Mapping[str, float]) -> None:
        """Take tuning parameters, of which ``max-task-stdout-storage`` is this class's."""
        self._most_output = int(parameters.get("max-task-stdout-storage", self._most_output))

    def add_function(self, key: str, encoded: Payload) -> None:
        """Keep a function for the tasks that will name it."""
        self._functions[key] = encoded

    def forget_functions(self, keys: Iterable[str]) -> None:
        """Forget functions that no task here needs."""
        for key in keys:
            self._functions.pop(key, None)

    def pump(self) -> None:
        """Start pending tasks for as long as there is room."""
        while self.pending and self._resources.fits(*self.pending[0].need):
            self._start(self.pending.popleft())

    def _start(self, call: Call) -> None:
        assert call.directory is not None
        cores, memory, count = call.need
        gpus = tuple(self._resources.gpus[:count])
        environment = {**self._environment, **thread_limits(cores, self._config["env_vars"])}
        if self._config["has_gpus"]:
            environment["CUDA_VISIBLE_DEVICES"] = ",".join(gpus)
        call.dispatched = time.time()
        try:
            environment.update(self._folders.make(_folder(call)))
            with open(os.path.join(call.directory, "task"), "wb") as file:
                pickle.dump(self._task(call), file)
            with open(os.path.join(call.directory, "output"), "wb") as output:
                process = subprocess.Popen(
                    with_init(self._init_command, [*self._command, call.directory, str(os.getpid())]),
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    env=environment,
                    cwd=start_directory(self._config["directory"], os.path.join(call.directory, "sandbox")),
                    start_new_session=True,
                )
        except OSError as error:
            kind = "disk-full" if error.errno in (errno.ENOSPC, errno.EDQUOT) else "slot-died"
            record = failure.lost(kind, f"{call.profile.name} cannot be started: {error}", path=call.directory)
            self._folders.remove(_folder(call))
            self._report(call, failure.LOST, record, 0.0, 0.0)
            return
        self._resources.take(cores, memory, gpus)
        self._running[process] = (call, gpus)

    def _task(self, call: Call) -> dict[str, Any]:
        return {
            "function": self._functions[call.profile.function],
            "arguments": call.invocation.arguments,
            "values": call.values,
            **{
                key: self._config[key]
                for key in ("sys_path", "spool", "inline_limit", "context", "directory", "memory_group")
            },
        }

    def reap(self) -> None:
        """Report the tasks whose process has ended."""
        for process in [process for process in self._running if process.poll() is not None]:
            call, gpus = self._running.pop(process)
            cleanup.kill_group(process.pid)
            self._resources.give(call.need[0], call.need[1], gpus)
            self._folders.remove(_folder(call))
            self._finish(call, process.returncode)
        self.pump()

    def _finish(self, call: Call, status: int) -> None:
        assert call.directory is not None
        output = os.path.join(call.directory, "output")
        self._keep_output(call, output)
        if call.kill_record is not None:
            self._report(call, failure.LOST, call.kill_record, 0.0, 0.0)
            return
        try:
            with open(os.path.join(call.directory, "outcome"), "rb") as file:
                outcome, body, started, seconds = pickle.load(file)
        except (OSError, EOFError, pickle.UnpicklingError):
            record = died(call, status, output, self._kills)
            if status == INIT_FAILED:
                record = failure.lost("environment", "init_command failed", stderr=tail(output))
            self._report(call, failure.LOST, record, 0.0, 0.0)
            return
        self._report(call, outcome, body, started, seconds)

    def _keep_output(self, call: Call, output: str) -> None:
        with contextlib.suppress(OSError):  # no room for logs, say, which is no reason to stop
            if os.path.getsize(output):
                with open(output, "rb") as source, open_log(os.path.join(self._config["log"], "tasks.log")) as log:
                    log.write(f"--- task {call.invocation.number} ({call.profile.name})\n".encode())
                    left = self._most_output
                    while left > 0 and (chunk := source.read(min(left, 1 << 20))):
                        log.write(chunk)
                        left -= len(chunk)
                    if source.read(1):
                        log.write(f"\n--- cut after {self._most_output} bytes\n".encode())

    def processes(self) -> set[int]:
        """Process ids of what :meth:`reap` waits for."""
        return {process.pid for process in self._running}

    def running(self) -> Iterable[tuple[int, Call]]:
        """Keepers and the task that each keeps."""
        return [(process.pid, call) for process, (call, _) in self._running.items()]

    def hand_back(self) -> list[Call]:
        """Give up every task that has not begun."""
        given, self.pending = list(self.pending), deque()
        return given

    def cancel(self, numbers: set[int], record: bytes) -> list[Call]:
        """End tasks: those not begun are returned, those that run are killed and reported."""
        gone = [call for call in self.pending if call.invocation.number in numbers]
        self.pending = deque(call for call in self.pending if call.invocation.number not in numbers)
        for process, (call, _) in self._running.items():
            if call.invocation.number in numbers:
                call.kill_record = record
                keeper.end(process.pid)
        return gone

    def stop(self) -> None:
        """End every task."""
        for process in self._running:
            keeper.end(process.pid)
        deadline = time.monotonic() + keeper.TERM_SECONDS + keeper.LAST_SECONDS
        for process in self._running:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(max(0.0, deadline - time.monotonic()))


def _folder(call: Call) -> str:
    """Name of a task's temporary directory: that of its own directory, which no other task has had."""
    return os.path.basename(str(call.directory))
