"""The workers that there are, and which of them are to go."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from taskvine_manager.vine.manager.batching import Need, Room
from taskvine_manager.vine.manager.events import Dismiss, Drained, Instruction, SayNodes
from taskvine_manager.vine.manager.records import VineNode
from taskvine_manager.wire.messages import NodeInfo


class Fleet:
    """Nodes by the address of their worker.

    Parameters
    ----------
    say : callable
        Takes instructions for the shell.
    rescue : callable
        Has one of the nodes of a list take copies of what only a certain node has; says whether there is such a thing.
    slots : int or None
        Calls that every node is to run at once; None for as many as it has cores.
    min_nodes : int
        Nodes that are not dismissed, however idle.
    idle_timeout : float
        Seconds without work after which a node is dismissed; 0 for never.
    """

    def __init__(
        self,
        say: Callable[[Instruction], None],
        rescue: Callable[[VineNode, list[VineNode]], bool],
        *,
        slots: int | None,
        min_nodes: int,
        idle_timeout: float,
    ) -> None:
        self._say = say
        self._rescue = rescue
        self._slots = slots
        self._min_nodes = min_nodes
        self._idle_timeout = idle_timeout
        self._names: dict[str, str] = {}  # of nodes that are gone too
        self._draining: set[str] = set()
        self._drained: set[str] = set()
        self.nodes: dict[str, VineNode] = {}

    def join(self, address: str, said: dict[str, Any], now: float) -> VineNode:
        """A worker is there; one of a block that has been given up gets nothing to do."""
        node = self.nodes[address] = VineNode(address, said, self._slots, now)
        self._names[address] = node.name
        node.draining = node.info.block in self._drained
        return node

    def leave(self, address: str) -> None:
        """A worker is gone."""
        del self.nodes[address]

    def greeted(self, address: str | None, info: NodeInfo | None) -> None:
        """A worker's supervisor is there: only then has the node joined."""
        node = self.nodes.get(str(address))
        if node is not None:
            node.greeted = True
            if info is not None:
                node.info = node.info._replace(pid=info.pid, directory=info.directory)
            self._say(SayNodes())

    def name(self, address: str | None) -> str:
        """The name of a node, be it gone; empty if there never was one."""
        return self._names.get(address, "") if address is not None else ""

    @property
    def joined(self) -> int:
        """How many nodes have joined."""
        return sum(node.greeted for node in self.nodes.values())

    @property
    def rooms(self) -> list[Room]:
        """Of the nodes that take new work."""
        return [node.room for node in self.nodes.values() if not node.draining]

    def of(self, room: Room) -> VineNode:
        """The node whose room this is."""
        return next(node for node in self.nodes.values() if node.room is room)

    def could(self, need: Need) -> bool:
        """Whether any of the nodes, if it were empty, has so much; true while there is none."""
        return not self.nodes or any(node.room.could(need) for node in self.nodes.values())

    def largest(self) -> dict[str, float]:
        """Most that one node has, of each resource."""
        totals = [node.room.total for node in self.nodes.values()]
        return {name: max(getattr(total, name) for total in totals) for name in Need._fields}

    # --- going ---

    @property
    def draining(self) -> bool:
        """Whether there are blocks that are to be let go, and have not been."""
        return bool(self._draining)

    def give_up(self, block: str) -> None:
        """Let the nodes of a block go."""
        self._draining.add(block)

    def drain(self, is_busy: Callable[[VineNode], bool]) -> None:
        """Let nodes of draining blocks go once they have nothing to do, and nothing that only they have.

        The last node with temp files stays until another has joined: it would take them with it.
        """
        for node in self.nodes.values():
            node.draining = node.draining or node.info.block in self._draining
        others = [node for node in self.nodes.values() if not node.draining]
        staying = set()
        for node in self.nodes.values():
            if not node.draining:
                continue
            busy, precious = is_busy(node), self._rescue(node, others)
            if busy or precious:
                staying.add(node.info.block)
                if not others:
                    node.draining = busy and not precious  # it works on: nothing else is left to do so
        for block in self._draining - staying:
            self._draining.discard(block)
            self._drained.add(block)
            self._say(Drained(block))

    def retire(self, now: float, busy: set[str | None], has_data: Callable[[str], bool]) -> None:
        """Let nodes go that had nothing to do for long, all but the fewest, and not the last one with data.

        Parameters
        ----------
        now : float
            In seconds.
        busy : set of str
            Addresses of nodes that have something to do.
        has_data : callable
            Whether there are temp files that only the node of this name has.
        """
        staying = sum(not node.draining for node in self.nodes.values())
        for node in self.nodes.values():
            if node.address in busy:
                node.idle_since = now
            elif (
                not node.draining
                and now - node.idle_since > self._idle_timeout > 0
                and staying > self._min_nodes
                and not (staying == 1 and has_data(node.name))
            ):
                node.draining = node.leaving = True
                staying -= 1
        others = [node for node in self.nodes.values() if not node.draining]
        for node in self.nodes.values():
            if node.leaving and node.address not in busy and not self._rescue(node, others):
                self._say(Dismiss(node.info.pid))
