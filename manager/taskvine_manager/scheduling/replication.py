"""How many replicas files have, and on which nodes: copies, moves, and the removal of redundant replicas."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Iterator

from taskvine_manager.scheduling.files import File
from taskvine_manager.scheduling.nodes import LOOKED_AT, Node
from taskvine_manager.scheduling.replicas import Replicas
from taskvine_manager.scheduling.tables import Tables
from taskvine_manager.scheduling.transfers import Transfers


class Replication:
    """Queues files that lack replicas, and decides which nodes get copies and which give them up."""

    def __init__(self, tables: Tables, replicas: Replicas, transfers: Transfers) -> None:
        self._files, self._nodes, self._tuning = tables.files, tables.nodes, tables.tuning
        self._replicas, self._transfers = replicas, transfers
        self._short: list[tuple[int, int, str]] = []  # a heap: number of replicas, tie breaker, file
        self._pushes = itertools.count()
        self._parked: dict[str, None] = {}  # files that lack replicas which no node can take
        self.moves: dict[str, str] = {}
        """Files that are moved, with the node that each one leaves."""
        self.ring: list[str] = []
        """The names of the nodes."""
        self._turn = 0

    # --- nodes ---

    def join(self, name: str) -> None:
        """Consider a new node for copies, also of files that no other node could take."""
        self.ring.append(name)
        parked, self._parked = self._parked, {}
        for each in parked:
            if (file := self._files.get(each)) is not None:
                self.note(file)

    def leave(self, name: str) -> None:
        """Consider a node no more."""
        self.ring.remove(name)

    def _choices(self) -> Iterator[Node]:
        """Yield the nodes that are not draining, starting with a different one each time."""
        ring = self.ring
        for step in range(len(ring)):
            node = self._nodes[ring[(self._turn + step) % len(ring)]]
            if not node.draining:
                yield node
        self._turn += 1

    # --- copies ---

    def _wanted(self, file: File) -> int:
        """Return how many nodes should hold a file."""
        return file.replicas or self._tuning.temp_replica_count

    def note(self, file: File) -> None:
        """Queue a file that may have too few replicas."""
        if self._wanted(file) > 1 and file.holders:
            heapq.heappush(self._short, (len(file.holders), next(self._pushes), file.name))

    def replicate(self) -> None:
        """Start copies of files with too few replicas, scarcest first, up to the limit for one cycle."""
        budget = self._tuning.transfer_replica_per_cycle
        later: list[tuple[int, int, str]] = []
        while self._short and budget > 0 and len(later) < LOOKED_AT:
            entry = heapq.heappop(self._short)
            file = self._files.get(entry[2])
            if file is None or not file.holders or not file.is_needed:
                continue
            begun, possible = self.copy(file, self._wanted(file), budget)
            budget -= begun
            if possible:
                later.append(entry)
        for entry in later:
            heapq.heappush(self._short, entry)

    def copy(self, file: File, count: int, budget: int = 1 << 30) -> tuple[int, bool]:
        """Start at most ``budget`` copies, until ``count`` nodes that are not draining hold or are fetching a file.

        Returns
        -------
        begun : int
            Number of copies started.
        possible : bool
            Whether more copies can start later on the same nodes.
        """
        nodes = self._nodes
        staying = sum(not nodes[name].draining for name in file.holders)
        count -= staying + sum(name not in file.holders and not nodes[name].draining for name in file.coming)
        if count <= 0:
            return 0, False
        targets = []
        for node in self._choices():
            name = node.info.name
            if name not in file.holders and name not in file.coming and name not in file.refused:
                targets.append(node)
                if len(targets) >= LOOKED_AT:
                    break
        targets.sort(key=lambda node: (len(node.files) + len(node.fetching), node.info.name))
        begun = 0
        for node in targets[: min(count, budget)]:
            source = self._transfers.source(file)
            if source is None:
                return begun, True
            self._transfers.fetch(node, file.name, source)
            begun += 1
        if begun < count and begun == len(targets):
            self._parked[file.name] = None
            return begun, False
        return begun, begun < count

    # --- redundant replicas ---

    def trim(self, name: str) -> None:
        """Remove the replicas of a file that are redundant now that a task has read it or a node has fetched it."""
        if self.moves:
            self.end_move(name)
        self.clean(name)

    def clean(self, name: str) -> None:
        """Remove replicas that no task reads, as far as there are more than wanted."""
        if not self._tuning.clean_redundant_replicas or (file := self._files.get(name)) is None:
            return
        staying = [holder for holder in file.holders if not self._nodes[holder].draining]
        excess = len(staying) - self._wanted(file)
        if excess <= 0 or file.coming:
            return
        idle = [holder for holder in staying if not self._nodes[holder].reads[name]]
        idle.sort(key=lambda holder: (-self._nodes[holder].used, holder))
        for holder in idle[:excess]:
            self._replicas.drop(holder, file, "redundant")

    # --- balance ---

    def balance(self, file: File) -> None:
        """Move a new file to another node, if its node would hold more than that one even without the file."""
        if not self._tuning.shift_disk_load or not file.is_needed or file.coming:
            return
        if len(file.holders) != 1 or self._wanted(file) > 1:  # further replicas go to nodes with few files anyway
            return
        holder = self._nodes[next(iter(file.holders))]
        rivals = (node for node in self._choices() if node is not holder and node.info.name not in file.refused)
        target = min(
            itertools.islice(rivals, LOOKED_AT), key=lambda node: (self._expected(node), node.info.name), default=None
        )
        if target is None or target.room < file.size or holder.used - self._expected(target) <= file.size:
            return
        if (source := self._transfers.source(file)) is not None:
            self.moves[file.name] = holder.info.name
            self._transfers.fetch(target, file.name, source)

    def _expected(self, node: Node) -> int:
        """Return the bytes that a node holds or is fetching."""
        files = (self._files.get(name) for name in node.fetching)
        return node.used + sum(file.size for file in files if file is not None)

    def end_move(self, name: str) -> None:
        """Remove a moved file from its old node, once another node has it and no task reads it there."""
        holder = self.moves.get(name)
        if holder is None:
            return
        file = self._files.get(name)
        if file is None or holder not in file.holders or not (file.coming or len(file.holders) > 1):
            del self.moves[name]  # the file is gone, or the transfer failed
        elif len(file.holders) > self._wanted(file) and not self._nodes[holder].reads[name]:
            del self.moves[name]
            self._replicas.drop(holder, file, "moved")
