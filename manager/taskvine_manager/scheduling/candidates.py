"""Nodes that may be able to take tasks, so that the cost of a decision does not grow with the number of nodes."""

from __future__ import annotations

from taskvine_manager.scheduling.nodes import LOOKED_AT, Node
from taskvine_manager.scheduling.tables import Tables
from taskvine_manager.scheduling.tasks import Shape, Task


class Candidates:
    """For each shape of task, the nodes that may have free capacity, and the node that is reserved for it."""

    def __init__(self, tables: Tables) -> None:
        self._nodes, self._queues = tables.nodes, tables.tasks.queues
        self.by_shape: dict[tuple[Shape, float], dict[str, None]] = {}
        """The candidate nodes, by shape and depth."""
        self.reserved: dict[Shape, str] = {}
        """Nodes that are kept free for shapes that fitted on none."""

    def open(self, node: Node) -> None:
        """Make a node a candidate for every shape again, because it may have free capacity."""
        if not node.draining:
            name = node.info.name
            for candidates in self.by_shape.values():
                candidates[name] = None

    def close(self, name: str) -> None:
        """Exclude a node that drains or has left."""
        for candidates in self.by_shape.values():
            candidates.pop(name, None)
        for shape, reserved in list(self.reserved.items()):
            if reserved == name:
                del self.reserved[shape]

    def of(self, shape: Shape, depth: float) -> dict[str, None]:
        """Return the nodes that may be able to take tasks of a shape, with ``depth`` for each that fits at once."""
        found = self.by_shape.get((shape, depth))
        if found is None:
            if len(self.by_shape) > 4 * LOOKED_AT:
                self.by_shape.clear()
            found = {name: None for name, node in self._nodes.items() if not node.draining}
            self.by_shape[(shape, depth)] = found
        return found

    def rooms(self, task: Task, depth: float) -> dict[str, int]:
        """Return a few nodes that can take tasks like this one, and how many."""
        shape = task.shape
        candidates = self.of(shape, depth)
        rooms: dict[str, int] = {}
        full = []
        for name in candidates:
            room = self._nodes[name].room_for(shape, depth)
            if room <= 0:
                full.append(name)
            elif self.is_free(name, task):
                rooms[name] = room
                if len(rooms) >= LOOKED_AT:
                    break
        for name in full:
            del candidates[name]
        return rooms

    def is_free(self, name: str, task: Task) -> bool:
        """Whether a node is not reserved for an earlier task of another shape.

        A node that has as many tasks of that shape as it can run at once is free for others beside them.
        """
        for shape, reserved in self.reserved.items():
            if reserved == name and shape != task.shape:
                head = self._queues[shape].head()
                if head is not None and head.order < task.order:
                    node = self._nodes[name]
                    return node.shapes[shape] >= node.capacity(shape, others=False)
        return True

    def reserve(self, shape: Shape) -> None:
        """Reserve the largest node for a shape whose first task fits on no node, so that later tasks do not starve it.

        A node that runs a suspect is not reserved for another suspect. The reservation holds until the shape has no
        ready task left: a search for each task would cost more with every node.
        """
        for other in [other for other in self.reserved if self._queues[other].head() is None]:
            del self.reserved[other]
        if shape in self.reserved or len(self._queues) < 2:
            return
        holders = [
            name
            for name, node in self._nodes.items()
            if not node.draining
            and name not in self.reserved.values()
            and node.capacity(shape, others=False)
            and not (shape.suspect and any(other.suspect for other in node.shapes))
        ]
        if holders:
            self.reserved[shape] = max(holders, key=lambda name: (self._nodes[name].total, name))
