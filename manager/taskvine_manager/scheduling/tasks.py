"""Tasks in the scheduler: their states, their order, the queues of ready tasks, and the table of all of them.

A :class:`Task` goes through these states::

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
import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from taskvine_manager.scheduling.checking import Checker, IllegalTransition, Story, tell
from taskvine_manager.wire.messages import FileUse, Invocation, Library, Profile

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


TRANSITIONS: dict[State, frozenset[State]] = {
    State.WAITING: frozenset({State.READY, State.ASSIGNED, State.DONE}),
    State.READY: frozenset({State.WAITING, State.ASSIGNED, State.DONE}),
    State.ASSIGNED: frozenset({State.WAITING, State.READY, State.DONE}),
    State.DONE: frozenset(),
}
"""The states that a task can reach from each state."""


class Shape(NamedTuple):
    """The resources that tasks of one kind request; ``None`` leaves a resource to the node."""

    mode: str
    cores: float | None
    memory: float | None
    disk: float | None
    gpus: float | None
    suspect: bool = False
    """Whether the task may have killed its node. A node runs one suspect at a time, so that it cannot kill another."""
    library: Library | None = None
    gpu_memory: float | None = None


def shape_of(profile: Profile) -> Shape:
    """Return the shape of tasks with a profile."""
    return Shape(*profile[3:8], library=profile.library, gpu_memory=profile.gpu_memory)


Order = tuple[float, int, int, int]
"""Sort key, lowest first: priority, critical path, depth, arrival. See :attr:`Task.order`."""


def temp_files(uses: tuple[FileUse, ...]) -> list[str]:
    """Return the ids of the temp files and results among these files, without the user's own files."""
    return [use.source for use in uses if use.kind != "local"]


@dataclass(slots=True, eq=False)
class Task:
    """A task in the scheduler.

    ``files`` names the temp files and results that it reads, and ``makes`` those that it produces. For a task that
    recreates lost files, ``origin`` is the finished task that it runs again; its own end is not reported. ``yields``
    counts how often it has given its outputs up because only the first task's files could have made room for them.
    ``story`` is None unless the scheduler checks itself.
    """

    invocation: Invocation
    profile: Profile
    shape: Shape
    sequence: int
    story: Story | None = None
    origin: Origin | None = None
    files: tuple[str, ...] = ()
    makes: tuple[str, ...] = ()
    state: State = State.WAITING
    node: str | None = None
    attempts: int = 0
    suspect: bool = False
    yields: int = 0
    path: int = 1
    depth: int = 0

    def __post_init__(self) -> None:
        if self.invocation.inputs:
            self.files = tuple(dict.fromkeys(temp_files(self.invocation.inputs)))
        if self.invocation.outputs:
            self.makes = tuple(temp_files(self.invocation.outputs))

    def suspected(self) -> None:
        """Mark the task as a suspect: it no longer shares a node with other suspects."""
        self.suspect = True
        self.shape = self.shape._replace(suspect=True)

    def move(self, state: State) -> None:
        """Change to another state, if the table allows it."""
        if state not in TRANSITIONS[self.state]:
            raise IllegalTransition(
                f"task {self.invocation.number} ({self.profile.name}): {self.state.name} -> {state.name}, "
                f"node {self.node}, attempt {self.attempts}, {tell(self.story)}"
            )
        if self.story is not None:
            self.story.add(self.state, state, self.node)
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
        self.fits = False
        """Whether some node is known to be able to hold tasks of this shape."""
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

    def __iter__(self) -> Iterator[Task]:
        """Yield the tasks that are ready, in no order and perhaps twice."""
        return (task for order, _, task in self._heap if task.state is State.READY and order == task.order)

    def __len__(self) -> int:  # includes outdated entries that have not reached the head
        return len(self._heap)


class TaskTable(dict[int, Task]):
    """The unfinished tasks by number, below 0 for tasks that recreate lost files; it alone changes their states.

    Parameters
    ----------
    checker : Checker or None
        Keeps the stories of tasks, if the scheduler checks itself.
    """

    def __init__(self, checker: Checker | None) -> None:
        super().__init__()
        self._checker = checker
        self.queues: dict[Shape, Queue] = {}
        self.recovered = 0
        """Tasks that were run again since the start to recreate lost files."""
        self.done = 0
        """Other tasks that are over."""
        self.ahead: dict[int, None] = {}
        """Waiting tasks that may be sent ahead of their inputs; perhaps also tasks that no longer wait."""
        self.unchecked: dict[Shape, None] = {}
        """Shapes of ready tasks that may be too large for any node."""
        self._profiles: dict[int, tuple[Profile, Shape]] = {}
        self._sequence = itertools.count()
        self._count = dict.fromkeys(State, 0)

    def count(self, state: State) -> int:
        """Return how many of the user's tasks are in a state; tasks that recreate files count too if they are ready."""
        return self._count[state]

    # --- tasks come and go ---

    def learn(self, profiles: tuple[Profile, ...]) -> None:
        """Hold profiles for new tasks."""
        self._profiles.update((profile.number, (profile, shape_of(profile))) for profile in profiles)

    def retire(self, profiles: tuple[int, ...]) -> None:
        """Forget profiles."""
        for number in profiles:
            self._profiles.pop(number, None)

    def add(self, invocation: Invocation) -> Task:
        """Add a task that the user submitted."""
        self._count[State.WAITING] += 1
        return self._enter(invocation, *self._profiles[invocation.profile])

    def recreate(self, origin: Origin) -> Task:
        """Add a task that runs a finished one again for its files."""
        self.recovered += 1
        again, profile = origin.invocation._replace(number=-self.recovered), origin.profile
        return self._enter(again, profile, shape_of(profile), origin)

    def _enter(self, invocation: Invocation, profile: Profile, shape: Shape, origin: Origin | None = None) -> Task:
        story = Story(self._checker) if self._checker is not None else None
        task = self[invocation.number] = Task(invocation, profile, shape, next(self._sequence), story, origin)
        return task

    def remove(self, task: Task) -> None:
        """Remove a task that is over."""
        self.move(task, State.DONE)
        del self[task.invocation.number]
        if task.origin is None:
            self.done += 1

    # --- states ---

    def move(self, task: Task, state: State) -> None:
        """Change the state of a task."""
        if task.origin is None:
            self._count[task.state] -= 1
            self._count[state] += 1
        elif State.READY in (task.state, state):  # tasks that recreate files need capacity like others
            self._count[State.READY] += 1 if state is State.READY else -1
        task.move(state)
        if self.ahead and state is not State.WAITING:
            self.ahead.pop(task.invocation.number, None)

    def ready(self, task: Task) -> None:
        """Queue a task that can run."""
        self.move(task, State.READY)
        shape = task.shape
        queue = self.queues.get(shape)
        if queue is None:
            queue = self.queues[shape] = Queue()
        if not queue.fits:
            self.unchecked[shape] = None
        queue.push(task)

    # --- shapes that may fit no node ---

    def take_unchecked(self) -> Iterable[Shape]:
        """Return the shapes of ready tasks that may be too large for any node, once each."""
        unchecked, self.unchecked = self.unchecked, {}
        return unchecked

    def recheck_fit(self) -> None:
        """Have all shapes checked again, because nodes have changed."""
        for shape, queue in self.queues.items():
            queue.fits = False
            self.unchecked[shape] = None

    # --- waiting tasks that may be sent ahead to a node ---

    def add_ahead(self, numbers: Iterable[int]) -> None:
        """Add tasks whose inputs are being produced."""
        for number in numbers:
            self.ahead[number] = None

    def put_back_ahead(self, numbers: list[int]) -> None:
        """Put tasks back that :meth:`next_ahead` has returned, before the others."""
        if numbers:
            self.ahead = {**dict.fromkeys(numbers), **self.ahead}

    def next_ahead(self) -> Task | None:
        """Remove and return the first task that may be sent ahead, if there is one."""
        while self.ahead:
            number = next(iter(self.ahead))
            del self.ahead[number]
            task = self.get(number)
            if task is not None and task.state is State.WAITING:
                return task
        return None
