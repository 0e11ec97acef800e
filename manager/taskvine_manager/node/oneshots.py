"""L1 tasks of a node: each is a fresh Python process in a separate directory."""

from __future__ import annotations

import contextlib
import os
import pickle
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterable, Mapping
from typing import Any

from taskvine_manager import cleanup
from taskvine_manager.node import accelerators, pinning
from taskvine_manager.node.calls import Call, Grant, Shared
from taskvine_manager.node.commands import INIT_FAILED, bound_to, open_log, start_directory, with_init
from taskvine_manager.node.deaths import died, not_started, tail
from taskvine_manager.node.hardware import thread_limits
from taskvine_manager.node.temporary import Folders
from taskvine_manager.node_parameters import MAX_TASK_STDOUT_STORAGE
from taskvine_manager.runtime import failure, keeper


class OneShots:
    """The processes of L1 tasks.

    Parameters
    ----------
    command : list of str
        Command that starts a task's process; the task's directory and the parent's process id are appended.
    init_command : str
        The user's command, run before each task in its shell.
    environment : dict of str to str
        Environment variables of every task, without those for its resources.
    shared : Shared
        What they share with function slots.
    """

    def __init__(self, command: list[str], init_command: str, environment: dict[str, str], shared: Shared) -> None:
        self._command = command
        self._init_command = init_command
        self._environment = environment
        self._config, self._functions, self._resources, self._report, self._kills = shared
        self._folders = Folders(self._config["temporary"])
        self.pending: deque[Call] = deque()
        self._running: dict[subprocess.Popen[bytes], tuple[Call, Grant]] = {}
        self._most_output = sys.maxsize

    def tune(self, parameters: Mapping[str, float]) -> None:
        """Apply tuning parameters; this class uses ``max-task-stdout-storage``."""
        self._most_output = int(parameters.get(MAX_TASK_STDOUT_STORAGE, self._most_output))

    def pump(self) -> None:
        """Start pending tasks while their resources are free."""
        while self.pending and self._resources.fits(self.pending[0].need):
            self._start(self.pending.popleft())

    def _start(self, call: Call) -> None:
        assert call.directory is not None
        resources, config = self._resources, self._config
        grant = resources.grant(call.need)
        cpus = resources.cpus(grant)
        environment = {**self._environment, **thread_limits(call.need.cores, config["env_vars"])}
        environment.update(accelerators.variables(config["gpu_kind"], resources.visible(grant), environment))
        environment.update(pinning.variables(cpus, config["env_vars"]))
        call.dispatched = time.time()
        try:
            environment.update(self._folders.make(_folder(call)))
            with open(os.path.join(call.directory, "task"), "wb") as file:
                pickle.dump(self._task(call), file)
            with open(os.path.join(call.directory, "output"), "wb") as output, bound_to(cpus):
                process = subprocess.Popen(
                    with_init(self._init_command, [*self._command, call.directory, str(os.getpid())]),
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    env=environment,
                    cwd=start_directory(config["directory"], os.path.join(call.directory, "sandbox")),
                    start_new_session=True,
                )
        except OSError as error:
            self._folders.remove(_folder(call))
            self._report(call, failure.LOST, not_started(call, error, call.directory), 0.0, 0.0)
            return
        resources.take(call.need, grant)
        self._running[process] = (call, grant)

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
        """Report the tasks whose processes have ended, and start pending ones."""
        for process in [process for process in self._running if process.poll() is not None]:
            call, grant = self._running.pop(process)
            cleanup.kill_group(process.pid)
            self._resources.give(call.need, grant)
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
        with contextlib.suppress(OSError):  # for example a full disk: the task's result matters more
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
        """Return the ids of the processes that :meth:`reap` waits for."""
        return {process.pid for process in self._running}

    def running(self) -> Iterable[tuple[int, Call]]:
        """Return the process id of each keeper, and its task."""
        return [(process.pid, call) for process, (call, _) in self._running.items()]

    def first(self) -> Call | None:
        """Return the first pending task, if there is one."""
        return self.pending[0] if self.pending else None

    def hand_back(self) -> list[Call]:
        """Remove all pending tasks, and return them."""
        given, self.pending = list(self.pending), deque()
        return given

    def cancel(self, numbers: set[int], record: bytes) -> list[Call]:
        """Cancel tasks: remove and return the pending ones, and kill the running ones, which are reported.

        Uninterrupted tasks that run are left alone.
        """
        gone = [call for call in self.pending if call.invocation.number in numbers]
        self.pending = deque(call for call in self.pending if call.invocation.number not in numbers)
        for process, (call, _) in self._running.items():
            if call.invocation.number in numbers and not call.profile.uninterrupted:
                call.kill_record = record
                keeper.end(process.pid)
        return gone

    def stop(self) -> None:
        """End every running task."""
        for process in self._running:
            keeper.end(process.pid)
        deadline = time.monotonic() + keeper.TERM_SECONDS + keeper.LAST_SECONDS
        for process in self._running:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(max(0.0, deadline - time.monotonic()))


def _folder(call: Call) -> str:
    """Return the name of a task's temporary directory: that of the task's directory, which is unique."""
    return os.path.basename(str(call.directory))
