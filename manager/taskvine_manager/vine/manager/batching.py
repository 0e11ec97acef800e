"""How many short calls make one TaskVine task, and how many TaskVine tasks there are at a time.

TaskVine spends about half a millisecond on a task, whatever is in it, and slows down with the tasks that it knows. So
calls that are known to be short travel together, as many as are worth some tens of milliseconds, and only a few tasks
for each node are given to TaskVine at a time; the rest waits here, in order of priority. A lone call is never held
back: what is there is sent when there is room for it.

Pure: no clocks, no I/O.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

TARGET = 0.040
"""Seconds of work, for each slot of a node, that one TaskVine task is to be worth."""
SHORT = 0.010
"""Calls that are known to take no more seconds than this may travel with others."""
OVERHEAD = 0.00012
"""Seconds that a call costs its slot beyond the function's own time."""
MOST = 1024
"""Calls in one TaskVine task, at most, unless the tuning parameter ``executor.batch`` says otherwise."""
AHEAD = 2
"""TaskVine tasks of short calls that a node is given: one at work, the others on their way."""


class Need(NamedTuple):
    """Resources; memory and disk in MB."""

    cores: float
    memory: float = 0.0
    disk: float = 0.0
    gpus: float = 0.0


class Batchable(Protocol):
    """What the backlog needs to know of a call."""

    @property
    def priority(self) -> float: ...
    @property
    def sequence(self) -> int: ...
    @property
    def category(self) -> str: ...
    @property
    def need(self) -> Need:
        """Of a node's resources."""
        ...

    @property
    def alone(self) -> bool:
        """Whether it may not travel with others: it has files or resources of its own, or is an L1 task."""
        ...


class Estimates:
    """Run times of categories, learned from calls that returned."""

    def __init__(self) -> None:
        self._seconds: dict[str, float] = {}
        self._bytes: dict[str, int] = {}

    def learn(self, category: str, seconds: float, size: int) -> None:
        """Take a call that ran for so long and whose result has so many bytes into account.

        A longer run counts for more than a shorter one: to believe a long call short costs those that travel with it
        more than the reverse.
        """
        known = self._seconds.get(category, seconds)
        self._seconds[category] = known + (0.5 if seconds > known else 0.1) * (seconds - known)
        self._bytes[category] = max(size, self._bytes.get(category, 0))

    def seconds(self, category: str) -> float | None:
        """Expected run time, or None."""
        return self._seconds.get(category)

    def largest(self, category: str) -> int | None:
        """Size in bytes of the largest result so far, or None."""
        return self._bytes.get(category)


@dataclass(eq=False)
class Room:
    """What a node has, and what of it is taken by the calls that it was given.

    ``batches`` are the tasks of several calls among them; they share its slots, and are not counted otherwise.
    """

    total: Need
    slots: int
    key: str = ""
    busy: Need = field(default_factory=lambda: Need(0.0))
    batches: int = 0

    def could(self, need: Need) -> bool:
        """Whether an empty node of this kind has so much."""
        return all(take <= has + 1e-9 for take, has in zip(need, self.total, strict=True))

    def fits(self, need: Need) -> bool:
        """Whether so much is free."""
        return all(busy + take <= has + 1e-9 for busy, take, has in zip(self.busy, need, self.total, strict=True))

    def take(self, need: Need) -> None:
        """Count with a call."""
        self.busy = Need(*(busy + take for busy, take in zip(self.busy, need, strict=True)))

    def give(self, need: Need) -> None:
        """Count with it no more."""
        self.busy = Need(*(busy - take for busy, take in zip(self.busy, need, strict=True)))


def cost(need: Need, seconds: float | None) -> Need:
    """What a call alone in its task is counted with: fewer cores if it will be over before the next one is there."""
    return need if seconds is None else need._replace(cores=need.cores * min(1.0, max(0.25, seconds / (2 * SHORT))))


def size(seconds: float, slots: int, waiting: int, places: int, most: int = MOST) -> int:
    """How many calls of a kind to put into one task.

    Parameters
    ----------
    seconds : float
        Expected run time of one.
    slots : int
        Calls that its node runs at once.
    waiting : int
        Calls that wait, of any kind.
    places : int
        Tasks of several calls that there is room for, this one included.
    most : int
        Bound of the answer.

    Returns
    -------
    int
        What fills every slot of the node for :data:`TARGET` seconds, but no more than an even share of what waits.
    """
    full = TARGET * slots / (seconds + OVERHEAD)
    return max(1, min(int(full), math.ceil(waiting / max(1, places)), most))


Affinity = Callable[[Any, Room], float]


class Backlog:
    """Calls that could run, in order of priority and arrival.

    Parameters
    ----------
    estimates : Estimates
        Of their categories.
    is_gone : callable
        Whether a call has been cancelled since it was pushed.
    affinity : callable
        How many bytes of a call's inputs a node has.
    enabled : bool
        Whether calls travel together at all.
    """

    def __init__(
        self, estimates: Estimates, is_gone: Callable[[Any], bool], affinity: Affinity, *, enabled: bool = True
    ) -> None:
        self._estimates = estimates
        self._is_gone = is_gone
        self._affinity = affinity
        self._enabled = enabled
        self.most = MOST
        """Calls in one task, at most."""
        self._heaps: dict[Need, list[tuple[float, int, Any]]] = {}

    def __len__(self) -> int:
        return sum(map(len, self._heaps.values()))

    def push(self, call: Batchable) -> None:
        """Add a call."""
        heapq.heappush(self._heaps.setdefault(call.need, []), (-call.priority, call.sequence, call))

    def remove(self, unwanted: Callable[[Need], bool]) -> list[Any]:
        """Remove the calls with certain needs, and return them in order."""
        removed = [self._heaps.pop(need) for need in list(self._heaps) if unwanted(need)]
        return [call for heap in removed for _, _, call in sorted(heap)]

    def _head(self, need: Need) -> Any | None:
        heap = self._heaps[need]
        while heap and self._is_gone(heap[0][2]):
            heapq.heappop(heap)
        if not heap:
            del self._heaps[need]
            return None
        return heap[0][2]

    def _first(self, blocked: set[Need]) -> Any | None:
        """The call that comes first, of those whose kind there is room for."""
        heads = [self._head(need) for need in list(self._heaps) if need not in blocked]
        return min(
            (head for head in heads if head is not None), key=lambda call: (-call.priority, call.sequence), default=None
        )

    def take(self, rooms: Sequence[Room]) -> list[tuple[Room, Need | None, list[Any]]]:
        """Take the calls that there is room for, as the tasks that they are to make.

        Returns
        -------
        list of (Room, Need or None, list)
            Where each task goes, what is counted there for it (None for a task of several calls), and its calls; the
            rooms count with them already.
        """
        tasks: list[tuple[Room, Need | None, list[Any]]] = []
        places = sum(max(0, AHEAD - room.batches) for room in rooms)
        blocked: set[Need] = set()
        while (head := self._first(blocked)) is not None:
            seconds = self._estimates.seconds(head.category)
            if self._is_short(head, seconds):
                open_rooms = [room for room in rooms if room.batches < AHEAD]
                if not open_rooms:
                    blocked.add(head.need)
                    continue
                room = min(open_rooms, key=_emptiness)
                tasks.append((room, None, self._batch(head, room, places)))
                room.batches += 1
                places -= 1
            else:
                need = cost(head.need, seconds)
                chosen = self.place(head, need, rooms)
                if chosen is None:
                    blocked.add(head.need)
                    continue
                chosen.take(need)
                tasks.append((chosen, need, [heapq.heappop(self._heaps[head.need])[2]]))
        return tasks

    def place(self, call: Batchable, need: Need, rooms: Iterable[Room]) -> Room | None:
        """The node for a call alone: where most bytes of its inputs are, then where most cores are free."""
        return max(
            (room for room in rooms if room.fits(need)),
            key=lambda room: (self._affinity(call, room), room.total.cores - room.busy.cores, -room.batches),
            default=None,
        )

    def _is_short(self, call: Batchable, seconds: float | None) -> bool:
        return self._enabled and self.most > 1 and not call.alone and seconds is not None and seconds <= SHORT

    def _batch(self, first: Batchable, room: Room, places: int) -> list[Any]:
        """Take short calls of one kind and priority from the head on."""
        calls: list[Any] = []
        waiting = len(self)
        filled = 0.0
        need = first.need
        while need in self._heaps and (head := self._head(need)) is not None and head.priority == first.priority:
            seconds = self._estimates.seconds(head.category)
            if seconds is None or not self._is_short(head, seconds):
                break
            filled += 1.0 / size(seconds, room.slots, waiting, places, self.most)
            if calls and (filled > 1.0 + 1e-9 or len(calls) >= self.most):
                break
            calls.append(heapq.heappop(self._heaps[need])[2])
        return calls


def _emptiness(room: Room) -> tuple[bool, int, float]:
    return room.busy.cores >= room.total.cores, room.batches, room.busy.cores
