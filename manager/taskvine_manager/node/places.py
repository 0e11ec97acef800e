"""What named libraries take of their node. Pure: no sockets, processes or clocks.

A library takes its memory and gpus from before its start until all its processes have ended. Its calls take cores only
while they run, so that idle libraries keep no core from other tasks.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple, TypeVar

from taskvine_manager.node.calls import Need, Resources
from taskvine_manager.wire.messages import Library


class Want(NamedTuple):
    """Memory and gpus of the node that a task or library waits for."""

    memory: float
    gpus: int


class Place:
    """The resources of a library, for its :class:`~taskvine_manager.node.pool.Pool`.

    Its gpus are given out in shares, one for each slot. With fewer gpus than slots, several shares are of one gpu.

    Parameters
    ----------
    node : Resources
        The node's resources.
    kind : Library
        The library.
    """

    def __init__(self, node: Resources, kind: Library) -> None:
        self.kind = kind
        self.is_taken = False
        self._node = node
        self._slots = math.inf if kind.slots is None else kind.slots
        self._memory = 0.0
        self._gpus: tuple[str, ...] = ()
        self._shares: dict[str, str] = {}  # what each share sees
        self._free: list[str] = []

    # --- the library ---

    def take_place(self) -> bool:
        """Take the library's memory and gpus, unless it has them; return false if they are not free."""
        if self.is_taken:
            return True
        memory, count = self.kind.memory or 0.0, self.kind.gpus
        if not self._node.fits(0.0, memory, count):
            return False
        self._gpus = tuple(self._node.gpus[:count])
        self._node.take(0.0, memory, self._gpus)
        self._memory = memory
        self._shares = {str(number): seen for number, seen in enumerate(shares(self._gpus, self.kind.slots or count))}
        self._free = list(self._shares)
        self.is_taken = True
        return True

    def leave(self) -> None:
        """Give the library's memory and gpus back; it has no calls."""
        if self.is_taken:
            self._node.give(0.0, self.kind.memory or 0.0, self._gpus)
            self.is_taken, self._gpus, self._shares, self._free = False, (), {}, []

    @property
    def seen(self) -> str:
        """The ``CUDA_VISIBLE_DEVICES`` of the library itself."""
        return ",".join(self._gpus)

    # --- its calls ---

    @property
    def cores(self) -> float:
        """Free cores of the node."""
        return self._node.cores

    @property
    def gpus(self) -> list[str]:
        """Free shares of the library's gpus, or the node's free gpus if the library has none."""
        return self._free if self.kind.gpus else self._node.gpus

    def fits(self, cores: float, memory: float, gpus: int) -> bool:
        """Return whether the library has a free slot and these resources."""
        if not self.is_taken or self._slots < 1 or (self.kind.memory is not None and self._memory < memory):
            return False
        return len(self.gpus) >= gpus and self._node.fits(cores, *self.of_node((cores, memory, gpus)))

    def of_node(self, need: Need) -> Want:
        """Return what a call takes of the node's own memory and gpus."""
        _, memory, gpus = need
        return Want(memory if self.kind.memory is None else 0.0, 0 if self.kind.gpus else gpus)

    def take(self, cores: float, memory: float, gpus: Iterable[str]) -> None:
        """Take a slot and resources."""
        self._change(-1, cores, memory, gpus)

    def give(self, cores: float, memory: float, gpus: Iterable[str]) -> None:
        """Give a slot and resources back."""
        self._change(1, cores, memory, gpus)

    def _change(self, sign: int, cores: float, memory: float, gpus: Iterable[str]) -> None:
        self._slots += sign
        if self.kind.memory is not None:
            self._memory, memory = self._memory + sign * memory, 0.0
        if self.kind.gpus:
            self._free = sorted({*self._free} ^ {*gpus}, key=int)
            gpus = ()
        (self._node.give if sign > 0 else self._node.take)(cores, memory, gpus)

    def visible(self, gpus: Iterable[str]) -> str:
        """Return the ``CUDA_VISIBLE_DEVICES`` of a call that has taken these."""
        return ",".join(self._shares[gpu] for gpu in gpus) if self.kind.gpus else ",".join(gpus)


def shares(gpus: Sequence[str], slots: int) -> list[str]:
    """Return what each slot sees of a library's gpus: different gpus, or one gpu that it shares with other slots."""
    count = len(gpus)
    if not count:
        return []
    if count < slots:
        return [gpus[number % count] for number in range(slots)]
    return [",".join(gpus[number * count // slots : (number + 1) * count // slots]) for number in range(slots)]


P = TypeVar("P")


def enough(want: Want, node: Resources, coming: Iterable[Place], idle: Iterable[tuple[P, Place]]) -> list[P]:
    """Return which idle libraries must end, so that the node has what is wanted.

    Parameters
    ----------
    want : Want
        What something waits for.
    node : Resources
        The node's resources.
    coming : iterable of Place
        Places of libraries that are ending already.
    idle : iterable of (P, Place)
        Idle libraries with their places, in the order in which they may end.

    Returns
    -------
    list
        Of the idle libraries, as few as possible from the beginning. Empty if none must end, or if all of them together
        would not be enough.
    """
    memory = node.memory + sum(place.kind.memory or 0.0 for place in coming)
    gpus = len(node.gpus) + sum(place.kind.gpus for place in coming)
    ending = []
    for library, place in idle:
        if memory >= want.memory and gpus >= want.gpus:
            break
        of_use = (place.kind.memory and memory < want.memory) or (place.kind.gpus and gpus < want.gpus)
        if of_use:
            memory += place.kind.memory or 0.0
            gpus += place.kind.gpus
            ending.append(library)
    return ending if memory >= want.memory and gpus >= want.gpus else []
