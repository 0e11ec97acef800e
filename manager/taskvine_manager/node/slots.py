"""The function slots of a node, and the library that forks them.

:class:`SlotPool` records which slot runs which task, and hands out tasks. The node's loop calls it when a socket is
readable; it never blocks. A slot gets several tasks at once if they are known to be short. Tasks that it has not begun
can be taken back at any time (see :mod:`taskvine_manager.runtime.slot`).
"""

from __future__ import annotations

import contextlib
import itertools
import math
import os
import pickle
import signal
import socket
import subprocess
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, BinaryIO

from taskvine_manager import cleanup
from taskvine_manager.node.hardware import thread_limits
from taskvine_manager.node.limits import Kills
from taskvine_manager.node.temporary import Folders
from taskvine_manager.parameters.own import BATCH
from taskvine_manager.parameters.taskvine import MAX_LIBRARY_RETRIES
from taskvine_manager.runtime import failure, keeper
from taskvine_manager.runtime.payload import Payload, encode
from taskvine_manager.runtime.removal import remove
from taskvine_manager.runtime.slot import PACKET_LIMIT
from taskvine_manager.wire.messages import Invocation, Profile

CHUNK_SECONDS = 0.002
"""Seconds of work that a slot gets at once, if its tasks are short."""
CHUNK_CALLS = 64
"""Most tasks that a slot gets at once; the tuning parameter ``executor.batch`` overrides it."""
STUCK_SECONDS = 0.010
"""Seconds of silence after which a slot with several tasks loses those that it has not begun."""
TRIES = 3
"""Slot deaths that a task may see before it starts, and restarts of a library that is killed before it is ready. The
tuning parameter ``max-library-retries`` overrides the number of restarts."""
FIRST_NOTICE, NEXT_NOTICE = 30.0, 300.0
"""Seconds after which the user is told that a library has not started. The first notice comes no later than after half
of ``start_timeout``."""
TRACE_SECONDS = 0.5
"""Seconds for a stuck library to write its stack trace before it is killed."""
LOOK_AT_START = 1.0
"""Seconds between checks of a starting library."""
IDLE_SLOTS = 16
"""Idle slots that are kept for tasks with the same needs, or two for each core if that is more. Each slot keeps the
modules that it has imported in memory."""
IDLE_EXIT_SECONDS = 0.5
"""Seconds for idle slots to run their exit handlers when the node ends."""
FORGOTTEN_AT_ONCE = 1000
"""Most functions that a slot is told to forget in one packet."""


class Resources:
    """The free cores, memory (MB) and gpus of a node."""

    def __init__(self, cores: float, memory: float, gpus: list[str]) -> None:
        self.cores = cores
        self.memory = memory
        self.gpus = list(gpus)

    def fits(self, cores: float, memory: float, gpus: int) -> bool:
        """Return whether these resources are free."""
        return self.cores + 1e-9 >= cores and self.memory >= memory and len(self.gpus) >= gpus

    def take(self, cores: float, memory: float, gpus: Iterable[str]) -> None:
        """Take free resources."""
        self.cores -= cores
        self.memory -= memory
        self.gpus = [gpu for gpu in self.gpus if gpu not in set(gpus)]

    def give(self, cores: float, memory: float, gpus: Iterable[str]) -> None:
        """Give resources back."""
        self.cores += cores
        self.memory += memory
        self.gpus = sorted([*self.gpus, *gpus])


class Call:
    """A task on the node: its needs and its state."""

    __slots__ = (
        "behind",
        "directory",
        "dispatched",
        "given",
        "invocation",
        "kill_record",
        "left",
        "need",
        "profile",
        "supply",
        "tries",
        "values",
    )

    def __init__(self, invocation: Invocation, profile: Profile, need: tuple[float, float, int]) -> None:
        self.invocation = invocation
        self.profile = profile
        self.need = need
        self.dispatched = 0.0
        self.directory: str | None = None
        self.values: dict[str, Payload] = {}
        self.behind: set[str] = set()
        """Files that this task waits for, because other tasks here make them or the node fetches them."""
        self.supply: Any = None
        self.given: Payload | None = None
        self.kill_record: bytes | None = None
        self.left: tuple[str, ...] = ()
        """Undeclared files that it wrote in a private directory."""
        self.tries = 0

    def reads(self, name: str) -> bool:
        """Return whether a file is among its inputs."""
        return any(use.source == name for use in self.invocation.inputs)


class Slot:
    """The node's view of one slot."""

    def __init__(self, number: int, made_for: tuple[float, float, int], gpus: tuple[str, ...]) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setblocking(False)
        self.number = number
        self.made_for = made_for
        self.gpus = gpus
        self.socket = ours
        # Kept to read back packets that the slot has not read; the library gets a duplicate.
        self.other_end = theirs
        self.pid: int | None = None
        self.functions: set[str] = set()
        self.loaded: set[str] = set()
        """Functions that it has loaded; known only if its tasks have a memory limit."""
        self.outdated: set[str] = set()
        """Functions that it has, and will be told to forget."""
        self.calls: deque[Call] = deque()
        self.need: tuple[float, float, int] | None = None
        self.heard = 0.0
        self.killed_late = False
        self.is_ending = False
        """Whether it begins no more tasks."""
        self.made = time.monotonic()
        self.has_spoken = False

    def suits(self, call: Call) -> bool:
        """Return whether the slot was made for the same needs: then the memory that it keeps is within the limit."""
        return self.made_for == call.need

    def close(self) -> None:
        """Close both sockets, upon which an idle slot ends."""
        self.socket.close()
        self.other_end.close()


Report = Callable[[Call, int, Payload, float, float], None]


class SlotPool:
    """Function slots under one library.

    Parameters
    ----------
    command : list of str
        Command that starts the library; a descriptor and the parent's process id are appended.
    environment : dict of str to str
        Environment variables of the library and its slots.
    config : dict
        First packet to the library, see :class:`taskvine_manager.runtime.library.Library`.
    resources : Resources
        The node's resources, shared with its L1 tasks.
    report : callable
        Called with ``(call, outcome, body, started, seconds)`` for each task that has ended.
    watch, unwatch : callable
        Register and unregister a socket with the node's loop: ``watch(socket, callback)``.
    kills : Kills
        Detects processes that the system has killed for lack of memory.
    notice : callable
        Sends a notice to the user.
    """

    def __init__(
        self,
        command: list[str],
        environment: dict[str, str],
        config: dict[str, Any],
        resources: Resources,
        report: Report,
        watch: Callable[[socket.socket, Callable[[], None]], None],
        unwatch: Callable[[socket.socket], None],
        kills: Kills,
        notice: Callable[[str], None],
    ) -> None:
        self._command = command
        self._environment = environment
        self._notice = notice
        self._config = config
        self._folders = Folders(config["temporary"])
        self._resources = resources
        self._report = report
        self._watch = watch
        self._unwatch = unwatch
        self._kills = kills
        self._functions: dict[str, Payload] = {}
        self._least_memory: dict[str, float] = {}  # MB that a slot needs to load a function, if known
        self._estimates: dict[str, float] = {}
        self._slots: dict[int, Slot] = {}
        self._idle: list[Slot] = []
        self._most_idle = max(IDLE_SLOTS, 2 * int(resources.cores))
        self._numbers = 0
        self.pending: deque[Call] = deque()
        self._library: subprocess.Popen[bytes] | None = None
        self._channel: socket.socket | None = None
        self._is_warm = False
        self._is_ready = False
        self._start_timeout: float = config["start_timeout"]
        self._starting = 0.0
        self._looked = 0.0
        self._notice_at = 0.0
        self._hung: str | None = None
        self._cold_deaths = 0
        self._library_retries = TRIES
        self._batch = CHUNK_CALLS
        self._broken: bytes | None = None

    def tune(self, parameters: Mapping[str, float]) -> None:
        """Apply tuning parameters; this class uses ``executor.batch`` and ``max-library-retries``."""
        if BATCH.name in parameters:
            self._batch = int(parameters[BATCH.name]) or CHUNK_CALLS
        self._library_retries = int(parameters.get(MAX_LIBRARY_RETRIES.name, self._library_retries))

    # --- the library ---

    def start(self) -> None:
        """Start the library, without waiting for it."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.send(pickle.dumps(self._config))  # sent first: the process may end without reading it
        with open_log(self._log()) as output, theirs:
            self._library = subprocess.Popen(
                [*self._command, str(theirs.fileno()), str(os.getpid())],
                pass_fds=(theirs.fileno(),),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=self._environment,
                cwd=start_directory(self._config["directory"], self._config["scratch"]),
                start_new_session=True,  # Ctrl-C in a terminal does not reach it
            )
        self._is_warm = self._is_ready = False
        self._starting, self._looked, self._hung = 0.0, time.monotonic(), None
        self._notice_at = min(FIRST_NOTICE, self._start_timeout / 2)
        self._channel = ours
        self._watch(ours, self._library_speaks)

    def _library_speaks(self) -> None:
        assert self._channel is not None
        try:
            packet = self._channel.recv(PACKET_LIMIT)
        except BlockingIOError:
            return
        except ConnectionResetError:
            packet = b""
        if not packet:
            self._library_gone()
            return
        try:
            kind, *rest = pickle.loads(packet)
        except Exception as error:
            self.end_library(f"it sent a malformed packet ({failure.describe(error)})")
            return
        if kind == "ready":
            self._is_ready, self._starting = True, 0.0
        elif kind == "warm":
            self._is_warm = True
            self._cold_deaths = 0
            self._broken = None
            self.pump()
        elif kind == "forked":
            if slot := self._slots.get(rest[0]):
                slot.pid = rest[1]
                if slot.calls and slot.calls[0].kill_record is not None:
                    keeper.end(slot.pid)  # cancelled meanwhile
        elif kind == "exited":
            self._slot_gone(*rest)
        elif kind == "failed":
            self._broken = rest[1]

    @property
    def _is_starting(self) -> bool:
        return self._channel is not None and not self._is_warm

    @property
    def wait(self) -> float | None:
        """Seconds until :meth:`look` should be called; None if it need not be."""
        return min(LOOK_AT_START, self._start_timeout / 2) if self._is_starting else None

    def look(self, now: float) -> None:
        """Notify the user of a library that is slow to start, and kill it after ``start_timeout``.

        Time in which this process was stopped does not count.
        """
        if not self._is_starting:
            return
        self._starting += min(now - self._looked, 2 * LOOK_AT_START)
        self._looked = now
        if self._hung is None and self._starting >= self._start_timeout + TRACE_SECONDS * self._is_ready:
            self._hung = f"{self._phase()} after {self._start_timeout:g} s (start_timeout of library_config)"
            self.end_library(None)
        elif self._starting >= self._notice_at:
            self._notice_at = NEXT_NOTICE if self._notice_at < NEXT_NOTICE else math.inf
            self._notice(f"{self._phase()} after {self._starting:.0f} s; see {self._log()}")

    def _phase(self) -> str:
        """Describe the step that a starting library has not finished."""
        if self._is_ready:
            return "import_modules and the context of the library are not ready"
        if self._command[:1] == [_SHELL]:
            return "init_command of the library has not ended"
        return "the Python of the library has not started"

    def end_library(self, why: str | None) -> None:
        """Kill the library; its slots end with it."""
        if self._library is None or self._channel is None:
            return
        if why is not None:
            self._notice(f"the library is killed: {why}")
        cleanup.kill_group(self._library.pid)

    def _log(self) -> str:
        return os.path.join(self._config["log"], "library.log")

    def _library_gone(self) -> None:
        """Clean up after a library that has ended, and start it again if tasks are pending."""
        assert self._library is not None
        assert self._channel is not None
        self._unwatch(self._channel)
        self._channel.close()
        self._channel = None
        status = self._library.wait()
        was_warm, self._is_warm = self._is_warm, False
        reason = f"the library {_death(status)}"
        record = self._broken or killed("the library", status, self._kills)
        record = record or failure.lost("library", reason, stderr=tail(self._log()))
        if self._hung is not None:
            kind = "library" if self._is_ready else "environment"
            record = self._broken = failure.lost(kind, self._hung, stderr=_last_trace(tail(self._log(), 50_000)))
        elif not was_warm and self._broken is None and status == INIT_FAILED:
            record = failure.lost("environment", "init_command failed", stderr=tail(self._log()))
        for slot in list(self._slots.values()):
            if slot.pid is not None:
                keeper.end(slot.pid)
            self._drain(slot)
            calls = list(slot.calls)
            self._forget(slot)
            self._clear_scratch(slot)
            self._folders.remove(f"s{slot.number}")
            for call in calls[:1]:
                call.tries += 1
            for call in reversed(calls):
                if call.kill_record is not None or call.tries > 1:
                    self._report(call, failure.LOST, call.kill_record or record, 0.0, 0.0)
                else:
                    self.pending.appendleft(call)
        if not was_warm and status < 0 and self._hung is None and self._cold_deaths < self._library_retries:
            self._cold_deaths += 1
        elif not was_warm:
            while self.pending:
                self._report(self.pending.popleft(), failure.LOST, record, 0.0, 0.0)
        if self.pending:
            self.start()

    # --- tasks ---

    def add_function(self, key: str, encoded: Payload) -> None:
        """Store a function for later tasks."""
        self._functions[key] = encoded

    def forget_functions(self, keys: set[str]) -> int:
        """Remove functions that no task here needs; return how many bytes they took."""
        freed = 0
        for key in keys:
            encoded = self._functions.pop(key, b"")
            freed += len(encoded)
            self._least_memory.pop(key, None)
        for slot in self._slots.values():
            if known := slot.functions & keys:
                slot.functions -= known
                slot.loaded -= known
                slot.outdated |= known
                self._tidy(slot)
        return freed

    def _tidy(self, slot: Slot) -> None:
        """Tell a slot to forget outdated functions, if its socket is not full."""
        if slot.outdated:
            some = list(itertools.islice(slot.outdated, FORGOTTEN_AT_ONCE))
            with contextlib.suppress(BlockingIOError, BrokenPipeError, ConnectionResetError):
                slot.socket.send(pickle.dumps(("d", some)))
                slot.outdated.difference_update(some)

    def add(self, call: Call) -> None:
        """Queue a task, which :meth:`pump` sends to a slot, and start the library if it is not running."""
        self.pending.append(call)
        if self._library is None or self._channel is None:
            self._broken = None
            self.start()

    def pump(self) -> None:
        """Hand pending tasks to slots while resources are free."""
        if not self._is_warm:
            return
        while self.pending:
            call = self.pending[0]
            memory = call.need[1]
            if memory and self._least_memory.get(call.profile.function, 0.0) > memory:
                self._refuse(self.pending.popleft())
                continue
            slot = self._find(call)
            if slot is None:
                return
            self._hand(slot, call)

    def _chunk(self, call: Call) -> int:
        estimate = self._estimates.get(call.profile.category)
        if estimate is None or estimate > CHUNK_SECONDS / 2:
            return 1
        return min(self._batch, max(1, int(CHUNK_SECONDS / max(estimate, 1e-6))))

    def _find(self, call: Call) -> Slot | None:
        key = call.profile.function
        if self._resources.fits(*call.need):
            suitable = [slot for slot in self._idle if slot.suits(call) and self._has_free_gpus(slot)]
            for slot in suitable:
                if key in slot.functions:
                    return slot
            return suitable[0] if suitable else self._fork(call)
        chunk = self._chunk(call)
        if chunk > 1:
            lively = time.monotonic() - STUCK_SECONDS
            busy = [
                slot
                for slot in self._slots.values()
                if slot.need == call.need
                and key in slot.functions
                and 0 < len(slot.calls) < chunk
                and slot.heard > lively
            ]
            if busy:
                return min(busy, key=lambda slot: len(slot.calls))
        return None

    def _has_free_gpus(self, slot: Slot) -> bool:
        # An idle slot holds no gpus: an L1 task may have taken those that it was made for.
        return not slot.gpus or set(slot.gpus) <= set(self._resources.gpus)

    def _fork(self, call: Call) -> Slot | None:
        if self._channel is None:
            return None
        cores, memory, gpus = call.need
        chosen = tuple(self._resources.gpus[:gpus])
        for idle in [idle for idle in self._idle if set(idle.gpus) & set(chosen)]:
            self._retire(idle)
        while len(self._idle) >= self._most_idle:
            self._retire(self._idle[0])  # the one that has been idle longest
        environment = thread_limits(cores, self._config["env_vars"]) if cores != self._config["slot_cores"] else {}
        if self._config["has_gpus"]:
            environment["CUDA_VISIBLE_DEVICES"] = ",".join(chosen)
        environment.update(self._folders.make(f"s{self._numbers}"))
        slot = Slot(self._numbers, call.need, chosen)
        self._numbers += 1
        message = pickle.dumps(("fork", slot.number, environment, memory))
        try:
            socket.send_fds(self._channel, [message], [slot.other_end.fileno()])
        except (BrokenPipeError, ConnectionResetError):  # the library died; the loop is about to see it
            slot.close()
            return None
        self._slots[slot.number] = slot
        self._idle.append(slot)
        self._watch(slot.socket, lambda: self._slot_speaks(slot))
        return slot

    def _hand(self, slot: Slot, first: Call) -> None:
        """Send a slot the first pending task and, if they are short, the next ones of the same kind."""
        profile = first.profile
        if not slot.calls:
            self._idle.remove(slot)
            slot.need = first.need
            slot.heard = time.monotonic()
            self._resources.take(first.need[0], first.need[1], slot.gpus)
        key = profile.function
        self._tidy(slot)
        try:
            if key not in slot.functions:
                slot.outdated.discard(key)
                slot.socket.send(pickle.dumps(("f", key, self._functions[key])))
                slot.functions.add(key)
            share = math.ceil(len(self.pending) / max(1, len(self._slots)))
            now = time.time()
            for _ in range(max(1, min(self._chunk(first) - len(slot.calls), share))):
                call = self.pending[0]
                invocation = call.invocation
                sandbox = os.path.join(call.directory, "sandbox") if call.directory is not None else None
                packet = ("c", invocation.number, key, invocation.arguments, sandbox, self._given(call))
                slot.socket.send(pickle.dumps(packet))
                self.pending.popleft()
                call.dispatched = now
                slot.calls.append(call)
                if not self.pending or self.pending[0].profile is not profile:
                    return
        except BlockingIOError:
            return  # its socket is full: it has enough to do
        except (BrokenPipeError, ConnectionResetError):
            return  # it died; the library is about to report it
        finally:
            if not slot.calls:
                self._settle(slot)

    def _given(self, call: Call) -> Payload | None:
        """Return the results that a task reads as one payload, since there may be thousands of them."""
        if not call.values:
            return None
        if call.given is None or (isinstance(call.given, str) and not os.path.exists(call.given)):  # a slot used it up
            call.given = encode(call.values, self._config["spool"], pickle.dumps)
        return call.given

    def _slot_speaks(self, slot: Slot) -> None:
        for _ in range(max(self._batch, CHUNK_CALLS)):
            if not self._read(slot) or not slot.calls:
                break
        if slot.number in self._slots:
            self._settle(slot)
        self.pump()

    def _read(self, slot: Slot) -> bool:
        """Read one packet of a slot, if there is one."""
        try:
            packet = slot.socket.recv(PACKET_LIMIT)
        except (BlockingIOError, ConnectionResetError, OSError):
            return False
        if not packet:
            return False
        slot.heard, slot.has_spoken = time.monotonic(), True
        try:
            kind, *rest = pickle.loads(packet)
            self._check(slot, kind, rest)
        except Exception as error:
            self._give_up(slot, error)
            return False
        self._hear(slot, kind, rest)
        return True

    @staticmethod
    def _check(slot: Slot, kind: str, rest: Sequence[Any]) -> None:
        """Check that a packet is well-formed and answers the task that the slot runs.

        Raises
        ------
        ValueError
            If it does not.
        """
        if len(rest) != _PARTS.get(kind):
            raise ValueError(f"unknown packet {kind!r:.50} of {len(rest)} parts")
        if kind == "l" or (kind == "e" and rest[0] is None):
            return
        if not slot.calls or slot.calls[0].invocation.number != rest[0]:
            raise ValueError(f"an answer to call {rest[0]!r:.50}, which it does not run")

    def _give_up(self, slot: Slot, error: Exception) -> None:
        """End a slot that sent a malformed packet, probably because a function wrote to the slot's descriptors."""
        slot.is_ending = True
        reason = f"its process sent a malformed packet ({failure.describe(error)}). Does it write to file descriptors "
        reason += "that it has not opened?"
        if slot.calls and slot.calls[0].kill_record is None:
            name = slot.calls[0].profile.name
            slot.calls[0].kill_record = failure.lost("slot-died", f"while it ran {name}: {reason}")
        if slot.pid is not None:
            keeper.end(slot.pid)

    def _hear(self, slot: Slot, kind: str, rest: Sequence[Any]) -> None:
        """Act on a packet that has been checked."""
        if kind == "l":
            slot.loaded.add(rest[0])
            return
        if kind == "e":
            self._ends(slot, *rest)
            return
        call = slot.calls.popleft()
        if kind == "u":  # its function had been taken back
            slot.functions.discard(call.profile.function)
            self.pending.appendleft(call)
            return
        _, outcome, body, started, seconds, call.left = rest
        if call.kill_record is not None:
            slot.killed_late = True
        if outcome == failure.RETURNED:
            category = call.profile.category
            known = self._estimates.get(category, seconds)
            self._estimates[category] = known + (0.5 if seconds > known else 0.1) * (seconds - known)
        self._report(call, outcome, body, started, seconds)

    def _ends(self, slot: Slot, number: int | None, held: float, is_fresh: bool) -> None:
        """Handle a slot that begins no more tasks: it cannot be restored, or exceeds the next task's memory limit."""
        slot.is_ending = True
        self._take_back(slot)
        if number is None:
            return
        call = slot.calls.popleft()
        if call.kill_record is not None:
            self._report(call, failure.LOST, call.kill_record, 0.0, 0.0)
        elif is_fresh:
            self._least_memory[call.profile.function] = held
            self._refuse(call)
        else:
            self.pending.appendleft(call)  # earlier tasks caused the excess

    def _refuse(self, call: Call) -> None:
        """Fail a task whose memory limit is lower than the memory that a slot needs to load its function."""
        held = self._least_memory[call.profile.function]
        reason = f"ask for more memory to run {call.profile.name}"
        record = failure.lost("memory", reason, limit_mb=float(call.need[1]), slot_mb=held)
        self._report(call, failure.LOST, record, 0.0, 0.0)

    def _settle(self, slot: Slot) -> None:
        """Free the resources of a slot that has no tasks left, and retire it if it is ending."""
        if slot.calls:
            return
        if slot.is_ending:
            self._retire(slot)
        elif slot.need is not None:
            self._resources.give(slot.need[0], slot.need[1], slot.gpus)
            slot.need = None
            self._idle.append(slot)
            self._tidy(slot)

    # --- taking back, and ends ---

    def _steal(self, slot: Slot) -> list[Call]:
        """Take back the tasks that a slot has not begun, in order."""
        stolen: list[Call] = []
        numbers = set()
        while True:
            try:
                packet = slot.other_end.recv(PACKET_LIMIT, socket.MSG_DONTWAIT)
            except (BlockingIOError, OSError):
                break
            if not packet:
                break
            message = pickle.loads(packet)
            if message[0] == "f":
                slot.functions.discard(message[1])
            elif message[0] == "d":
                slot.outdated.update(message[1])
            else:
                numbers.add(message[1])
        if numbers:
            stolen = [call for call in slot.calls if call.invocation.number in numbers]
            slot.calls = deque(call for call in slot.calls if call.invocation.number not in numbers)
        return stolen

    def _take_back(self, slot: Slot) -> list[Call]:
        """Take back the tasks that a slot has not begun, and queue and return them."""
        stolen = self._steal(slot)
        self.pending.extendleft(reversed(stolen))
        return stolen

    def rebalance(self) -> bool:
        """Take tasks back from slots that are busy with a long one; return whether any slot has several tasks."""
        now = time.monotonic()
        loaded = False
        for slot in list(self._slots.values()):
            if len(slot.calls) > 1:
                loaded = True
                if now - slot.heard > STUCK_SECONDS:
                    self._take_back(slot)
                    slot.heard = now
                    self._settle(slot)
        self.pump()
        return loaded

    def _drain(self, slot: Slot) -> list[Call]:
        """Read the last packets of a dead slot, and take back the tasks that it had not begun."""
        while self._read(slot):
            pass
        return self._take_back(slot)

    def _slot_gone(self, number: int, status: int) -> None:
        self._folders.remove(f"s{number}")
        slot = self._slots.get(number)
        if slot is None:
            return  # retired
        untouched = self._drain(slot)
        call = slot.calls[0] if slot.calls else None
        self._forget(slot)
        self._clear_scratch(slot)
        if call is not None:
            if slot.killed_late and call.kill_record is None and not call.tries:
                call.tries += 1  # the kill was meant for the task before it, which had just ended
                self.pending.appendleft(call)
            else:
                self._report(call, failure.LOST, self._explain(call, slot, status), 0.0, 0.0)
        elif record := self._context_failure(slot):
            while self.pending:
                self._report(self.pending.popleft(), failure.LOST, record, 0.0, 0.0)
        elif untouched and not slot.is_ending:
            untouched[0].tries += 1
            if untouched[0].tries > TRIES:
                self.pending.remove(untouched[0])
                self._report(untouched[0], failure.LOST, self._explain(untouched[0], slot, status), 0.0, 0.0)
        self.pump()

    def _context_failure(self, slot: Slot) -> bytes | None:
        """Return the failure record of a slot that could not build its context; None if that was not the reason."""
        marker = os.path.join(self._config["scratch"], f"context-failed-{slot.number}")
        try:
            with open(marker, "rb") as file:
                record = file.read()
            os.unlink(marker)
        except FileNotFoundError:
            by_slot = self._config["context"] is not None and self._config["context_scope"] == "slot"
            if not by_slot or slot.has_spoken or time.monotonic() - slot.made < self._start_timeout:
                return None
            log = os.path.join(self._config["log"], f"slot-{slot.number}.log")
            reason = f"the context is not ready after {self._start_timeout:g} s (start_timeout of library_config)"
            return failure.lost("library", f"{reason}; see {log}", stderr=tail(log))
        return record

    def _clear_scratch(self, slot: Slot) -> None:
        # Usually empty; if it is not, removing it may take long.
        directory = os.path.join(self._config["scratch"], f"slot-{slot.number}")
        try:
            os.rmdir(directory)
        except FileNotFoundError:
            pass
        except OSError:
            threading.Thread(target=remove, args=(directory,), daemon=True).start()

    def _explain(self, call: Call, slot: Slot, status: int) -> bytes:
        if call.kill_record is not None:
            return call.kill_record
        exit_code = os.waitstatus_to_exitcode(status)
        return died(call, exit_code, os.path.join(self._config["log"], f"slot-{slot.number}.log"), self._kills)

    def _forget(self, slot: Slot) -> None:
        del self._slots[slot.number]
        if slot.need is not None:
            self._resources.give(slot.need[0], slot.need[1], slot.gpus)
        elif slot in self._idle:
            self._idle.remove(slot)
        self._unwatch(slot.socket)
        slot.close()

    def _retire(self, slot: Slot) -> None:
        self._forget(slot)  # the slot exits at the end of its socket; nothing waits for that

    def processes(self) -> set[int]:
        """Return the ids of the child processes that :class:`SlotPool` waits for."""
        return {self._library.pid} if self._library is not None else set()

    def running(self) -> Iterable[tuple[int, Call]]:
        """Return the process id of each busy slot's keeper, and its task.

        A task with a memory limit is listed only once its slot has loaded the function. Until then, the slot itself
        compares its memory with the limit.
        """
        return [
            (slot.pid, slot.calls[0])
            for slot in self._slots.values()
            if slot.calls
            and slot.pid is not None
            and (not slot.made_for[1] or slot.calls[0].profile.function in slot.loaded)
        ]

    def hand_back(self) -> list[Call]:
        """Remove all tasks that have not begun, and return them."""
        for slot in self._slots.values():
            self._take_back(slot)
        given, self.pending = list(self.pending), deque()
        return given

    def cancel(self, numbers: set[int], record: bytes) -> list[Call]:
        """Cancel tasks: remove and return those not begun; kill the slots of those that run, which are reported."""
        for slot in list(self._slots.values()):
            if not any(call.invocation.number in numbers for call in slot.calls):
                continue
            self._take_back(slot)
            while len(slot.calls) > 1 and self._read(slot):
                pass  # results of tasks before the one that it runs now
            if slot.calls and slot.calls[0].invocation.number in numbers:
                slot.calls[0].kill_record = record
                if slot.pid is not None:
                    keeper.end(slot.pid)
            self._settle(slot)
        gone = [call for call in self.pending if call.invocation.number in numbers]
        self.pending = deque(call for call in self.pending if call.invocation.number not in numbers)
        self.pump()
        return gone

    def stop(self) -> None:
        """End every slot and the library. Keepers of busy slots may still be ending their processes afterwards."""
        idle = []
        for slot in self._slots.values():
            if slot.pid is not None and slot.calls:
                keeper.end(slot.pid)
            elif slot.pid is not None:
                idle.append(slot.pid)
            slot.close()
        self._slots.clear()
        deadline = time.monotonic() + IDLE_EXIT_SECONDS
        while any(map(keeper.is_keeper, idle)) and time.monotonic() < deadline:
            time.sleep(0.002)
        if self._library is not None:
            self._library.kill()
            self._library.wait()
        if self._channel is not None:
            self._channel.close()


def start_directory(directory: str | None, own: str) -> str:
    """Return where a process for tasks starts: in the user's directory, if there is one that this node sees."""
    return directory if directory is not None and os.access(directory, os.X_OK) else own


_PARTS = {"r": 6, "u": 1, "l": 1, "e": 3}
"""Number of parts after the kind in each packet of a slot: see :mod:`taskvine_manager.runtime.slot`."""
_SHELL = "/bin/bash"
INIT_FAILED = 97
"""Exit status of the shell if ``init_command`` fails."""


# The user's command may end the shell (exit), be invalid, or read the script's arguments (source activate).
_INIT_SCRIPT = f"""
trap 'exit {INIT_FAILED}' EXIT
_taskvine_init=$1
_taskvine_command=("${{@:2}}")
set --
eval "$_taskvine_init" || exit
trap - EXIT
exec "${{_taskvine_command[@]}}"
"""


def with_init(init_command: str, command: list[str]) -> list[str]:
    """Return a command that runs the user's ``init_command`` and then ``command``, in one shell."""
    if not init_command:
        return command
    return [_SHELL, "-c", _INIT_SCRIPT, "bash", init_command, *command]


def died(call: Call, exit_code: int, log: str, kills: Kills) -> bytes:
    """Return the failure record of a task whose process died."""
    return killed(f"while it ran {call.profile.name}", exit_code, kills) or failure.lost(
        "slot-died",
        f"while it ran {call.profile.name}",
        exit_code=exit_code if exit_code >= 0 else None,
        signal=-exit_code if exit_code < 0 else None,
        stderr=tail(log),
    )


def killed(reason: str, exit_code: int, kills: Kills) -> bytes | None:
    """Return the failure record of a process that was killed for lack of memory; None if it ended in another way."""
    kill = kills.explain(time.monotonic()) if exit_code == -signal.SIGKILL else None
    if kill is None:
        return None
    return failure.lost("memory", reason, limit_mb=kill.limit_mb, used_mb=kill.used_mb, group=kill.group)


def _death(code: int) -> str:
    if code < 0:
        try:
            return f"was killed by {signal.Signals(-code).name}"
        except ValueError:
            return f"was killed by signal {-code}"
    return f"exited with status {code}"


def _last_trace(text: str) -> str:
    """Return the last stack trace of faulthandler, innermost frame first; without one, the end of the text."""
    return text[text.rfind("Timeout (") :][:2000] if "Timeout (" in text else text[-2000:]


def open_log(path: str) -> BinaryIO:
    """Open a log to append to; if it cannot be opened, open the null device, because logs are optional."""
    try:
        return open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600), "ab")
    except OSError:
        return open(os.devnull, "ab")


def tail(path: str, size: int = 2000) -> str:
    """Return the last ``size`` bytes of a text file; empty if it cannot be read."""
    try:
        with open(path, "rb") as file:
            file.seek(0, os.SEEK_END)
            file.seek(max(0, file.tell() - size))
            return file.read().decode(errors="replace")
    except OSError:
        return ""
