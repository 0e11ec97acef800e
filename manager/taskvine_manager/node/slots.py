"""The function slots of a node, and the library that forks them.

:class:`SlotPool` knows which slot runs what and hands out calls; it is told by the node's loop when a socket is
readable and never blocks. Function calls that are known to be short go to a slot several at a time; what a slot has
not begun can be taken back at any moment (see :mod:`taskvine_manager.runtime.slot`).
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
from taskvine_manager.runtime import failure, keeper
from taskvine_manager.runtime.payload import Payload, encode
from taskvine_manager.runtime.removal import remove
from taskvine_manager.runtime.slot import PACKET_LIMIT
from taskvine_manager.wire.messages import Invocation, Profile

CHUNK_SECONDS = 0.002
"""Work that is handed to a slot at once, if its calls are short."""
CHUNK_CALLS = 64
"""Most that this may be, unless the tuning parameter ``executor.batch`` says otherwise."""
STUCK_SECONDS = 0.010
"""A slot that has been silent for longer with calls before it gets them taken back."""
TRIES = 3
"""Slots that may die in a row with a call before them that none has begun, and libraries killed before their first,
unless for these the tuning parameter ``max-library-retries`` says otherwise."""
FIRST_NOTICE, NEXT_NOTICE = 30.0, 300.0
"""Seconds after which the user hears of a library that has not started yet; the first is no later than half of its
time."""
TRACE_SECONDS = 0.5
"""Time for a library that is stuck to write where, before it is killed."""
LOOK_AT_START = 1.0
"""Seconds between looks at a library that is starting."""
IDLE_SLOTS = 16
"""Idle slots that are kept for calls like those they were made for, or two for each core if that is more. Each has
imported its modules for itself, and keeps them in memory."""
IDLE_EXIT_SECONDS = 0.5
"""Time for idle slots to run their exit handlers when the node ends."""
FORGOTTEN_AT_ONCE = 1000
"""Functions that a slot is told to forget in one packet."""


class Resources:
    """Cores, memory (MB) and gpus of a node, and what is free of them."""

    def __init__(self, cores: float, memory: float, gpus: list[str]) -> None:
        self.cores = cores
        self.memory = memory
        self.gpus = list(gpus)

    def fits(self, cores: float, memory: float, gpus: int) -> bool:
        """Whether this much is free."""
        return self.cores + 1e-9 >= cores and self.memory >= memory and len(self.gpus) >= gpus

    def take(self, cores: float, memory: float, gpus: Iterable[str]) -> None:
        """Take what fits."""
        self.cores -= cores
        self.memory -= memory
        self.gpus = [gpu for gpu in self.gpus if gpu not in set(gpus)]

    def give(self, cores: float, memory: float, gpus: Iterable[str]) -> None:
        """Give it back."""
        self.cores += cores
        self.memory += memory
        self.gpus = sorted([*self.gpus, *gpus])


class Call:
    """An invocation on the node: what it needs, and where it stands."""

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
        """Files that the node is making for other calls, or fetching, and that it waits for."""
        self.supply: Any = None
        self.given: Payload | None = None
        self.kill_record: bytes | None = None
        self.left: tuple[str, ...] = ()
        """Files that it wrote in a private directory and did not declare."""
        self.tries = 0

    def reads(self, name: str) -> bool:
        """Whether it has a file among its inputs."""
        return any(use.source == name for use in self.invocation.inputs)


class Slot:
    """One slot, from the node's side."""

    def __init__(self, number: int, made_for: tuple[float, float, int], gpus: tuple[str, ...]) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setblocking(False)
        self.number = number
        self.made_for = made_for
        self.gpus = gpus
        self.socket = ours
        # Kept so that packets which the slot has not read can be read back; the library has a copy of its own.
        self.other_end = theirs
        self.pid: int | None = None
        self.functions: set[str] = set()
        self.loaded: set[str] = set()
        """Functions whose calls begin at once; known only of slots whose calls have a memory limit."""
        self.outdated: set[str] = set()
        """Functions that the slot has, and is yet to be told to forget."""
        self.calls: deque[Call] = deque()
        self.need: tuple[float, float, int] | None = None
        self.heard = 0.0
        self.killed_late = False
        self.is_ending = False
        """Whether it has said that it begins no more calls."""
        self.made = time.monotonic()
        self.has_spoken = False

    def suits(self, call: Call) -> bool:
        """Whether the slot was made for calls that need as much; what it keeps in memory is within their limit then."""
        return self.made_for == call.need

    def close(self) -> None:
        """Close both ends; an idle slot ends by that."""
        self.socket.close()
        self.other_end.close()


Report = Callable[[Call, int, Payload, float, float], None]


class SlotPool:
    """Function slots under one library.

    Parameters
    ----------
    command : list of str
        Starts the library; a descriptor and the parent's process id are appended.
    environment : dict of str to str
        Of the library and its slots.
    config : dict
        First packet to the library, see :class:`taskvine_manager.runtime.library.Library`.
    resources : Resources
        Of the node, shared with its L1 tasks.
    report : callable
        Called with ``(call, outcome, body, started, seconds)`` for each call that ended.
    watch, unwatch : callable
        Register and unregister a socket with the node's loop: ``watch(socket, callback)``.
    kills : Kills
        Knows of processes that the system has killed for lack of memory.
    notice : callable
        Lets the user know something.
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
        self._least_memory: dict[str, float] = {}  # MB that any slot holds once it has loaded a function, where known
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
        """Take tuning parameters, of which ``executor.batch`` and ``max-library-retries`` are this class's."""
        if "executor.batch" in parameters:
            self._batch = int(parameters["executor.batch"]) or CHUNK_CALLS
        self._library_retries = int(parameters.get("max-library-retries", self._library_retries))

    # --- the library ---

    def start(self) -> None:
        """Start the library; it is not waited for."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.send(pickle.dumps(self._config))  # before there is a process that could end without reading it
        with open_log(self._log()) as output, theirs:
            self._library = subprocess.Popen(
                [*self._command, str(theirs.fileno()), str(os.getpid())],
                pass_fds=(theirs.fileno(),),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=self._environment,
                cwd=start_directory(self._config["directory"], self._config["scratch"]),
                start_new_session=True,  # nothing that is typed in a terminal reaches it
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
            self.end_library(f"it sent what no library sends ({failure.describe(error)})")
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
        """Seconds until :meth:`look` has something to do, at most; None for never."""
        return min(LOOK_AT_START, self._start_timeout / 2) if self._is_starting else None

    def look(self, now: float) -> None:
        """See that the library becomes ready in its time; only time in which this process ran counts."""
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
        """What a library that is starting has not done yet."""
        if self._is_ready:
            return "import_modules and the context of the library are not ready"
        if self._command[:1] == [_SHELL]:
            return "init_command of the library has not ended"
        return "the Python of the library has not started"

    def end_library(self, why: str | None) -> None:
        """Kill the library, which does not end by itself; its slots end with it."""
        if self._library is None or self._channel is None:
            return
        if why is not None:
            self._notice(f"the library is killed: {why}")
        cleanup.kill_group(self._library.pid)

    def _log(self) -> str:
        return os.path.join(self._config["log"], "library.log")

    def _library_gone(self) -> None:
        """The library ended by itself: its slots end with it, and it is started again for what is still to do."""
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

    # --- calls ---

    def add_function(self, key: str, encoded: Payload) -> None:
        """Keep a function for the calls that will name it."""
        self._functions[key] = encoded

    def forget_functions(self, keys: set[str]) -> int:
        """Forget functions that no call here needs; return how many bytes of memory they took."""
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
        """Have a slot forget what it need not keep, if its socket takes that now."""
        if slot.outdated:
            some = list(itertools.islice(slot.outdated, FORGOTTEN_AT_ONCE))
            with contextlib.suppress(BlockingIOError, BrokenPipeError, ConnectionResetError):
                slot.socket.send(pickle.dumps(("d", some)))
                slot.outdated.difference_update(some)

    def add(self, call: Call) -> None:
        """Queue a call; :meth:`pump` sends it on."""
        self.pending.append(call)
        if self._library is None or self._channel is None:
            self._broken = None
            self.start()

    def pump(self) -> None:
        """Hand pending calls to slots for as long as there is room."""
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
        # An idle slot's gpus are given back, and an L1 task may have taken them.
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
        except (BrokenPipeError, ConnectionResetError):  # the library died, and is about to be missed
            slot.close()
            return None
        self._slots[slot.number] = slot
        self._idle.append(slot)
        self._watch(slot.socket, lambda: self._slot_speaks(slot))
        return slot

    def _hand(self, slot: Slot, first: Call) -> None:
        """Send a slot the first pending call and, if they are short, those of its kind that follow."""
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
            return  # it died; the library is about to say so
        finally:
            if not slot.calls:
                self._settle(slot)

    def _given(self, call: Call) -> Payload | None:
        """The results that are arguments of a call, as one payload: there may be thousands of them."""
        if not call.values:
            return None
        if call.given is None or (isinstance(call.given, str) and not os.path.exists(call.given)):  # a slot read it
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
        """See that a packet is of its form, and about the call that the slot runs.

        Raises
        ------
        ValueError
            If not.
        """
        if len(rest) != _PARTS.get(kind):
            raise ValueError(f"unknown packet {kind!r:.50} of {len(rest)} parts")
        if kind == "l" or (kind == "e" and rest[0] is None):
            return
        if not slot.calls or slot.calls[0].invocation.number != rest[0]:
            raise ValueError(f"an answer to call {rest[0]!r:.50}, which it does not run")

    def _give_up(self, slot: Slot, error: Exception) -> None:
        """End a slot that said what no slot says: a function has written to descriptors that are not its own."""
        slot.is_ending = True
        reason = f"its process sent what no slot sends ({failure.describe(error)}). Does it write to file descriptors "
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
        if kind == "u":  # its function was taken back from before it
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
        """A slot begins no more calls: it is of no use any more, or holds more memory than the next call may."""
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
            self.pending.appendleft(call)  # what is too much was left by others

    def _refuse(self, call: Call) -> None:
        """End a call whose memory limit is below what any slot holds that is ready to begin it."""
        held = self._least_memory[call.profile.function]
        reason = f"ask for more memory to run {call.profile.name}"
        record = failure.lost("memory", reason, limit_mb=float(call.need[1]), slot_mb=held)
        self._report(call, failure.LOST, record, 0.0, 0.0)

    def _settle(self, slot: Slot) -> None:
        """A slot with nothing left to do gives its share of the node back."""
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
        """Take back the calls that a slot has not begun, in order."""
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
        """Queue the calls again that a slot has not begun; return them."""
        stolen = self._steal(slot)
        self.pending.extendleft(reversed(stolen))
        return stolen

    def rebalance(self) -> bool:
        """Take calls back from slots that are stuck in a long one; say whether any slot has more than one."""
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
        """Read what a dead slot had still sent, and take back what it had not read."""
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
                call.tries += 1  # the call before it was to be killed, and ended just in time
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
        """What a slot has left behind that could not build its context."""
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
        # Seldom is anything in it; if there is, removing it may take its time.
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
        self._forget(slot)  # it reads the end of its socket and exits; nothing of it is waited for

    def processes(self) -> set[int]:
        """Process ids of children of this process that :class:`SlotPool` waits for."""
        return {self._library.pid} if self._library is not None else set()

    def running(self) -> Iterable[tuple[int, Call]]:
        """Keepers of slots and the call that each runs.

        A call with a memory limit runs once its slot has loaded the function: what that takes, and what the slot has
        held before, is compared with the limit by the slot itself.
        """
        return [
            (slot.pid, slot.calls[0])
            for slot in self._slots.values()
            if slot.calls
            and slot.pid is not None
            and (not slot.made_for[1] or slot.calls[0].profile.function in slot.loaded)
        ]

    def hand_back(self) -> list[Call]:
        """Give up every call that has not begun."""
        for slot in self._slots.values():
            self._take_back(slot)
        given, self.pending = list(self.pending), deque()
        return given

    def cancel(self, numbers: set[int], record: bytes) -> list[Call]:
        """End calls: those not begun are returned, those that run have their slot killed and are reported."""
        for slot in list(self._slots.values()):
            if not any(call.invocation.number in numbers for call in slot.calls):
                continue
            self._take_back(slot)
            while len(slot.calls) > 1 and self._read(slot):
                pass  # what ended before the call that it is in
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
        """End every slot and the library; keepers of slots that ran something are still at work then."""
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
    """Where a process of tasks starts: in the user's directory if that is where calls run and this node sees it."""
    return directory if directory is not None and os.access(directory, os.X_OK) else own


_PARTS = {"r": 6, "u": 1, "l": 1, "e": 3}
"""Packets of a slot, and of how many parts they are beside their kind: see :mod:`taskvine_manager.runtime.slot`."""
_SHELL = "/bin/bash"
INIT_FAILED = 97
"""Exit status of the shell that runs ``init_command`` when that fails."""


# The command may end the shell (exit), be no shell at all, or look at the script's arguments (source activate).
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
    """A command that is run after the user's ``init_command``, in one shell."""
    if not init_command:
        return command
    return [_SHELL, "-c", _INIT_SCRIPT, "bash", init_command, *command]


def died(call: Call, exit_code: int, log: str, kills: Kills) -> bytes:
    """Record of a call whose process died."""
    return killed(f"while it ran {call.profile.name}", exit_code, kills) or failure.lost(
        "slot-died",
        f"while it ran {call.profile.name}",
        exit_code=exit_code if exit_code >= 0 else None,
        signal=-exit_code if exit_code < 0 else None,
        stderr=tail(log),
    )


def killed(reason: str, exit_code: int, kills: Kills) -> bytes | None:
    """Record of what the system has killed for lack of memory; None if a process ended in another way."""
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
    """What faulthandler has written last, innermost frames first; or the end of a text without that."""
    return text[text.rfind("Timeout (") :][:2000] if "Timeout (" in text else text[-2000:]


def open_log(path: str) -> BinaryIO:
    """A log to append to, or nowhere if it cannot be opened: no reason not to work."""
    try:
        return open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600), "ab")
    except OSError:
        return open(os.devnull, "ab")


def tail(path: str, size: int = 2000) -> str:
    """The last characters of a text file, or nothing if there is none."""
    try:
        with open(path, "rb") as file:
            file.seek(0, os.SEEK_END)
            file.seek(max(0, file.tell() - size))
            return file.read().decode(errors="replace")
    except OSError:
        return ""
