"""Nodes that are asked to leave: those of draining blocks, and idle ones. The last node with data stays."""

from __future__ import annotations

from collections.abc import Callable

from taskvine_manager.embedded.links import Links
from taskvine_manager.engine_api import Outlet
from taskvine_manager.scheduling import events
from taskvine_manager.scheduling.core import Scheduler


class Departures:
    """Blocks that drain, and nodes that are released.

    Parameters
    ----------
    scheduler : Scheduler
        Says what is on each node.
    links : Links
        The nodes.
    outlet : Outlet
        Receives the news that a block has been drained.
    handle : callable
        Handles the event that a node finishes its tasks; the scheduler then decides when it may leave.
    fewest : int
        Number of nodes that stay although they are idle.
    """

    def __init__(
        self,
        scheduler: Scheduler,
        links: Links,
        outlet: Outlet,
        handle: Callable[[events.NodeDraining], None],
        fewest: int,
    ) -> None:
        self._scheduler = scheduler
        self._links = links
        self._outlet = outlet
        self._handle = handle
        self._fewest = fewest
        self.draining: set[str] = set()
        """Blocks that drain."""
        self.drained: set[str] = set()
        """Blocks of which no node is left, nor admitted any more."""

    def drain(self, block: str) -> None:
        """Release the nodes of a block."""
        self.draining.add(block)
        self._links.dismiss(block)
        self.release()

    def release(self) -> None:
        """Release the nodes of draining blocks, except the last node if it has data: it stays until another joins."""
        for info in self._links.infos():
            if info.block in self.draining and not self._scheduler.nodes[info.name].draining:
                self._let_go(info.name)
        self.report()

    def release_idle(self, name: str) -> None:
        """Release a node that was idle for its timeout, unless ``min_nodes`` are left, or it is the last with data."""
        nodes = self._scheduler.nodes
        staying = sum(not other.draining for other in nodes.values())
        if not nodes[name].draining and not nodes[name].assigned and staying > self._fewest:
            self._let_go(name)

    def _let_go(self, name: str) -> None:
        nodes = self._scheduler.nodes
        others = any(not node.draining for other, node in nodes.items() if other != name)
        if others or not (nodes[name].files or nodes[name].fetching):
            self._links.send(name, "drain")
            self._handle(events.NodeDraining(name))

    def report(self) -> None:
        """Report the draining blocks whose nodes have all left."""
        left = {info.block for info in self._links.infos()}
        for block in self.draining - left:
            self._outlet.drained(block)
            self.drained.add(block)
        self.draining &= left
