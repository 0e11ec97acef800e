"""The scheduler of the embedded engine: events in, instructions out; no sockets, threads or clocks.

:meth:`Scheduler.handle` is the one method that changes anything. A :class:`Task` lives through these states (what
follows is what :func:`diagram` makes of the table below)::

    WAITING  -> READY     the files that it needs are there
    WAITING  -> DONE      cancelled, or a file that it needs is lost
    READY    -> ASSIGNED  a node has room for it
    READY    -> DONE      cancelled, a file that it needs is lost, or no node can ever hold it
    ASSIGNED -> READY     its node went, gave it back, or could not read a file that others have
    ASSIGNED -> DONE      it ended, was cancelled, or lost its node once too often
"""

from __future__ import annotations

import enum
import heapq
import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from taskvine_manager.graph import DependencyGraph
from taskvine_manager.messages import L2, Completion, FileUse, Invocation, NodeInfo, Profile
from taskvine_manager.runtime import failure

SHORT = 0.020
"""Seconds: calls that are known to be shorter are handed out ahead, this much time's worth to each slot."""
AHEAD = 256
"""Calls a slot may have ahead of it, at most."""


class State(enum.Enum):
    """Where an invocation is in its life."""

    WAITING = "waiting"
    READY = "ready"
    ASSIGNED = "assigned"
    DONE = "done"


_TRANSITIONS: dict[State, dict[State, str]] = {
    State.WAITING: {
        State.READY: "the files that it needs are there",
        State.DONE: "cancelled, or a file that it needs is lost",
    },
    State.READY: {
        State.ASSIGNED: "a node has room for it",
        State.DONE: "cancelled, a file that it needs is lost, or no node can ever hold it",
    },
    State.ASSIGNED: {
        State.READY: "its node went, gave it back, or could not read a file that others have",
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


class Task:
    """An invocation in the scheduler's hands."""

    __slots__ = ("attempts", "invocation", "node", "profile", "sequence", "state", "suspect")

    def __init__(self, invocation: Invocation, profile: Profile, sequence: int) -> None:
        self.invocation = invocation
        self.profile = profile
        self.sequence = sequence
        self.state = State.WAITING
        self.node: str | None = None
        self.attempts = 0
        self.suspect = False

    def move(self, state: State) -> None:
        """Go to another state, if the table allows it."""
        if state not in _TRANSITIONS[self.state]:
            raise IllegalTransition(
                f"task {self.invocation.number} ({self.profile.name}): {self.state.name} -> {state.name}, "
                f"node {self.node}, attempt {self.attempts}"
            )
        self.state = state

    @property
    def order(self) -> tuple[float, int]:
        """Higher priority first, then first come."""
        return (-self.profile.priority, self.sequence)


# --- events ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Submitted:
    """Invocations arrive, with profiles that are new."""

    profiles: tuple[Profile, ...]
    invocations: list[Invocation]


@dataclass(frozen=True)
class NodeJoined:
    """A node is ready for work."""

    info: NodeInfo


@dataclass(frozen=True)
class NodeLeft:
    """A node is gone; ``reason`` says how that was seen, ``told`` whether somebody had told it to go."""

    node: str
    reason: str
    told: bool = False


@dataclass(frozen=True)
class NodeDraining:
    """A node is to finish what it runs and take nothing new."""

    node: str


@dataclass(frozen=True)
class Completed:
    """A node reports invocations that ended."""

    node: str
    completions: list[Completion]


@dataclass(frozen=True)
class Returned:
    """A node gives back invocations that it has not begun."""

    node: str
    numbers: tuple[int, ...]


@dataclass(frozen=True)
class FileCached:
    """A node has fetched a replica, or could not (``problem``)."""

    node: str
    file: str
    size: int
    problem: str | None


@dataclass(frozen=True)
class Cancelled:
    """Invocations whose outcome nobody waits for any more."""

    numbers: tuple[int, ...]


@dataclass(frozen=True)
class Forgotten:
    """Temp files that nobody will ask for again."""

    files: tuple[str, ...]


@dataclass(frozen=True)
class Tuned:
    """TaskVine tuning parameters, by their names."""

    parameters: dict[str, float]


# --- instructions ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Run:
    """Send invocations to a node.

    ``sources`` maps input files that are not there to a node that has them; ``values`` holds small results that are
    inputs, encoded.
    """

    node: str
    tasks: list[Task]
    sources: dict[str, str]
    values: dict[str, bytes]


@dataclass(frozen=True)
class Finish:
    """Tell the user's process how invocations ended."""

    completions: list[Completion]


@dataclass(frozen=True)
class Fetch:
    """Have a node make a replica of a temp file from another node's."""

    node: str
    file: str
    source: str


@dataclass(frozen=True)
class Drop:
    """Have a node remove temp files."""

    node: str
    files: list[str]


@dataclass(frozen=True)
class Kill:
    """Have a node end invocations."""

    node: str
    numbers: list[int]


@dataclass(frozen=True)
class Release:
    """A draining node holds nothing that anybody needs: let it go."""

    node: str


Event = (
    Submitted | NodeJoined | NodeLeft | NodeDraining | Completed | Returned | FileCached | Cancelled | Forgotten | Tuned
)
Instruction = Run | Finish | Fetch | Drop | Kill | Release


# --- state ----------------------------------------------------------------------------------------------------------


@dataclass
class Node:
    """A node, as the scheduler sees it.

    ``fetching`` maps files that are under way to it, for a task or as replicas, to the node that they come from;
    ``refused`` holds files that it could not take.
    """

    info: NodeInfo
    draining: bool = False
    released: bool = False
    assigned: dict[int, Task] = field(default_factory=dict)
    shapes: Counter[Shape] = field(default_factory=Counter)
    files: set[str] = field(default_factory=set)
    fetching: dict[str, str] = field(default_factory=dict)
    refused: set[str] = field(default_factory=set)
    needs: dict[Shape, tuple[float, ...]] = field(default_factory=dict)

    @property
    def total(self) -> tuple[float, ...]:
        """Cores, memory, disk, gpus, configured function slots (infinite where not configured), suspects."""
        info = self.info
        slots = math.inf if info.slots is None else info.slots
        return (info.cores, info.memory, info.disk, float(info.gpus), slots, 1.0)

    def need(self, shape: Shape) -> tuple[float, ...]:
        """What one invocation of a shape takes here, in the order of :attr:`total`."""
        found = self.needs.get(shape)
        if found is None:
            info, called = self.info, shape.mode == L2
            slots = info.slots if called else None
            cores = shape.cores
            if cores is None:
                cores = info.cores / slots if slots else min(1.0, info.cores)
            slot = 1.0 if called and info.slots else 0.0
            found = (cores, shape.memory or 0.0, shape.disk or 0.0, float(shape.gpus or 0), slot, float(shape.suspect))
            self.needs[shape] = found
        return found

    def capacity(self, shape: Shape, *, others: bool) -> int:
        """How many invocations of a shape fit at once, beside the other shapes' (``others``) or alone."""
        free = list(self.total)
        if others:
            for other, count in self.shapes.items():
                if other != shape and count:
                    running = min(count, self.capacity(other, others=False))
                    free = [have - running * take for have, take in zip(free, self.need(other), strict=True)]
        fits = [math.floor(have / take + 1e-9) for have, take in zip(free, self.need(shape), strict=True) if take > 0]
        return max(0, min(fits, default=AHEAD))


class _Queue:
    """Ready tasks of one shape, in order."""

    def __init__(self) -> None:
        self._heap: list[tuple[tuple[float, int], Task]] = []

    def push(self, task: Task) -> None:
        heapq.heappush(self._heap, (task.order, task))

    def head(self) -> Task | None:
        while self._heap and self._heap[0][1].state is not State.READY:  # cancelled meanwhile
            heapq.heappop(self._heap)
        return self._heap[0][1] if self._heap else None

    def pop(self) -> Task:
        return heapq.heappop(self._heap)[1]

    def __len__(self) -> int:  # cancelled ones that have not come to the head included
        return len(self._heap)


class Scheduler:
    """Places invocations on nodes and keeps temp files replicated.

    Parameters
    ----------
    max_retries : int or None
        How often an invocation is tried again after its node went; None for ever.
    uniform : bool
        Whether all nodes are alike, so that what does not fit one node will never fit any. Nodes started by hand may
        differ: there, a request that fits none of them waits.
    wait_for_nodes : int
        Count of nodes that must have joined before anything is placed.
    """

    def __init__(self, *, max_retries: int | None = 1, uniform: bool = True, wait_for_nodes: int = 0) -> None:
        self._max_retries = max_retries
        self._uniform = uniform
        self._wait_for_nodes = wait_for_nodes
        self._joined = 0
        self._profiles: dict[int, Profile] = {}
        self._shapes: dict[int, Shape] = {}
        self._tasks: dict[int, Task] = {}
        self._queues: dict[Shape, _Queue] = {}
        self._nodes: dict[str, Node] = {}
        self._graph = DependencyGraph()
        self._sizes: dict[str, int] = {}
        self._values: dict[str, bytes] = {}  # small results that others may read
        self._replicas: dict[str, set[str]] = {}
        self._lost: dict[str, str] = {}  # files without a replica, by the node that had the last
        self._unwanted: set[str] = set()  # files that were forgotten before they were made
        self._unjudged: set[Shape] = set()  # shapes of ready tasks that may be too large for any node
        self._interrupted: set[str] = set()  # files whose way to a node ended with the task that they were for
        self._count: Counter[State] = Counter()
        self._estimates: dict[str, float] = {}
        self._sequence = 0
        self._replica_count = 1
        self._moved = 0
        self._done = 0
        self._handlers: dict[type, Callable[[Any], Iterable[Instruction]]] = {
            Submitted: self._submitted,
            NodeJoined: self._node_joined,
            NodeLeft: self._node_left,
            NodeDraining: self._node_draining,
            Completed: self._completed,
            Returned: self._returned,
            FileCached: self._file_cached,
            Cancelled: self._cancelled,
            Forgotten: self._forgotten,
            Tuned: self._tuned,
        }

    def handle(self, event: Event) -> list[Instruction]:
        """Take an event; return what is to be done about it, in order."""
        instructions = list(self._handlers[type(event)](event))
        if self._unjudged:
            instructions.extend(self._refuse_hopeless())
        instructions.extend(self._schedule())
        if self._interrupted:
            interrupted, self._interrupted = self._interrupted, set()
            instructions.extend(self._replicate(interrupted))
        for node in [node for node in self._nodes.values() if node.draining]:
            instructions.extend(self._rescue(node))
        return instructions

    # --- what the shell may ask ---

    @property
    def waiting(self) -> int:
        """Invocations that wait for files of others."""
        return len(self._graph)

    @property
    def ready(self) -> int:
        """Invocations that could run now if there were room."""
        return self._count[State.READY]

    @property
    def nodes(self) -> dict[str, Node]:
        """The nodes there are."""
        return self._nodes

    def where(self, file: str) -> str | None:
        """A node that has a temp file: one that stays, if there is one."""
        holders = self._replicas.get(file)
        if not holders:
            return None
        return min(holders, key=lambda name: (self._nodes[name].released, self._nodes[name].draining, name))

    def stats(self) -> dict[str, Any]:
        """Counts since the start, and the state of things now."""
        return {
            "tasks_done": self._done,
            "tasks_pending": len(self._tasks),
            "tasks_waiting": self.waiting,
            "nodes": len(self._nodes),
            "bytes_between_nodes": self._moved,
            "replicas": {file: sorted(nodes) for file, nodes in self._replicas.items()},
        }

    def snapshot(self) -> dict[str, Any]:
        """What is live, as of :meth:`taskvine_manager.engine.Engine.snapshot`."""
        kept = [(file, len(body), ["manager"]) for file, body in self._values.items()]
        return {
            "tasks": [
                (number, task.state.value, task.node or "", task.attempts) for number, task in self._tasks.items()
            ],
            "files": kept + [(file, size, sorted(self._replicas.get(file, ()))) for file, size in self._sizes.items()],
        }

    # --- events ---

    def _submitted(self, event: Submitted) -> Iterator[Instruction]:
        for profile in event.profiles:
            self._profiles[profile.number] = profile
            self._shapes[profile.number] = Shape(*profile[3:8])
        refused = []
        for invocation in event.invocations:
            task = Task(invocation, self._profiles[invocation.profile], self._sequence)
            self._sequence += 1
            self._tasks[invocation.number] = task
            self._count[State.WAITING] += 1
            needs = _files(invocation.inputs)
            makes = _files(invocation.outputs)
            if needs or makes:
                gone = [file for file in needs if self._is_gone(file)]
                if gone:
                    refused.append(self._end_lost(task, gone[0]))
                    continue
                try:
                    ready = self._graph.add(invocation.number, needs, makes)
                except ValueError as error:
                    refused.append(self._end(task, "file-lost", str(error), name=needs[0]))
                    continue
                if not ready:
                    continue
            self._make_ready(task)
        if refused:
            yield Finish(refused)

    def _node_joined(self, event: NodeJoined) -> Iterator[Instruction]:
        self._nodes[event.info.name] = Node(event.info)
        self._joined += 1
        self._unjudged.update(self._queues)
        yield from self._replicate(list(self._replicas))

    def _node_left(self, event: NodeLeft) -> Iterator[Instruction]:
        node = self._nodes.pop(event.node, None)
        if node is None:
            return
        self._unjudged.update(self._queues)
        over = []
        # A node starts what it gets in order, so only the oldest can have been running: they alone are charged a try.
        running = max(1, sum(min(count, node.capacity(shape, others=False)) for shape, count in node.shapes.items()))
        for position, task in enumerate(list(node.assigned.values())):
            if position < running:
                task.attempts += 1
                task.suspect = task.suspect or not event.told
            task.node = None
            if self._max_retries is not None and task.attempts > self._max_retries:
                reason = f"its node {event.node} was lost ({event.reason}), at attempt {task.attempts}"
                over.append(self._end(task, "node-lost", reason, node=event.node))
            else:
                self._make_ready(task)
        if over:
            yield Finish(over)
        for other in self._nodes.values():
            other.refused -= node.files  # it may have been the source that would not give them
        for file in sorted(node.files):
            yield from self._remove_replica(event.node, file)
        yield from self._replicate([*node.files, *node.fetching])

    def _node_draining(self, event: NodeDraining) -> Iterator[Instruction]:
        node = self._nodes.get(event.node)
        if node is not None:
            node.draining = True
            yield from self._replicate([*node.files, *node.fetching])

    def _completed(self, event: Completed) -> Iterator[Instruction]:
        node = self._nodes.get(event.node)
        if node is None:
            return  # what it ran is being tried again
        finished = []
        made: list[str] = []
        unwanted: list[str] = []
        unread: list[tuple[str, str]] = []
        for completion in event.completions:
            for file, size in completion.made:
                if file in self._unwanted:
                    unwanted.append(file)
                else:
                    self._add_replica(node, file, size)
                    made.append(file)
            task = node.assigned.get(completion.number)
            if task is None:
                continue  # cancelled meanwhile
            if completion.outcome == failure.LOST and task.invocation.inputs:
                lost = failure.lost_file(completion.body)
                if lost is not None:
                    source = node.fetching.get(lost, event.node)
                    unread.append((source, lost))
                    if self._replicas.get(lost, set()) - {source}:
                        self._unassign(node, task)
                        self._make_ready(task)
                        continue
            if completion.outcome == failure.RETURNED:
                known = self._estimates.get(task.profile.category, completion.seconds)
                # Quick to believe that calls have become long, slow to believe that they have become short.
                weight = 0.5 if completion.seconds > known else 0.1
                self._estimates[task.profile.category] = known + weight * (completion.seconds - known)
                if task.invocation.outputs and isinstance(completion.body, bytes):
                    for use in task.invocation.outputs:
                        if use.kind == "value" and use.source not in self._unwanted:
                            self._values[use.source] = completion.body
                            made.append(use.source)
            self._unassign(node, task)
            self._leave(task)
            finished.append(completion)
        if finished:
            yield Finish(finished)
        if unwanted:
            yield Drop(event.node, unwanted)
            self._unwanted.difference_update(file for file in unwanted if not self._graph.has_maker(file))
        self._release_waiting(made)
        for source, file in unread:
            yield from self._remove_replica(source, file)
        yield from self._replicate([*made, *(file for _, file in unread)])

    def _returned(self, event: Returned) -> tuple[Instruction, ...]:
        node = self._nodes.get(event.node)
        if node is None:
            return ()
        for number in event.numbers:
            if task := node.assigned.get(number):
                self._unassign(node, task)
                self._make_ready(task)
        return ()

    def _file_cached(self, event: FileCached) -> Iterator[Instruction]:
        node = self._nodes.get(event.node)
        if node is None:
            return
        source = node.fetching.pop(event.file, None)
        if event.problem is not None:
            if source in self._replicas.get(event.file, ()):  # else its source went, and another may do
                node.refused.add(event.file)
            yield from self._replicate([event.file])
        elif event.file not in self._sizes:
            yield Drop(event.node, [event.file])  # forgotten while it was under way
        elif event.file not in node.files:
            self._moved += event.size
            self._add_replica(node, event.file, event.size)
            self._release_waiting([event.file])  # the node that it came from may have gone meanwhile

    def _cancelled(self, event: Cancelled) -> Iterator[Instruction]:
        running: dict[str, list[int]] = {}
        for number in event.numbers:
            task = self._tasks.get(number)
            if task is None:
                continue
            if task.node is not None:
                running.setdefault(task.node, []).append(number)
                # Its share of the node is free: nothing more may be heard of what had not begun.
                self._unassign(self._nodes[task.node], task)
                self._leave(task, heard=False)
            else:
                self._leave(task)
        for name, numbers in running.items():
            yield Kill(name, numbers)

    def _forgotten(self, event: Forgotten) -> Iterator[Instruction]:
        where: dict[str, list[str]] = {}
        for file in event.files:
            if self._values.pop(file, None) is None and file not in self._sizes:
                self._unwanted.add(file)
            for name in self._replicas.pop(file, ()):
                self._nodes[name].files.discard(file)
                where.setdefault(name, []).append(file)
            self._graph.lost(file)
            self._sizes.pop(file, None)
            self._lost.pop(file, None)
            for node in self._nodes.values():
                node.refused.discard(file)
        for name, files in where.items():
            yield Drop(name, files)
        for file in event.files:
            yield from self._fail_consumers(file)

    def _tuned(self, event: Tuned) -> Iterator[Instruction]:
        if "temp-replica-count" in event.parameters:
            self._replica_count = max(1, int(event.parameters["temp-replica-count"]))
            for node in self._nodes.values():
                node.refused.clear()
            yield from self._replicate(list(self._replicas))

    # --- tasks ---

    def _move(self, task: Task, state: State) -> None:
        self._count[task.state] -= 1
        task.move(state)
        self._count[state] += 1

    def _shape(self, task: Task) -> Shape:
        shape = self._shapes[task.profile.number]
        return shape._replace(suspect=True) if task.suspect else shape

    def _make_ready(self, task: Task) -> None:
        self._move(task, State.READY)
        shape = self._shape(task)
        self._unjudged.add(shape)
        queue = self._queues.get(shape)
        if queue is None:
            queue = self._queues[shape] = _Queue()
        queue.push(task)

    def _release_waiting(self, files: list[str]) -> None:
        for number in self._graph.made(files):
            self._make_ready(self._tasks[number])

    def _leave(self, task: Task, *, heard: bool = True) -> None:
        self._move(task, State.DONE)
        del self._tasks[task.invocation.number]
        if task.invocation.inputs or task.invocation.outputs:
            self._graph.prune(task.invocation.number)
        if heard and self._unwanted:  # else it may have been made already, and the node is about to say so
            makes = _files(task.invocation.outputs)
            self._unwanted.difference_update(file for file in makes if not self._graph.has_maker(file))
        self._done += 1

    def _end(self, task: Task, kind: str, reason: str, node: str = "", **fields: Any) -> Completion:
        self._leave(task)
        record = failure.lost(kind, reason, node=node or None, **fields)
        return Completion(task.invocation.number, failure.LOST, record, node, 0.0, 0.0, 0.0)

    def _unassign(self, node: Node, task: Task) -> None:
        del node.assigned[task.invocation.number]
        task.node = None
        shape = self._shape(task)
        node.shapes[shape] -= 1
        if not node.shapes[shape]:
            del node.shapes[shape]
        for use in task.invocation.inputs:
            if node.fetching.pop(use.source, None) is not None:
                self._interrupted.add(use.source)

    def _refuse_hopeless(self) -> Iterator[Instruction]:
        """End the ready tasks that no node can ever hold, once there is a node to judge by."""
        if not self._nodes:
            return
        unjudged, self._unjudged = self._unjudged, set()
        if not self._uniform:
            return
        largest = max(self._nodes.values(), key=lambda node: node.total)
        has = dict(zip(("cores", "memory", "disk", "gpus"), largest.total[:4], strict=True))
        over = []
        for shape in unjudged:
            if any(node.capacity(shape, others=False) for node in self._nodes.values()):
                continue
            asked = zip(Shape._fields[1:5], shape[1:5], strict=True)
            requested = {key: value for key, value in asked if value is not None}
            reason = f"it asks for {_amounts(requested)}, and the largest node has {_amounts(has)}"
            queue = self._queues[shape]
            while queue.head() is not None:
                over.append(self._end(queue.pop(), "unsatisfiable", reason, requested=requested, largest=has))
        if over:
            yield Finish(over)

    # --- placement ---

    def _schedule(self) -> Iterator[Instruction]:
        if self._joined < self._wait_for_nodes:
            return
        open_nodes = {name: node for name, node in self._nodes.items() if not node.draining}
        runs: dict[str, Run] = {}
        blocked: set[Shape] = set()
        finished: list[Completion] = []
        while open_nodes:
            heads = [(queue.head(), shape) for shape, queue in self._queues.items() if shape not in blocked]
            waiting = sorted((task.order, task, shape) for task, shape in heads if task is not None)
            if not waiting:
                break
            _, task, shape = waiting[0]
            if task.invocation.inputs:
                placed = self._place_by_data(task, shape, open_nodes, runs, finished)
            else:
                turn = waiting[1][0] if len(waiting) > 1 else None
                placed = self._place_many(task, shape, open_nodes, runs, turn)
            if not placed:
                blocked.add(shape)
                # The oldest that does not fit keeps the largest node for itself, lest younger ones starve it; but a
                # suspect waits beside others for the one before it.
                if holders := [
                    name
                    for name, node in open_nodes.items()
                    if node.capacity(shape, others=False)
                    and not (shape.suspect and any(other.suspect for other in node.shapes))
                ]:
                    del open_nodes[max(holders, key=lambda name: (open_nodes[name].total, name))]
        if finished:
            yield Finish(finished)
        yield from runs.values()

    def _depth(self, task: Task) -> int:
        estimate = self._estimates.get(task.profile.category)
        if estimate is None or estimate >= SHORT or task.suspect:
            return 1
        return min(AHEAD, math.ceil(SHORT / max(estimate, 1e-6)))

    def _room(self, node: Node, shape: Shape, depth: int) -> int:
        return node.capacity(shape, others=True) * depth - node.shapes[shape]

    def _place_many(
        self,
        first: Task,
        shape: Shape,
        nodes: dict[str, Node],
        runs: dict[str, Run],
        turn: tuple[float, int] | None,
    ) -> bool:
        """Hand tasks that are tied to no data to the nodes, evenly, until it is the turn of another shape's."""
        queue = self._queues[shape]
        depth = self._depth(first)
        rooms = {name: room for name, node in nodes.items() if (room := self._room(node, shape, depth)) > 0}
        if not rooms:
            return False
        share = max(1, math.ceil(len(queue) / len(rooms)))
        for name in sorted(rooms, key=lambda name: -rooms[name]):
            node = nodes[name]
            for _ in range(min(rooms[name], share)):
                task = queue.head()
                if task is None or task.invocation.inputs or task.profile.category != first.profile.category:
                    return True
                if turn is not None and task.order > turn:
                    return True
                self._assign(queue.pop(), shape, node, runs)
        return True

    def _place_by_data(
        self, task: Task, shape: Shape, nodes: dict[str, Node], runs: dict[str, Run], finished: list[Completion]
    ) -> bool:
        """Place a task where most bytes of its inputs are, then where most room is."""
        needs = _files(task.invocation.inputs)
        inputs = [file for file in needs if file not in self._values]
        missing = [file for file in inputs if not self._replicas.get(file)]
        queue = self._queues[shape]
        if missing:
            queue.pop()
            finished.append(self._end_lost(task, missing[0]))
            return True
        depth = 1 if inputs else self._depth(task)  # small values go anywhere, and ahead
        best: tuple[float, int, str] | None = None
        for name, node in nodes.items():
            room = self._room(node, shape, depth)
            if room > 0:
                local = sum(self._sizes[file] for file in inputs if file in node.files)
                best = max(best, (local, room, name)) if best is not None else (local, room, name)
        if best is None:
            return False
        node = nodes[best[2]]
        queue.pop()
        run = self._assign(task, shape, node, runs)
        run.values.update((file, self._values[file]) for file in needs if file in self._values)
        for file in inputs:
            if file not in node.files and (source := self.where(file)) is not None:
                run.sources[file] = source
                node.fetching.setdefault(file, source)
        return True

    def _assign(self, task: Task, shape: Shape, node: Node, runs: dict[str, Run]) -> Run:
        self._move(task, State.ASSIGNED)
        name = node.info.name
        task.node = name
        node.assigned[task.invocation.number] = task
        node.shapes[shape] += 1
        run = runs.get(name)
        if run is None:
            run = runs[name] = Run(name, [], {}, {})
        run.tasks.append(task)
        return run

    # --- temp files ---

    def _add_replica(self, node: Node, file: str, size: int) -> None:
        self._sizes[file] = size
        self._replicas.setdefault(file, set()).add(node.info.name)
        self._lost.pop(file, None)
        node.files.add(file)

    def _remove_replica(self, name: str, file: str) -> Iterator[Instruction]:
        """A node's replica is gone, or cannot be read, whether or not the node is still there."""
        holders = self._replicas.get(file, set())
        if name not in holders:
            return
        holders.discard(name)
        if name in self._nodes:
            self._nodes[name].files.discard(file)
            yield Drop(name, [file])
        if not holders:
            del self._replicas[file]
            self._lost[file] = name
            self._graph.lost(file)
            if self._is_gone(file):
                yield from self._fail_consumers(file)

    def _is_gone(self, file: str) -> bool:
        """Whether a file will not be there again, as far as is known."""
        return file in self._unwanted or (file in self._lost and not self._graph.has_maker(file))

    def _replicate(self, files: Iterable[str]) -> Iterator[Instruction]:
        """Bring files to the count of replicas that is asked for, scarcest first."""
        if self._replica_count < 2:
            return
        for file in sorted(set(files), key=lambda name: (len(self._replicas.get(name, ())), name)):
            yield from self._copy(file, self._replica_count)

    def _copy(self, file: str, count: int) -> Iterator[Instruction]:
        """Have copies made until as many nodes that stay hold a file, or will, as far as nodes can be found."""
        staying = [node for node in self._nodes.values() if not node.draining]
        count -= sum(file in node.files or file in node.fetching for node in staying)
        source = self.where(file)
        if count <= 0 or source is None:
            return
        targets = [
            node
            for node in staying
            if file not in node.files and file not in node.fetching and file not in node.refused
        ]
        targets.sort(key=lambda node: (len(node.files) + len(node.fetching), node.info.name))
        for node in targets[:count]:
            node.fetching[file] = source
            yield Fetch(node.info.name, file, source)

    def _rescue(self, node: Node) -> Iterator[Instruction]:
        """Copy what only a draining node has; let it go when nothing is left on it that anybody needs."""
        if node.released:
            return
        name = node.info.name
        staying = [other for other in self._nodes.values() if not other.draining]
        for file in sorted(node.files):
            if not any(file in other.files for other in staying):
                yield from self._copy(file, 1)
        # What is on its way from here is waited for. What has nowhere to go is given up.
        copied = any(source == name for other in self._nodes.values() for source in other.fetching.values())
        if not node.assigned and not copied:
            node.released = True
            yield Release(name)

    def _end_lost(self, task: Task, file: str) -> Completion:
        node = self._lost.get(file, "")
        reason = f"the last replica of {file} was lost with node {node}" if node else f"{file} was forgotten"
        return self._end(task, "file-lost", reason, node=node, name=file)

    def _fail_consumers(self, file: str) -> Iterator[Instruction]:
        over = []
        for number in self._graph.waiting():
            task = self._tasks[number]
            if file in _files(task.invocation.inputs):
                over.append(self._end_lost(task, file))
        if over:
            yield Finish(over)


def _files(uses: tuple[FileUse, ...]) -> list[str]:
    """Ids of the files among these that the manager knows: all but the user's own."""
    return [use.source for use in uses if use.kind != "local"] if uses else []


def _amounts(resources: Mapping[str, float | None]) -> str:
    units = {"memory": " MB of memory", "disk": " MB of disk"}
    return ", ".join(f"{value:g}{units.get(key, ' ' + key)}" for key, value in resources.items() if value is not None)
