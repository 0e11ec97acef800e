"""Invocations in the scheduler's hands: their states, their order, and the queues of those that are ready.

A :class:`Task` lives through these states (what follows is what :func:`diagram` makes of the table below)::

    WAITING  -> READY     the files that it needs are there
    WAITING  -> ASSIGNED  it follows, on one node, those that make the files that it needs
    WAITING  -> DONE      cancelled, or a file that it needs is lost and cannot be made again
    READY    -> ASSIGNED  a node has room for it
    READY    -> WAITING   a file that it needs was lost, and is being made again
    READY    -> DONE      cancelled, a file that it needs is lost for good, or no node can ever hold it
    ASSIGNED -> READY     its node went, gave it back, or could not read a file that others have
    ASSIGNED -> WAITING   the same, and a file that it needs is not there any more, or not yet
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
    """Where an invocation is in its life."""

    WAITING = "waiting"
    READY = "ready"
    ASSIGNED = "assigned"
    DONE = "done"

    # There is one object of each. Enum hashes names, in Python, and a task is looked up by its state twenty times.
    __hash__ = object.__hash__


_TRANSITIONS: dict[State, dict[State, str]] = {
    State.WAITING: {
        State.READY: "the files that it needs are there",
        State.ASSIGNED: "it follows, on one node, those that make the files that it needs",
        State.DONE: "cancelled, or a file that it needs is lost and cannot be made again",
    },
    State.READY: {
        State.ASSIGNED: "a node has room for it",
        State.WAITING: "a file that it needs was lost, and is being made again",
        State.DONE: "cancelled, a file that it needs is lost for good, or no node can ever hold it",
    },
    State.ASSIGNED: {
        State.READY: "its node went, gave it back, or could not read a file that others have",
        State.WAITING: "the same, and a file that it needs is not there any more, or not yet",
        State.DONE: "it ended, was cancelled, or lost its node once too often",
    },
    State.DONE: {},
}


def diagram() -> str:
    """The table of transitions, as the module's docstring shows it."""
    width = max(len(state.name) for state in State)
    return "\n".join(
        f"{state.name:{width}} -> {following.name:{width}}  {why}"
        for state, reachable in _TRANSITIONS.items()
        for following, why in reachable.items()
    )


class IllegalTransition(Exception):
    """A task was sent from a state to one that it cannot reach; the message carries its story."""


class Shape(NamedTuple):
    """What invocations of one kind ask of a node; ``None`` where they leave it to the node."""

    mode: str
    cores: float | None
    memory: float | None
    disk: float | None
    gpus: int | None
    suspect: bool = False
    """Its node may have died of it: there is one such at a time on a node, so that it can take no other with it."""


Order = tuple[float, int, int, int]
"""Lowest first: priority, then the critical path, then depth, then arrival. See :meth:`Task.order`."""


class Task:
    """An invocation in the scheduler's hands.

    ``files`` names the temp files and results that it reads. ``origin`` is what it runs again, if it makes again what
    was lost: nobody is told of its end then.
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
        """Have it run apart from others from now on."""
        self.suspect = True
        self.shape = self.shape._replace(suspect=True)

    def move(self, state: State) -> None:
        """Go to another state, if the table allows it."""
        if state not in _TRANSITIONS[self.state]:
            raise IllegalTransition(
                f"task {self.invocation.number} ({self.profile.name}): {self.state.name} -> {state.name}, "
                f"node {self.node}, attempt {self.attempts}"
            )
        self.state = state

    @property
    def order(self) -> Order:
        """Higher priority first; then those on the longest path of calls; of these the one that is furthest along.

        The length of the path through a task (its upward rank and its depth together) is the same for all tasks of a
        chain. So a chain that has begun ends before another of its length begins, and what it keeps can go.
        """
        return (-self.profile.priority, -self.path, -self.depth, self.sequence)


class Queue:
    """Ready tasks of one shape, in order. A task whose order has changed is pushed again."""

    def __init__(self) -> None:
        self._heap: list[tuple[Order, int, Task]] = []
        self._pushes = 0

    def push(self, task: Task) -> None:
        """Add a task, or say that its order has changed."""
        self._pushes += 1
        heapq.heappush(self._heap, (task.order, self._pushes, task))

    def head(self) -> Task | None:
        """The first that is still ready."""
        heap = self._heap
        while heap and (heap[0][2].state is not State.READY or heap[0][0] != heap[0][2].order):
            heapq.heappop(heap)  # gone, or pushed again with another order
        return heap[0][2] if heap else None

    def pop(self) -> Task:
        """Take the head; :meth:`head` has been asked for it."""
        return heapq.heappop(self._heap)[2]

    def __len__(self) -> int:  # those that have gone and have not come to the head included
        return len(self._heap)
