"""What named libraries take of their node. Pure: no sockets, processes or clocks.

A library takes its memory and gpus from before its start until all its processes have ended. Its calls take cores only
while they run, so that idle libraries keep no core from other tasks.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import TypeVar

from taskvine_manager.node.calls import NO_GRANT, Grant, Need, Resources
from taskvine_manager.node.devices import NO_GPUS, Gpus
from taskvine_manager.wire.messages import Library


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
        self.need = Need(0.0, kind.memory or 0.0, Gpus(float(kind.gpus), kind.gpu_memory))
        """What the library takes of its node, besides the cores of its calls."""
        self.has_gpus = self.need.gpus != NO_GPUS
        """Whether the library takes gpus."""
        self.is_taken = False
        self._node = node
        self._slots = math.inf if kind.slots is None else kind.slots
        self._memory = 0.0
        self._grant = NO_GRANT
        self._shares: dict[str, str] = {}  # what each share sees
        self._free: list[str] = []

    # --- the library ---

    def take_place(self) -> bool:
        """Take the library's memory and gpus, unless it has them; return false if they are not free."""
        if self.is_taken:
            return True
        need = self.need
        if not self._node.fits(need):
            return False
        self._grant = self._node.grant(need)._replace(groups=())  # its calls are bound to CPUs, it is not
        self._node.take(need, self._grant)
        self._memory = need.memory
        gpus = self._grant.devices
        self._shares = {str(number): seen for number, seen in enumerate(shares(gpus, self.kind.slots or len(gpus)))}
        self._free = list(self._shares)
        self.is_taken = True
        return True

    def leave(self) -> None:
        """Give the library's memory and gpus back; it has no calls."""
        if self.is_taken:
            self.release(self._node)
            self.is_taken, self._grant, self._shares, self._free = False, NO_GRANT, {}, []

    def release(self, node: Resources) -> None:
        """Give what the library has taken to the node, or to a copy of it."""
        node.give(self.need, self._grant)

    @property
    def held(self) -> Grant:
        """The gpus that the library has taken."""
        return self._grant

    @property
    def seen(self) -> str:
        """The names of the gpus that the library itself sees."""
        return ",".join(self._grant.devices)

    # --- its calls ---

    @property
    def cores(self) -> float:
        """Free cores of the node."""
        return self._node.cores

    @property
    def free_shares(self) -> list[str]:
        """Free shares of the library's gpus."""
        return self._free

    def fits(self, need: Need) -> bool:
        """Return whether the library has a free slot and these resources."""
        if not self.is_taken or self._slots < 1 or (self.kind.memory is not None and self._memory < need.memory):
            return False
        return (bool(self._free) or not self.has_gpus) and self._node.fits(self.of_node(need))

    def of_node(self, need: Need) -> Need:
        """Return what a call takes of the node's own resources."""
        memory = need.memory if self.kind.memory is None else 0.0
        return Need(need.cores, memory, NO_GPUS if self.has_gpus else need.gpus)

    def grant(self, need: Need) -> Grant:
        """Choose a share of the library's gpus, if it has some; the rest is the node's choice."""
        grant = self._node.grant(self.of_node(need))
        return grant._replace(devices=tuple(self._free[:1])) if self.has_gpus else grant

    def suits(self, need: Need, grant: Grant) -> bool:
        """Return whether a slot with this grant may run such a call now."""
        if not self.has_gpus:
            return self._node.suits(need, grant)
        is_free = {*grant.devices} <= {*self._free}
        return is_free and self._node.suits(self.of_node(need), grant._replace(devices=()))

    def has_room(self, device: str, need: Need, beside: Sequence[Need]) -> bool:
        """Return whether a slot may have a share, which no other has, or a gpu of the node."""
        return not beside if self.has_gpus else self._node.has_room(device, need, beside)

    def take(self, need: Need, grant: Grant) -> None:
        """Take a slot and resources."""
        self._change(-1, need, grant)

    def give(self, need: Need, grant: Grant) -> None:
        """Give a slot and resources back."""
        self._change(1, need, grant)

    def _change(self, sign: int, need: Need, grant: Grant) -> None:
        self._slots += sign
        if self.kind.memory is not None:
            self._memory += sign * need.memory
        if self.has_gpus:
            self._free = sorted({*self._free} ^ {*grant.devices}, key=int)
            grant = grant._replace(devices=())
        (self._node.give if sign > 0 else self._node.take)(self.of_node(need), grant)

    def visible(self, grant: Grant) -> str:
        """Return the names of the gpus that a call with this grant sees."""
        if not self.has_gpus:
            return self._node.visible(grant)
        return ",".join(self._shares[share] for share in grant.devices)

    def cpus(self, grant: Grant) -> tuple[int, ...]:
        """Return the CPUs of a call with this grant."""
        return self._node.cpus(grant)


def shares(gpus: Sequence[str], slots: int) -> list[str]:
    """Return what each slot sees of a library's gpus: different gpus, or one gpu that it shares with other slots."""
    count = len(gpus)
    if not count:
        return []
    if count < slots:
        return [gpus[number % count] for number in range(slots)]
    return [",".join(gpus[number * count // slots : (number + 1) * count // slots]) for number in range(slots)]


P = TypeVar("P")


def enough(want: Need, node: Resources, coming: Iterable[Place], idle: Iterable[tuple[P, Place]]) -> list[P]:
    """Return which idle libraries must end, so that the node has what is wanted.

    Parameters
    ----------
    want : Need
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
    after = node.copy()
    for place in coming:
        place.release(after)
    ending: list[tuple[P, Place]] = []
    for library, place in idle:
        if after.fits(want):
            break
        place.release(after)
        ending.append((library, place))
    if not after.fits(want):
        return []
    needed = []
    for library, place in ending:
        after.take(place.need, place.held)
        if not after.fits(want):
            place.release(after)
            needed.append(library)
    return needed
