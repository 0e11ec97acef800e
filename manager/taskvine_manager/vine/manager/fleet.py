"""The connected workers, and which of them are to be released."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

from taskvine_manager import gpu_shares
from taskvine_manager.record import events as recorded
from taskvine_manager.vine.manager.batching import Room
from taskvine_manager.vine.manager.config import VineConfig
from taskvine_manager.vine.manager.events import Dismiss, Drained, Say, SayNodes
from taskvine_manager.vine.manager.tasks import RESOURCES, Need
from taskvine_manager.vine.worker.worker import MARK
from taskvine_manager.wire.messages import NodeInfo


class VineNode:
    """A worker as TaskVine describes it; a worker that we have not started has no block, and its name is its address.

    Parameters
    ----------
    address : str
        ``HOST:PORT`` of its connection.
    said : dict
        TaskVine's status of it.
    slots : int or None
        Function slots, if the user has set their number.
    now : float
        When it joined, in seconds.
    """

    def __init__(self, address: str, said: dict[str, Any], slots: int | None, now: float) -> None:
        arch = str(said.get("arch", ""))
        self.address = address
        self.ours = arch.startswith(MARK)
        self.name = arch.removeprefix(MARK) if self.ours else address
        block = self.name[1:].partition("-")[0] if self.ours and self.name.startswith("b") else ""
        cores = float(said.get("cores_total") or said.get("ncpus") or 0)
        memory, disk = float(said.get("memory_total") or 0), float(said.get("disk_total") or 0)
        gpus = int(said.get("gpus_total") or 0)
        pid = int(self.name.rpartition("-")[2]) if self.ours else 0
        self.info = NodeInfo(self.name, cores, memory, disk, gpus, slots, block, pid, "")
        total = Need(max(cores, float(self.slots)), memory, disk, float(gpus))
        self.room = Room(total, self.slots, self.name, gpu_memory=None if self.ours else ())
        self.functions: set[str] = set()
        """Keys of the functions that it was sent."""
        self.greeted = not self.ours
        self.draining = False
        self.leaving = False
        self.idle_since = now

    @property
    def slots(self) -> int:
        """Tasks that it runs at once."""
        return self.info.slots or max(1, int(self.info.cores))


Rescuer = Callable[[VineNode, list[VineNode]], bool]
"""Makes one node of a list copy the files that only a given node has; returns whether there are any."""


class Fleet:
    """Nodes by the address of their worker.

    Parameters
    ----------
    say : callable
        Takes instructions for the shell.
    config : VineConfig
        Settings of the engine.
    details : list, optional
        Takes events for the record of the run.
    """

    def __init__(self, say: Say, config: VineConfig, details: list[recorded.Event] | None = None) -> None:
        self._say = say
        self._details = details
        self._config = config
        self._names: dict[str, str] = {}  # of lost nodes, too
        self.draining: set[str] = set()
        """Blocks whose nodes still have to be released."""
        self._drained: set[str] = set()
        self._addresses: dict[str, str] = {}
        self.nodes: dict[str, VineNode] = {}

    def join(self, address: str, said: dict[str, Any], now: float) -> VineNode:
        """Add a worker; it gets no work if its block has been released."""
        node = self.nodes[address] = VineNode(address, said, self._config.nodes.slots, now)
        self._names[address] = node.name
        self._addresses[node.name] = address
        if not node.ours:
            self._note(recorded.NodeStarted(*node.info))
        if node.info.block in self._drained:
            self._drains(node)
        return node

    def _note(self, event: recorded.Event) -> None:
        if self._details is not None:
            self._details.append(event)

    def _drains(self, node: VineNode) -> None:
        if not node.draining:
            node.draining = True
            self._note(recorded.NodeDrains(node.name))

    def leave(self, address: str) -> None:
        """Remove a worker that is gone."""
        node = self.nodes.pop(address)
        if self._addresses.get(node.name) == address:
            del self._addresses[node.name]
        self._note(recorded.NodeEnded(node.name, "its worker's connection ended", told=node.draining))

    def greeted(self, address: str | None, info: NodeInfo | None) -> None:
        """Note that a worker's supervisor has answered: only now has the node joined."""
        node = self.nodes.get(str(address))
        if node is not None:
            node.greeted = True
            node.room.gpu_memory = () if info is None else info.gpu_memory
            if info is not None:
                node.info = node.info._replace(pid=info.pid, directory=info.directory, gpu_memory=info.gpu_memory)
            self._note(recorded.NodeStarted(*node.info))
            self._say(SayNodes())

    def name(self, address: str | None) -> str:
        """Return the name of a node, even if it is gone; empty if there never was one."""
        return self._names.get(address, "") if address is not None else ""

    def address(self, name: str | None) -> str:
        """Return the address of the node with this name; empty if it is not there."""
        return self._addresses.get(name, "") if name is not None else ""

    @property
    def joined(self) -> int:
        """Number of nodes that have joined."""
        return sum(node.greeted for node in self.nodes.values())

    @property
    def rooms(self) -> list[Room]:
        """Rooms of the nodes that take new work."""
        return [node.room for node in self.nodes.values() if not node.draining]

    def of(self, room: Room) -> VineNode:
        """Return the node that has this room."""
        return next(node for node in self.nodes.values() if node.room is room)

    def could(self, need: Need) -> bool:
        """Return whether any node, if it were empty, has the resources; true while there are none."""
        return not self.nodes or any(node.room.could(need) for node in self.nodes.values())

    def largest(self) -> dict[str, float]:
        """Return the largest amount of each resource on one node."""
        totals = [node.room.total for node in self.nodes.values()]
        has = {name: max(getattr(total, name) for total in totals) for name in RESOURCES}
        return has | gpu_shares.largest([size for node in self.nodes.values() for size in node.room.gpu_memory or ()])

    # --- release of nodes ---

    def give_up(self, block: str) -> None:
        """Start to release the nodes of a block."""
        self.draining.add(block)

    def drain(self, is_busy: Callable[[VineNode], bool], rescue: Rescuer) -> None:
        """Release nodes of draining blocks once they have no work, and no data that only they have.

        A node with such data stays until another node has copied it.
        """
        for node in self.nodes.values():
            if node.info.block in self.draining:
                self._drains(node)
        others = [node for node in self.nodes.values() if not node.draining]
        staying = set()
        for node in self.nodes.values():
            if not node.draining:
                continue
            busy, precious = is_busy(node), rescue(node, others)
            if busy or precious:
                staying.add(node.info.block)
                if not others:
                    node.draining = busy and not precious  # it takes new work: no other node is left for it
        for block in self.draining - staying:
            self.draining.discard(block)
            self._drained.add(block)
            self._say(Drained(block))

    def dismiss_idle(
        self, now: float, busy: set[str | None], only_on: Callable[[str], Collection[object]], rescue: Rescuer
    ) -> None:
        """Dismiss nodes that were idle for too long, except for ``min_nodes`` and the last node with data.

        Parameters
        ----------
        now : float
            In seconds.
        busy : set of str
            Addresses of nodes that have work.
        only_on : callable
            Returns the temp files that only the node of this name has.
        rescue : callable
            See :data:`Rescuer`.
        """
        staying = sum(not node.draining for node in self.nodes.values())
        for node in self.nodes.values():
            if node.address in busy:
                node.idle_since = now
            elif (
                not node.draining
                and now - node.idle_since > self._config.idle_timeout > 0
                and staying > self._config.min_nodes
                and not (staying == 1 and only_on(node.name))
            ):
                node.leaving = True
                self._drains(node)
                staying -= 1
        others = [node for node in self.nodes.values() if not node.draining]
        for node in self.nodes.values():
            if node.leaving and node.address not in busy and not rescue(node, others):
                self._say(Dismiss(node.info.pid))
