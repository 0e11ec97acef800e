"""Full disks: which files are evicted from a node for the outputs of its tasks, or for the inputs of new ones."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from taskvine_manager.record import events as recorded
from taskvine_manager.scheduling.candidates import Candidates
from taskvine_manager.scheduling.events import Crowded, Full
from taskvine_manager.scheduling.files import File
from taskvine_manager.scheduling.nodes import MB, Node
from taskvine_manager.scheduling.storage import Storage
from taskvine_manager.scheduling.tables import Tables
from taskvine_manager.scheduling.tasks import Order, Task

MAX_YIELDS = 10
"""How often a recovery runs again because only files of the first task could make room for its outputs."""


class Eviction:
    """Frees disk space of nodes; what it loses with that, its callers must handle."""

    def __init__(self, tables: Tables, storage: Storage, candidates: Candidates) -> None:
        self.evicted = 0
        """Replicas that were evicted since the start."""
        self._tasks, self._graph, self._files, self._nodes = tables.tasks, tables.graph, tables.files, tables.nodes
        self._replicas, self._transfers, self._outbox = storage.replicas, storage.transfers, tables.outbox
        self._candidates = candidates
        self._pressed: set[str] = set()  # nodes whose disk is too full for their tasks' outputs

    def crowded(self, event: Crowded) -> None:
        """Note that the outputs of a task do not fit on its node."""
        node = self._nodes[event.node]
        if event.number in node.assigned:
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
        """Evict files from a node whose disk is full; if none may go, make tasks give up their outputs.

        Tasks that hold each other's inputs may have ended all together. All but the first then give up what they have
        produced and run again later, so that the files that they read can be evicted for the first one.
        """
        before = len(node.files)
        size = max(*node.crowded.values(), node.room + 1)  # evict at least one file, whatever else fills the disk
        first, *rest = sorted((node.assigned[number] for number in node.crowded), key=lambda task: task.order)
        lost = self.evict(node, size, keep=(), order=first.order)
        if len(node.files) == before:
            if any(number not in node.crowded and self._will_leave(number, node) for number in node.assigned):
                return []  # the files that they read may be evicted once they have left
            if self._yield(node, [task for task in rest if task.profile.recoverable]):
                return []  # until they have left the node
            if first.origin is None and size <= node.info.disk * MB:
                lost = self.evict(node, size, keep=(), order=None)
            elif first.origin is not None and first.yields < MAX_YIELDS:
                first.yields += 1
                self._yield(node, [first])
                return []
            if len(node.files) == before:
                self._outbox.add(Full(node.info.name, list(node.crowded)))
        node.crowded.clear()  # the node retries all of them, or gives all of them up
        self._pressed.discard(node.info.name)
        self._candidates.open(node)
        return lost

    def _will_leave(self, number: int, node: Node) -> bool:
        """Whether a task will end, or be returned by its node because what it waits for is not made there any more."""
        if self._graph.is_ready(number):
            return True
        makers = (self._graph.makers(name) for name in self._graph.missing(number))
        return any(not any(maker in node.assigned for maker in each) for each in makers)

    def _yield(self, node: Node, tasks: list[Task]) -> bool:
        """Make tasks give up their outputs and run again later; return whether there are any."""
        if numbers := [task.invocation.number for task in tasks]:
            self._outbox.add(Full(node.info.name, numbers))
            node.yielding.update(numbers)
            for number in numbers:
                del node.crowded[number]
        return bool(numbers)

    def evict(self, node: Node, size: float, keep: Iterable[str], order: Order | None) -> list[File]:
        """Remove temp files from a node until ``size`` bytes are free, or no more files may be removed.

        Files with other replicas are removed first, then files that no task waits for (cheapest to recreate first),
        then files that are needed last. The files of the first task that waits stay if it comes before ``order``, that
        of the task which needs the space, so that it can run however little space there is; None lets them go too.
        Files that are in use or cannot be recreated stay.

        Returns
        -------
        list of File
            Files with no replica left. The caller must handle their loss.
        """
        kept = {*keep, *node.reads}
        unneeded: list[tuple[int, float, int, str]] = []
        awaited: list[tuple[Order, str]] = []
        for name in node.files:
            file = self._files[name]
            if name in kept or self._transfers.is_source(node.info.name, file):
                continue
            if len(file.holders) > 1:
                unneeded.append((0, 0.0, file.size, name))
            elif file.asked or file.origin is None or not file.recoverable:
                continue
            elif (first := self._turn(file)) is not None:
                awaited.append((first, name))
            else:
                unneeded.append((1, self._cost(file), file.size, name))
        awaited.sort(reverse=True)
        spared = awaited[-1][0] if awaited and order is not None and awaited[-1][0] < order else None
        last = [name for first, name in awaited if first != spared]
        lost, evicted = [], []
        for name in [*(entry[-1] for entry in sorted(unneeded)), *last]:
            if node.room >= size:
                break
            self.evicted += 1
            evicted.append(name)
            if self._replicas.remove(node.info.name, self._files[name], None):
                lost.append(self._files[name])
        if evicted and self._outbox.details is not None:
            self._outbox.details.append(recorded.Evicted(node.info.name, int(size), evicted))
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
