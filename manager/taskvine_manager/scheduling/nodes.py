"""Nodes as the scheduler sees them: their resources, and how much of them is in use."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field
from typing import NamedTuple

from taskvine_manager import gpu_shares
from taskvine_manager.scheduling.tasks import Shape, Task
from taskvine_manager.scheduling.tuning import Tuning
from taskvine_manager.wire.messages import L2, Library, NodeInfo

AHEAD = 256
"""Maximum number of tasks sent ahead for each slot."""
LOOKED_AT = 16
"""Maximum number of nodes compared for one choice, so that its cost does not grow with the number of nodes."""
MB = 1 << 20
RESOURCES = ("cores", "memory", "disk", "gpus", "slots", "suspects")
"""Names of the amounts of :attr:`Node.total`."""


class Transfer(NamedTuple):
    """A transfer to a node: its source node, and whether it belongs to a task on that node."""

    source: str
    for_task: bool


@dataclass
class Node:
    """A node.

    ``files`` maps its temp files to their bytes, and ``used`` is their sum. ``fetching`` holds the transfers to it,
    and ``sending`` counts the transfers from it. ``reads`` counts its tasks that read each file. While it drains,
    ``unsaved`` holds the files that may have to be copied from it first. ``crowded`` maps tasks to the bytes of
    their outputs that do not fit yet; the tasks in ``yielding`` give theirs up to others and run again.
    ``needs`` must be cleared when ``tuning`` changes. ``libraries`` names the named libraries that run there, as far as
    the node has reported it.
    """

    info: NodeInfo
    tuning: Tuning
    draining: bool = False
    released: bool = False
    assigned: dict[int, Task] = field(default_factory=dict)
    shapes: Counter[Shape] = field(default_factory=Counter)
    files: dict[str, int] = field(default_factory=dict)
    used: int = 0
    fetching: dict[str, Transfer] = field(default_factory=dict)
    sending: int = 0
    reads: Counter[str] = field(default_factory=Counter)
    unsaved: dict[str, None] = field(default_factory=dict)
    crowded: dict[int, int] = field(default_factory=dict)
    yielding: set[int] = field(default_factory=set)
    needs: dict[Shape, tuple[float, ...]] = field(default_factory=dict)
    libraries: tuple[str, ...] = ()

    @property
    def room(self) -> float:
        """Bytes of disk left for temp files; infinite if the node has no limit."""
        return self.info.disk * MB - self.used if self.info.disk else math.inf

    @property
    def total(self) -> tuple[float, ...]:
        """Cores, memory, disk, GPUs, configured function slots (infinite if not configured), suspects."""
        info = self.info
        slots = math.inf if info.slots is None else info.slots
        return (info.cores, info.memory, info.disk, float(info.gpus), slots, 1.0)

    def need(self, shape: Shape) -> tuple[float, ...]:
        """Return the resources that a task of a shape takes on this node, in the order of :attr:`total`."""
        found = self.needs.get(shape)
        if found is None:
            found = self.needs[shape] = self.measure(shape)
        return found

    def measure(self, shape: Shape) -> tuple[float, ...]:
        """Return the same, without the memory of earlier answers that ``needs`` is."""
        info, library = self.info, shape.library
        called = shape.mode == L2 and library is None
        slots = info.slots if called else None
        cores = shape.cores
        if cores is None:
            cores = info.cores / slots if slots else min(1.0, info.cores)
        slot = 1.0 if called and info.slots else 0.0
        amounts = (cores, shape.memory or 0.0, shape.disk or 0.0)
        if self.tuning.proportional_resources and library is None:
            amounts = self.share(shape, amounts)
        elif library is not None and library.memory is not None:
            amounts = (cores, 0.0, amounts[2])  # it is in what the library takes
        return (*amounts, self.gpus(shape), slot, float(shape.suspect))

    def gpus(self, of: Shape | Library) -> float:
        """Return as how many gpus a task or library counts here."""
        return gpu_shares.portion(of.gpus or 0.0, of.gpu_memory or 0.0, self.info.gpus, self.info.gpu_memory)

    def most(self, of: Shape | Library) -> float:
        """Return how many such tasks or libraries the gpus of the node can serve at once."""
        return gpu_shares.most(of.gpus or 0.0, of.gpu_memory or 0.0, self.info.gpus, self.info.gpu_memory)

    def share(self, shape: Shape, amounts: tuple[float, float, float]) -> tuple[float, float, float]:
        """Return cores, memory and disk of a task: resources that it did not request get the share that it did request.

        The share is the largest one requested of any resource. With ``proportional-whole-tasks`` it is rounded up, so
        that a whole number of such tasks fills the node, and holds for all three.
        """
        asked, total = shape[1:5], self.total[:4]
        share = max((ask / has for ask, has in zip(asked, total, strict=True) if ask and has), default=0.0)
        if not 0 < share <= 1:
            return amounts
        whole = self.tuning.proportional_whole_tasks
        if whole:
            share = 1 / math.floor(1 / share + 1e-9)
        cores, memory, disk = (
            amount if ask is not None and not whole else max(share * has, ask or 0.0)
            for amount, ask, has in zip(amounts, asked[:3], total[:3], strict=True)
        )
        return cores, memory, disk

    def capacity(self, shape: Shape, *, others: bool) -> int:
        """Return how many tasks of a shape fit at once, beside those of other shapes (``others``) or alone.

        A library takes memory and gpus once, however many of its calls run.
        """
        free, slots = self._free(shape, others=others)
        library = shape.library
        if library is not None and (min(free[1], free[3] + 1e-9, slots) < 0 or not self.most(library)):
            return 0
        fits = [slots] if library is not None and library.slots is not None else []
        if shape.gpus or shape.gpu_memory:
            fits.append(int(self.most(shape)))
        fits += [math.floor(have / take + 1e-9) for have, take in zip(free, self.need(shape), strict=True) if take > 0]
        return max(0, min(fits, default=AHEAD))

    def scarce(self, shape: Shape, *, others: bool) -> str:
        """Return the resource that limits how many tasks of a shape fit, as :meth:`capacity` counts them."""
        if others and self.crowded:
            return "disk"
        free, slots = self._free(shape, others=others)
        fits = [
            (have / take if take > 0 else math.inf if have >= 0 else have, name)
            for name, have, take in zip(RESOURCES, free, self.need(shape), strict=True)
        ]
        if shape.library is not None and shape.library.slots is not None:
            fits.append((slots, "library slots"))
        return min(fits)[1]

    def _free(self, shape: Shape, *, others: bool) -> tuple[list[float], int]:
        """Return the resources for tasks of a shape, in the order of :attr:`total`, and the slots of their library."""
        free = list(self.total)
        library = shape.library
        libraries = {} if library is None else {library.name: library}
        slots = AHEAD if library is None or library.slots is None else library.slots
        if others:
            for other, count in self.shapes.items():
                if other != shape and count:
                    running = min(count, self.capacity(other, others=False))
                    free = [have - running * take for have, take in zip(free, self.need(other), strict=True)]
                    if other.library is not None:
                        libraries[other.library.name] = other.library
                        slots -= running * (other.library == library)
        if libraries:
            free[1] -= sum(each.memory or 0.0 for each in libraries.values())
            free[3] -= sum(self.gpus(each) for each in libraries.values())
        return free, slots

    def room_for(self, shape: Shape, depth: float) -> int:
        """Return how many more tasks of a shape may be sent here, with ``depth`` for each that fits at once.

        None may while outputs do not fit: they would produce more, and hold the files that could be evicted.
        """
        if self.crowded:
            return 0
        return math.floor(self.capacity(shape, others=True) * depth + 1e-9) - self.shapes[shape]

    def take(self, task: Task) -> None:
        """Assign a task to this node."""
        task.node = self.info.name
        self.assigned[task.invocation.number] = task
        self.shapes[task.shape] += 1
        for file in task.files:
            self.reads[file] += 1

    def give(self, task: Task) -> list[str]:
        """Remove a task from this node; return the files that no other task here reads."""
        number = task.invocation.number
        del self.assigned[number]
        if self.crowded:
            self.crowded.pop(number, None)
        self.yielding.discard(number)
        task.node = None
        self.shapes[task.shape] -= 1
        if not self.shapes[task.shape]:
            del self.shapes[task.shape]
        unread = []
        for file in task.files:
            self.reads[file] -= 1
            if not self.reads[file]:
                del self.reads[file]
                unread.append(file)
        return unread

    def store(self, name: str, size: int) -> int:
        """Record a temp file on this node; return how many bytes more it holds now."""
        self.save(name)
        more = size - self.files.get(name, 0)
        self.files[name] = size
        self.used += more
        return more

    def drop(self, name: str) -> int:
        """Record that a temp file is removed from this node; return its bytes."""
        size = self.files.pop(name, 0)
        self.unsaved.pop(name, None)
        self.used -= size
        return size

    def save(self, name: str) -> None:
        """Note that a file may have to be copied from this node, if it drains."""
        if self.draining:
            self.unsaved[name] = None

    def save_all(self) -> None:
        """Note this of all files."""
        self.unsaved = dict.fromkeys(sorted(self.files))
