"""Which slot of a node runs which task.

:class:`Pool` is pure: no sockets, processes or clocks. It records the pending tasks, and the slots and their tasks. It
takes and frees the node's resources. :class:`~taskvine_manager.node.slots.Slots` does what it decides, and tells it
what happened.

A slot gets several tasks at once if they are known to be short. Tasks that it has not begun can be taken back at any
time (see :mod:`taskvine_manager.runtime.slot`).
"""

from __future__ import annotations

import itertools
import math
from collections import deque
from collections.abc import Collection
from typing import Generic, NamedTuple, TypeVar

from taskvine_manager.node.calls import NO_GRANT, Call, Grant, Need, Supply
from taskvine_manager.run_times import RunTimes

CHUNK_SECONDS = 0.002
"""Seconds of work that a slot gets at once, if its tasks are short."""
CHUNK_CALLS = 64
"""Most tasks that a slot gets at once; the tuning parameter ``executor.batch`` overrides it."""
STUCK_SECONDS = 0.010
"""Seconds of silence after which the tasks that a slot has not begun are taken back from it."""
TRIES = 3
"""Slot deaths that a task may see before it starts."""
IDLE_SLOTS = 16
"""Idle slots that are kept for tasks with the same needs, or two for each core if that is more. Each slot keeps the
modules that it has imported in memory."""


class Slot:
    """What the node knows of one slot.

    Parameters
    ----------
    need : tuple
        Needs of the tasks that it runs, which are equal: then the memory that it keeps is within their limit.
    grant : Grant
        The gpus that it sees, and the CPUs that it is bound to. It holds them only while it has tasks.
    """

    def __init__(self, number: int, need: Need, grant: Grant = NO_GRANT) -> None:
        self.number = number
        self.need = need
        self.grant = grant
        self.functions: set[str] = set()
        self.loaded: set[str] = set()
        """Functions that it has loaded; known only if its tasks have a memory limit."""
        self.outdated: set[str] = set()
        """Functions that it has, and will be told to forget."""
        self.calls: deque[Call] = deque()
        self.is_busy = False
        """Whether it holds the resources that it needs."""
        self.heard = 0.0
        """When it last sent a packet, or got its first task."""
        self.killed_late = False
        """Whether it was to be killed for a task that had just ended."""
        self.is_ending = False
        """Whether it begins no more tasks."""


S = TypeVar("S", bound=Slot)


class Fork(NamedTuple):
    """The next task needs a slot that does not exist yet, with this grant."""

    need: Need
    grant: Grant


class Refusal(NamedTuple):
    """A task cannot run: a slot needs ``held`` MB to load its function, more than the task's memory limit."""

    call: Call
    held: float


class Pool(Generic[S]):
    """The pending tasks of a node, its slots and their tasks.

    Parameters
    ----------
    resources : Supply
        The node's resources, shared with its L1 tasks, or those of a named library.
    """

    def __init__(self, resources: Supply) -> None:
        self.pending: deque[Call] = deque()
        self.slots: dict[int, S] = {}
        self.most_calls = CHUNK_CALLS
        self._resources = resources
        self._idle: list[S] = []
        self._cores = int(resources.cores)
        self._most_idle = max(IDLE_SLOTS, 2 * int(resources.cores))
        self._run_times = RunTimes()
        self._least_memory: dict[str, float] = {}  # MB that a slot needs to load a function, if known

    def add(self, call: Call) -> None:
        """Queue a task."""
        self.pending.append(call)

    # --- handing out tasks ---

    def choose(self, now: float) -> S | Fork | Refusal | None:
        """Decide what becomes of the first pending task: the slot that gets it, or what to do first.

        Returns
        -------
        Slot, Fork, Refusal or None
            None if it has to wait. A refused task is no longer pending.
        """
        call = self.pending[0]
        key, memory = call.profile.function, call.need.memory
        if memory and (held := self._least_memory.get(key, 0.0)) > memory:
            return Refusal(self.pending.popleft(), held)
        if self._resources.fits(call.need):
            free = [
                slot for slot in self._idle if slot.need == call.need and self._resources.suits(slot.need, slot.grant)
            ]
            for slot in free:
                if key in slot.functions:
                    return slot
            return free[0] if free else Fork(call.need, self._resources.grant(call.need))
        chunk = self._chunk(call)
        if chunk > 1:
            lively = now - STUCK_SECONDS
            busy = [
                slot
                for slot in self.slots.values()
                if slot.need == call.need
                and key in slot.functions
                and 0 < len(slot.calls) < chunk
                and slot.heard > lively
            ]
            if busy:
                return min(busy, key=lambda slot: len(slot.calls))
        return None

    def _chunk(self, call: Call) -> int:
        """Return how many tasks of this kind a slot gets at once."""
        estimate = self._run_times.get(call.profile.category)
        if estimate is None or estimate > CHUNK_SECONDS / 2:
            return 1
        return min(self.most_calls, max(1, int(CHUNK_SECONDS / max(estimate, 1e-6))))

    def displaced_by(self, fork: Fork) -> list[S]:
        """Return the idle slots that must end before a fork, those first that have been idle longest.

        They may keep data in the memory of their gpus. Together with the new slot they must not need more of a gpu than
        is free.
        """
        ending: list[S] = []
        for device in fork.grant.devices:
            seeing = [slot for slot in self._idle if device in slot.grant.devices and slot not in ending]
            while seeing and not self._resources.has_room(device, fork.need, [slot.need for slot in seeing]):
                ending.append(seeing.pop(0))
        others = [slot for slot in self._idle if slot not in ending]
        return ending + others[: max(0, len(others) + 1 - self._most_idle)]

    def admit(self, slot: S) -> None:
        """Add a new slot, which is idle."""
        self.slots[slot.number] = slot
        self._idle.append(slot)

    def remove(self, slot: S) -> None:
        """Remove a slot that has ended or will end, and free its resources."""
        del self.slots[slot.number]
        if slot.is_busy:
            self._resources.give(slot.need, slot.grant)
        else:
            self._idle.remove(slot)

    def occupy(self, slot: S, now: float) -> list[Call]:
        """Take the resources of the first pending task for a slot.

        Returns
        -------
        list of Call
            The tasks to send to it: the first pending one and, if they are short, the next ones of the same profile.
        """
        first = self.pending[0]
        if not slot.calls:
            self._idle.remove(slot)
            slot.is_busy, slot.heard = True, now
            self._resources.take(slot.need, slot.grant)
        share = math.ceil(len(self.pending) / max(1, len(self.slots)))
        most = min(self._chunk(first) - len(slot.calls), share)
        calls = []
        for call in itertools.islice(self.pending, most):
            if call.profile is not first.profile:
                break
            calls.append(call)
        return calls

    def handed(self, slot: S, count: int, now: float) -> None:
        """Record that a slot was sent the first ``count`` pending tasks; ``now`` is in seconds since the epoch."""
        for _ in range(count):
            call = self.pending.popleft()
            call.dispatched = now
            slot.calls.append(call)

    def free(self, slot: S) -> bool:
        """Free the resources of a slot that has no tasks left; return whether it was busy."""
        if not slot.is_busy:
            return False
        self._resources.give(slot.need, slot.grant)
        slot.is_busy = False
        self._idle.append(slot)
        return True

    # --- what slots do with their tasks ---

    def ended(self, slot: S, returned: bool, seconds: float) -> Call:
        """Return the task that a slot has ended; learn how long such tasks take if its function returned."""
        call = slot.calls.popleft()
        if call.kill_record is not None:
            slot.killed_late = True
        if returned:
            self._run_times.learn(call.profile.category, seconds)
        return call

    def function_missing(self, slot: S) -> None:
        """Queue a task again, because its slot did not get the function: that packet was taken back just before."""
        call = slot.calls.popleft()
        slot.functions.discard(call.profile.function)
        self.pending.appendleft(call)

    def outgrown(self, slot: S, held: float, is_fresh: bool) -> Call | None:
        """Queue a task again that a slot cannot begin, because it holds more memory than the task's limit.

        Parameters
        ----------
        held : float
            MB that the slot holds.
        is_fresh : bool
            Whether any other slot would hold as much; otherwise, earlier tasks caused the excess.

        Returns
        -------
        Call or None
            The task, if it is to be reported instead, because it was to be killed.
        """
        call = slot.calls.popleft()
        if call.kill_record is not None:
            return call
        if is_fresh:
            self._least_memory[call.profile.function] = held
        self.pending.appendleft(call)
        return None

    def taken_back(self, slot: S, numbers: set[int]) -> list[Call]:
        """Queue and return the tasks that were taken back from a slot, which has not begun them."""
        if not numbers:
            return []
        stolen = [call for call in slot.calls if call.invocation.number in numbers]
        slot.calls = deque(call for call in slot.calls if call.invocation.number not in numbers)
        self.pending.extendleft(reversed(stolen))
        return stolen

    def stuck(self, now: float) -> tuple[list[S], bool]:
        """Return the slots with tasks queued behind a long one, and whether any slot has several tasks."""
        queued = [slot for slot in self.slots.values() if len(slot.calls) > 1]
        silent = [slot for slot in queued if now - slot.heard > STUCK_SECONDS]
        for slot in silent:
            slot.heard = now
        return silent, bool(queued)

    # --- deaths ---

    def slot_died(self, slot: S, untouched: list[Call]) -> Call | None:
        """Remove a slot that has died; return the task that is lost with it, if there is one.

        Parameters
        ----------
        untouched : list of Call
            The tasks that it had not begun, which have been taken back. A task may see :data:`TRIES` such deaths.
        """
        self.remove(slot)
        if slot.calls:
            call = slot.calls[0]
            if not slot.killed_late or call.kill_record is not None or call.tries:
                return call
            call.tries += 1  # the kill was meant for the task before it, which had just ended
            self.pending.appendleft(call)
        elif untouched and not slot.is_ending:
            untouched[0].tries += 1
            if untouched[0].tries > TRIES:
                self.pending.remove(untouched[0])
                return untouched[0]
        return None

    def library_died(self, slot: S) -> list[Call]:
        """Remove a slot that died with its library; queue its tasks again, and return those that are lost.

        The first task ran. It is lost if it already ran in another library that died.
        """
        self.remove(slot)
        lost = [call for call in slot.calls if call.kill_record is not None]
        if slot.calls and (first := slot.calls[0]) not in lost:
            if first.retried:
                lost.insert(0, first)
            first.retried = True
        self.pending.extendleft(call for call in reversed(slot.calls) if call not in lost)
        return lost

    # --- what is no longer wanted ---

    def withdraw(self, numbers: set[int] | None = None) -> list[Call]:
        """Remove and return pending tasks: those with these numbers, or all."""
        if numbers is None:
            gone, self.pending = list(self.pending), deque()
        else:
            gone = [call for call in self.pending if call.invocation.number in numbers]
            self.pending = deque(call for call in self.pending if call.invocation.number not in numbers)
        return gone

    def surplus(self, categories: Collection[str]) -> list[Call]:
        """Remove and return the pending tasks of some categories, but for the first ones: one for each slot."""
        most = max(self._cores, len(self.slots))
        if len(self.pending) <= most:
            return []
        numbers = [call.invocation.number for call in self.pending if call.profile.category in categories]
        return self.withdraw(set(numbers[most:]))

    def forget(self, keys: set[str]) -> list[S]:
        """Forget functions that no task here needs; return the slots that have some of them."""
        for key in keys:
            self._least_memory.pop(key, None)
        having = [slot for slot in self.slots.values() if slot.functions & keys]
        for slot in having:
            slot.outdated |= slot.functions & keys
            slot.functions -= keys
            slot.loaded -= keys
        return having
