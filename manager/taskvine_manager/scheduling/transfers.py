"""Transfers of temp files, between nodes or through the manager's directory, and their limits."""

from __future__ import annotations

import itertools
from collections import Counter

from taskvine_manager.record import events as recorded
from taskvine_manager.scheduling.events import RELAY, Fetch, Relay, Replica
from taskvine_manager.scheduling.files import File
from taskvine_manager.scheduling.nodes import LOOKED_AT, Node, Transfer
from taskvine_manager.scheduling.replicas import Replicas
from taskvine_manager.scheduling.tables import Tables

ABANDONED = "nothing on its node needs it any more, or a node has left"
"""What the record says of a transfer whose end was not awaited."""
RELAY_TRIES = 3
"""Failed copies of a file to the manager's directory after which the tasks that need it are ended."""


class Transfers:
    """Knows what is being transferred.

    It alone changes ``coming`` of files, and ``fetching`` and ``sending`` of nodes.
    """

    def __init__(self, tables: Tables, replicas: Replicas) -> None:
        self.peers = tables.settings.peer_transfers
        """Whether nodes may copy from each other. Otherwise all files pass through the manager's directory."""
        self.moved = 0
        """Bytes transferred since the start."""
        self.bandwidth = 1e9
        """Recent rate of one transfer, in bytes per second."""
        self.relaying = 0
        """Number of transfers from the manager's directory."""
        self.relays: dict[str, str] = {}
        """The source node of each file that is being copied to the manager's directory."""
        self._files, self._nodes, self._outbox = tables.files, tables.nodes, tables.outbox
        self._tuning, self._replicas = tables.tuning, replicas
        self._details = tables.outbox.details
        self._relay_failures: Counter[str] = Counter()

    def source(self, file: File) -> Replica | None:
        """Return a replica that can be copied now, if any.

        Without peer transfers, this is the copy in the manager's directory; if there is none, have one made.
        """
        limit = self._tuning.worker_source_max_transfers
        if not self.peers:
            if file.relayed is not None:
                return Replica(RELAY, file.size, file.relayed) if self.relaying < limit else None
            self._relay(file)
            return None
        nodes = [self._nodes[name] for name in itertools.islice(file.holders, LOOKED_AT)]
        ranks = [(node.released, node.draining, node.sending, node.info.name) for node in nodes if node.sending < limit]
        name = min(ranks)[3] if ranks else None
        return None if name is None else Replica(name, file.size, file.holders[name])

    def _relay(self, file: File) -> None:
        where = self._replicas.where(file)
        if where is None or file.name in self.relays or where.node == RELAY:
            return
        if self._nodes[where.node].sending < self._tuning.worker_source_max_transfers:
            self.relays[file.name] = where.node
            self.count(where.node, 1)
            self._outbox.add(Relay(file.name, where))
            if self._details is not None:
                self._details.append(recorded.TransferStarted(file.name, recorded.RELAY, where.node, False))

    def fetch(self, node: Node, name: str, source: Replica) -> None:
        """Have a node fetch a replica for its own sake."""
        self.start(node, name, source, for_task=False)
        self._outbox.add(Fetch(node.info.name, name, source))

    def start(self, node: Node, name: str, source: Replica, *, for_task: bool) -> None:
        """Record the start of a transfer to a node."""
        if name in node.fetching:
            return
        node.fetching[name] = Transfer(source.node, for_task)
        self._files[name].coming[node.info.name] = None
        self.count(source.node, 1)
        if self._details is not None:
            origin = source.node or recorded.RELAY
            self._details.append(recorded.TransferStarted(name, node.info.name, origin, for_task))

    def end(self, node: Node, name: str, size: int = 0, seconds: float = 0.0, problem: str | None = ABANDONED) -> None:
        """Record the end of a transfer to a node."""
        transfer = node.fetching.pop(name)
        if self._details is not None:
            self._details.append(recorded.TransferEnded(name, node.info.name, size, seconds, problem or ""))
        if (file := self._files.get(name)) is not None:
            file.coming.pop(node.info.name, None)
        self.count(transfer.source, -1)

    def count(self, source: str, change: int) -> None:
        """Change the number of transfers from a node or the manager's directory."""
        if source == RELAY:
            self.relaying += change
        elif source in self._nodes:
            self._nodes[source].sending += change

    def measure(self, size: int, seconds: float = 0.0) -> None:
        """Take account of a transfer that is complete."""
        self.moved += size
        if seconds > 0.001:
            self.bandwidth += 0.2 * (size / seconds - self.bandwidth)

    def tuned(self) -> None:
        """Use the new default rate, unless one has been measured."""
        if self._tuning.default_transfer_rate and not self.moved:
            self.bandwidth = self._tuning.default_transfer_rate

    def is_source(self, node: str, file: File) -> bool:
        """Whether a file is being copied from a node."""
        coming = (self._nodes[other] for other in file.coming if other in self._nodes)
        return any(other.fetching[file.name].source == node for other in coming) or self.relays.get(file.name) == node

    def relayed(self, name: str, stamp: int, problem: str | None) -> str | None:
        """Record the end of a copy to the manager's directory.

        Return the source node if the copy failed and the file is still needed.
        """
        source = self.relays.pop(name, RELAY)
        self.count(source, -1)
        file = self._files.get(name)
        if self._details is not None:
            size = file.size if file is not None and problem is None else 0
            self._details.append(recorded.TransferEnded(name, recorded.RELAY, size, 0.0, problem or ""))
        if file is None or not file.is_needed:
            self._outbox.drop(RELAY, name)
        elif problem is None:
            file.relayed = stamp
            self.measure(file.size)
            if self._details is not None:
                self._details.append(recorded.Made(name, recorded.RELAY, file.size))
        else:
            return source
        self._relay_failures.pop(name, None)
        return None

    def relay_failed(self, name: str) -> bool:
        """Count a failed copy to the manager's directory of a file that exists; return whether to give up."""
        self._relay_failures[name] += 1
        if self._relay_failures[name] < RELAY_TRIES:
            return False
        del self._relay_failures[name]
        return True
