"""A node of the embedded engine: a process that offers a cache, cores, memory and gpus.

The node's loop waits for sockets and signals, and calls their handlers; it runs no user code. Two threads move files,
so that a large copy does not delay short tasks. When the manager ends, the node kills its tasks, removes its directory,
and ends too.
"""

from __future__ import annotations

import argparse
import contextlib
import math
import os
import pickle
import signal
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from taskvine_manager import cleanup
from taskvine_manager.embedded.manager_link import ManagerLink
from taskvine_manager.embedded.staging_in import Sent, StagingIn
from taskvine_manager.embedded.staging_out import StagingOut
from taskvine_manager.node import accelerators, hardware, staging
from taskvine_manager.node.cache import Cache, release
from taskvine_manager.node.calls import Call, Ending
from taskvine_manager.node.config import NodeConfig
from taskvine_manager.node.core import Actions, NodeCore
from taskvine_manager.node.loop import Loop, Radio
from taskvine_manager.node.replicas import Peer, Source
from taskvine_manager.node.runner import CANCELLED, Runner, Site
from taskvine_manager.node.sandboxes import Sandboxes
from taskvine_manager.run_times import LARGE_RESULT
from taskvine_manager.runtime import failure, keeper
from taskvine_manager.runtime.payload import Payload
from taskvine_manager.runtime.removal import remove
from taskvine_manager.wire import messages
from taskvine_manager.wire.messages import Completion, NodeInfo

USER_SECONDS = 0.5
"""Seconds that a node whose manager was killed waits for the user's process, which may be ending too."""


def main(arguments: list[str]) -> None:
    """Parse a node's command line, and run the node until it ends."""
    parser = argparse.ArgumentParser(
        prog="taskvine-node",
        description="A node of a TaskVineExecutor's embedded engine.",
        # Without a width, argparse imports shutil to find the terminal's.
        formatter_class=partial(argparse.HelpFormatter, width=100),
    )
    parser.add_argument(
        cleanup.CONNECT, required=True, metavar="DIRECTORY", help="the executor's directory (see its log)"
    )
    parser.add_argument("--block", default="", help="block that the node belongs to")
    parser.add_argument("--cores", type=_some, help="cores to offer (default: those that it may use)")
    parser.add_argument("--memory", type=_some, metavar="MB", help="memory to offer (default: what it may use)")
    parser.add_argument("--disk", type=_some, metavar="MB", help="space for its cache (default: what the disk has)")
    parser.add_argument("--gpus", type=_count, help="gpus to offer (default: those that it may use)")
    parser.add_argument("--timeout", type=_seconds, metavar="SECONDS", help="ask to leave after this time without work")
    options = parser.parse_args(arguments)
    options.connect = os.path.abspath(options.connect)
    try:
        with open(os.path.join(options.connect, "node.config"), "rb") as file:
            config: NodeConfig = pickle.load(file)
    except OSError as error:
        sys.exit(f"taskvine-node: no executor at {options.connect}: {error.strerror}")
    with contextlib.ExitStack() as exits:
        Node(options, config, exits).run()


def _some(text: str) -> float:
    """Parse an amount; argparse adds the name of the option to errors."""
    amount = float(text)
    if not (math.isfinite(amount) and amount > 0):
        raise argparse.ArgumentTypeError(f"{text}: must be a number above 0")
    return amount


def _seconds(text: str) -> float:
    seconds = float(text)
    if not (math.isfinite(seconds) and seconds >= 0):
        raise argparse.ArgumentTypeError(f"{text}: must be a number of at least 0")
    return seconds


def _count(text: str) -> int:
    count = int(text)
    if count < 0:
        raise argparse.ArgumentTypeError(f"{text}: must be a whole number of at least 0")
    return count


class Node:
    """The parts of a node, and what it does with tasks and with the manager's messages.

    Parameters
    ----------
    options : argparse.Namespace
        Options of the command line.
    config : NodeConfig
        The executor's configuration for all its nodes.
    exits : contextlib.ExitStack
        Ends the parts that have been made, also if the node cannot be set up.
    """

    def __init__(self, options: argparse.Namespace, config: NodeConfig, exits: contextlib.ExitStack) -> None:
        self._base: str = options.connect
        self._user = config.user
        self._idle_timeout: float | None = options.timeout
        self._idle_since = time.monotonic()
        block = f"b{options.block}-" if options.block else ""
        self.name = f"{block}{os.getpid()}"
        self._directory = os.path.join(self._base, "nodes", self.name)
        keeper.disregard(signal.SIGINT)
        os.environ[cleanup.TOKEN] = self._base
        os.environ[cleanup.TOKEN + "_NODE"] = self.name
        if options.block:
            os.environ["PARSL_WORKER_BLOCK_ID"] = options.block
        self._libraries: tuple[str, ...] = ()
        self._large: set[str] = set()
        """Categories of tasks that have just ended with large results."""
        self._loop = Loop()
        self._manager = ManagerLink(self._loop)
        exits.callback(self._close_manager)
        exits.callback(self._remove_directory)
        exits.callback(self._loop.close)
        for name in ("cache", "sandboxes", "scratch", "environments"):
            os.makedirs(os.path.join(self._directory, name), mode=0o700)
        config = config._replace(log=os.path.join(config.log, f"node-{self.name}"))
        os.makedirs(config.log, exist_ok=True)
        gpus = accelerators.find(options.gpus, config.accelerators)
        info = NodeInfo(
            self.name,
            options.cores or float(hardware.cores()),
            options.memory or hardware.memory(),
            options.disk or hardware.disk(self._directory),
            len(gpus.names),
            config.slots,
            options.block,
            os.getpid(),
            self._directory,
            accelerators.memories(gpus, config.gpu_memory),
        )
        spool = os.path.join(self._base, "spool")
        directory = os.path.join(self._directory, "cache")
        cache = Cache(directory, info.disk * 2**20, spool, grows=not options.disk)
        self._radio = Radio(self._directory)
        self._loop.watch(self._radio, self._radio_speaks)
        site = Site(
            directory=self._directory,
            spool=spool,
            environments=os.path.join(self._directory, "environments"),
            radio=self._radio.path,
        )
        send = self._manager.send
        self._runner = Runner(config, info, gpus, site, self._loop, self._report, partial(send, "notice"))
        exits.callback(self._runner.stop)
        sandboxes = os.path.join(self._directory, "sandboxes")
        self._sandboxes = Sandboxes(sandboxes, self._loop, in_place=config.directory is not None)
        self._core = NodeCore(cache, self._runner.calls)
        self._staging_in = StagingIn(cache, self._sandboxes, self._core, self._loop, send)
        self._staging_out = StagingOut(cache, self._loop, self._core)
        self._core.do = Actions(
            stage=self._staging_in.stage,
            add=self._runner.add,
            pump=self._runner.pump,
            run=self._runner.run,
            keep=self._staging_out.keep,
            complete=self._complete,
            crowded=partial(send, "crowded"),
            returned=self._return,
            forget=self._forget,
        )
        self._handlers: dict[str, Callable[..., None]] = {
            "run": self._run_tasks,
            "fetch": self._staging_in.fetch,
            "retire": self._runner.functions.retire,
            "drop": self._staging_out.drop,
            "full": self._core.give_up,
            "cancel": self._cancel,
            "drain": self._drain,
            "tune": self._runner.tune,
            "ping": partial(send, "pong"),
            "exit": self._loop.leave,
        }
        self._manager.join(self._base, info, self._hear)

    def run(self) -> None:
        """Serve the manager until it tells the node to leave, or ends."""
        while not self._loop.leaving:
            self._loop.turn(self._timeout())
            self._runner.look_after()
            self._look_for_work()
            self._give_back_surplus()
            if (names := self._runner.libraries) != self._libraries:
                self._libraries = names
                self._manager.send("libraries", names)
            if steps := self._runner.steps.first():
                self._runner.steps.sent(len(steps))
                self._manager.send("steps", steps)
            self._manager.flush(len(self._runner.calls))
        self._manager.flush()
        self._manager.send("leaving")

    def _timeout(self) -> float | None:
        waits = self._runner.waits()
        if (wait := self._manager.wait(len(self._runner.calls))) is not None:
            waits.append(wait)
        if self._idle_timeout:
            waits.append(1.0)
        return min(waits, default=None)

    def _look_for_work(self) -> None:
        """Ask to leave after a time without work."""
        if self._idle_timeout and not self._runner.calls:
            now = time.monotonic()
            if now - self._idle_since > self._idle_timeout:
                self._idle_since = now
                self._manager.send("idle")

    def _remove_directory(self) -> None:
        release(os.path.join(self._directory, "cache"), staging.memory_of(self._base))
        remove(self._directory)

    def _close_manager(self) -> None:
        self._manager.close()
        if self._manager.abandoned and cleanup.ends(self._user, USER_SECONDS):  # no other process will do it
            staging.remove_run(self._base)

    # --- the manager ---

    def _hear(self, kind: str, *rest: Any) -> None:
        handler = self._handlers.get(kind)
        if handler is None:
            raise ValueError(f"the manager sent an unknown message: {kind!r:.100}")
        handler(*rest)

    def _run_tasks(
        self,
        functions: tuple[tuple[str, Payload], ...],
        profiles: tuple[tuple[Any, ...], ...],
        invocations: tuple[tuple[Any, ...], ...],
        sources: dict[str, tuple[str, int, int, str]],
        values: dict[str, bytes],
        copies: dict[str, tuple[str, str, tuple[int, ...]]],
    ) -> None:
        for key, encoded in functions:
            self._runner.functions.add(key, encoded)
        self._runner.functions.add_profiles(profiles)
        supply = Sent(
            {file: Source(*source) for file, source in sources.items()},
            values,
            {path: Peer(*copy) for path, copy in copies.items()},
        )
        for invocation in messages.invocations(invocations):
            self._core.take(self._runner.take(invocation), supply, self._runner.broken)
        self._runner.pump()

    def _cancel(self, numbers: tuple[int, ...]) -> None:
        wanted = set(numbers)
        self._core.cancel(wanted, self._runner.cancel(wanted))
        self._staging_in.cancel(wanted, CANCELLED)

    def _give_back_surplus(self) -> None:
        """Give back tasks that were sent ahead before it was known that tasks like them have large results."""
        if self._large:
            self._core.give_back(self._runner.surplus(self._large))
            self._large.clear()

    def _drain(self) -> None:
        self._core.drain(self._runner.hand_back())

    def _radio_speaks(self) -> None:
        if said := self._radio.received():
            self._manager.send("radio", said)

    # --- tasks ---

    def _report(self, call: Call, outcome: int, body: Payload, started: float, seconds: float) -> None:
        if self._loop.leaving and outcome == failure.LOST:
            return  # a signal may have ended the tasks with the node: another node can run them
        self._core.ended(call, Ending(outcome, body, started, seconds))

    def _complete(self, call: Call, ending: Ending) -> None:
        if said := self._radio.received():  # a task's radio messages go before its result
            self._manager.send("radio", said)
        outcome, body, started, seconds, made = ending
        number, left = call.invocation.number, self._sandboxes.left(call)
        if sum(size for _, size, _ in made) >= LARGE_RESULT:
            self._large.add(call.profile.category)
        self._manager.complete(
            Completion(number, outcome, body, self.name, call.dispatched, started, seconds, made, left)
        )

    def _return(self, numbers: list[int]) -> None:
        self._manager.flush()  # first, since these tasks may have waited for what it reports
        self._manager.send("returned", numbers)

    def _forget(self, call: Call) -> None:
        self._runner.drop(call)
        if call.directory is not None:
            self._sandboxes.remove(call.directory)
        if not self._runner.calls:
            self._idle_since = time.monotonic()


__all__ = ["Node", "main"]
