"""The dependency graph: which invocations wait for files that others have yet to make.

networkx holds it, behind few verbs. An invocation that neither waits nor makes anything never enters it, and networkx
itself is imported with the first that does.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any


class DependencyGraph:
    """Invocations (int nodes) and temp files (str nodes); an edge runs from what must be there first.

    A file is *there* once :meth:`made` has said so, until :meth:`lost` does.
    """

    def __init__(self) -> None:
        self._graph: Any = None
        self._there: set[str] = set()
        self._missing: dict[int, int] = {}

    def __len__(self) -> int:
        """Invocations that wait."""
        return len(self._missing)

    def add(self, invocation: int, needs: Iterable[str], makes: Iterable[str]) -> bool:
        """Add an invocation and say whether it is ready.

        Raises
        ------
        ValueError
            If it would wait for a file that is made from its own outputs; the message shows the cycle.
        """
        needs, makes = list(dict.fromkeys(needs)), list(makes)
        if self._graph is None:
            import networkx

            self._graph = networkx.DiGraph()
        self._refuse_cycle(invocation, needs, makes)
        self._graph.add_node(invocation)
        self._graph.add_edges_from((name, invocation) for name in needs)
        self._graph.add_edges_from((invocation, name) for name in makes)
        missing = sum(name not in self._there for name in needs)
        if missing:
            self._missing[invocation] = missing
        return not missing

    def _refuse_cycle(self, invocation: int, needs: list[str], makes: list[str]) -> None:
        import networkx

        for name in needs:
            for made in makes:
                if name == made:
                    raise ValueError(f"invocation {invocation} needs the file that it makes: {name}")
                if name in self._graph and made in self._graph and networkx.has_path(self._graph, made, name):
                    path = networkx.shortest_path(self._graph, made, name)
                    story = " -> ".join(str(step) for step in [invocation, *path, invocation])
                    raise ValueError(f"these files would wait for each other: {story}")

    def made(self, files: Iterable[str]) -> list[int]:
        """Say that files are there now; return the invocations that are ready by that, ordered by number."""
        ready = []
        for name in files:
            if name in self._there:
                continue
            self._there.add(name)
            if self._graph is None or name not in self._graph:
                continue
            for follower in self._graph.successors(name):
                if follower in self._missing:
                    self._missing[follower] -= 1
                    if not self._missing[follower]:
                        del self._missing[follower]
                        ready.append(follower)
        return sorted(ready)

    def lost(self, name: str) -> None:
        """Say that a file is not there any more; those that are ready already are not called back."""
        if name in self._there:
            self._there.discard(name)
            if self._graph is not None and name in self._graph:
                for follower in self._graph.successors(name):
                    if follower in self._missing:
                        self._missing[follower] += 1

    def has_maker(self, name: str) -> bool:
        """Whether an invocation that is not over makes a file."""
        return self._graph is not None and name in self._graph and self._graph.in_degree(name) > 0

    def has_reader(self, name: str) -> bool:
        """Whether an invocation that is not over reads a file."""
        return self._graph is not None and name in self._graph and self._graph.out_degree(name) > 0

    def waiting(self) -> list[int]:
        """The invocations that wait."""
        return list(self._missing)

    def prune(self, invocation: int) -> None:
        """Forget an invocation that is over, and files that nothing more is tied to."""
        if self._graph is None or invocation not in self._graph:
            return
        self._missing.pop(invocation, None)
        files = [*self._graph.predecessors(invocation), *self._graph.successors(invocation)]
        self._graph.remove_node(invocation)
        self._graph.remove_nodes_from([name for name in files if not self._graph.degree(name)])
