"""Which tasks use which gpus of a node. Pure: no sockets, processes or clocks."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

WHOLE = 10_000_000
"""Parts into which a gpu is divided. Whole numbers add up exactly, which fractions do not."""


class Gpus(NamedTuple):
    """What a task takes of gpus.

    ``amount`` is a whole number of gpus, or a part of one. ``memory`` is what it needs of each of them, in MB. A task
    that names only memory shares a gpu with others, as long as there is memory left.
    """

    amount: float = 0.0
    memory: float = 0.0

    @property
    def seen(self) -> int:
        """Number of gpus that the task sees."""
        return int(self.amount) if self.amount >= 1.0 else int(self.amount > 0 or self.memory > 0)


NO_GPUS = Gpus()


class _Device:
    __slots__ = ("free", "free_memory", "memory", "name", "tasks")

    def __init__(self, name: str, memory: int) -> None:
        self.name = name
        self.memory = self.free_memory = memory
        self.free = WHOLE
        self.tasks = 0

    def cost(self, gpus: Gpus) -> tuple[int, int]:
        """Return the parts and the memory that a task takes. A task with a whole gpu takes all of its memory."""
        if gpus.amount >= 1.0:
            return WHOLE, self.memory
        return int(gpus.amount * WHOLE + 1e-3), math.ceil(gpus.memory)

    def has_room(self, gpus: Gpus, beside: Sequence[Gpus]) -> bool:
        if gpus.amount >= 1.0:
            return not self.tasks and not beside and self.memory >= gpus.memory
        costs = [self.cost(each) for each in (gpus, *beside)]
        return sum(parts for parts, _ in costs) <= self.free and sum(size for _, size in costs) <= self.free_memory


class Devices:
    """The gpus of a node, and what is free of each.

    Parameters
    ----------
    names : iterable of str
        Their names, which are all different.
    memories : sequence of float
        Their memory in MB, in the same order; empty if it is not known.
    """

    def __init__(self, names: Iterable[str] = (), memories: Sequence[float] = ()) -> None:
        self._all: dict[str, _Device] = {}
        for number, name in enumerate(names):
            memory = int(memories[number]) if memories else 0
            self._all[name] = _Device(name, memory)

    def copy(self) -> Devices:
        """Return a copy, on which to try something."""
        other = Devices()
        other._all = {name: copy.copy(device) for name, device in self._all.items()}
        return other

    @property
    def free(self) -> list[str]:
        """Names of the gpus that no task uses."""
        return [device.name for device in self._all.values() if not device.tasks]

    def pick(self, gpus: Gpus) -> tuple[str, ...] | None:
        """Choose gpus for a task; return None if they are not free.

        A part of a gpu comes from the one with the least that is enough, so that others stay whole.
        """
        count = gpus.seen
        if not count:
            return ()
        fitting = [device for device in self._all.values() if device.has_room(gpus, ())]
        if len(fitting) < count:
            return None
        if gpus.amount < 1.0:
            fitting.sort(key=lambda device: (not device.tasks, device.free, device.free_memory))
        elif gpus.memory:
            fitting.sort(key=lambda device: device.memory)
        return tuple(device.name for device in fitting[:count])

    def could(self, gpus: Gpus) -> bool:
        """Return whether a task could run if no other did."""
        return sum(device.memory >= gpus.memory for device in self._all.values()) >= gpus.seen

    def has_room(self, name: str, gpus: Gpus, beside: Sequence[Gpus] = ()) -> bool:
        """Return whether a gpu has room for a task, and for the tasks in ``beside``."""
        return self._all[name].has_room(gpus, beside)

    def take(self, gpus: Gpus, names: Iterable[str]) -> None:
        """Take what a task needs of these gpus."""
        self._change(-1, gpus, names)

    def give(self, gpus: Gpus, names: Iterable[str]) -> None:
        """Give it back."""
        self._change(1, gpus, names)

    def _change(self, sign: int, gpus: Gpus, names: Iterable[str]) -> None:
        for name in names:
            device = self._all[name]
            parts, memory = device.cost(gpus)
            device.free += sign * parts
            device.free_memory += sign * memory
            device.tasks -= sign
