"""The scheduler of the embedded engine: events in, instructions out; no sockets, threads or clocks.

Only :meth:`Scheduler.handle` changes state. The scheduler holds the tasks and decides where they run
(:mod:`~taskvine_manager.scheduling.tasks` defines their states). Records of files are in
:mod:`~taskvine_manager.scheduling.files`, transfers in :mod:`~taskvine_manager.scheduling.storage`.

The cost of one decision does not grow with the number of nodes. For each shape of task, the scheduler keeps a list of
the nodes that may be able to take one. It looks at only a few nodes of that list, and at a few holders of each file.
"""

from __future__ import annotations

import heapq
import itertools
import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from taskvine_manager.runtime import failure
from taskvine_manager.scheduling.events import (
    RELAY,
    Again,
    Answer,
    Asked,
    Cancelled,
    Completed,
    Crowded,
    Discard,
    Drop,
    Event,
    Fetch,
    FileCached,
    FileSpoiled,
    Finish,
    Forgotten,
    Full,
    InputCached,
    InputCopy,
    Instruction,
    Kill,
    NodeDraining,
    NodeJoined,
    NodeLeft,
    Relay,
    Relayed,
    Release,
    Replica,
    Retired,
    Returned,
    Run,
    Submitted,
    Tuned,
)
from taskvine_manager.scheduling.files import File, Origin
from taskvine_manager.scheduling.graph import DependencyGraph
from taskvine_manager.scheduling.nodes import AHEAD, SHORT, Node
from taskvine_manager.scheduling.storage import LOOKED_AT, Storage
from taskvine_manager.scheduling.tasks import IllegalTransition, Order, Queue, Shape, State, Task, diagram
from taskvine_manager.wire.messages import L2, Completion, FileUse, Profile

SET_ASIDE = 16
"""Maximum number of ready tasks that wait for a transfer or a busy node while later tasks are placed."""

Hopeless = tuple[File, str, File]
"""A file that can be neither read nor recreated, the reason, and the file that prevents it."""


class Scheduler:
    """Places tasks on nodes, keeps temp files replicated, and recreates lost files.

    Parameters
    ----------
    max_retries : int or None
        How often a task is retried after it lost its node; None for no limit.
    uniform : bool
        Whether all nodes are alike. If they are, a task that fits no node is refused. Nodes started by hand may differ:
        the task then waits for a larger node.
    wait_for_nodes : int
        Number of nodes that must have joined before any task is placed.
    peer_transfers : bool
        Whether nodes copy files from each other. Otherwise all files pass through the manager's directory.
    """

    def __init__(
        self,
        *,
        max_retries: int | None = 1,
        uniform: bool = True,
        wait_for_nodes: int = 0,
        peer_transfers: bool = True,
    ) -> None:
        self._max_retries = max_retries
        self._uniform = uniform
        self._wait_for_nodes = wait_for_nodes
        self._joined = 0
        self._begun = False
        self._profiles: dict[int, Profile] = {}
        self._shapes: dict[int, Shape] = {}
        self._last_shape: Shape | None = None
        self._tasks: dict[int, Task] = {}
        self._queues: dict[Shape, Queue] = {}
        self._graph = DependencyGraph()
        self._storage = Storage(self._graph, peer_transfers=peer_transfers)
        self._files = self._storage.files
        self._nodes = self._storage.nodes
        self._draining: set[str] = set()
        self._open: dict[tuple[Shape, float], dict[str, None]] = {}  # candidate nodes, by shape and depth
        self._reserved: dict[Shape, str] = {}  # nodes kept free for shapes that fitted on none
        self._unjudged: dict[Shape, None] = {}  # shapes of ready tasks that may be too large for any node
        self._fit: set[Shape] = set()  # shapes that some node can hold
        self._hopeful: dict[int, None] = {}  # waiting tasks that may be sent ahead to a node
        self._ended: list[Completion] = []
        self._again: list[int] = []
        self._answers: list[Answer] = []
        self._kills: dict[str, list[int]] = {}
        self._count: Counter[State] = Counter()
        self._estimates: dict[str, float] = {}
        self._sequence = itertools.count()
        self._recoveries = itertools.count(1)
        self._recovered = 0
        self._retried = 0
        self._came_back = 0
        self._done = 0
        self._handlers: dict[type, Callable[[Any], None]] = {
            Submitted: self._submitted,
            Retired: self._retired,
            NodeJoined: self._node_joined,
            NodeLeft: self._node_left,
            NodeDraining: self._node_draining,
            Completed: self._completed,
            Returned: self._returned,
            FileCached: self._file_cached,
            FileSpoiled: self._file_spoiled,
            InputCached: self._input_cached,
            Relayed: self._relayed,
            Crowded: self._crowded,
            Cancelled: self._cancelled,
            Forgotten: self._forgotten,
            Asked: self._asked,
            Tuned: self._tuned,
        }
        self._full: list[str] = []
        self._pressed: set[str] = set()  # nodes whose disk is too full for their tasks' outputs

    def handle(self, event: Event) -> list[Instruction]:
        """Process an event; return the instructions that follow from it, in order."""
        self._handlers[type(event)](event)
        for name in sorted(self._pressed) if self._pressed else ():
            if name in self._nodes and self._nodes[name].crowded:
                self._make_room(self._nodes[name])
            else:
                self._pressed.discard(name)
        if self._unjudged:
            self._refuse_hopeless()
        runs = self._schedule()
        self._storage.replicate()
        if self._draining:
            for name in sorted(self._draining):
                self._rescue(self._nodes[name])
        instructions: list[Instruction] = []
        if self._ended:
            ended, self._ended = self._ended, []
            instructions.append(Finish(ended))
        if self._again:  # after Finish: a task that has just ended may run again if its files were evicted at once
            again, self._again = self._again, []
            instructions.append(Again(again))
        if self._kills:
            kills, self._kills = self._kills, {}
            instructions += [Kill(name, numbers) for name, numbers in kills.items()]
        instructions += self._storage.flush()
        instructions += runs
        if self._answers:
            instructions += self._answers
            self._answers = []
        if self._full:
            instructions += [Full(name) for name in self._full]
            self._full = []
        if self._draining:
            instructions += [Release(name) for name in sorted(self._draining) if self._may_go(self._nodes[name])]
        return instructions

    # --- queries by the shell ---

    @property
    def waiting(self) -> int:
        """Number of the user's tasks that wait for files of other tasks."""
        return self._count[State.WAITING]

    @property
    def recovering(self) -> int:
        """Number of tasks that recreate lost files."""
        return sum(number < 0 for number in self._tasks) if self._recovered else 0

    @property
    def ready(self) -> int:
        """Number of tasks that could run now if a node had capacity."""
        return self._count[State.READY]

    @property
    def nodes(self) -> dict[str, Node]:
        """The nodes, by name."""
        return self._nodes

    @property
    def tasks(self) -> Mapping[int, Task]:
        """The unfinished tasks, by number; tasks that recreate lost files have numbers below 0."""
        return self._tasks

    @property
    def files(self) -> Iterable[File]:
        """The temp files and results that have a record."""
        return self._files

    def stats(self) -> dict[str, Any]:
        """Return counts since the start, and the current state."""
        return {
            "tasks_done": self._done,
            "tasks_pending": sum(number >= 0 for number in self._tasks),
            "tasks_waiting": self.waiting,
            "tasks_recovered": self._recovered,
            "tasks_retried": self._retried,
            "tasks_returned": self._came_back,
            "nodes": len(self._nodes),
            "bytes_between_nodes": self._storage.moved,
            "inputs_read": self._storage.inputs_read,
            "bytes_stored": self._storage.stored,
            "bytes_stored_at_most": self._storage.peak,
            "files_evicted": self._storage.evicted,
            "replicas": {file.name: sorted(file.holders) for file in self._files if file.holders},
        }

    def snapshot(self) -> dict[str, Any]:
        """Return the unfinished tasks and the files, as :meth:`taskvine_manager.engine_api.Engine.snapshot` says."""
        files = [file for file in self._files if file.is_there]
        return {
            "tasks": [
                (number, task.state.value, task.node or "", task.attempts) for number, task in self._tasks.items()
            ],
            "files": [
                (file.name, file.size, sorted(file.holders))
                if file.value is None
                else (file.name, len(file.value), ["manager"])
                for file in files
            ],
        }

    # --- events: tasks ---

    def _submitted(self, event: Submitted) -> None:
        for profile in event.profiles:
            self._profiles[profile.number] = profile
            shape = Shape(*profile[3:8])
            if shape != self._last_shape:  # consecutive profiles mostly have the same shape: share one object
                self._last_shape = shape
            self._shapes[profile.number] = self._last_shape
        ranked = []
        for invocation in event.invocations:
            profile = self._profiles[invocation.profile]
            task = Task(invocation, profile, self._shapes[invocation.profile], next(self._sequence))
            self._tasks[invocation.number] = task
            self._count[State.WAITING] += 1
            if invocation.inputs or invocation.outputs:
                if self._enter(task):
                    ranked.append(invocation.number)
            else:
                self._make_ready(task)
        self._rank(ranked)

    def _retired(self, event: Retired) -> None:
        for number in event.profiles:
            self._profiles.pop(number, None)
            self._shapes.pop(number, None)

    def _enter(self, task: Task) -> bool:
        """Add a task that reads or produces files; return whether it is now in the graph."""
        invocation = task.invocation
        task.files = tuple(dict.fromkeys(_known(invocation.inputs)))
        makes = _known(invocation.outputs)
        if not task.files and not makes:
            self._make_ready(task)
            return False
        try:
            ready = self._graph.add(invocation.number, task.files, makes)
        except ValueError as error:
            task.files = ()
            self._end(task, "file-lost", str(error), name=next(iter(makes), ""))
            return False
        inputs = [self._files[name] for name in task.files]
        for file in inputs:
            file.consumers += 1
        task.depth = max((file.depth for file in inputs), default=-1) + 1
        for use in invocation.outputs:
            if use.kind != "local":
                file = self._files[use.source]
                file.depth = task.depth
                file.recoverable = task.profile.recoverable
                file.replicas = use.replicas
                file.named = use.kind == "temp"
        if ready:
            self._make_ready(task)
        elif self._see_to(file for file in inputs if not file.is_there):
            self._hopeful[invocation.number] = None
        return task.state is not State.DONE

    def _rank(self, numbers: list[int]) -> None:
        if not numbers:
            return
        for number, rank in self._graph.rank(numbers).items():
            if (task := self._tasks.get(number)) is not None and task.path != task.depth + rank:
                task.path = task.depth + rank
                if task.state is State.READY:
                    self._queues[task.shape].push(task)

    def _completed(self, event: Completed) -> None:
        node = self._nodes.get(event.node)
        if node is None:
            return  # its tasks are already being retried
        made: list[str] = []
        for completion in event.completions:
            task = node.assigned.get(completion.number)
            for name, size, stamp in completion.made:
                file = self._files.get(name)
                if file is None or not (file.is_needed or task is not None):
                    self._storage.drop_unknown(event.node, name)
                else:
                    self._storage.add(node, name, size, stamp)
                    made.append(name)
            if task is None:
                continue  # cancelled in the meantime
            if completion.outcome == failure.LOST and task.invocation.inputs and self._reads_again(node, completion):
                continue
            if completion.outcome == failure.RETURNED and task.invocation.outputs:
                completion = _checked(task, completion)
            if completion.outcome == failure.RETURNED:
                self._estimate(task.profile.category, completion.seconds)
                made += self._keep(task, completion)
            self._unassign(node, task)
            hopeless = self._leave(task)
            if task.origin is None:
                self._ended.append(completion)
            elif completion.outcome != failure.RETURNED:
                hopeless += self._not_made_again(task, failure.brief(completion.body))
            self._give_up(hopeless)
        self._made(made)

    def _estimate(self, category: str, seconds: float) -> None:
        known = self._estimates.get(category, seconds)
        # React quickly when tasks take longer, slowly when they take less time.
        weight = 0.5 if seconds > known else 0.1
        self._estimates[category] = known + weight * (seconds - known)

    def _keep(self, task: Task, completion: Completion) -> list[str]:
        """Record the outputs of a task and how to recreate them; return the names of its small results."""
        invocation = task.invocation
        if not invocation.outputs:
            return []
        small = []
        if isinstance(completion.body, bytes):
            for use in invocation.outputs:
                # A task that is run again for another file may also produce a result that is already forgotten.
                if use.kind == "value" and (file := self._files.get(use.source)) is not None:
                    file.value = completion.body
                    small.append(use.source)
        large = [name for name, _, _ in completion.made if name in self._files]
        if large:
            # A small result needs no origin: the manager holds it, and cannot lose it.
            origin = task.origin or Origin(invocation, task.profile, task.files, completion.seconds)
            self._storage.remember(origin, large)
        return small

    def _reads_again(self, node: Node, completion: Completion) -> bool:
        """Drop the replica that a task could not read; retry the task, unless the file is lost for good.

        Return False, without any change, if the failure names none of the task's input files.
        """
        name = failure.lost_file(completion.body)
        file = self._files.get(name) if name is not None else None
        task = node.assigned[completion.number]
        if file is None or file.name not in task.files:
            return False
        transfer = node.fetching.get(file.name)
        source = transfer.source if transfer is not None else node.info.name
        self._unassign(node, task)
        if source == RELAY and file.relayed is not None:
            file.relayed = None
        if self._storage.remove(source, file) or not file.is_there:
            self._lost([file])
        if task.state is not State.DONE:
            self._requeue(task)
        return True

    def _made(self, names: list[str]) -> None:
        """Handle files that have become available."""
        names = [name for name in names if (file := self._files.get(name)) is not None and file.is_there]
        for number in self._graph.made(names):
            task = self._tasks[number]
            if task.state is State.WAITING:
                self._make_ready(task)
        for name in names:
            file = self._files[name]
            self._storage.shorten(file)
            self._storage.shift(name)
            if file.asked:
                asked, file.asked = file.asked, []
                for request in asked:
                    self._answer(request, file)
        self._storage.settle(*names)

    def _returned(self, event: Returned) -> None:
        node = self._nodes.get(event.node)
        if node is None:
            return
        for number in event.numbers:
            if task := node.assigned.get(number):
                self._came_back += 1
                self._unassign(node, task)
                self._requeue(task)

    def _cancelled(self, event: Cancelled) -> None:
        for number in event.numbers:
            task = self._tasks.get(number)
            if task is not None:
                self._cancel(task)

    def _cancel(self, task: Task) -> None:
        self._kill(task)
        self._give_up(self._leave(task))

    def _kill(self, task: Task) -> None:
        """Take a task from its node, if it is on one."""
        if task.node is not None:
            self._kills.setdefault(task.node, []).append(task.invocation.number)
            # Free its share of the node now: the node may never report a task that had not started.
            self._unassign(self._nodes[task.node], task)

    # --- events: nodes ---

    def _node_joined(self, event: NodeJoined) -> None:
        node = Node(event.info)
        self._share_out(node)
        self._storage.join(node)
        self._joined += 1
        self._opens(node)
        self._drain_anew()
        self._unjudged.update(dict.fromkeys(self._queues))

    def _share_out(self, node: Node) -> None:
        """Apply the tuning parameters for proportional resources to a node."""
        tuning = self._storage.tuning
        node.proportional, node.whole = bool(tuning.proportional_resources), bool(tuning.proportional_whole_tasks)
        node.needs.clear()

    def _node_left(self, event: NodeLeft) -> None:
        node = self._nodes.get(event.node)
        if node is None:
            return
        self._draining.discard(event.node)
        self._closes(event.node)
        self._fit.clear()
        self._unjudged.update(dict.fromkeys(self._queues))
        # A node starts its tasks in order, so only the oldest can have been running. Only they are charged an attempt.
        running = max(1, sum(min(count, node.capacity(shape, others=False)) for shape, count in node.shapes.items()))
        over: list[tuple[Task, str]] = []
        again: list[Task] = []
        for position, task in enumerate(list(node.assigned.values())):
            node.give(task)
            if position < running:
                task.attempts += 1
                if not event.told:
                    task.suspected()
            if self._max_retries is not None and task.attempts > self._max_retries:
                over.append((task, f"its node {event.node} was lost ({event.reason}), at attempt {task.attempts}"))
            else:
                again.append(task)
                self._retried += position < running
        lost = self._storage.leave(event.node)
        self._drain_anew()
        # The end of one may end others: those that recreate files for it alone.
        for task, reason in over:
            if task.state is not State.DONE:
                self._end(task, "node-lost", reason, node=event.node)
        for task in again:
            if task.state is not State.DONE:
                self._requeue(task)
        self._lost(lost)

    def _node_draining(self, event: NodeDraining) -> None:
        node = self._nodes.get(event.node)
        if node is not None:
            self._draining.add(event.node)
            self._closes(event.node)
            self._storage.drain(node)

    def _rescue(self, node: Node) -> None:
        """Copy files that only draining nodes hold; skip a file that no node can take until a node joins or leaves."""
        if node.released:
            return
        for name in list(itertools.islice(node.unsaved, 4 * LOOKED_AT)):
            file = self._files[name]
            if not file.is_needed or any(not self._nodes[holder].draining for holder in file.holders):
                del node.unsaved[name]
                continue
            begun, possible = self._storage.copy(file, 1)
            if not begun and not possible and all(self._nodes[target].draining for target in file.coming):
                del node.unsaved[name]

    def _drain_anew(self) -> None:
        """Consider all files of draining nodes again for copies to other nodes."""
        for name in self._draining:
            node = self._nodes[name]
            node.unsaved = dict.fromkeys(sorted(node.files))

    def _may_go(self, node: Node) -> bool:
        """Mark a draining node as released once nothing on it is needed; return whether it was marked by this call.

        The node stays until its tasks have ended and the transfers from it are complete.
        """
        if node.released or node.assigned or node.sending or node.unsaved:
            return False
        node.released = True
        return True

    # --- events: files ---

    def _file_cached(self, event: FileCached) -> None:
        node = self._nodes.get(event.node)
        if node is None:
            return
        transfer = node.fetching.get(event.file)
        source = event.source if event.source is not None or transfer is None else transfer.source
        if transfer is not None and transfer.source == source:  # otherwise a transfer from elsewhere has replaced it
            self._storage.arrived(node, event.file)
        file = self._files.get(event.file)
        if event.problem is not None:
            if file is not None:
                self._storage.shifted(event.file)
                if event.spoiled and source is not None:
                    if self._storage.remove(source, file):
                        self._lost([file])
                elif source in file.holders:  # otherwise the source is gone, and another may work
                    file.refused[event.node] = None
                self._storage.shorten(file)
        elif file is None or not file.is_needed:
            self._storage.shifted(event.file)
            self._storage.drop_unknown(event.node, event.file)  # forgotten during the transfer
        elif event.file not in node.files:
            self._storage.moved += event.size
            if event.seconds > 0.001:
                bandwidth = self._storage.bandwidth
                self._storage.bandwidth += 0.2 * (event.size / event.seconds - bandwidth)
            self._storage.add(node, event.file, event.size, event.stamp)
            self._made([event.file])  # if the source node has left, the file was lost until now
            self._spare(event.file)
            self._storage.shifted(event.file)
            self._storage.clean(event.file)

    def _file_spoiled(self, event: FileSpoiled) -> None:
        file = self._files.get(event.file)
        if file is None or file.holders.get(event.node) != event.stamp:
            return  # the spoiled replica has been replaced
        if self._storage.remove(event.node, file):
            self._lost([file])
        else:
            self._storage.shorten(file)

    def _input_cached(self, event: InputCached) -> None:
        known = self._storage.input(event.path)
        read = known.coming.get(event.node) == RELAY
        self._storage.end_input(event.path, event.node)
        if event.node in self._nodes and event.name:
            known.size = event.size
            if read:
                self._storage.inputs_read += event.size
            elif event.node not in known.copies:
                self._storage.moved += event.size
            known.copies[event.node] = (event.name, event.stamp)

    def _relayed(self, event: Relayed) -> None:
        node = self._storage.relayed(event.file, event.stamp, event.problem)
        file = self._files.get(event.file)
        if node is None or file is None:
            return
        if event.lost:
            if self._storage.remove(node, file):
                self._lost([file])
        elif self._storage.relay_failed(event.file):
            self._cannot_copy(file, str(event.problem))

    def _cannot_copy(self, file: File, problem: str) -> None:
        """End the ready tasks that need a file which exists but cannot be copied."""
        for number in self._graph.consumers(file.name):
            task = self._tasks.get(number)
            if task is not None and task.state is State.READY:
                self._end(task, "file-unreadable", f"it cannot be copied: {problem}", name=file.name)

    def _crowded(self, event: Crowded) -> None:
        node = self._nodes.get(event.node)
        if node is not None and event.number in node.assigned:
            node.crowded[event.number] = event.size
            self._pressed.add(event.node)

    def _make_room(self, node: Node) -> None:
        """Evict files from a node whose disk is full, or report it as full if none of its tasks can change that."""
        before = len(node.files)
        size = max(*node.crowded.values(), node.room + 1)  # evict at least one file, whatever else fills the disk
        lost = self._storage.evict(node, size, self._turn, keep=())
        if len(node.files) == before:
            others = (number for number in node.assigned if number not in node.crowded)
            if any(self._graph.is_ready(number) for number in others):
                return  # the files that they read may be evicted once they have ended
            self._full.append(node.info.name)
        node.crowded.clear()  # the node retries all of them, or gives all of them up
        self._pressed.discard(node.info.name)
        self._lost(lost, evicted=True)

    def _turn(self, file: File) -> Order | None:
        """Return the order of the first task that waits for a file, if any."""
        waiting = (self._tasks[number] for number in self._graph.consumers(file.name)) if file.consumers else ()
        return min((task.order for task in waiting), default=None)

    def _forgotten(self, event: Forgotten) -> None:
        for name in event.files:
            file = self._files.get(name)
            if file is None:
                continue
            file.wanted = False
            for number in self._graph.consumers(name) if file.named else ():
                task = self._tasks.get(number)
                if task is not None and task.origin is None and task.state in (State.WAITING, State.READY):
                    self._end(task, "file-lost", f"{name} was forgotten", name=name)
            self._spare(name)
        self._storage.settle(*event.files)

    def _asked(self, event: Asked) -> None:
        file = self._files.get(event.file)
        if file is None or (not file.was_made and not self._graph.makers(event.file)):
            record = failure.lost("file-lost", f"{event.file} is on no node", name=event.file)
            self._answers.append(Answer(event.request, event.file, None, record))
        elif file.is_there:
            self._answer(event.request, file)
        else:
            file.asked.append(event.request)
            self._see_to([file])

    def _answer(self, request: int, file: File) -> None:
        where = file.value if file.value is not None else self._storage.where(file)
        self._answers.append(Answer(request, file.name, where))

    def _tuned(self, event: Tuned) -> None:
        tuning = self._storage.tuning = self._storage.tuning.tuned(event.parameters)
        if tuning.default_transfer_rate and not self._storage.moved:  # a measured rate is better
            self._storage.bandwidth = tuning.default_transfer_rate
        for file in self._files:
            if file.holders:
                file.refused.clear()
                self._storage.shorten(file)
                self._storage.clean(file.name)
        self._drain_anew()
        self._fit.clear()
        for node in self._nodes.values():
            self._share_out(node)
            self._opens(node)
        if tuning.immediate_recovery:
            self._lost([file for file in self._files if file.lost_with is not None and not file.is_there])

    # --- lost files ---

    def _lost(self, files: list[File], *, evicted: bool = False) -> None:
        """Handle files whose last replica is gone: recreate those that are needed, in one plan."""
        for file in files:
            for number in self._graph.lost(file.name):
                task = self._tasks[number]
                if task.state is State.READY:
                    self._move(task, State.WAITING)
        immediate = self._storage.tuning.immediate_recovery and not evicted  # evicted files would need space again
        self._see_to(file for file in files if self._is_awaited_now(file) or (immediate and file.wanted))
        for file in files:
            self._storage.settle(file.name)

    def _is_awaited_now(self, file: File) -> bool:
        if file.asked:
            return True
        consumers = (self._tasks[number] for number in self._graph.consumers(file.name))
        return any(task.state is State.WAITING for task in consumers)

    def _see_to(self, files: Iterable[File]) -> bool:
        """Recreate lost files; end the tasks that wait for one that cannot be recreated. Return whether all can be."""
        plan: dict[Origin, None] = {}
        hopeless: list[Hopeless] = []
        for file in files:
            wanted: dict[Origin, None] = {}
            problem = self._plan(file, {**plan}, wanted)
            if problem is not None:
                hopeless.append((file, _why_lost(problem), problem))
            else:
                plan.update(wanted)
        for origin in reversed(plan):
            self._run_again(origin)
        possible = not hopeless
        self._give_up(hopeless)
        return possible

    def _plan(self, file: File, planned: dict[Origin, None], wanted: dict[Origin, None]) -> File | None:
        """Add to ``wanted`` the tasks to run again for a file, consumers first; return a file that prevents it."""
        left = [file]
        while left:
            file = left.pop()
            if file.is_there or self._graph.makers(file.name):
                continue
            origin = file.origin
            if origin is None or not file.recoverable:
                if not file.was_made and file.wanted:
                    continue  # it has not been produced yet
                return file
            if origin not in planned:
                planned[origin] = wanted[origin] = None
                left += [self._files[name] for name in origin.inputs]
        return None

    def _run_again(self, origin: Origin) -> None:
        """Run a finished task again, for its files."""
        number = -next(self._recoveries)
        profile = origin.profile
        invocation = origin.invocation._replace(number=number)
        task = Task(invocation, profile, Shape(*profile[3:8]), next(self._sequence))
        task.origin = origin
        task.files = origin.inputs
        self._recovered += 1
        self._again.append(origin.invocation.number)
        self._tasks[number] = task
        for name in task.files:
            self._files[name].consumers += 1
        task.depth = max((self._files[name].depth for name in task.files), default=-1) + 1
        ready = self._graph.add(number, task.files, _known(invocation.outputs))
        self._rank([number])
        if ready:
            self._make_ready(task)

    def _spare(self, name: str) -> None:
        """Cancel the tasks that recreate a file if none of their outputs is needed any more."""
        for task in self._useless(name):
            self._cancel(task)

    def _useless(self, name: str) -> Iterator[Task]:
        """Yield the tasks that recreate a file although none of their outputs is needed any more."""
        for number in self._graph.makers(name):
            task = self._tasks.get(number)
            if task is None or task.origin is None:
                continue
            outputs = [self._files.get(each) for each in _known(task.invocation.outputs)]
            if not any(file is not None and file.is_needed and not file.is_there for file in outputs):
                yield task

    def _not_made_again(self, task: Task, reason: str) -> list[Hopeless]:
        """Return the files that a task was to recreate and nobody produces any more."""
        files = [self._files.get(name) for name in _known(task.invocation.outputs)]
        return [
            (file, f"{_why_lost(file)}, and making it again failed: {reason}", file)
            for file in files
            if file is not None and not file.is_there and not self._graph.makers(file.name)
        ]

    def _give_up(self, hopeless: list[Hopeless]) -> None:
        """End the tasks and requests that wait for files, and those that wait for the files of these tasks."""
        while hopeless:
            file, reason, problem = hopeless.pop(0)
            node = problem.lost_with or ""
            for number in self._graph.consumers(file.name):
                task = self._tasks.get(number)  # None: it ended with another, for which alone it recreated a file
                if task is not None and task.state in (State.WAITING, State.READY):
                    hopeless += self._fail(task, "file-lost", reason, node=node, name=problem.name)
            asked, file.asked = file.asked, []
            record = failure.lost("file-lost", reason, node=node or None, name=problem.name)
            self._answers += [Answer(request, file.name, None, record) for request in asked]

    # --- tasks ---

    def _move(self, task: Task, state: State) -> None:
        if task.origin is None:
            self._count[task.state] -= 1
            self._count[state] += 1
        elif State.READY in (task.state, state):  # tasks that recreate files need capacity like others
            self._count[State.READY] += 1 if state is State.READY else -1
        task.move(state)

    def _make_ready(self, task: Task) -> None:
        self._move(task, State.READY)
        self._hopeful.pop(task.invocation.number, None)
        shape = task.shape
        if shape not in self._fit:
            self._unjudged[shape] = None
        queue = self._queues.get(shape)
        if queue is None:
            queue = self._queues[shape] = Queue()
        queue.push(task)

    def _requeue(self, task: Task) -> None:
        """Queue a task that was on a node for another attempt, once its input files exist."""
        if not task.files or self._graph.is_ready(task.invocation.number):
            self._make_ready(task)
            return
        self._move(task, State.WAITING)
        self._see_to(self._files[name] for name in self._graph.missing(task.invocation.number))

    def _leave(self, task: Task) -> list[Hopeless]:
        """Remove a task that is over, with the tasks that recreate files for it alone.

        Return the files that are asked for and nobody produces any more.
        """
        self._remove(task)
        over, unmade = [task], []
        while over:
            task = over.pop()
            invocation = task.invocation
            outputs = _known(invocation.outputs)
            if task.origin is None:
                self._done += 1
                made = [file.origin for name in outputs if (file := self._files.get(name)) is not None]
                if not any(origin is not None and origin.invocation is invocation for origin in made):
                    self._storage.discard(invocation.arguments)
            if not task.files and not outputs:
                continue
            self._graph.prune(invocation.number)
            for name in task.files:
                self._files[name].consumers -= 1
            for name in task.files:
                for useless in self._useless(name):
                    self._kill(useless)
                    self._remove(useless)
                    over.append(useless)
                self._storage.shifted(name)
                self._storage.clean(name)
            self._storage.settle(*task.files, *outputs)
            for name in (*task.files, *outputs):
                file = self._files.get(name)
                if file is not None and file.asked and not file.was_made and not self._graph.makers(name):
                    unmade.append((file, f"{file.name} was not made", file))
                self._storage.unmade(name)
        return unmade

    def _remove(self, task: Task) -> None:
        self._move(task, State.DONE)
        del self._tasks[task.invocation.number]
        self._hopeful.pop(task.invocation.number, None)

    def _end(self, task: Task, kind: str, reason: str, node: str = "", **fields: Any) -> None:
        """End a task as lost, without a completion from a node."""
        self._give_up(self._fail(task, kind, reason, node, **fields))

    def _fail(self, task: Task, kind: str, reason: str, node: str = "", **fields: Any) -> list[Hopeless]:
        """End a task as lost; return the files that nobody produces any more although they are waited for."""
        hopeless = self._leave(task)
        if task.origin is not None:
            return hopeless + self._not_made_again(task, reason)
        record = failure.lost(kind, reason, node=node or None, **fields)
        self._ended.append(Completion(task.invocation.number, failure.LOST, record, node, 0.0, 0.0, 0.0))
        return hopeless

    def _unassign(self, node: Node, task: Task) -> None:
        node.crowded.pop(task.invocation.number, None)
        for name in node.give(task):
            transfer = node.fetching.get(name)
            if transfer is not None and transfer.for_task:  # the transfer ended with its task
                self._storage.arrived(node, name)
                self._storage.shorten(self._files[name])
        self._opens(node)

    def _refuse_hopeless(self) -> None:
        """End the ready tasks that no node can ever hold, once a node has joined."""
        if not self._nodes:
            return
        unjudged, self._unjudged = self._unjudged, {}
        if not self._uniform:
            return
        for shape in unjudged:
            if any(node.capacity(shape, others=False) for node in self._nodes.values()):
                self._fit.add(shape)
                continue
            if shape not in self._queues:
                continue
            largest = max(self._nodes.values(), key=lambda node: node.total)
            has = dict(zip(("cores", "memory", "disk", "gpus"), largest.total[:4], strict=True))
            asked = zip(Shape._fields[1:5], shape[1:5], strict=True)
            requested = {key: value for key, value in asked if value is not None}
            reason = f"it asks for {_amounts(requested)}, and the largest node has {_amounts(has)}"
            queue = self._queues[shape]
            while queue.head() is not None:
                self._end(queue.pop(), "unsatisfiable", reason, requested=requested, largest=has)

    # --- placement ---

    def _schedule(self) -> list[Run]:
        if not self._begun and self._joined < max(self._wait_for_nodes, self._storage.tuning.wait_for_workers):
            return []
        runs: dict[str, Run] = {}
        blocked: set[Shape] = set()
        held: list[Task] = []
        while True:
            heads = [
                (head.order, head.sequence, head)
                for shape, queue in self._queues.items()
                if shape not in blocked and (head := queue.head()) is not None
            ]
            if not heads:
                break
            order, _, task = min(heads)
            shape = task.shape
            if task.files or task.invocation.inputs:
                placed = self._place_by_data(task, runs, held)
            else:
                turn = min((entry[0] for entry in heads if entry[0] != order), default=None)
                placed = self._place_many(task, runs, turn)
            if not placed:
                blocked.add(shape)
                self._reserve(shape)
            if len(held) >= SET_ASIDE:
                blocked.update(task.shape for task in held)
        for task in held:
            self._queues[task.shape].push(task)
        self._follow(runs)
        self._begun = self._begun or bool(runs)
        return list(runs.values())

    def _reserve(self, shape: Shape) -> None:
        """Reserve the largest node for a shape whose first task fits on no node, so that later tasks do not starve it.

        A node that runs a suspect is not reserved for another suspect. The reservation holds until the shape has no
        ready task left: a search for each task would cost more with every node.
        """
        for other in [other for other in self._reserved if self._queues[other].head() is None]:
            del self._reserved[other]
        if shape in self._reserved or len(self._queues) < 2:
            return
        holders = [
            name
            for name, node in self._nodes.items()
            if not node.draining
            and name not in self._reserved.values()
            and node.capacity(shape, others=False)
            and not (shape.suspect and any(other.suspect for other in node.shapes))
        ]
        if holders:
            self._reserved[shape] = max(holders, key=lambda name: (self._nodes[name].total, name))

    def _opens(self, node: Node) -> None:
        """Make a node a candidate for every shape again, because it may have free capacity."""
        if not node.draining:
            name = node.info.name
            for candidates in self._open.values():
                candidates[name] = None

    def _closes(self, name: str) -> None:
        for candidates in self._open.values():
            candidates.pop(name, None)
        for shape, reserved in list(self._reserved.items()):
            if reserved == name:
                del self._reserved[shape]

    def _candidates(self, shape: Shape, depth: float) -> dict[str, None]:
        """Return the nodes that may be able to take tasks of a shape."""
        found = self._open.get((shape, depth))
        if found is None:
            if len(self._open) > 4 * LOOKED_AT:
                self._open.clear()
            found = {name: None for name, node in self._nodes.items() if not node.draining}
            self._open[(shape, depth)] = found
        return found

    def _rooms(self, task: Task, depth: float) -> dict[str, int]:
        """Return a few nodes that can take tasks like this one, and how many."""
        shape = task.shape
        candidates = self._candidates(shape, depth)
        rooms: dict[str, int] = {}
        full = []
        for name in candidates:
            room = self._nodes[name].room_for(shape, depth)
            if room <= 0:
                full.append(name)
            elif self._is_free(name, task):
                rooms[name] = room
                if len(rooms) >= LOOKED_AT:
                    break
        for name in full:
            del candidates[name]
        return rooms

    def _is_free(self, name: str, task: Task) -> bool:
        """Whether a node is not reserved for an earlier task of another shape."""
        for shape, reserved in self._reserved.items():
            if reserved == name and shape != task.shape:
                head = self._queues[shape].head()
                if head is not None and head.order < task.order:
                    return False
        return True

    def _depth(self, task: Task) -> float:
        """Return how many tasks like this one a node may hold for each that fits at once."""
        if task.suspect:
            return 1
        tuning = self._storage.tuning
        estimate = self._estimates.get(task.profile.category)
        if estimate is None or estimate >= tuning.prefetch:
            return tuning.resource_submit_multiplier
        # Powers of two keep the number of depths small: each has its own list of candidates.
        ahead = min(float(AHEAD), 2.0 ** math.ceil(math.log2(tuning.prefetch / max(estimate, 1e-6))))
        return max(ahead, tuning.resource_submit_multiplier)

    def _place_many(self, first: Task, runs: dict[str, Run], turn: Order | None) -> bool:
        """Spread tasks without inputs evenly over the nodes, until a task of another shape comes first.

        Return False if no node can take one.
        """
        shape = first.shape
        queue = self._queues[shape]
        depth = self._depth(first)
        rooms = self._rooms(first, depth)
        if not rooms:
            return False
        share = max(1, math.ceil(len(queue) / max(len(rooms), len(self._candidates(shape, depth)))))
        for name in sorted(rooms, key=lambda name: -rooms[name]):
            node = self._nodes[name]
            candidates = self._candidates(shape, depth)
            candidates[name] = candidates.pop(name, None)  # to the end: next time, others come first
            for _ in range(min(rooms[name], share)):
                task = queue.head()
                if (
                    task is None
                    or task.files
                    or task.invocation.inputs
                    or task.profile.category != first.profile.category
                ):
                    return True
                if turn is not None and task.order > turn:
                    return True
                self._assign(queue.pop(), node, runs)
        return True

    def _place_by_data(self, task: Task, runs: dict[str, Run], held: list[Task]) -> bool:
        """Place a task on the node where it can start first, or add it to ``held`` if it is better to wait.

        The choice depends on the inputs on each node, its queue and the cost of transfers. Return False if no node can
        take the task.
        """
        shape, queue = task.shape, self._queues[task.shape]
        inputs = [file for name in task.files if (file := self._files[name]).value is None]
        paths = [use.source for use in task.invocation.inputs if use.kind == "local"]
        tuning = self._storage.tuning
        if not inputs and not paths:
            depth = self._depth(task)  # small values travel with the task, which may be sent ahead to any node
        else:
            depth = 1 if task.suspect else tuning.resource_submit_multiplier
        rooms = self._rooms(task, depth)
        if not rooms:
            return False
        best: tuple[float, float, int, str] | None = None
        total = sum(file.size for file in inputs)
        held_here = self._held(inputs, rooms)
        for name in {**rooms, **self._near(held_here)}:
            node = self._nodes[name]
            room = rooms.get(name)
            if room is None:
                room = node.room_for(shape, depth) if self._is_free(name, task) else 0
            local = held_here.get(name, 0)
            local += sum(name in self._storage.input(path).copies for path in paths)
            wait = 0.0 if room > 0 else self._wait(node, task)
            cost = tuning.weight_transfer * max(0, total - local) / self._storage.bandwidth
            cost += wait if math.isinf(wait) else tuning.weight_wait * wait
            rank = (cost, -local if tuning.weight_transfer else 0.0, -room, name)
            best = rank if best is None else min(best, rank)
        if best is None or math.isinf(best[0]):
            return False
        queue.pop()
        node = self._nodes[best[3]]
        if best[2] < 0 and self._bring(task, node, inputs, paths, runs):
            return True
        held.append(task)  # it waits for a busy node, or until its transfers can start
        return True

    def _held(self, inputs: list[File], rooms: Iterable[str]) -> dict[str, int]:
        """Return the bytes of a task's inputs on each node that holds them or is fetching them.

        For a file on very many nodes, only some of its holders and those in ``rooms`` are counted.
        """
        held: dict[str, int] = {}
        for file in inputs:
            names: Iterable[str] = itertools.chain(file.holders, file.coming)
            if len(file.holders) + len(file.coming) > LOOKED_AT:
                wide = [name for name in rooms if name in file.holders or name in file.coming]
                names = dict.fromkeys([*itertools.islice(names, LOOKED_AT), *wide])
            for name in names:
                held[name] = held.get(name, 0) + file.size
        return held

    def _near(self, held: dict[str, int]) -> dict[str, None]:
        """Return the nodes that hold most, without those that are draining."""
        near = {name: None for name in held if not self._nodes[name].draining}
        if len(near) <= LOOKED_AT:
            return near
        return dict.fromkeys(heapq.nlargest(LOOKED_AT, near, key=lambda name: (held[name], name)))

    def _wait(self, node: Node, task: Task) -> float:
        """Return the expected seconds until a busy node can take a task; infinite if they are unknown."""
        known = [self._estimates.get(other.profile.category, math.inf) for other in node.assigned.values()]
        at_once = node.capacity(task.shape, others=False)
        if not known or not at_once or not self._is_free(node.info.name, task):
            return math.inf
        return sum(known) / len(known) / 2 * max(1, len(known) - at_once + 1)

    def _bring(self, task: Task, node: Node, inputs: list[File], paths: list[str], runs: dict[str, Run]) -> bool:
        """Assign a task to a node and start the transfers of its missing inputs, if all of them can start now."""
        name = node.info.name
        sources: dict[str, Replica] = {}
        for file in inputs:
            if name not in file.holders and name not in file.coming:
                source = self._storage.source(file)
                if source is None:
                    return False
                sources[file.name] = source
        copies: dict[str, InputCopy | bool] = {}
        for path in paths:
            copy = self._storage.input_source(path, node)
            if copy is False:
                return False
            copies[path] = copy
        needed = sum(source.size for source in sources.values())
        if needed and needed > node.room:
            self._lost(self._storage.evict(node, needed, self._turn, keep=task.files), evicted=True)
        run = self._assign(task, node, runs)
        for each, source in sources.items():
            self._storage.start(node, each, source, for_task=True)
            run.sources[each] = source
        for path, copy in copies.items():
            self._storage.start_input(path, node, copy)
            if isinstance(copy, InputCopy):
                run.copies[path] = copy
        return True

    def _assign(self, task: Task, node: Node, runs: dict[str, Run]) -> Run:
        self._move(task, State.ASSIGNED)
        self._hopeful.pop(task.invocation.number, None)
        node.take(task)
        name = node.info.name
        run = runs.get(name)
        if run is None:
            run = runs[name] = Run(name, [], {}, {}, {})
        run.tasks.append(task)
        for each in task.files:
            value = self._files[each].value
            if value is not None:
                run.values[each] = value
        if task.invocation.outputs:
            for number in self._graph.followers(task.invocation.number):
                self._hopeful[number] = None
        return run

    def _follow(self, runs: dict[str, Run]) -> None:
        """Send short tasks to the node that produces their inputs, without waiting until these are finished."""
        if not self._hopeful:
            return
        again: dict[int, None] = {}
        while self._hopeful and len(again) < SET_ASIDE:
            number = next(iter(self._hopeful))
            del self._hopeful[number]
            task = self._tasks.get(number)
            if task is None or task.state is not State.WAITING:
                continue
            node = self._leader(task)
            if node is None:
                continue
            depth = self._depth(task)
            if depth > 1 and node.room_for(task.shape, depth) > 0 and self._is_free(node.info.name, task):
                self._assign(task, node, runs)
            elif depth > 1:
                again[number] = None
        self._hopeful = {**again, **self._hopeful}

    def _leader(self, task: Task) -> Node | None:
        """Return the node that holds or is producing all inputs of a task, if there is one."""
        name: str | None = None
        uses = (*task.invocation.inputs, *task.invocation.outputs)
        if task.shape.mode != L2 or task.suspect or any(use.kind != "value" for use in uses):
            return None
        for each in task.files:
            file = self._files[each]
            if file.value is not None:
                continue
            if file.holders:
                places = dict.fromkeys(file.holders)
            else:
                makers = [self._tasks[number] for number in self._graph.makers(each)]
                places = {maker.node: None for maker in makers if maker.node is not None} if len(makers) == 1 else {}
            if name is None:
                name = next(iter(places), None)
            if name is None or name not in places:
                return None
        node = self._nodes.get(name) if name is not None else None
        if node is None or node.draining or node.room < node.used:
            return None  # little space is left: a task sent ahead would keep its inputs from being evicted
        return node


def _known(uses: tuple[FileUse, ...]) -> list[str]:
    """Return the ids of the temp files and results among these files, without the user's own files."""
    return [use.source for use in uses if use.kind != "local"] if uses else []


def _why_lost(file: File) -> str:
    if file.lost_with:
        return f"the last replica of {file.name} was lost with node {file.lost_with}"
    return f"{file.name} was forgotten" if not file.wanted else f"{file.name} is on no node"


def _amounts(resources: Mapping[str, float | None]) -> str:
    units = {"memory": " MB of memory", "disk": " MB of disk"}
    return ", ".join(f"{value:g}{units.get(key, ' ' + key)}" for key, value in resources.items() if value is not None)


__all__ = [
    "AHEAD",
    "RELAY",
    "SHORT",
    "Again",
    "Answer",
    "Asked",
    "Cancelled",
    "Completed",
    "Crowded",
    "Discard",
    "Drop",
    "Event",
    "Fetch",
    "FileCached",
    "FileSpoiled",
    "Finish",
    "Forgotten",
    "Full",
    "IllegalTransition",
    "InputCached",
    "InputCopy",
    "Instruction",
    "Kill",
    "Node",
    "NodeDraining",
    "NodeJoined",
    "NodeLeft",
    "Relay",
    "Relayed",
    "Release",
    "Replica",
    "Retired",
    "Returned",
    "Run",
    "Scheduler",
    "Shape",
    "State",
    "Submitted",
    "Task",
    "Tuned",
    "diagram",
]


def _checked(task: Task, completion: Completion) -> Completion:
    """Return the completion, or a failure if an output is missing: its consumers would wait for ever."""
    made = {name for name, _, _ in completion.made}
    is_file = isinstance(completion.body, str)
    for use in task.invocation.outputs:
        if use.source not in made and (use.kind == "temp" or (use.kind == "value" and is_file)):
            reason = f"node {completion.node} reported the end of the task, but not this file"
            record = failure.lost("output-missing", reason, path=use.name or use.source)
            return completion._replace(outcome=failure.LOST, body=record)
    return completion
