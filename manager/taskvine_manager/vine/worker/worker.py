"""Launcher of one ``vine_worker``: runs the worker, and removes everything that it leaves.

Providers launch this program, and ``vine_factory`` runs it in place of its worker. The worker leads a process group, so
that its transfer server can be killed with it: the server inherits the worker's connection, and if only one of them is
killed, the manager does not notice for many seconds. The worker gets its own directory and a name. It reports the name
to the manager as its architecture, the only property that can be chosen.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import IO

import taskvine_manager
from taskvine_manager import cleanup
from taskvine_manager.node import accelerators, hardware, leftovers, temporary
from taskvine_manager.node.accelerators import Found
from taskvine_manager.patience import TIMEOUT, Limits, Stopped
from taskvine_manager.runtime import keeper
from taskvine_manager.vine.worker import trouble
from taskvine_manager.vine.worker.traces import DONE, Traces, remove, stand_by
from taskvine_manager.vine.worker.trouble import Listener, Probe, Trouble

MARK = "taskvine-exec/"
"""Start of the architecture that our workers report; the node's name follows."""
ADDRESS = "vine.address"
"""File in the run's directory with the manager's port, while the manager listens."""
DIRECT = "TASKVINE_EXEC_DIRECT"
"""Environment variable with host, port and password file of a manager that accepts direct connections, as JSON."""
GPUS = "TASKVINE_EXEC_GPUS"
"""Environment variable with the kind and the names of a node's gpus, as in ``nvidia:0,1``."""
GRACE = 3.0
"""Seconds that a worker has to end after SIGTERM."""
JOIN_SECONDS = 60
"""Seconds that a worker tries to connect; its own default is 900."""
JOINED = "cache"
"""Directory that a worker creates in its workspace once the manager has accepted it."""
LOOK = 0.25
"""Seconds between checks whether this process has lost its parent."""


def main(arguments: list[str]) -> None:
    """Run a worker; pass unknown arguments on to it."""
    parser = argparse.ArgumentParser(prog="taskvine-worker", description="A node of a TaskVineExecutor on TaskVine.")
    parser.add_argument(
        cleanup.CONNECT, default="", metavar="DIRECTORY", help="the run's directory, where it is visible"
    )
    parser.add_argument("--block", default="", help="block that the node belongs to")
    parser.add_argument("--direct", action="store_true", help="let the supervisor connect to the manager, too")
    parser.add_argument("--executable", default="vine_worker", help="the worker's program")
    parser.add_argument("--package", default="", metavar="VERSION", help="version of taskvine-exec that is expected")
    parser.add_argument("--user", default="", metavar="HOST:PID", help="the process of the user's program")
    parser.add_argument(
        "--patience",
        type=float,
        default=TIMEOUT,
        metavar="SECONDS",
        help="how long the worker may be stopped (SIGSTOP) before it counts as lost; 0 for ever",
    )
    options, rest = parser.parse_known_args(arguments)
    if "--version" in rest or "-v" in rest:  # from vine_factory
        os.execvp(options.executable, [options.executable, "--version"])
    if options.connect and rest[-2:-1] == ["localhost"] and not os.path.isdir(options.connect):
        sys.exit(f"taskvine-worker: no executor at {options.connect}")
    try:
        status = run(options, rest)
    except Trouble as error:
        status = trouble.say(error)
    sys.exit(status)


def run(options: argparse.Namespace, rest: list[str]) -> int:
    """Start the worker, wait for its end, and remove what it leaves.

    Raises
    ------
    Trouble
        If the node cannot join.
    """
    trouble.check_version(options.package, taskvine_manager.VERSION)
    program = trouble.find_program(options.executable)
    password = trouble.option(rest, "--password", "-P")
    trouble.check_password(password)
    block = f"b{options.block}-" if options.block else ""
    here = os.path.isdir(os.path.join(options.connect, "nodes")) if options.connect else False
    name = f"{block}{os.getpid()}" if here else f"{block}{socket.gethostname()}-{os.getpid()}"
    directory = trouble.make_directory(lambda: _make_directory(options.connect if here else "", name))
    try:
        if not here:
            leftovers.claim(directory, options.connect or directory, name)
        short = temporary.link(os.path.join(directory, "tmp"))
    except OSError as error:
        remove(directory)
        raise trouble.no_scratch(error.filename or directory, error.strerror or str(error)) from None
    environment = {
        **os.environ,
        cleanup.TOKEN: options.connect or directory,
        cleanup.TOKEN + "_NODE": name,
        temporary.VARIABLE: short,
    }
    if options.block:
        environment["PARSL_WORKER_BLOCK_ID"] = options.block
    to = trouble.address(rest)
    if options.direct and to is not None and password is not None:
        environment[DIRECT] = json.dumps([to.host, to.port, os.path.abspath(password)])
    calls = _Calls()
    gpus, sizes = _sizes(rest)
    environment[GPUS] = f"{gpus.kind}:{','.join(gpus.names)}"
    # Tasks create files with the user's umask: only the user can enter the worker's directory.
    command = [program, "--workspace", directory, "--arch", MARK + name, "--feature", name]
    command += ["--connect-timeout", str(JOIN_SECONDS), *sizes, *rest]
    try:
        worker = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment,
            start_new_session=True,
        )
    except OSError as error:
        temporary.unlink(short)
        remove(directory)
        raise Trouble(trouble.Status.NOT_EXECUTABLE, f"{program} cannot be started: {error}") from None
    run_directory, begun = options.connect if here else "", cleanup.start_time(worker.pid)
    traces = Traces(worker.pid, begun, environment[cleanup.TOKEN], name, directory, short, run_directory, options.user)
    kills = hardware.kills()
    second, done = stand_by(traces)
    keeper.adopt_orphans()
    listener = Listener(to, password, directory)
    stopped = Stopped(Limits(options.patience, options.patience))
    watch = _Watch(worker, calls, second, listener, Probe(to), os.path.join(directory, JOINED), stopped)
    watch.wait()
    kill = kills.explain(time.monotonic())
    over = here and not os.path.exists(os.path.join(options.connect, ADDRESS))
    # The worker has ended but is not reaped yet: no other process can have its process id or group id.
    cleanup.kill_group(worker.pid)
    status = worker.wait()
    keeper.end_children(spare=[second])
    traces.remove()
    with contextlib.suppress(BrokenPipeError):  # the standby process was killed
        os.write(done, DONE)
    if not os.path.exists(directory):
        leftovers.say_left()
    if over:
        return 0  # the executor has ended, and killed the rest of the worker
    if status == -signal.SIGKILL and kill is not None and not calls.told and watch.found is None:
        trouble.note(trouble.out_of_memory(kill))
    if watch.found is None and status == 0 and not watch.has_joined and not listener.has_served and not calls.told:
        raise listener.silent()
    if watch.found is not None:
        return watch.found.status
    return status if status >= 0 else 128 - status


def _make_directory(run: str, name: str) -> str:
    if not run:
        return tempfile.mkdtemp(prefix="taskvine-node-")
    directory = os.path.join(run, "nodes", name)
    os.makedirs(directory, mode=0o700)
    return directory


def _sizes(rest: list[str]) -> tuple[Found, list[str]]:
    """Return the gpus, and options with this process's limits where the user has set none.

    Without these options a worker would offer the whole machine.
    """
    sizes: list[str] = []
    said_why = []
    if trouble.option(rest, "--cores") is None:
        cores = hardware.core_limit()
        sizes += ["--cores", str(int(cores.amount))]
        said_why.append(f"{cores.amount:.0f} cores ({cores.source})")
    if trouble.option(rest, "--memory") is None:
        memory = hardware.memory_limit()
        sizes += ["--memory", str(max(1, int(memory.amount)))]
        said_why.append(f"{memory.amount:.0f} MB of memory ({memory.source})")
    if said_why:
        sys.stdout.write(f"taskvine-worker: using {', '.join(said_why)}\n")
        sys.stdout.flush()
    said = trouble.option(rest, "--gpus")
    gpus = accelerators.find(None if said is None else int(said))
    if said is None:
        sizes += ["--gpus", str(len(gpus.names))]
    return gpus, sizes


class _Calls:
    """Signals that end this process, and SIGCHLD; both make a descriptor readable."""

    def __init__(self) -> None:
        self.told: list[int] = []
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            if number == signal.SIGTERM or signal.getsignal(number) != signal.SIG_IGN:
                signal.signal(number, lambda received, _: self.told.append(received))
        keeper.disregard(signal.SIGCHLD)
        self.end, ours = os.pipe()
        for descriptor in (self.end, ours):
            os.set_blocking(descriptor, False)
        signal.set_wakeup_fd(ours, warn_on_full_buffer=False)


@dataclass
class _Watch:
    """Loop around a running worker: it passes output on, and ends the worker when necessary.

    ``found`` is the reason why the worker cannot join, if it is known; the user has been told.
    """

    worker: subprocess.Popen[bytes]
    calls: _Calls
    second: int
    listener: Listener
    probe: Probe
    joined: str
    stopped: Stopped
    has_joined: bool = False
    found: Trouble | None = None
    deadline: float | None = None
    open: dict[int, Callable[[bytes], None]] = field(default_factory=dict)

    def wait(self) -> None:
        """Return once the worker has ended, without reaping it."""
        assert self.worker.stdout is not None
        assert self.worker.stderr is not None
        self._read("out", self.worker.stdout, sys.stdout.fileno())
        self._read("err", self.worker.stderr, sys.stderr.fileno())
        self.open[self.calls.end] = lambda data: None
        parent = os.getppid()
        while True:
            ended = _has_ended(self.worker.pid)
            while self._hear(0.0 if ended else LOOK if self.deadline is None else 0.05) and ended:
                pass  # read its last output
            if ended:
                return
            keeper.reap((self.worker.pid, self.second))
            if self.stopped.due(now := time.monotonic()):
                self._end_stopped(now)
            if not self.has_joined and self.found is None:
                self.has_joined = os.path.exists(self.joined)
                self._find(None if self.has_joined else self.probe.look())
            if self.deadline is None and (self.calls.told or os.getppid() != parent):
                self.worker.terminate()
                self.deadline = time.monotonic() + GRACE
            elif self.deadline is not None and time.monotonic() > self.deadline:
                cleanup.kill_group(self.worker.pid)

    def _end_stopped(self, now: float) -> None:
        """Kill the worker if one of its processes is stopped: its own, its transfer server, or a supervisor."""
        parts = filter(cleanup.is_stopped, (self.worker.pid, *keeper.children(self.worker.pid)))
        if lost := self.stopped.look(parts, now):
            text = f"taskvine-worker: the worker is killed, because its process {min(lost)} is stopped (SIGSTOP)\n"
            with contextlib.suppress(OSError):
                os.write(sys.stderr.fileno(), text.encode())
            cleanup.kill_group(self.worker.pid)

    def _read(self, name: str, stream: IO[bytes], to: int) -> None:
        def pass_on(data: bytes) -> None:
            found = self.listener.feed(name, data)
            while data:
                try:
                    data = data[os.write(to, data) :]
                except OSError:  # the job's output is closed, or the disk is full
                    break
            self._find(found)

        self.open[stream.fileno()] = pass_on

    def _find(self, found: Trouble | None) -> None:
        """Report the trouble, and end the worker, which has nothing to finish."""
        if found is not None and self.found is None:
            self.found = found
            trouble.say(found)
            cleanup.kill_group(self.worker.pid)

    def _hear(self, seconds: float) -> bool:
        """Read what there is, or wait for it; return whether there was anything."""
        ready, _, _ = select.select(list(self.open), (), (), seconds)
        for descriptor in ready:
            data = os.read(descriptor, 1 << 16)
            if data:
                self.open[descriptor](data)
            else:
                del self.open[descriptor]
        return bool(ready)


def _has_ended(pid: int) -> bool:
    return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
