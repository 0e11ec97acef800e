"""Nodes that are to leave: copies of the files that only they hold, and when they may go."""

from __future__ import annotations

import itertools

from taskvine_manager.record import events as recorded
from taskvine_manager.scheduling.events import Release
from taskvine_manager.scheduling.nodes import LOOKED_AT, Node
from taskvine_manager.scheduling.replication import Replication
from taskvine_manager.scheduling.tables import Tables


class Draining:
    """The draining nodes; it alone lets nodes drain, and releases them."""

    def __init__(self, tables: Tables, replication: Replication) -> None:
        self._files, self._nodes, self._outbox = tables.files, tables.nodes, tables.outbox
        self._replication = replication
        self.names: set[str] = set()
        """The nodes that drain."""

    def drain(self, node: Node) -> None:
        """Let a node drain. Its replicas no longer count, so its files may need others."""
        self.names.add(node.info.name)
        if not node.draining and self._outbox.details is not None:
            self._outbox.details.append(recorded.NodeDrains(node.info.name))
        node.draining = True
        node.save_all()
        for name in node.unsaved:
            self._replication.note(self._files[name])

    def leave(self, name: str) -> None:
        """Forget a node that has left."""
        self.names.discard(name)

    def start_anew(self) -> None:
        """Consider all files of draining nodes again for copies to other nodes."""
        for name in self.names:
            self._nodes[name].save_all()

    def rescue(self) -> None:
        """Copy files that only draining nodes hold; skip a file that no node can take until a node joins or leaves."""
        for node in sorted(self.names) if self.names else ():
            if not self._nodes[node].released:
                self._rescue(self._nodes[node])

    def _rescue(self, node: Node) -> None:
        for name in list(itertools.islice(node.unsaved, 4 * LOOKED_AT)):
            file = self._files[name]
            if not file.is_needed or any(not self._nodes[holder].draining for holder in file.holders):
                del node.unsaved[name]
                continue
            begun, possible = self._replication.copy(file, 1)
            if not begun and not possible and all(self._nodes[target].draining for target in file.coming):
                del node.unsaved[name]

    def release(self) -> None:
        """Release, once each, the nodes on which nothing is needed.

        A node stays until its tasks have ended and the transfers from it are complete.
        """
        for name in sorted(self.names) if self.names else ():
            node = self._nodes[name]
            if not (node.released or node.assigned or node.sending or node.unsaved):
                node.released = True
                self._outbox.add(Release(name))
                if self._outbox.details is not None:
                    self._outbox.details.append(recorded.NodeReleased(name))
