"""Runs one ``vine_worker`` for as long as it is wanted, and leaves nothing of it behind.

This is what a provider launches, and what ``vine_factory`` takes for its worker. The worker leads a process group, for
its transfer server inherits its connection: if one of them is killed alone, the manager hears nothing for many seconds.
It gets a directory of its own, and a name that the manager learns with its architecture, the one word about itself that
it lets us choose.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial

from taskvine_manager import cleanup
from taskvine_manager.node import hardware, leftovers, temporary
from taskvine_manager.runtime import keeper

MARK = "taskvine-exec/"
"""What the architecture of a worker of ours begins with; its name follows."""
ADDRESS = "vine.address"
"""File in the run's directory that says where the manager listens, for as long as it does."""
GPUS = "TASKVINE_EXEC_GPUS"
"""Environment variable with the ids of the gpus of a node."""
GRACE = 3.0
"""Seconds that a worker has to leave once it is told to."""


def main(arguments: list[str]) -> None:
    """Run a worker; arguments that are not known here are the worker's own."""
    parser = argparse.ArgumentParser(prog="taskvine-worker", description="A node of a TaskVineExecutor on TaskVine.")
    parser.add_argument(
        cleanup.CONNECT, default="", metavar="DIRECTORY", help="the run's directory, where it is visible"
    )
    parser.add_argument("--block", default="", help="block that the node belongs to")
    parser.add_argument("--executable", default="vine_worker", help="the worker's program")
    options, rest = parser.parse_known_args(arguments)
    if "--version" in rest or "-v" in rest:  # vine_factory asks
        os.execvp(options.executable, [options.executable, "--version"])
    if options.connect and rest[-2:-1] == ["localhost"] and not os.path.isdir(options.connect):
        sys.exit(f"taskvine-worker: no executor at {options.connect}")
    sys.exit(run(options, rest))


def run(options: argparse.Namespace, rest: list[str]) -> int:
    """Start the worker, wait for its end, and remove what it leaves."""
    block = f"b{options.block}-" if options.block else ""
    here = os.path.isdir(os.path.join(options.connect, "nodes")) if options.connect else False
    name = f"{block}{os.getpid()}" if here else f"{block}{socket.gethostname()}-{os.getpid()}"
    if here:
        directory = os.path.join(options.connect, "nodes", name)
        os.makedirs(directory, mode=0o700)
    else:
        directory = tempfile.mkdtemp(prefix="taskvine-node-")
        leftovers.claim(directory, options.connect or directory, name)
    short = temporary.link(os.path.join(directory, "tmp"))
    environment = {
        **os.environ,
        cleanup.TOKEN: options.connect or directory,
        cleanup.TOKEN + "_NODE": name,
        temporary.VARIABLE: short,
    }
    if options.block:
        environment["PARSL_WORKER_BLOCK_ID"] = options.block
    told: list[int] = []
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        if number == signal.SIGTERM or signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, lambda received, _: told.append(received))
    keeper.disregard()
    if "--cores" not in rest:  # it would offer the machine's, whatever this process may use of them
        rest = ["--cores", str(hardware.cores()), *rest]
    gpus = hardware.gpus()
    if "--gpus" in rest:
        count = int(rest[rest.index("--gpus") + 1])
        gpus = (gpus + [str(number) for number in range(count) if str(number) not in gpus])[:count]
    else:
        rest = ["--gpus", str(len(gpus)), *rest]
    environment[GPUS] = ",".join(gpus)
    # Tasks make files with the user's umask: nobody else can enter the worker's directory anyway.
    try:
        worker = subprocess.Popen(
            [options.executable, "--workspace", directory, "--arch", MARK + name, "--feature", name, *rest],
            stdin=subprocess.DEVNULL,
            env=environment,
            start_new_session=True,
        )
    except OSError as error:
        shutil.rmtree(directory, ignore_errors=True)
        temporary.unlink(short)
        sys.stderr.write(f"taskvine-worker: {options.executable} cannot be started: {error}\n")
        return 127
    clean = partial(_clean_up, worker.pid, environment[cleanup.TOKEN], name, directory, short)
    second = _stand_by(clean)
    keeper.adopt_orphans()
    status = _wait(worker, told, second)
    over = here and not os.path.exists(os.path.join(options.connect, ADDRESS))
    cleanup.kill_group(worker.pid)
    keeper.end_children(spare=[second])
    clean()
    if not os.path.exists(directory):
        leftovers.say_left()
    if over:
        return 0  # the executor has ended, and killed what was left of the worker
    return status if status >= 0 else 128 - status


def _stand_by(clean: Callable[[], None]) -> int:
    """Leave a process that cleans up if this one is killed: it sees the end of a pipe. Return its process id."""
    end, ours = os.pipe()
    if second := os.fork():
        os.close(end)
        return second
    try:
        os.setsid()
        os.close(ours)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        with contextlib.suppress(Exception):  # the node works without
            leftovers.say(leftovers.sweep(tempfile.gettempdir()))
        os.read(end, 1)
        clean()
    finally:
        os._exit(0)


def _clean_up(worker: int, token: str, name: str, directory: str, short: str) -> None:
    temporary.unlink(short)
    if not os.path.isdir(directory):
        return  # it has been done, and the process id may be another's by now
    cleanup.kill_group(worker)
    with contextlib.suppress(ImportError):  # psutil: without it, what has left its group is not found
        cleanup.kill_strays(token, name)
    remove(directory)


def _wait(worker: subprocess.Popen[bytes], told: list[int], second: int) -> int:
    parent = os.getppid()
    deadline = None
    while True:
        try:
            return worker.wait(0.25 if deadline is None else 0.05)
        except subprocess.TimeoutExpired:
            keeper.reap((worker.pid, second))
        if deadline is None and (told or os.getppid() != parent):
            worker.terminate()
            deadline = time.monotonic() + GRACE
        elif deadline is not None and time.monotonic() > deadline:
            cleanup.kill_group(worker.pid)


def remove(directory: str) -> None:
    """Remove a directory that processes which are being killed may still be writing to."""
    for _ in range(20):
        shutil.rmtree(directory, ignore_errors=True)
        if not os.path.exists(directory):
            return
        time.sleep(0.05)
