"""Base of a node of either engine: function slots under a library, L1 tasks, and what the node's loop does for them."""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import socket
import sys
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from taskvine_manager import cleanup, patience
from taskvine_manager.node import environment, hardware, memory
from taskvine_manager.node.config import NodeConfig
from taskvine_manager.node.oneshots import OneShots
from taskvine_manager.node.slots import Call, Resources, SlotPool, with_init
from taskvine_manager.runtime import failure, headroom, keeper, release
from taskvine_manager.runtime.payload import Payload
from taskvine_manager.runtime.sandbox import left_in
from taskvine_manager.wire.channel import Channel
from taskvine_manager.wire.messages import L1, NodeInfo, Profile

LOOK_AT_KILLS = 1.0
"""Least seconds between checks of how many processes the system has killed for lack of memory, made when the loop is
awake anyway. They keep an earlier kill from being taken as the reason for a later death."""
LOOK_AT_SLOTS = 0.010
"""Seconds between checks of slots with several tasks, which may be waiting behind a long one."""


class Runner(ABC):
    """The parts of a node that run tasks, and the actions of its loop.

    Parameters
    ----------
    config : NodeConfig
        The executor's configuration for all its nodes.
    directory : str
        The node's private directory.
    """

    def __init__(self, config: NodeConfig, directory: str) -> None:
        self._config = config
        self._directory = directory
        self._selector = selectors.DefaultSelector()
        self._stager = ThreadPoolExecutor(2, thread_name_prefix="staging")
        self._later_queue: deque[Callable[[], None]] = deque()
        self._profiles: dict[int, Profile] = {}
        self._retired: set[str] = set()  # functions to forget once no task here needs them
        self._memory = release.Memory()
        self._patience = patience.Limits()
        self._patience.tune(config.tune)
        self._stopped = patience.Stopped(self._patience)
        self._kills = hardware.kills()
        self._kills_looked = 0.0
        self._limited: set[int] = set()
        self._leaving = False
        self._watch_slots = False
        self._memory_looked = 0.0
        self._broken: bytes | None = None
        """Failure record for every task, if none can run on this node."""

    @abstractmethod
    def _report(self, call: Call, outcome: int, body: Payload, started: float, seconds: float) -> None:
        """Handle the end of a task."""

    @abstractmethod
    def _live(self) -> Iterable[Call]:
        """Return the tasks on this node."""

    @abstractmethod
    def _notice(self, text: str) -> None:
        """Send a notice to the user."""

    @abstractmethod
    def _radio_speaks(self) -> None:
        """Handle the messages on the radio, which :meth:`_overheard` returns."""

    # --- beginning ---

    def _start_runtime(
        self,
        info: NodeInfo,
        gpus: list[str],
        *,
        log: str,
        spool: str,
        program: str,
        root: str,
        pack: str | None,
        environments: str,
        without: Iterable[str] = (),
        temporary: str | None = None,
    ) -> None:
        """Set up slots and L1 tasks, and start the library if function calls are expected.

        Parameters
        ----------
        info : NodeInfo
            The node's resources.
        gpus : list of str
            Ids of its gpus.
        log, spool, environments : str
            Directories for the slots' logs, large values and unpacked environments.
        program : str
            Path of this package's program.
        root : str
            Directory that contains this package, for a library without an ``env_pack``.
        pack : str or None
            The tasks' ``env_pack``.
        without : iterable of str
            Environment variables of this process that tasks do not get.
        temporary : str or None
            Short path of a directory for the tasks' temporary files; None for this process's own.
        """
        config = self._config
        slot_cores = info.cores / config.slots if config.slots else min(1.0, info.cores)
        base = {name: value for name, value in os.environ.items() if name not in set(without)}
        base["TASKVINE_EXEC_RADIO"] = self._radio_path
        if temporary is not None:
            base.update(dict.fromkeys(("TMPDIR", "TEMP", "TMP"), temporary))
        if pack is None:  # an installed root is a site-packages directory, and would precede a pack's
            base["PYTHONPATH"] = os.pathsep.join(filter(None, [os.environ.get("PYTHONPATH"), root]))
        python = sys.executable
        try:
            python = environment.interpreter(pack, environments, config.python_version)
        except environment.EnvironmentBroken as error:
            self._broken = failure.lost("library" if pack is None else "environment", str(error))
        base = environment.activated(pack, python, base)
        command = [python, program]
        runtime: dict[str, Any] = {
            "log": log,
            "spool": spool,
            "inline_limit": config.inline_limit,
            "scratch": os.path.join(self._directory, "scratch"),
            "directory": config.directory,
            "sys_path": config.sys_path,
            "import_modules": config.import_modules,
            "context": config.context,
            "context_scope": config.context_scope,
            "start_timeout": config.start_timeout,
            "memory_group": hardware.memory_group(),
            "has_gpus": bool(gpus),
            "slot_cores": slot_cores,
            "env_vars": config.env_vars,
            "temporary": None if "TMPDIR" in config.env_vars else temporary,
        }
        headroom.keep_to(runtime["memory_group"])
        self._cores = info.cores
        self._resources = Resources(info.cores, info.memory, gpus)
        self._slots = SlotPool(
            with_init(config.init_command, [*command, "library"]),
            {**base, **hardware.thread_limits(slot_cores), **config.env_vars},
            runtime,
            self._resources,
            self._report,
            self._watch,
            self._unwatch,
            self._kills,
            self._notice,
        )
        self._oneshots = OneShots(
            [*command, "task"],
            config.init_command,
            {**base, **config.env_vars},
            runtime,
            self._resources,
            self._report,
            self._kills,
        )
        if config.serverless and self._broken is None:
            self._slots.start()

    def _open_wakeup(self) -> None:
        self._wake, self._waker = socket.socketpair()
        for end in (self._wake, self._waker):
            end.setblocking(False)
        signal.set_wakeup_fd(self._waker.fileno(), warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.signal(signal.SIGTERM, lambda *_: setattr(self, "_leaving", True))
        keeper.adopt_orphans()  # processes of killed libraries and keepers
        self._watch(self._wake, self._woken)

    def _open_radio(self, directory: str) -> None:
        self._radio_path = os.path.join(directory, "radio")
        self._radio = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._radio.bind(self._radio_path)
        self._radio.setblocking(False)
        self._watch(self._radio, self._radio_speaks)

    def _stop_runtime(self) -> None:
        """End the library, slots, L1 tasks and staging threads, as far as they were started."""
        for part in ("_slots", "_oneshots"):
            if hasattr(self, part):
                getattr(self, part).stop()
        keeper.end_children()
        self._stager.shutdown(wait=True, cancel_futures=True)

    # --- the loop ---

    def _waits(self) -> list[float]:
        """Return the seconds until each periodic action."""
        waits = []
        if self._watch_slots:
            waits.append(LOOK_AT_SLOTS)
        if self._limited:
            waits.append(memory.INTERVAL)
        if any(self._live()) and self._patience.interval:
            waits.append(self._patience.pause)
        if (wait := self._slots.wait) is not None:
            waits.append(wait)
        if (wait := self._memory.wait) is not None:
            waits.append(wait)
        return waits

    def _look_after(self) -> None:
        """Do the periodic actions that are due."""
        self._watch_slots = self._slots.rebalance()
        if self._retired:
            self._forget_functions()
        self._memory.tidy()
        self._oneshots.pump()  # slots may have freed the resources that it waits for
        if (now := time.monotonic()) - self._kills_looked >= LOOK_AT_KILLS:
            self._kills_looked = now
            self._kills.look(now)
        self._slots.look(now)
        if self._stopped.due(now):
            self._end_stopped(now)
        if self._limited and now - self._memory_looked >= memory.INTERVAL:
            self._memory_looked = now
            memory.enforce([*self._slots.running(), *self._oneshots.running()])

    def _end_stopped(self, now: float) -> None:
        """Kill tasks, or the library, whose processes have been stopped (SIGSTOP) for too long."""
        running = [*self._slots.running(), *self._oneshots.running()]
        # A keeper's first child is the task's process. Processes that the task has started may be stopped.
        parts = {pid: {pid, *keeper.children(pid)[:1]} for pid, _ in running}
        library = self._slots.processes()
        stopped = {
            pid for pid in {*library, *(part for each in parts.values() for part in each)} if cleanup.is_stopped(pid)
        }
        lost = self._stopped.look(stopped, now)
        why = f"its process had been stopped (SIGSTOP) for {self._patience.timeout:g} s"
        for pid, call in running:
            if lost & parts[pid] and call.kill_record is None:
                call.kill_record = failure.lost("slot-died", f"while it ran {call.profile.name}: {why}")
                keeper.end(pid)
        if lost & library:
            self._slots.end_library(why)

    def _retire(self, functions: Iterable[str], profiles: Iterable[int]) -> None:
        """Forget profiles and functions that no later task will use."""
        for number in profiles:
            self._profiles.pop(number, None)
        self._retired.update(functions)
        self._forget_functions()

    def _forget_functions(self) -> None:
        gone = self._retired - {call.profile.function for call in self._live()}
        if gone:
            self._retired -= gone
            self._oneshots.forget_functions(gone)
            self._memory.freed(self._slots.forget_functions(gone))

    def _watch(self, channel: socket.socket | Channel | int, callback: Callable[[], None]) -> None:
        self._selector.register(channel, selectors.EVENT_READ, callback)

    def _unwatch(self, channel: socket.socket) -> None:
        self._selector.unregister(channel)

    def _woken(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while self._wake.recv(4096):
                pass
        while self._later_queue:
            self._later_queue.popleft()()
        self._oneshots.reap()
        keeper.reap(self._oneshots.processes() | self._slots.processes())

    def _later(self, action: Callable[[], None]) -> None:
        """Queue an action for the loop; staging threads may call this."""
        self._later_queue.append(action)
        with contextlib.suppress(BlockingIOError):
            self._waker.send(b"s")

    def _in_background(self, action: Callable[..., None], *args: Any) -> None:
        """Run an action in a staging thread, and print any exception that it raises."""
        self._stager.submit(action, *args).add_done_callback(_show)

    def _overheard(self) -> list[bytes]:
        """Return the messages that tasks have sent on the radio since the previous call."""
        said = []
        with contextlib.suppress(BlockingIOError):
            while True:
                said.append(self._radio.recv(1 << 20))
        return said

    def _left(self, call: Call) -> tuple[str, ...]:
        """Return the undeclared files of a task, as in :class:`~taskvine_manager.wire.messages.Completion`.

        If the task has a sandbox, it must still exist.
        """
        left = call.left
        if call.directory is not None and self._config.directory is None:
            uses = (*call.invocation.inputs, *call.invocation.outputs)
            declared = [use.name for use in uses if use.kind != "value"]
            left = left_in(os.path.join(call.directory, "sandbox"), declared)
        return (call.profile.name, *left) if left else ()

    def _need(self, profile: Profile) -> tuple[float, float, int]:
        """Return the cores, memory in MB and gpus that a task takes."""
        cores = profile.cores
        if cores is None:
            slots = self._config.slots if profile.mode != L1 else None
            cores = self._cores / slots if slots else min(1.0, self._cores)
        return (cores, profile.memory or 0.0, profile.gpus or 0)


def _show(ended: Future[None]) -> None:
    if not ended.cancelled() and (error := ended.exception()) is not None:
        sys.excepthook(type(error), error, error.__traceback__)
