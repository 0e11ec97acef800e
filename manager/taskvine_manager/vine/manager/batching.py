"""How many short tasks one TaskVine task carries, and how many TaskVine tasks there are at a time.

TaskVine spends about half a millisecond on each of its tasks, whatever they contain, and slows down with their number.
Tasks that are known to be short therefore share parcels worth some tens of milliseconds, and TaskVine gets only the
parcels that nodes can take. The other tasks wait here, in order of priority. A single task is never held back for
others: whatever waits is sent when a node has free resources.

Pure: no clocks, no I/O.
"""

from __future__ import annotations

import heapq
import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial

from taskvine_manager import gpu_shares
from taskvine_manager.run_times import RunTimes
from taskvine_manager.vine.manager.tasks import RESOURCES, Need, State, Task
from taskvine_manager.wire.messages import Library

TARGET = 0.040
"""Seconds of work, for each slot of a node, that one parcel should contain."""
SHORT = 0.010
"""Longest expected run time, in seconds, of a task that may share a parcel."""
SOME = 0.01
"""A part of a gpu, for a task that asks for gpu memory only."""
OVERHEAD = 0.00012
"""Seconds that a task occupies its slot beyond the function's run time."""
MOST = 1024
"""Most tasks in one parcel, unless the tuning parameter ``executor.batch`` says otherwise."""
AHEAD = 2
"""Parcels of short tasks that a node has at a time: one runs, the others are on their way."""


class Estimates:
    """Run times and sizes of results of categories, learned from completed tasks."""

    def __init__(self) -> None:
        self.seconds = RunTimes()
        self.largest: dict[str, int] = {}
        """Size in bytes of the largest result so far."""

    def learn(self, category: str, seconds: float, size: int) -> None:
        """Learn from a completed task's run time in seconds and result size in bytes."""
        self.seconds.learn(category, seconds)
        self.largest[category] = max(size, self.largest.get(category, 0))


@dataclass(eq=False)
class Room:
    """Resources of a node, and those that its tasks use.

    ``gpu_memory`` is the memory of each of its gpus, in MB. It is None until the node has reported it, and empty if the
    node does not know it. ``sharing`` counts the tasks with gpus by what they ask for. ``batches`` counts its parcels
    of several tasks. They share the slots, and their resources are not counted. ``libraries`` counts the parcels in
    each named library. A library takes its memory and gpus once. ``warm`` names the libraries that run there, as far as
    the node has reported it.
    """

    total: Need
    slots: int
    key: str = ""
    busy: Need = field(default_factory=lambda: Need(0.0))
    batches: int = 0
    libraries: Counter[Library] = field(default_factory=Counter)
    warm: tuple[str, ...] = ()
    gpu_memory: tuple[float, ...] | None = None
    sharing: Counter[tuple[float, float]] = field(default_factory=Counter)

    def could(self, need: Need) -> bool:
        """Return whether an empty node of this kind has the resources."""
        library = need.library
        if self.gpu_memory is None:  # it may have enough
            need = need._replace(gpus=need.gpus or SOME * bool(need.gpu_memory), gpu_memory=0.0)
            library = library and library._replace(gpus=library.gpus or SOME * bool(library.gpu_memory), gpu_memory=0.0)
        here = self.here(need)
        is_large_enough = self._most(need) >= 1 and (library is None or self._most(library) >= 1)
        return is_large_enough and _is_within(here if library is None else self.beside(here, library), self.total)

    def _most(self, of: Need | Library) -> float:
        """Return how many such tasks or libraries the gpus of the node can serve at once."""
        return gpu_shares.most(of.gpus, of.gpu_memory, int(self.total.gpus), self.gpu_memory or ())

    def here(self, need: Need) -> Need:
        """Return a need with the number of gpus as which it counts on this node."""
        return need._replace(gpus=self._gpus(need.gpus, need.gpu_memory)) if need.gpus or need.gpu_memory else need

    def _gpus(self, asked: float, memory: float) -> float:
        return gpu_shares.portion(asked, memory, int(self.total.gpus), self.gpu_memory or ())

    def beside(self, need: Need, library: Library) -> Need:
        """Return a need, and what a library takes."""
        gpus = self._gpus(library.gpus, library.gpu_memory) if library.gpus or library.gpu_memory else 0.0
        return need._replace(memory=need.memory + (library.memory or 0.0), gpus=need.gpus + gpus)

    def fits(self, need: Need) -> bool:
        """Return whether the resources are free, and a slot of the library."""
        amounts = zip(self.busy[:4], self.here(need)[:4], self.total[:4], strict=True)
        if not all(busy + take <= has + 1e-9 for busy, take, has in amounts):
            return False
        library = need.library
        if library is not None and library.slots is not None and self.libraries[library] >= library.slots:
            return False
        if library is not None and self._most(library) < 1:
            return False
        return self.sharing[need.gpus, need.gpu_memory] < self._most(need) and self.admits(need)

    def admits(self, need: Need) -> bool:
        """Return whether the memory and gpus of libraries leave room for a task, and for its library."""
        if need.library is None and not self.libraries:
            return True
        taken = _sum(self.busy, self.here(need))
        for library in self.libraries.keys() | ({need.library} if need.library is not None else set()):
            taken = self.beside(taken, library)
        return taken.memory <= self.total.memory + 1e-9 and taken.gpus <= self.total.gpus + 1e-9

    def scarce(self, need: Need, *, empty: bool) -> str:
        """Return the first resource that a task lacks here now, or lacks here ever (``empty``)."""
        for name, busy, take, has in zip(RESOURCES, self.busy[:4], need[:4], self.total[:4], strict=True):
            if (0.0 if empty else busy) + take > has + 1e-9:
                return name
        library = need.library
        if library is not None and library.slots is not None and self.libraries[library] >= library.slots:
            return "library slots"
        return "slots" if self.admits(need) else "memory or gpus of libraries"

    def take(self, need: Need) -> None:
        """Count a task's resources as used."""
        self.busy = _sum(self.busy, self.here(need))
        self._share(need, 1)
        self.enter(need.library)

    def give(self, need: Need) -> None:
        """Count a task's resources as free again."""
        self.busy = _sum(self.busy, self.here(need), -1)
        self._share(need, -1)
        self.leave(need.library)

    def _share(self, need: Need, by: int) -> None:
        if need.gpus or need.gpu_memory:
            self.sharing[need.gpus, need.gpu_memory] += by
            self.sharing += Counter()  # drops those without a task

    def enter(self, library: Library | None) -> None:
        """Count a parcel in a library."""
        if library is not None:
            self.libraries[library] += 1

    def leave(self, library: Library | None) -> None:
        """Count a parcel in a library as ended."""
        if library is not None:
            self.libraries[library] -= 1
            self.libraries += Counter()  # drops those without a parcel

    def is_warm(self, need: Need) -> bool:
        """Return whether the library of a task runs here."""
        return need.library is not None and need.library.name in self.warm


def _sum(busy: Need, need: Need, sign: int = 1) -> Need:
    cores, memory, disk, gpus = (have + sign * take for have, take in zip(busy[:4], need[:4], strict=True))
    return Need(cores, memory, disk, gpus)


def _is_within(need: Need, total: Need) -> bool:
    return all(take <= has + 1e-9 for take, has in zip(need[:4], total[:4], strict=True))


def cost(need: Need, seconds: float | None) -> Need:
    """Return the resources counted for a single task: fewer cores if it will end before the next one arrives."""
    return need if seconds is None else need._replace(cores=need.cores * min(1.0, max(0.25, seconds / (2 * SHORT))))


def size(seconds: float, slots: int, waiting: int, places: int, most: int = MOST) -> int:
    """Return how many tasks of a kind to put into one parcel.

    Parameters
    ----------
    seconds : float
        Expected run time of one.
    slots : int
        Tasks that its node runs at once.
    waiting : int
        Tasks that wait, of any kind.
    places : int
        Parcels of several tasks that nodes can still take, this one included.
    most : int
        Upper limit of the answer.

    Returns
    -------
    int
        Enough to fill every slot of the node for :data:`TARGET` seconds, but at most an even share of the waiting
        tasks.
    """
    full = TARGET * slots / (seconds + OVERHEAD)
    return max(1, min(int(full), math.ceil(waiting / max(1, places)), most))


class Backlog:
    """Tasks that could run, in order of priority and arrival, and some that were cancelled meanwhile.

    Parameters
    ----------
    estimates : Estimates
        Of their categories.
    affinity : callable
        How many bytes of a task's inputs a node has.
    enabled : bool
        Whether tasks may share parcels.
    """

    def __init__(self, estimates: Estimates, affinity: Callable[[Task, Room], float], *, enabled: bool = True) -> None:
        self._estimates = estimates
        self._affinity = affinity
        self._enabled = enabled
        self.most = MOST
        """Most tasks in one parcel."""
        self._heaps: dict[Need, list[tuple[float, int, Task]]] = {}

    def __len__(self) -> int:
        return sum(map(len, self._heaps.values()))

    def __iter__(self) -> Iterator[Task]:
        return (task for heap in self._heaps.values() for _, _, task in heap)

    def push(self, task: Task) -> None:
        """Add a task."""
        heapq.heappush(self._heaps.setdefault(task.need, []), (-task.profile.priority, task.sequence, task))

    def remove(self, unwanted: Callable[[Need], bool]) -> list[Task]:
        """Remove the tasks with certain needs, and return those that are not over, in order."""
        removed = [self._heaps.pop(need) for need in list(self._heaps) if unwanted(need)]
        return [task for heap in removed for _, _, task in sorted(heap) if task.state is not State.DONE]

    def heads(self) -> Iterator[tuple[Need, Task, int]]:
        """Yield the first task of each need, and how many there are, including some that were cancelled."""
        for need in list(self._heaps):
            if (head := self._head(need)) is not None:
                yield need, head, len(self._heaps[need])

    def _head(self, need: Need) -> Task | None:
        heap = self._heaps[need]
        while heap and heap[0][2].state is State.DONE:
            heapq.heappop(heap)
        if not heap:
            del self._heaps[need]
            return None
        return heap[0][2]

    def _first(self, blocked: set[Need]) -> Task | None:
        """Return the first task in order whose needs are not blocked."""
        heads = [self._head(need) for need in list(self._heaps) if need not in blocked]
        return min(
            (head for head in heads if head is not None),
            key=lambda task: (-task.profile.priority, task.sequence),
            default=None,
        )

    def take(self, rooms: Sequence[Room]) -> list[tuple[Room, Need | None, list[Task]]]:
        """Take the tasks for which nodes have free resources, grouped into parcels.

        Returns
        -------
        list of (Room, Need or None, list)
            For each parcel its node's room, the resources counted there (None for several tasks), and its tasks. The
            rooms already include them.
        """
        taken: list[tuple[Room, Need | None, list[Task]]] = []
        places = sum(max(0, AHEAD - room.batches) for room in rooms)
        blocked: set[Need] = set()
        while (head := self._first(blocked)) is not None:
            seconds = self._estimates.seconds.get(head.profile.category)
            if self._is_short(head, seconds):
                open_rooms = [room for room in rooms if room.batches < AHEAD and room.admits(head.need)]
                if not open_rooms:
                    blocked.add(head.need)
                    continue
                room = min(open_rooms, key=partial(_emptiness, head.need))
                taken.append((room, None, self._batch(head, room, places)))
                room.batches += 1
                room.enter(head.need.library)
                places -= 1
            else:
                need = cost(head.need, seconds)
                chosen = self.place(head, need, rooms)
                if chosen is None:
                    blocked.add(head.need)
                    continue
                chosen.take(need)
                taken.append((chosen, need, [heapq.heappop(self._heaps[head.need])[2]]))
        return taken

    def place(self, task: Task, need: Need, rooms: Iterable[Room]) -> Room | None:
        """Return the node for a single task.

        It is the one with most bytes of its inputs, then where its library runs, then with most free cores.
        """
        return max(
            (room for room in rooms if room.fits(need)),
            key=lambda room: (
                self._affinity(task, room),
                room.is_warm(need),
                room.total.cores - room.busy.cores,
                -room.batches,
            ),
            default=None,
        )

    def _is_short(self, task: Task, seconds: float | None) -> bool:
        return self._enabled and self.most > 1 and not task.alone and seconds is not None and seconds <= SHORT

    def _batch(self, first: Task, room: Room, places: int) -> list[Task]:
        """Take short tasks of one kind and priority from the front of the queue."""
        batch: list[Task] = []
        waiting = len(self)
        filled = 0.0
        need = first.need
        while (
            need in self._heaps
            and (head := self._head(need)) is not None
            and head.profile.priority == first.profile.priority
        ):
            seconds = self._estimates.seconds.get(head.profile.category)
            if seconds is None or not self._is_short(head, seconds):
                break
            filled += 1.0 / size(seconds, room.slots, waiting, places, self.most)
            if batch and (filled > 1.0 + 1e-9 or len(batch) >= self.most):
                break
            batch.append(heapq.heappop(self._heaps[need])[2])
        return batch


def _emptiness(need: Need, room: Room) -> tuple[bool, bool, int, float]:
    return not room.is_warm(need), room.busy.cores >= room.total.cores, room.batches, room.busy.cores
