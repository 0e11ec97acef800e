"""What a node of either engine is made of: function slots under a library, fresh processes, and a loop beside them."""

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
from taskvine_manager.node.oneshots import OneShots
from taskvine_manager.node.slots import Call, Resources, SlotPool, with_init
from taskvine_manager.runtime import failure, headroom, keeper, release
from taskvine_manager.runtime.payload import Payload
from taskvine_manager.runtime.sandbox import left_in
from taskvine_manager.wire.channel import Channel
from taskvine_manager.wire.messages import L1, NodeInfo, Profile

LOOK_AT_KILLS = 1.0
"""Seconds between looks, when there is something to do anyway, at how many processes the system has killed for lack of
memory: what was killed before is not the reason for what dies next."""
LOOK_AT_SLOTS = 0.010
"""Seconds between looks at slots that have more than one call, which may be behind a long one."""


class Runner(ABC):
    """The parts that carry calls out, and the loop that hears of them.

    Parameters
    ----------
    config : dict
        What the executor says to all its nodes: see :func:`taskvine_exec.launch.write_configs`.
    directory : str
        The node's own.
    """

    def __init__(self, config: dict[str, Any], directory: str) -> None:
        self._config = config
        self._directory = directory
        self._selector = selectors.DefaultSelector()
        self._stager = ThreadPoolExecutor(2, thread_name_prefix="staging")
        self._later_queue: deque[Callable[[], None]] = deque()
        self._profiles: dict[int, Profile] = {}
        self._retired: set[str] = set()  # functions to be forgotten once no call here needs them
        self._memory = release.Memory()
        self._patience = patience.Limits()
        self._patience.tune(config["tune"])
        self._stopped = patience.Stopped(self._patience)
        self._kills = hardware.kills()
        self._kills_looked = 0.0
        self._limited: set[int] = set()
        self._leaving = False
        self._watch_slots = False
        self._memory_looked = 0.0
        self._broken: bytes | None = None
        """The record of why nothing can run here."""

    @abstractmethod
    def _report(self, call: Call, outcome: int, body: Payload, started: float, seconds: float) -> None:
        """A call has ended."""

    @abstractmethod
    def _live(self) -> Iterable[Call]:
        """The calls that are here."""

    @abstractmethod
    def _notice(self, text: str) -> None:
        """Let the user know something."""

    @abstractmethod
    def _radio_speaks(self) -> None:
        """A task has said something on the radio: :meth:`_overheard` has it."""

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
        """Make slots and one-shots ready, and start the library if calls will come for it.

        Parameters
        ----------
        info : NodeInfo
            What the node has.
        gpus : list of str
            Which.
        log, spool, environments : str
            Directories: of the slots' logs, of large values, of unpacked environments.
        program : str
            Path of this package's program.
        root : str
            Directory in which a library without an environment of its own finds this package.
        pack : str or None
            Environment of the tasks.
        without : iterable of str
            Environment variables of this process that tasks are not to have.
        temporary : str or None
            Short path of a directory for the tasks' temporary files. None: this process's own.
        """
        config = self._config
        slot_cores = info.cores / config["slots"] if config["slots"] else min(1.0, info.cores)
        base = {name: value for name, value in os.environ.items() if name not in set(without)}
        base["TASKVINE_EXEC_RADIO"] = self._radio_path
        if temporary is not None:
            base.update(dict.fromkeys(("TMPDIR", "TEMP", "TMP"), temporary))
        if pack is None:  # an installed source root is a site-packages, and would go before a pack's own
            base["PYTHONPATH"] = os.pathsep.join(filter(None, [os.environ.get("PYTHONPATH"), root]))
        python = sys.executable
        try:
            python = environment.interpreter(pack, environments, tuple(config["python_version"]))
        except environment.EnvironmentBroken as error:
            self._broken = failure.lost("library" if pack is None else "environment", str(error))
        base = environment.activated(pack, python, base)
        command = [python, program]
        runtime: dict[str, Any] = {
            "log": log,
            "spool": spool,
            "inline_limit": config["inline_limit"],
            "scratch": os.path.join(self._directory, "scratch"),
            "directory": config["directory"],
            "sys_path": config["sys_path"],
            "import_modules": config["import_modules"],
            "context": config["context"],
            "context_scope": config["context_scope"],
            "start_timeout": config["start_timeout"],
            "memory_group": hardware.memory_group(),
            "has_gpus": bool(gpus),
            "slot_cores": slot_cores,
            "env_vars": config["env_vars"],
            "temporary": None if "TMPDIR" in config["env_vars"] else temporary,
        }
        headroom.keep_to(runtime["memory_group"])
        self._cores = info.cores
        self._resources = Resources(info.cores, info.memory, gpus)
        self._slots = SlotPool(
            with_init(config["init_command"], [*command, "library"]),
            {**base, **hardware.thread_limits(slot_cores), **config["env_vars"]},
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
            config["init_command"],
            {**base, **config["env_vars"]},
            runtime,
            self._resources,
            self._report,
            self._kills,
        )
        if config["serverless"] and self._broken is None:
            self._slots.start()

    def _open_wakeup(self) -> None:
        self._wake, self._waker = socket.socketpair()
        for end in (self._wake, self._waker):
            end.setblocking(False)
        signal.set_wakeup_fd(self._waker.fileno(), warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.signal(signal.SIGTERM, lambda *_: setattr(self, "_leaving", True))
        keeper.adopt_orphans()  # of libraries and keepers that were killed
        self._watch(self._wake, self._woken)

    def _open_radio(self, directory: str) -> None:
        self._radio_path = os.path.join(directory, "radio")
        self._radio = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._radio.bind(self._radio_path)
        self._radio.setblocking(False)
        self._watch(self._radio, self._radio_speaks)

    def _stop_runtime(self) -> None:
        """End what runs, as far as it was begun, and the staging threads."""
        for part in ("_slots", "_oneshots"):
            if hasattr(self, part):
                getattr(self, part).stop()
        keeper.end_children()
        self._stager.shutdown(wait=True, cancel_futures=True)

    # --- the loop ---

    def _waits(self) -> list[float]:
        """Seconds until something is due."""
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
        """Do what is due."""
        self._watch_slots = self._slots.rebalance()
        if self._retired:
            self._forget_functions()
        self._memory.tidy()
        self._oneshots.pump()  # slots may have given back what it waits for
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
        """End what has been stopped for long (SIGSTOP): it would never answer."""
        running = [*self._slots.running(), *self._oneshots.running()]
        # Behind a keeper, the first child is the task's own process. What that has started is its own affair.
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
        """Forget functions that no call will name any more, and their profiles."""
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
        """Have the loop do something; callable from the staging threads."""
        self._later_queue.append(action)
        with contextlib.suppress(BlockingIOError):
            self._waker.send(b"s")

    def _in_background(self, action: Callable[..., None], *args: Any) -> None:
        """Have a staging thread do something; what it raises, against all expectation, is at least not hidden."""
        self._stager.submit(action, *args).add_done_callback(_show)

    def _overheard(self) -> list[bytes]:
        """What tasks have said on the radio since this was last asked."""
        said = []
        with contextlib.suppress(BlockingIOError):
            while True:
                said.append(self._radio.recv(1 << 20))
        return said

    def _left(self, call: Call) -> tuple[str, ...]:
        """What a call has left in a private directory, as of :class:`~taskvine_manager.wire.messages.Completion`.

        If the call has a sandbox, it must still be there.
        """
        left = call.left
        if call.directory is not None and self._config["directory"] is None:
            uses = (*call.invocation.inputs, *call.invocation.outputs)
            declared = [use.name for use in uses if use.kind != "value"]
            left = left_in(os.path.join(call.directory, "sandbox"), declared)
        return (call.profile.name, *left) if left else ()

    def _need(self, profile: Profile) -> tuple[float, float, int]:
        """Cores, memory in MB and gpus that a call takes."""
        cores = profile.cores
        if cores is None:
            slots = self._config["slots"] if profile.mode != L1 else None
            cores = self._cores / slots if slots else min(1.0, self._cores)
        return (cores, profile.memory or 0.0, profile.gpus or 0)


def _show(ended: Future[None]) -> None:
    if not ended.cancelled() and (error := ended.exception()) is not None:
        sys.excepthook(type(error), error, error.__traceback__)
