"""Tasks in the scheduler: their states, their order, and the queues of ready tasks.

A :class:`Task` goes through these states (:func:`diagram` prints this table)::

    WAITING  -> READY     all its input files exist
    WAITING  -> ASSIGNED  it is sent ahead to the node that holds or produces all its input files
    WAITING  -> DONE      cancelled, or an input file is lost and cannot be recreated
    READY    -> ASSIGNED  a node can take it
    READY    -> WAITING   an input file was lost and is being recreated
    READY    -> DONE      cancelled, an input file is lost or cannot be copied, or no node can ever hold it
    ASSIGNED -> READY     its node left, returned it, or could not read an input file that still exists elsewhere
    ASSIGNED -> WAITING   the same, but an input file is missing
    ASSIGNED -> DONE      it ended, was cancelled, or lost its node once too often
"""

from __future__ import annotations

import enum
import heapq
from typing import TYPE_CHECKING, NamedTuple

from taskvine_manager.wire.messages import Invocation, Profile

if TYPE_CHECKING:
    from taskvine_manager.scheduling.files import Origin


class State(enum.Enum):
    """The state of a task."""

    WAITING = "waiting"
    READY = "ready"
    ASSIGNED = "assigned"
    DONE = "done"

    # Hash by identity: Enum hashes the name in Python code, and each task is looked up by state about twenty times.
    __hash__ = object.__hash__


_TRANSITIONS: dict[State, dict[State, str]] = {
    State.WAITING: {
        State.READY: "all its input files exist",
        State.ASSIGNED: "it is sent ahead to the node that holds or produces all its input files",
        State.DONE: "cancelled, or an input file is lost and cannot be recreated",
    },
    State.READY: {
        State.ASSIGNED: "a node can take it",
        State.WAITING: "an input file was lost and is being recreated",
        State.DONE: "cancelled, an input file is lost or cannot be copied, or no node can ever hold it",
    },
    State.ASSIGNED: {
        State.READY: "its node left, returned it, or could not read an input file that still exists elsewhere",
        State.WAITING: "the same, but an input file is missing",
        State.DONE: "it ended, was cancelled, or lost its node once too often",
    },
    State.DONE: {},
}


def diagram() -> str:
    """Return the table of transitions, as the module's docstring shows it."""
    width = max(len(state.name) for state in State)
    return "\n".join(
        f"{state.name:{width}} -> {following.name:{width}}  {why}"
        for state, reachable in _TRANSITIONS.items()
        for following, why in reachable.items()
    )


class IllegalTransition(Exception):
    """A task was moved to a state that it cannot reach from its current one; the message describes the task."""


class Shape(NamedTuple):
    """The resources that tasks of one kind request; ``None`` leaves a resource to the node."""

    mode: str
    cores: float | None
    memory: float | None
    disk: float | None
    gpus: int | None
    suspect: bool = False
    """Whether the task may have killed its node. A node runs one suspect at a time, so that it cannot kill another."""


Order = tuple[float, int, int, int]
"""Sort key, lowest first: priority, critical path, depth, arrival. See :attr:`Task.order`."""


class Task:
    """A task in the scheduler.

    ``files`` names the temp files and results that it reads. For a task that recreates lost files, ``origin`` is the
    finished task that it runs again; its own end is not reported.
    """

    __slots__ = (
        "attempts",
        "depth",
        "files",
        "invocation",
        "node",
        "origin",
        "path",
        "profile",
        "sequence",
        "shape",
        "state",
        "suspect",
    )

    def __init__(self, invocation: Invocation, profile: Profile, shape: Shape, sequence: int) -> None:
        self.invocation = invocation
        self.profile = profile
        self.shape = shape
        self.sequence = sequence
        self.files: tuple[str, ...] = ()
        self.origin: Origin | None = None
        self.state = State.WAITING
        self.node: str | None = None
        self.attempts = 0
        self.suspect = False
        self.path = 1
        self.depth = 0

    def suspected(self) -> None:
        """Mark the task as a suspect: it no longer shares a node with other suspects."""
        self.suspect = True
        self.shape = self.shape._replace(suspect=True)

    def move(self, state: State) -> None:
        """Change to another state, if the table allows it."""
        if state not in _TRANSITIONS[self.state]:
            raise IllegalTransition(
                f"task {self.invocation.number} ({self.profile.name}): {self.state.name} -> {state.name}, "
                f"node {self.node}, attempt {self.attempts}"
            )
        self.state = state

    @property
    def order(self) -> Order:
        """Higher priority first, then the longest path of tasks, then the task that is furthest along its path.

        The length of the path through a task (its upward rank plus its depth) is the same for all tasks of a chain.
        A started chain therefore ends before another of the same length starts, and its files can be removed.
        """
        return (-self.profile.priority, -self.path, -self.depth, self.sequence)


class Queue:
    """Ready tasks of one shape, in order. A task whose order has changed is pushed again."""

    def __init__(self) -> None:
        self._heap: list[tuple[Order, int, Task]] = []
        self._pushes = 0

    def push(self, task: Task) -> None:
        """Add a task, or add it again after its order has changed."""
        self._pushes += 1
        heapq.heappush(self._heap, (task.order, self._pushes, task))

    def head(self) -> Task | None:
        """Return the first task that is still ready."""
        heap = self._heap
        while heap and (heap[0][2].state is not State.READY or heap[0][0] != heap[0][2].order):
            heapq.heappop(heap)  # no longer ready, or pushed again with another order
        return heap[0][2] if heap else None

    def pop(self) -> Task:
        """Remove and return the head; call :meth:`head` first."""
        return heapq.heappop(self._heap)[2]

    def __len__(self) -> int:  # includes outdated entries that have not reached the head
        return len(self._heap)
