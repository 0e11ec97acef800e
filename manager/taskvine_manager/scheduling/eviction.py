"""Full disks: which files are evicted from a node for the outputs of its tasks, or for the inputs of new ones."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from taskvine_manager.scheduling.events import Crowded
from taskvine_manager.scheduling.files import File
from taskvine_manager.scheduling.nodes import Node
from taskvine_manager.scheduling.storage import Storage
from taskvine_manager.scheduling.tables import Tables
from taskvine_manager.scheduling.tasks import Order


class Eviction:
    """Frees disk space of nodes; what it loses with that, its callers must handle."""

    def __init__(self, tables: Tables, storage: Storage) -> None:
        self.evicted = 0
        """Replicas that were evicted since the start."""
        self._tasks, self._graph, self._files, self._nodes = tables.tasks, tables.graph, tables.files, tables.nodes
        self._replicas, self._transfers, self._outbox = storage.replicas, storage.transfers, tables.outbox
        self._pressed: set[str] = set()  # nodes whose disk is too full for their tasks' outputs

    def crowded(self, event: Crowded) -> None:
        """Note that the outputs of a task do not fit on its node."""
        node = self._nodes.get(event.node)
        if node is not None and event.number in node.assigned:
            node.crowded[event.number] = event.size
            self._pressed.add(event.node)

    def relieve(self) -> Iterator[list[File]]:
        """Free space on the nodes that have reported tasks whose outputs do not fit; yield the files lost on each."""
        for name in sorted(self._pressed) if self._pressed else ():
            node = self._nodes.get(name)
            if node is not None and node.crowded:
                yield self._make_room(node)
            else:
                self._pressed.discard(name)

    def _make_room(self, node: Node) -> list[File]:
        """Evict files from a node whose disk is full, or report it as full if none of its tasks can change that."""
        before = len(node.files)
        size = max(*node.crowded.values(), node.room + 1)  # evict at least one file, whatever else fills the disk
        lost = self.evict(node, size, keep=())
        if len(node.files) == before:
            others = (number for number in node.assigned if number not in node.crowded)
            if any(self._graph.is_ready(number) for number in others):
                return []  # the files that they read may be evicted once they have ended
            self._outbox.full(node.info.name)
        node.crowded.clear()  # the node retries all of them, or gives all of them up
        self._pressed.discard(node.info.name)
        return lost

    def evict(self, node: Node, size: float, keep: Iterable[str]) -> list[File]:
        """Remove temp files from a node until ``size`` bytes are free, or no more files may be removed.

        Files with other replicas are removed first, then files that no task waits for (cheapest to recreate first),
        then files that are needed last. The files of the very first task stay, so that it can run however little space
        there is. Files that are in use or cannot be recreated stay too.

        Returns
        -------
        list of File
            Files with no replica left. The caller must handle their loss.
        """
        kept = {*keep, *node.reads}
        order: list[tuple[int, float, int, str]] = []
        awaited: list[tuple[Order, str]] = []
        for name in node.files:
            file = self._files[name]
            if name in kept or self._transfers.is_source(node.info.name, file):
                continue
            if len(file.holders) > 1:
                order.append((0, 0.0, file.size, name))
            elif file.asked or file.origin is None or not file.recoverable:
                continue
            elif (first := self._turn(file)) is not None:
                awaited.append((first, name))
            else:
                order.append((1, self._cost(file), file.size, name))
        awaited.sort(reverse=True)
        last = [name for first, name in awaited if first != awaited[-1][0]]
        lost = []
        for name in [*(entry[-1] for entry in sorted(order)), *last]:
            if node.room >= size:
                break
            self.evicted += 1
            if self._replicas.remove(node.info.name, self._files[name]):
                lost.append(self._files[name])
        return lost

    def _turn(self, file: File) -> Order | None:
        """Return the order of the first task that waits for a file, if any."""
        waiting = (self._tasks[number] for number in self._graph.consumers(file.name)) if file.consumers else ()
        return min((task.order for task in waiting), default=None)

    def _cost(self, file: File) -> float:
        """Return the seconds that it takes to recreate a file and the missing files that it depends on."""
        seconds, seen, left = 1e-9, {file.name}, [file]
        while left and len(seen) < 1000:
            origin = left.pop().origin
            if origin is None:
                continue
            seconds += origin.seconds
            for name in origin.inputs:
                parent = self._files.get(name)
                if parent is not None and not parent.is_there and name not in seen:
                    seen.add(name)
                    left.append(parent)
        return seconds
