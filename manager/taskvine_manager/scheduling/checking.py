"""How the core of an engine checks itself: its invariants after its events, and the story of each task.

Both engines use this, if they are told to. It costs time, so it is for tests and for the search for a fault.
"""

from __future__ import annotations

import enum
import inspect
import itertools
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from taskvine_manager.scheduling.graph import DependencyGraph

VARIABLE = "TASKVINE_EXEC_CHECK"
"""Environment variable that makes the manager check itself: any value but ``0``."""
STORY = 16
"""Maximum number of moves in the story of a task; earlier ones are dropped."""
SMALL = 32
"""Size up to which the whole state is checked after every event; a larger state is checked after every few events."""
PROBLEMS = 5
"""Maximum number of problems in one error."""

Invariant = Callable[[Any], Iterable[str]]
"""Takes the parts of a core, and returns what contradicts the invariant that the function is named after."""


def is_wanted(environment: Mapping[str, str]) -> bool:
    """Return whether the environment asks for checks."""
    return environment.get(VARIABLE, "0") not in ("", "0")


def invariants_of(module: str) -> tuple[Invariant, ...]:
    """Return the invariants of a module, which are its public functions."""
    return tuple(
        each
        for name, each in vars(sys.modules[module]).items()
        if inspect.isfunction(each) and each.__module__ == module and not name.startswith("_")
    )


class InvariantBroken(Exception):
    """The state of a core contradicts itself, because of a fault in the core.

    Parameters
    ----------
    invariant : str
        Name of the invariant.
    problems : list of str
        What contradicts it, with the values.
    when : str
        The event after which this was found; empty if the check was not made after an event.
    """

    def __init__(self, invariant: str, problems: list[str], when: str = "") -> None:
        super().__init__(invariant, problems, when)
        self.invariant, self.problems, self.when = invariant, problems, when

    def __str__(self) -> str:
        return f"{self.invariant}{self.when and f', after {self.when}'}: {'; '.join(self.problems)}"


class IllegalTransition(Exception):
    """A task was moved to a state that it cannot reach from its current one; the message tells the task's story."""


def check(invariants: Iterable[Invariant], parts: Any, when: str = "") -> None:
    """Check invariants.

    Raises
    ------
    InvariantBroken
        If one does not hold.
    """
    for invariant in invariants:
        if problems := list(itertools.islice(invariant(parts), PROBLEMS)):
            raise InvariantBroken(invariant.__name__, problems, when)


class Checker:
    """Decides after which events a core is checked, and knows which event is being handled.

    A check takes time in proportion to the state. A large state is therefore not checked after every event, so that
    the checks after each event take about the same time on average, however large the state is.
    """

    def __init__(self) -> None:
        self._count = 0
        self._event = ""
        self._checked = 0
        self._next = 0

    def __str__(self) -> str:
        return f"event {self._count} ({self._event})"

    def begin(self, event: object) -> None:
        """Note that an event is being handled."""
        self._count += 1
        self._event = type(event).__name__

    def end(self, invariants: Sequence[Invariant], parts: Any, size: int) -> None:
        """Check invariants after an event, if it is time; ``size`` is the number of entries in the state."""
        if self._count < self._next:
            return
        before = f", not checked since event {self._checked}" if self._count > self._checked + 1 else ""
        check(invariants, parts, f"{self}{before}")
        self._checked, self._next = self._count, self._count + 1 + size // SMALL


class Story:
    """The last moves of a task."""

    __slots__ = ("_checker", "_moves")

    def __init__(self, checker: Checker) -> None:
        self._checker = checker
        self._moves: deque[str] = deque(maxlen=STORY)

    def __len__(self) -> int:
        return len(self._moves)

    def add(self, start: enum.Enum, end: enum.Enum, node: str | None) -> None:
        """Add a move."""
        self._moves.append(f"{self._checker}: {start.name} -> {end.name}{f', node {node}' if node else ''}")

    def __str__(self) -> str:
        moves = "".join(f"\n  {move}" for move in self._moves)
        return f"in {self._checker}; its last moves:{moves or ' none'}"


def tell(story: Story | None) -> str:
    """Return the story of a task; if there is none, how to get it."""
    return f"set {VARIABLE}=1 to get the task's story here" if story is None else str(story)


def graph_problems(graph: DependencyGraph, tasks: Mapping[int, tuple[Iterable[str], Iterable[str]]]) -> Iterator[str]:
    """Yield where a dependency graph differs from a table of tasks, with the files that each reads and produces."""
    if graph.ranks.keys() != tasks.keys():
        yield f"tasks in the graph {sorted(graph.ranks)}, tasks with files {sorted(tasks)}"
    for number in graph.ranks.keys() & tasks.keys():
        needs, makes = map(set, tasks[number])
        if (found := graph.needs(number)) != needs:
            yield f"task {number} needs {sorted(needs)}, in the graph {sorted(found)}"
        if (found := graph.makes(number)) != makes:
            yield f"task {number} makes {sorted(makes)}, in the graph {sorted(found)}"
        missing = needs - graph.available
        if graph.lacking.get(number, 0) != len(missing):
            yield f"task {number} lacks {sorted(missing)}, counted {graph.lacking.get(number, 0)}"
    if gone := graph.lacking.keys() - graph.ranks.keys():
        yield f"missing files are counted of tasks {sorted(gone)}, which are not there"
