"""Replicas of temp files on nodes, and the bytes that they take."""

from __future__ import annotations

import itertools

from taskvine_manager.record import events as recorded
from taskvine_manager.scheduling.events import RELAY, Replica
from taskvine_manager.scheduling.files import File
from taskvine_manager.scheduling.nodes import LOOKED_AT, Node
from taskvine_manager.scheduling.tables import Tables


class Replicas:
    """Knows which nodes hold which files; it alone changes ``holders`` of files, and ``files`` of nodes."""

    def __init__(self, tables: Tables) -> None:
        self.stored = 0
        """Bytes of temp files on all nodes together."""
        self.peak = 0
        """The highest value of ``stored`` so far."""
        self._files, self._nodes, self._outbox = tables.files, tables.nodes, tables.outbox
        self._details = tables.outbox.details

    def add(self, node: Node, name: str, size: int, stamp: int) -> None:
        """Record that a node has a replica."""
        file = self._files[name]
        self.stored += node.store(name, size)
        self.peak = max(self.peak, self.stored)
        file.size = size
        file.holders[node.info.name] = stamp
        file.lost_with = None
        file.refused.pop(node.info.name, None)
        if self._details is not None:
            self._details.append(recorded.Made(name, node.info.name, size))

    def remove(self, name: str, file: File, why: str | None) -> bool:
        """Remove a replica from a node, which may already have left; return whether the file is lost now."""
        if name not in file.holders:
            return False
        self.drop(name, file, why)
        for holder in file.holders:
            self._nodes[holder].save(file.name)
        if file.holders or file.relayed is not None:
            return False
        file.lost_with = name
        return True

    def drop(self, name: str, file: File, why: str | None) -> None:
        """Remove a replica that is not needed; ``why`` is for the record, None if the caller records it."""
        del file.holders[name]
        if self._details is not None and why is not None:
            self._details.append(recorded.Dropped(file.name, name, why))
        if (node := self._nodes.get(name)) is not None:
            self.stored -= node.drop(file.name)
            self._outbox.drop(name, file.name)

    def leave(self, node: Node) -> list[File]:
        """Forget the replicas of a node that has left; return their files."""
        self.stored -= node.used
        files = [self._files[name] for name in sorted(node.files)]
        for file in files:
            file.refused.clear()  # the lost replica may have been the cause
            del file.holders[node.info.name]
            if not file.holders:
                file.lost_with = node.info.name
                if self._details is not None and file.relayed is None:
                    self._details.append(recorded.Lost(file.name, node.info.name))
        return files

    def where(self, file: File) -> Replica | None:
        """Return a replica to read, if possible on a node that is not draining."""
        nodes = [self._nodes[name] for name in itertools.islice(file.holders, LOOKED_AT)]
        if nodes:
            name = min((node.released, node.draining, node.info.name) for node in nodes)[2]
            return Replica(name, file.size, file.holders[name])
        return None if file.relayed is None else Replica(RELAY, file.size, file.relayed)
