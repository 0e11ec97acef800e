"""The scheduler of the embedded engine: events in, instructions out; no sockets, threads or clocks.

:meth:`Scheduler.handle` is the one method that changes anything. A :class:`Task` lives through these states, and the
table below is all there is to it::

    WAITING -> READY -> ASSIGNED -> DONE
                 ^---------'          (its node went, and it may be tried again)
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
from taskvine_manager.messages import L2, Completion, Invocation, NodeInfo, Profile
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


_TRANSITIONS: dict[State, frozenset[State]] = {
    State.WAITING: frozenset({State.READY, State.DONE}),
    State.READY: frozenset({State.ASSIGNED, State.DONE}),
    State.ASSIGNED: frozenset({State.READY, State.DONE}),
    State.DONE: frozenset(),
}


class IllegalTransition(Exception):
    """A task was sent from a state to one that it cannot reach; the message carries its story."""


class Shape(NamedTuple):
    """What invocations of one kind ask of a node; ``None`` where they leave it to the node."""

    mode: str
    cores: float | None
    memory: float | None
    disk: float | None
    gpus: int | None


class Task:
    """An invocation in the scheduler's hands."""

    __slots__ = ("attempts", "invocation", "node", "profile", "sequence", "state")

    def __init__(self, invocation: Invocation, profile: Profile, sequence: int) -> None:
        self.invocation = invocation
        self.profile = profile
        self.sequence = sequence
        self.state = State.WAITING
        self.node: str | None = None
        self.attempts = 0

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
    """A node is gone; ``reason`` says how that was seen."""

    node: str
    reason: str


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
    """Send invocations to a node. ``sources`` maps temp inputs that are not there to a node that has them."""

    node: str
    tasks: list[Task]
    sources: dict[str, str]


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
    """A node, as the scheduler sees it."""

    info: NodeInfo
    draining: bool = False
    released: bool = False
    assigned: dict[int, Task] = field(default_factory=dict)
    shapes: Counter[Shape] = field(default_factory=Counter)
    files: set[str] = field(default_factory=set)
    fetching: set[str] = field(default_factory=set)
    needs: dict[Shape, tuple[float, float, float, float, float]] = field(default_factory=dict)

    @property
    def total(self) -> tuple[float, float, float, float, float]:
        """Cores, memory, disk, gpus, and configured function slots (infinite where not configured)."""
        info = self.info
        return (info.cores, info.memory, info.disk, float(info.gpus), math.inf if info.slots is None else info.slots)

    def need(self, shape: Shape) -> tuple[float, float, float, float, float]:
        """What one invocation of a shape takes here, in the order of :attr:`total`."""
        found = self.needs.get(shape)
        if found is None:
            info, called = self.info, shape.mode == L2
            slots = info.slots if called else None
            cores = shape.cores
            if cores is None:
                cores = info.cores / slots if slots else min(1.0, info.cores)
            memory = shape.memory or 0.0
            found = (cores, memory, shape.disk or 0.0, float(shape.gpus or 0), 1.0 if called and info.slots else 0.0)
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

    def __len__(self) -> int:
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
        self._replicas: dict[str, set[str]] = {}
        self._last_node: dict[str, str] = {}
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
        instructions.extend(self._schedule())
        return instructions

    # --- what the shell may ask ---

    @property
    def waiting(self) -> int:
        """Invocations that wait for files of others."""
        return len(self._graph)

    @property
    def ready(self) -> int:
        """Invocations that could run now if there were room."""
        return sum(len(queue) for queue in self._queues.values())

    @property
    def nodes(self) -> dict[str, Node]:
        """The nodes there are."""
        return self._nodes

    def where(self, file: str) -> str | None:
        """A node that has a temp file."""
        return min(self._replicas.get(file, ()), default=None)

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
            needs = [use.source for use in invocation.inputs if use.kind == "temp"] if invocation.inputs else []
            makes = [use.source for use in invocation.outputs if use.kind == "temp"] if invocation.outputs else []
            if needs or makes:
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
        yield from self._refuse_hopeless({self._shapes[item.profile] for item in event.invocations})

    def _node_joined(self, event: NodeJoined) -> Iterator[Instruction]:
        self._nodes[event.info.name] = Node(event.info)
        self._joined += 1
        yield from self._refuse_hopeless(set(self._queues))
        yield from self._replicate(list(self._replicas))

    def _node_left(self, event: NodeLeft) -> Iterator[Instruction]:
        node = self._nodes.pop(event.node, None)
        if node is None:
            return
        over = []
        # A node starts what it gets in order, so only the oldest can have been running: they alone are charged a try.
        running = max(1, sum(min(count, node.capacity(shape, others=False)) for shape, count in node.shapes.items()))
        for position, task in enumerate(list(node.assigned.values())):
            task.attempts += position < running
            task.node = None
            if self._max_retries is not None and task.attempts > self._max_retries:
                reason = f"its node {event.node} was lost ({event.reason}), at attempt {task.attempts}"
                over.append(self._end(task, "node-lost", reason, node=event.node))
            else:
                self._make_ready(task)
        gone = []
        for file in node.files:
            self._last_node[file] = event.node
            replicas = self._replicas[file]
            replicas.discard(event.node)
            if not replicas:
                gone.append(file)
        for file in gone:
            del self._replicas[file]
            self._graph.lost(file)
        if over:
            yield Finish(over)
        yield from self._replicate([file for file in node.files if file in self._replicas])
        for file in gone:
            yield from self._fail_consumers(file)

    def _node_draining(self, event: NodeDraining) -> Iterator[Instruction]:
        node = self._nodes.get(event.node)
        if node is not None:
            node.draining = True
            yield from self._rescue(node)

    def _completed(self, event: Completed) -> Iterator[Instruction]:
        node = self._nodes.get(event.node)
        finished = []
        made: list[str] = []
        for completion in event.completions:
            task = self._tasks.get(completion.number)
            if node is not None:
                self._unassign(node, completion.number)
            for file, size in completion.made:
                self._add_replica(node, file, size)
                made.append(file)
            if task is None or task.state is not State.ASSIGNED:
                continue  # cancelled meanwhile
            if completion.outcome == failure.RETURNED:
                known = self._estimates.get(task.profile.category, completion.seconds)
                # Quick to believe that calls have become long, slow to believe that they have become short.
                weight = 0.5 if completion.seconds > known else 0.1
                self._estimates[task.profile.category] = known + weight * (completion.seconds - known)
            self._leave(task)
            finished.append(completion)
        if finished:
            yield Finish(finished)
        for number in self._graph.made(made) if made else ():
            if (task := self._tasks.get(number)) is not None:
                self._make_ready(task)
        yield from self._replicate(made)
        if node is not None and node.draining:
            yield from self._rescue(node)

    def _returned(self, event: Returned) -> Iterator[Instruction]:
        node = self._nodes.get(event.node)
        for number in event.numbers:
            task = self._tasks.get(number)
            if task is not None and task.state is State.ASSIGNED and task.node == event.node:
                if node is not None:
                    self._unassign(node, number)
                task.node = None
                self._make_ready(task)
        if node is not None and node.draining:
            yield from self._rescue(node)

    def _file_cached(self, event: FileCached) -> Iterator[Instruction]:
        node = self._nodes.get(event.node)
        if node is None:
            return
        node.fetching.discard(event.file)
        if event.problem is None:
            self._moved += event.size
            if event.file in self._replicas:
                self._add_replica(node, event.file, event.size)
            else:
                yield Drop(event.node, [event.file])  # forgotten while it was under way
        for draining in [item for item in self._nodes.values() if item.draining and event.file in item.files]:
            yield from self._rescue(draining)

    def _cancelled(self, event: Cancelled) -> Iterator[Instruction]:
        running: dict[str, list[int]] = {}
        for number in event.numbers:
            task = self._tasks.get(number)
            if task is None:
                continue
            if task.node is not None:
                running.setdefault(task.node, []).append(number)
            self._leave(task)
        for node, numbers in running.items():
            yield Kill(node, numbers)

    def _forgotten(self, event: Forgotten) -> Iterator[Instruction]:
        where: dict[str, list[str]] = {}
        for file in event.files:
            for name in self._replicas.pop(file, ()):
                self._nodes[name].files.discard(file)
                where.setdefault(name, []).append(file)
            self._graph.forget(file)
            self._sizes.pop(file, None)
        for name, files in where.items():
            yield Drop(name, files)

    def _tuned(self, event: Tuned) -> Iterator[Instruction]:
        if "temp-replica-count" in event.parameters:
            self._replica_count = max(1, int(event.parameters["temp-replica-count"]))
            yield from self._replicate(list(self._replicas))

    # --- tasks ---

    def _make_ready(self, task: Task) -> None:
        task.move(State.READY)
        shape = self._shapes[task.profile.number]
        queue = self._queues.get(shape)
        if queue is None:
            queue = self._queues[shape] = _Queue()
        queue.push(task)

    def _leave(self, task: Task) -> None:
        task.move(State.DONE)
        del self._tasks[task.invocation.number]
        if task.invocation.inputs or task.invocation.outputs:
            self._graph.prune(task.invocation.number)
        self._done += 1

    def _end(self, task: Task, kind: str, reason: str, node: str = "", **fields: Any) -> Completion:
        self._leave(task)
        record = failure.lost(kind, reason, node=node or None, **fields)
        return Completion(task.invocation.number, failure.LOST, record, node, 0.0, 0.0, 0.0)

    def _unassign(self, node: Node, number: int) -> None:
        task = node.assigned.pop(number, None)
        if task is not None:
            node.shapes[self._shapes[task.profile.number]] -= 1

    def _refuse_hopeless(self, shapes: set[Shape]) -> Iterator[Instruction]:
        """End the ready tasks that no node can ever hold, once there is a node to judge by."""
        if not self._uniform or not self._nodes:
            return
        for shape in shapes:
            if any(node.capacity(shape, others=False) for node in self._nodes.values()):
                continue
            largest = max(self._nodes.values(), key=lambda node: node.total)
            queue = self._queues.get(shape, _Queue())
            over = []
            while queue.head() is not None:
                requested = {
                    key: value for key, value in zip(Shape._fields[1:], shape[1:], strict=True) if value is not None
                }
                has = dict(zip(("cores", "memory", "disk", "gpus"), largest.total[:4], strict=True))
                reason = f"it asks for {_amounts(requested)}, and the largest node has {_amounts(has)}"
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
            waiting = [(task.order, task, shape) for task, shape in heads if task is not None]
            if not waiting:
                break
            _, task, shape = min(waiting, key=lambda item: item[0])
            if task.invocation.inputs:
                placed = self._place_by_data(task, shape, open_nodes, runs, finished)
            else:
                placed = self._place_many(task, shape, open_nodes, runs)
            if not placed:
                blocked.add(shape)
                # The oldest that does not fit keeps the largest node for itself, lest younger ones starve it.
                if holders := [name for name, node in open_nodes.items() if node.capacity(shape, others=False)]:
                    del open_nodes[max(holders, key=lambda name: (open_nodes[name].total, name))]
        if finished:
            yield Finish(finished)
        yield from runs.values()

    def _depth(self, task: Task) -> int:
        estimate = self._estimates.get(task.profile.category)
        if estimate is None or estimate >= SHORT:
            return 1
        return min(AHEAD, math.ceil(SHORT / max(estimate, 1e-6)))

    def _room(self, node: Node, shape: Shape, depth: int) -> int:
        return node.capacity(shape, others=True) * depth - node.shapes[shape]

    def _place_many(self, first: Task, shape: Shape, nodes: dict[str, Node], runs: dict[str, Run]) -> bool:
        """Hand tasks that are tied to no data to the nodes, evenly."""
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
                self._assign(queue.pop(), shape, node, runs)
        return True

    def _place_by_data(
        self, task: Task, shape: Shape, nodes: dict[str, Node], runs: dict[str, Run], finished: list[Completion]
    ) -> bool:
        """Place a task where most bytes of its temp inputs are, then where most room is."""
        inputs = [use.source for use in task.invocation.inputs if use.kind == "temp"]
        missing = [file for file in inputs if not self._replicas.get(file)]
        queue = self._queues[shape]
        if missing:
            queue.pop()
            finished.append(self._end_lost(task, missing[0]))
            return True
        best: tuple[float, int, str] | None = None
        for name, node in nodes.items():
            room = self._room(node, shape, 1)
            if room > 0:
                local = sum(self._sizes[file] for file in inputs if file in node.files)
                best = max(best, (local, room, name)) if best is not None else (local, room, name)
        if best is None:
            return False
        node = nodes[best[2]]
        queue.pop()
        run = self._assign(task, shape, node, runs)
        for file in inputs:
            if file not in node.files:
                run.sources[file] = min(self._replicas[file])
        return True

    def _assign(self, task: Task, shape: Shape, node: Node, runs: dict[str, Run]) -> Run:
        task.move(State.ASSIGNED)
        name = node.info.name
        task.node = name
        node.assigned[task.invocation.number] = task
        node.shapes[shape] += 1
        run = runs.get(name)
        if run is None:
            run = runs[name] = Run(name, [], {})
        run.tasks.append(task)
        return run

    # --- temp files ---

    def _add_replica(self, node: Node | None, file: str, size: int) -> None:
        if node is not None:
            self._sizes[file] = size
            self._replicas.setdefault(file, set()).add(node.info.name)
            node.files.add(file)

    def _replicate(self, files: Iterable[str]) -> Iterator[Instruction]:
        """Bring files to the count of replicas that is asked for, scarcest first."""
        if self._replica_count < 2:
            return
        for file in sorted(files, key=lambda name: len(self._replicas.get(name, ()))):
            yield from self._copy(file, self._replica_count)

    def _copy(self, file: str, count: int, leaving: str | None = None) -> Iterator[Instruction]:
        holders = self._replicas.get(file, set())
        kept = holders - {leaving} if leaving else holders
        under_way = [node for node in self._nodes.values() if file in node.fetching]
        targets = [
            node
            for name, node in self._nodes.items()
            if name not in holders and not node.draining and file not in node.fetching
        ]
        targets.sort(key=lambda node: (len(node.files) + len(node.fetching), node.info.name))
        for node in targets[: max(0, count - len(kept) - len(under_way))]:
            if holders:
                node.fetching.add(file)
                yield Fetch(node.info.name, file, min(holders))

    def _rescue(self, node: Node) -> Iterator[Instruction]:
        """Copy what only a draining node has; let it go when nothing is left on it that anybody needs."""
        if node.released:
            return
        name = node.info.name
        only_here = [file for file in node.files if not self._elsewhere(file, name)]
        for file in only_here:
            yield from self._copy(file, 1, leaving=name)
        nowhere_to_go = not any(not other.draining for other in self._nodes.values())
        if not node.assigned and (not only_here or nowhere_to_go):
            node.released = True
            yield Release(name)

    def _elsewhere(self, file: str, name: str) -> bool:
        return any(other != name and not self._nodes[other].draining for other in self._replicas.get(file, ()))

    def _end_lost(self, task: Task, file: str) -> Completion:
        node = self._last_node.get(file, "")
        reason = f"the last replica of {file} was lost with node {node or 'that had it'}"
        return self._end(task, "file-lost", reason, node=node, name=file)

    def _fail_consumers(self, file: str) -> Iterator[Instruction]:
        over = []
        for number in self._graph.waiting():
            task = self._tasks[number]
            if any(use.source == file for use in task.invocation.inputs):
                over.append(self._end_lost(task, file))
        if over:
            yield Finish(over)


def _amounts(resources: Mapping[str, float | None]) -> str:
    units = {"memory": " MB of memory", "disk": " MB of disk"}
    return ", ".join(f"{value:g}{units.get(key, ' ' + key)}" for key, value in resources.items() if value is not None)
