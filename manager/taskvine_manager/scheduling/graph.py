"""The dependency graph: which tasks wait for files that other tasks have yet to produce.

It wraps networkx in a few methods. A task that neither needs nor produces such files never enters the graph, and
networkx is only imported with the first task that does.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

_STEPS = 200
"""Maximum steps to update ranks after a batch, plus a few for each task of the batch."""


class DependencyGraph:
    """Tasks (int nodes) and temp files (str nodes); edges point from prerequisite to dependant.

    A file is available from the call of :meth:`made` to that of :meth:`lost`.
    """

    def __init__(self) -> None:
        self._graph: Any = None
        self.available: set[str] = set()
        """The files that are available."""
        self.lacking: dict[int, int] = {}
        """The number of missing files of each task that lacks any."""
        self.ranks: dict[int, int] = {}
        """The upward rank of each task, see :meth:`rank`."""

    @property
    def size(self) -> int:
        """Number of tasks and files in the graph."""
        return 0 if self._graph is None else len(self._graph)

    def add(self, invocation: int, needs: Iterable[str], makes: Iterable[str]) -> bool:
        """Add a task; return whether it is ready.

        Raises
        ------
        ValueError
            If the task would wait for a file that is produced from its own outputs. The message shows the cycle.
        """
        needs, makes = list(dict.fromkeys(needs)), list(makes)
        if self._graph is None:
            import networkx

            self._graph = networkx.DiGraph()
        self._refuse_cycle(invocation, needs, makes)
        self._graph.add_node(invocation)
        self._graph.add_edges_from([(name, invocation) for name in needs])
        self._graph.add_edges_from([(invocation, name) for name in makes])
        self.ranks[invocation] = 1
        missing = sum(name not in self.available for name in needs)
        if missing:
            self.lacking[invocation] = missing
        return not missing

    def _refuse_cycle(self, invocation: int, needs: list[str], makes: list[str]) -> None:
        old = [made for made in makes if made in self._graph]
        for name in needs:
            if name in makes:
                raise ValueError(f"task {invocation} needs the file that it makes: {name}")
            for made in old:
                if name in self._graph:
                    self._refuse_path(invocation, made, name)

    def _refuse_path(self, invocation: int, made: str, name: str) -> None:
        import networkx

        if networkx.has_path(self._graph, made, name):
            path = networkx.shortest_path(self._graph, made, name)
            story = " -> ".join(str(step) for step in [invocation, *path, invocation])
            raise ValueError(f"these files would wait for each other: {story}")

    def made(self, files: Iterable[str]) -> list[int]:
        """Mark files as available; return the tasks that became ready, in order."""
        ready = []
        for name in files:
            if name in self.available:
                continue
            self.available.add(name)
            for follower in self.consumers(name):
                self.lacking[follower] -= 1
                if not self.lacking[follower]:
                    del self.lacking[follower]
                    ready.append(follower)
        return sorted(ready)

    def lost(self, name: str) -> list[int]:
        """Mark a file as missing; return the tasks that had all their files until now."""
        bereft = []
        if name in self.available:
            self.available.discard(name)
            for follower in self.consumers(name):
                if follower not in self.lacking:
                    bereft.append(follower)
                self.lacking[follower] = self.lacking.get(follower, 0) + 1
        return bereft

    def is_ready(self, invocation: int) -> bool:
        """Whether a task has all its files."""
        return invocation not in self.lacking

    def needs(self, invocation: int) -> set[str]:
        """Return the files that a task needs."""
        return set(self._graph.predecessors(invocation))

    def makes(self, invocation: int) -> set[str]:
        """Return the files that a task produces."""
        return set(self._graph.successors(invocation))

    def consumers(self, name: str) -> list[int]:
        """Return the tasks that need a file."""
        return list(self._graph.successors(name)) if self._graph is not None and name in self._graph else []

    def makers(self, name: str) -> list[int]:
        """Return the unfinished tasks that produce a file."""
        return list(self._graph.predecessors(name)) if self._graph is not None and name in self._graph else []

    def followers(self, invocation: int) -> list[int]:
        """Return the tasks that need the outputs of a task."""
        if invocation not in self.ranks:
            return []
        return [follower for name in self._graph.successors(invocation) for follower in self._graph.successors(name)]

    def missing(self, invocation: int) -> list[str]:
        """Return the missing files of a task."""
        if invocation not in self.lacking:
            return []
        return [name for name in self._graph.predecessors(invocation) if name not in self.available]

    def rank(self, invocations: list[int]) -> dict[int, int]:
        """Update upward ranks after a batch was added; return those that are new or have changed.

        The upward rank of a task is the number of tasks on the longest path from it to the end of the graph, itself
        included. It only affects the order of ready tasks. The work for one batch is limited, so in a very long chain
        the ranks of the first tasks lag behind.
        """
        changed = dict.fromkeys(invocations, 1)
        steps = _STEPS + 8 * len(invocations)
        work = list(invocations)
        while work and steps > 0:
            steps -= 1
            invocation = work.pop()  # last first: later tasks of a batch are further down the graph
            rank = self.ranks.get(invocation)
            if rank is None:
                continue
            changed[invocation] = rank
            for name in self._graph.predecessors(invocation):
                for maker in self._graph.predecessors(name):
                    if self.ranks[maker] <= rank:
                        self.ranks[maker] = changed[maker] = rank + 1
                        work.append(maker)
        return changed

    def prune(self, invocation: int) -> None:
        """Remove a task that is over, and its files that have no other edge."""
        if self.ranks.pop(invocation, None) is None:
            return
        self.lacking.pop(invocation, None)
        files = [*self._graph.predecessors(invocation), *self._graph.successors(invocation)]
        self._graph.remove_node(invocation)
        self._graph.remove_nodes_from([name for name in files if not self._graph.degree(name)])
