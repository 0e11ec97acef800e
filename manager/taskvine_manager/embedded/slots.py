"""The function slots of a node, and the library that forks them.

:class:`SlotPool` knows which slot runs what and hands out calls; it is told by the node's loop when a socket is
readable and never blocks. Function calls that are known to be short go to a slot several at a time; what a slot has
not begun can be taken back at any moment (see :mod:`taskvine_manager.runtime.slot`).
"""

from __future__ import annotations

import math
import os
import pickle
import socket
import subprocess
import time
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any

from taskvine_manager import sweep
from taskvine_manager.embedded.hardware import thread_limits
from taskvine_manager.messages import Invocation, Profile
from taskvine_manager.runtime import failure
from taskvine_manager.runtime.payload import Payload
from taskvine_manager.runtime.slot import PACKET_LIMIT

CHUNK_SECONDS = 0.002
"""Work that is handed to a slot at once, if its calls are short."""
CHUNK_CALLS = 64
STUCK_SECONDS = 0.010
"""A slot that has been silent for longer with calls before it gets them taken back."""
PIONEERS = 2
"""Slots that may load a function side by side before the library has imported what it needs."""


IDLE_SLOTS = 64
"""Idle slots that are kept for calls like those they were made for."""


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

    __slots__ = ("directory", "dispatched", "invocation", "kill_record", "need", "pinned", "profile", "tries")

    def __init__(self, invocation: Invocation, profile: Profile, need: tuple[float, float, int]) -> None:
        self.invocation = invocation
        self.profile = profile
        self.need = need
        self.dispatched = 0.0
        self.directory: str | None = None
        self.pinned: list[str] = []
        self.kill_record: bytes | None = None
        self.tries = 0


class Slot:
    """One slot, from the node's side."""

    def __init__(self, number: int, cores: float, gpus: tuple[str, ...]) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setblocking(False)
        self.number = number
        self.cores = cores
        self.gpus = gpus
        self.socket = ours
        # Kept so that packets which the slot has not read can be read back; the library has a copy of its own.
        self.other_end = theirs
        self.pid: int | None = None
        self.functions: set[str] = set()
        self.calls: deque[Call] = deque()
        self.need: tuple[float, float, int] | None = None
        self.heard = 0.0

    def suits(self, call: Call) -> bool:
        """Whether the slot was made for calls that need as much."""
        return self.cores == call.need[0] and len(self.gpus) == call.need[2]

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
    ) -> None:
        self._command = command
        self._environment = environment
        self._config = config
        self._resources = resources
        self._report = report
        self._watch = watch
        self._unwatch = unwatch
        self._functions: dict[str, Payload] = {}
        self._loading: dict[str, set[int]] = {}
        self._warm: set[str] = set()
        self._estimates: dict[str, float] = {}
        self._slots: dict[int, Slot] = {}
        self._idle: list[Slot] = []
        self._numbers = 0
        self.pending: deque[Call] = deque()
        self._library: subprocess.Popen[bytes] | None = None
        self._channel: socket.socket | None = None
        self._is_warm = False
        self._broken: bytes | None = None

    # --- the library ---

    def start(self) -> None:
        """Start the library; it is not waited for."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        log = os.path.join(self._config["log"], "library.log")
        with open(log, "ab") as output, theirs:
            self._library = subprocess.Popen(
                [*self._command, str(theirs.fileno()), str(os.getpid())],
                pass_fds=(theirs.fileno(),),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=self._environment,
                cwd=self._config["scratch"],
            )
        self._is_warm = False
        self._channel = ours
        ours.send(pickle.dumps(self._config))
        self._watch(ours, self._library_speaks)

    def _library_speaks(self) -> None:
        assert self._channel is not None
        try:
            packet = self._channel.recv(PACKET_LIMIT)
        except (BlockingIOError, ConnectionResetError):
            packet = b""
        if not packet:
            self._library_gone()
            return
        kind, *rest = pickle.loads(packet)
        if kind == "warm":
            self._is_warm = True
            self._broken = None
            self.pump()
        elif kind == "forked":
            if rest[0] in self._slots:
                self._slots[rest[0]].pid = rest[1]
        elif kind == "exited":
            self._slot_gone(*rest)
        elif kind == "imported":
            self._imported(*rest)
        elif kind == "failed":
            self._broken = rest[1]

    def _imported(self, function: str, count: int) -> None:
        self._warm.add(function)
        if count:
            for slot in [slot for slot in self._idle if function not in slot.functions]:
                self._retire(slot)  # a fresh fork has the modules already
        self.pump()

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
        record = self._broken or failure.lost(
            "library", reason, stderr=tail(os.path.join(self._config["log"], "library.log"))
        )
        if not was_warm and self._broken is None and status == INIT_FAILED:
            log = tail(os.path.join(self._config["log"], "library.log"))
            record = failure.lost("environment", "init_command failed", stderr=log)
        for slot in list(self._slots.values()):
            if slot.pid is not None:
                sweep.kill_group(slot.pid)
            self._drain(slot)
            calls = list(slot.calls)
            self._forget(slot)
            for call in calls[:1]:
                call.tries += 1
            for call in reversed(calls):
                if call.kill_record is not None or call.tries > 1:
                    self._report(call, failure.LOST, call.kill_record or record, 0.0, 0.0)
                else:
                    self.pending.appendleft(call)
        self._loading.clear()
        if not was_warm:
            while self.pending:
                self._report(self.pending.popleft(), failure.LOST, record, 0.0, 0.0)
        else:
            # What the dead library had imported may be what killed it: slots load those functions themselves.
            self._warm.update(self._functions)
        if self.pending:
            self.start()

    # --- calls ---

    def add_function(self, key: str, encoded: Payload) -> None:
        """Keep a function for the calls that will name it."""
        self._functions[key] = encoded

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
            slot = self._find(call)
            if slot is None:
                return
            self._hand(slot, call)

    def _chunk(self, call: Call) -> int:
        estimate = self._estimates.get(call.profile.category)
        if estimate is None or estimate > CHUNK_SECONDS / 2:
            return 1
        return min(CHUNK_CALLS, max(1, int(CHUNK_SECONDS / max(estimate, 1e-6))))

    def _find(self, call: Call) -> Slot | None:
        key = call.profile.function
        loaders = self._loading.get(key)
        if self._resources.fits(*call.need):
            for slot in self._idle:
                if slot.suits(call) and key in slot.functions:
                    return slot
            if key in self._warm or loaders is None or len(loaders) < PIONEERS:
                for slot in self._idle:
                    if slot.suits(call):
                        return slot
                return self._fork(call)
        chunk = self._chunk(call)
        if chunk > 1:
            busy = [
                slot
                for slot in self._slots.values()
                if slot.need == call.need and key in slot.functions and 0 < len(slot.calls) < chunk
            ]
            if busy:
                return min(busy, key=lambda slot: len(slot.calls))
        return None

    def _fork(self, call: Call) -> Slot | None:
        if self._channel is None:
            return None
        cores, _, gpus = call.need
        chosen = tuple(self._resources.gpus[:gpus])
        for idle in [idle for idle in self._idle if set(idle.gpus) & set(chosen) or len(self._idle) >= IDLE_SLOTS]:
            self._retire(idle)
        environment = thread_limits(cores) if cores != self._config["slot_cores"] else {}
        if self._config["has_gpus"]:
            environment["CUDA_VISIBLE_DEVICES"] = ",".join(chosen)
        slot = Slot(self._numbers, cores, chosen)
        self._numbers += 1
        message = pickle.dumps(("fork", slot.number, environment))
        socket.send_fds(self._channel, [message], [slot.other_end.fileno()])
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
        try:
            if key not in slot.functions:
                slot.socket.send(pickle.dumps(("f", key, self._functions[key])))
                slot.functions.add(key)
                if key not in self._warm:
                    self._loading.setdefault(key, set()).add(slot.number)
            share = math.ceil(len(self.pending) / max(1, len(self._slots)))
            now = time.time()
            for _ in range(max(1, min(self._chunk(first) - len(slot.calls), share))):
                call = self.pending[0]
                invocation = call.invocation
                sandbox = os.path.join(call.directory, "sandbox") if call.directory is not None else None
                slot.socket.send(pickle.dumps(("c", invocation.number, key, invocation.arguments, sandbox)))
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

    def _slot_speaks(self, slot: Slot) -> None:
        for _ in range(CHUNK_CALLS):
            if not self._read(slot):
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
        message = pickle.loads(packet)
        slot.heard = time.monotonic()
        if message[0] == "m":
            self._loaded(slot, message[1], message[2])
            return True
        _, number, outcome, body, started, seconds = message
        call = slot.calls.popleft()
        assert call.invocation.number == number, (call.invocation.number, number)
        if outcome == failure.RETURNED:
            category = call.profile.category
            known = self._estimates.get(category, seconds)
            self._estimates[category] = known + (0.5 if seconds > known else 0.1) * (seconds - known)
        self._report(call, outcome, body, started, seconds)
        return True

    def _loaded(self, slot: Slot, key: str, modules: list[str]) -> None:
        if not modules:
            self._warm.add(key)
        elif self._channel is not None:
            self._channel.send(pickle.dumps(("import", key, modules)))

    def _settle(self, slot: Slot) -> None:
        """A slot with nothing left to do gives its share of the node back."""
        if not slot.calls and slot.need is not None:
            self._resources.give(slot.need[0], slot.need[1], slot.gpus)
            slot.need = None
            self._idle.append(slot)

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
                if message[1] in self._loading:
                    self._loading[message[1]].discard(slot.number)
            else:
                numbers.add(message[1])
        if numbers:
            stolen = [call for call in slot.calls if call.invocation.number in numbers]
            slot.calls = deque(call for call in slot.calls if call.invocation.number not in numbers)
        return stolen

    def _take_back(self, slot: Slot) -> None:
        for call in reversed(self._steal(slot)):
            self.pending.appendleft(call)

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

    def _drain(self, slot: Slot) -> None:
        """Read what a dead slot had still sent, and take back what it had not read."""
        while self._read(slot):
            pass
        self._take_back(slot)

    def _slot_gone(self, number: int, status: int) -> None:
        slot = self._slots.get(number)
        if slot is None:
            return
        if slot.pid is not None:
            sweep.kill_group(slot.pid)
        self._drain(slot)
        call = slot.calls[0] if slot.calls else None
        self._forget(slot)
        if call is not None:
            self._report(call, failure.LOST, self._explain(call, slot, status), 0.0, 0.0)
        elif os.path.exists(marker := os.path.join(self._config["scratch"], "context-failed")):
            with open(marker, "rb") as file:
                record = file.read()
            while self.pending:
                self._report(self.pending.popleft(), failure.LOST, record, 0.0, 0.0)
            os.unlink(marker)
        self.pump()

    def _explain(self, call: Call, slot: Slot, status: int) -> bytes:
        if call.kill_record is not None:
            return call.kill_record
        marker = os.path.join(self._config["scratch"], "context-failed")
        if os.path.exists(marker):
            with open(marker, "rb") as file:
                return file.read()
        exit_code = os.waitstatus_to_exitcode(status)
        return failure.lost(
            "slot-died",
            f"{call.profile.name}: its process {_death(exit_code)}",
            exit_code=exit_code if exit_code >= 0 else None,
            signal=-exit_code if exit_code < 0 else None,
            stderr=tail(os.path.join(self._config["log"], f"slot-{slot.number}.log")),
        )

    def _forget(self, slot: Slot) -> None:
        del self._slots[slot.number]
        for loaders in self._loading.values():
            loaders.discard(slot.number)
        if slot.need is not None:
            self._resources.give(slot.need[0], slot.need[1], slot.gpus)
        elif slot in self._idle:
            self._idle.remove(slot)
        self._unwatch(slot.socket)
        slot.close()

    def _retire(self, slot: Slot) -> None:
        self._forget(slot)  # it reads the end of its socket and exits; nothing of it is waited for

    def running(self) -> Iterable[tuple[int, Call]]:
        """Process groups of slots and the call that each runs."""
        return [(slot.pid, slot.calls[0]) for slot in self._slots.values() if slot.calls and slot.pid is not None]

    def hand_back(self) -> list[Call]:
        """Give up every call that has not begun."""
        for slot in self._slots.values():
            self._take_back(slot)
        given, self.pending = list(self.pending), deque()
        return given

    def cancel(self, numbers: set[int], record: bytes) -> list[Call]:
        """End calls: those not begun are returned, those that run have their slot killed and are reported."""
        gone = [call for call in self.pending if call.invocation.number in numbers]
        self.pending = deque(call for call in self.pending if call.invocation.number not in numbers)
        for slot in list(self._slots.values()):
            if not any(call.invocation.number in numbers for call in slot.calls):
                continue
            for call in reversed(self._steal(slot)):
                if call.invocation.number in numbers:
                    gone.append(call)
                else:
                    self.pending.appendleft(call)
            if slot.calls and slot.calls[0].invocation.number in numbers:
                slot.calls[0].kill_record = record
                if slot.pid is not None:
                    sweep.kill_group(slot.pid)
            self._settle(slot)
        self.pump()
        return gone

    def stop(self) -> None:
        """Kill every slot and end the library."""
        for slot in self._slots.values():
            if slot.pid is not None:
                sweep.kill_group(slot.pid)
            slot.close()
        self._slots.clear()
        if self._library is not None:
            self._library.kill()
            self._library.wait()
        if self._channel is not None:
            self._channel.close()


INIT_FAILED = 97
"""Exit status of the shell that runs ``init_command`` when that fails."""


def with_init(init_command: str, command: list[str]) -> list[str]:
    """A command that is run after the user's ``init_command``, in one shell."""
    if not init_command:
        return command
    script = f'{{ {init_command}\n}} || exit {INIT_FAILED}\nexec "$@"'
    return ["/bin/bash", "-c", script, "bash", *command]


def _death(code: int) -> str:
    if code < 0:
        import signal

        try:
            return f"was killed by {signal.Signals(-code).name}"
        except ValueError:
            return f"was killed by signal {-code}"
    return f"exited with status {code}"


def tail(path: str, size: int = 2000) -> str:
    """The last characters of a text file, or nothing if there is none."""
    try:
        with open(path, "rb") as file:
            file.seek(0, os.SEEK_END)
            file.seek(max(0, file.tell() - size))
            return file.read().decode(errors="replace")
    except OSError:
        return ""
