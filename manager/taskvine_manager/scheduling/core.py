"""The scheduler of the embedded engine: events in, instructions out; no sockets, threads or clocks.

Only :meth:`Scheduler.handle` changes state. Each part of the scheduler owns its state, and the others use its verbs:

- :mod:`~taskvine_manager.scheduling.tasks`: the tasks, their states and queues;
- :mod:`~taskvine_manager.scheduling.lifecycle`: what happens to tasks, and what follows for other tasks and files;
- :mod:`~taskvine_manager.scheduling.recovery`: what is run again to recreate lost files;
- :mod:`~taskvine_manager.scheduling.placement`: which task runs next and where, with
  :mod:`~taskvine_manager.scheduling.candidates` and :mod:`~taskvine_manager.scheduling.estimates`;
- :mod:`~taskvine_manager.scheduling.storage`: the files, with :mod:`~taskvine_manager.scheduling.replicas`,
  :mod:`~taskvine_manager.scheduling.transfers`, :mod:`~taskvine_manager.scheduling.replication` and
  :mod:`~taskvine_manager.scheduling.inputs`;
- :mod:`~taskvine_manager.scheduling.eviction` and :mod:`~taskvine_manager.scheduling.draining`: full and leaving nodes;
- :mod:`~taskvine_manager.scheduling.outbox`: the instructions;
- :mod:`~taskvine_manager.scheduling.invariants`: what always holds between events, with
  :mod:`~taskvine_manager.scheduling.checking`.

The cost of one decision does not grow with the number of nodes. For each shape of task, the scheduler keeps a list of
the nodes that may be able to take one. It looks at only a few nodes of that list, and at a few holders of each file.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from taskvine_manager.runtime import failure
from taskvine_manager.scheduling import invariants
from taskvine_manager.scheduling.candidates import Candidates
from taskvine_manager.scheduling.checking import Checker, IllegalTransition, InvariantBroken, check
from taskvine_manager.scheduling.draining import Draining
from taskvine_manager.scheduling.estimates import Estimates
from taskvine_manager.scheduling.events import (
    RELAY,
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
    LibrariesRun,
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
    RunAgain,
    Submitted,
    Tuned,
)
from taskvine_manager.scheduling.eviction import Eviction
from taskvine_manager.scheduling.files import File
from taskvine_manager.scheduling.lifecycle import Lifecycle
from taskvine_manager.scheduling.nodes import AHEAD, Node
from taskvine_manager.scheduling.placement import Placement
from taskvine_manager.scheduling.storage import Storage
from taskvine_manager.scheduling.tables import Tables
from taskvine_manager.scheduling.tasks import Shape, State, Task, diagram
from taskvine_manager.scheduling.tuning import SHORT
from taskvine_manager.wire.messages import Completion

__all__ = [
    "AHEAD",
    "RELAY",
    "SHORT",
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
    "InvariantBroken",
    "Kill",
    "LibrariesRun",
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
    "RunAgain",
    "Scheduler",
    "Shape",
    "State",
    "Submitted",
    "Task",
    "Tuned",
    "diagram",
]


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
    check : bool
        Whether the scheduler checks its state after events, and keeps the story of each task for errors.
    """

    def __init__(
        self,
        *,
        max_retries: int | None = 1,
        uniform: bool = True,
        wait_for_nodes: int = 0,
        peer_transfers: bool = True,
        check: bool = False,
    ) -> None:
        self._max_retries = max_retries
        self._joined = 0
        self._retried = 0
        self._returned_tasks = 0
        self._checker = Checker() if check else None
        self._tables = tables = Tables(self._checker)
        self._tasks, self._nodes, self._tuning = tables.tasks, tables.nodes, tables.tuning
        self._storage = Storage(tables, peer_transfers=peer_transfers)
        self._draining = Draining(tables, self._storage.replication)
        self._candidates = Candidates(tables)
        self._eviction = Eviction(tables, self._storage, self._candidates)
        self._estimates = Estimates(tables.tuning)
        self._lifecycle = Lifecycle(tables, self._storage, self._candidates)
        self._placement = Placement(
            tables,
            self._storage,
            self._lifecycle,
            self._candidates,
            self._eviction,
            self._estimates,
            uniform=uniform,
            wait_for_nodes=wait_for_nodes,
        )
        self._parts = invariants.Parts(tables, self._storage, self._draining, self._candidates, self._placement)
        self._handlers: dict[type, Callable[[Any], None]] = {
            Submitted: self._lifecycle.submit,
            Retired: self._retired,
            NodeJoined: self._node_joined,
            NodeLeft: self._node_left,
            NodeDraining: self._node_draining,
            Completed: self._completed,
            Returned: self._returned,
            FileCached: self._file_cached,
            FileSpoiled: self._file_spoiled,
            InputCached: self._storage.inputs.cached,
            Relayed: self._relayed,
            Crowded: self._eviction.crowded,
            LibrariesRun: self._libraries_run,
            Cancelled: self._lifecycle.cancel,
            Forgotten: self._lifecycle.forget,
            Asked: self._asked,
            Tuned: self._tuned,
        }

    def handle(self, event: Event) -> list[Instruction]:
        """Process an event; return the instructions that follow from it, in order.

        Raises
        ------
        TypeError
            If there is no such event.
        InvariantBroken
            If the scheduler checks its state, and finds that it contradicts itself.
        """
        handler = self._handlers.get(type(event))
        if handler is None:
            raise TypeError(f"the scheduler handles no events of type {type(event).__name__}: {event!r}")
        if self._checker is not None:
            self._checker.begin(event)
        handler(event)
        for lost in self._eviction.relieve():
            self._lifecycle.lost(lost, evicted=True)
        self._placement.refuse_oversized()
        self._placement.place(self._joined)
        self._storage.replication.replicate()
        self._draining.rescue()
        self._draining.release()
        if self._checker is not None:
            self._checker.end(invariants.INVARIANTS, self._parts, self._parts.size)
        return self._tables.outbox.take()

    def check(self) -> None:
        """Check the state now.

        Raises
        ------
        InvariantBroken
            If it contradicts itself.
        """
        check(invariants.INVARIANTS, self._parts)

    # --- queries by the shell ---

    @property
    def waiting(self) -> int:
        """Number of the user's tasks that wait for files of other tasks."""
        return self._tasks.count(State.WAITING)

    @property
    def recovering(self) -> int:
        """Number of tasks that recreate lost files."""
        return sum(number < 0 for number in self._tasks.by_number) if self._tasks.recovered else 0

    @property
    def ready(self) -> int:
        """Number of tasks that could run now if a node had capacity."""
        return self._tasks.count(State.READY)

    @property
    def nodes(self) -> dict[str, Node]:
        """The nodes, by name."""
        return self._nodes

    @property
    def tasks(self) -> Mapping[int, Task]:
        """The unfinished tasks, by number; tasks that recreate lost files have numbers below 0."""
        return self._tasks.by_number

    @property
    def files(self) -> Iterable[File]:
        """The temp files and results that have a record."""
        return self._tables.files

    def stats(self) -> dict[str, Any]:
        """Return counts since the start, and the current state."""
        tasks, storage = self._tasks, self._storage
        return {
            "tasks_done": tasks.done,
            "tasks_pending": sum(number >= 0 for number in tasks.by_number),
            "tasks_waiting": self.waiting,
            "tasks_recovered": tasks.recovered,
            "tasks_retried": self._retried,
            "tasks_returned": self._returned_tasks,
            "nodes": len(self._nodes),
            "libraries": dict(Counter(name for node in self._nodes.values() for name in node.libraries)),
            "bytes_between_nodes": storage.transfers.moved,
            "inputs_read": storage.inputs.read,
            "bytes_stored": storage.replicas.stored,
            "bytes_stored_at_most": storage.replicas.peak,
            "files_evicted": self._eviction.evicted,
            "replicas": {file.name: sorted(file.holders) for file in self.files if file.holders},
        }

    def snapshot(self) -> dict[str, Any]:
        """Return the unfinished tasks and the files, as :meth:`taskvine_manager.engine_api.Engine.snapshot` says."""
        files = [file for file in self.files if file.is_there]
        return {
            "tasks": [
                (number, task.state.value, task.node or "", task.attempts) for number, task in self.tasks.items()
            ],
            "files": [
                (file.name, file.size, sorted(file.holders))
                if file.value is None
                else (file.name, len(file.value), ["manager"])
                for file in files
            ],
        }

    # --- events: tasks ---

    def _retired(self, event: Retired) -> None:
        self._tasks.retire(event.profiles)

    def _completed(self, event: Completed) -> None:
        node = self._nodes.get(event.node)
        if node is None:
            return  # its tasks are already being retried
        made: list[str] = []
        for completion in event.completions:
            task = node.assigned.get(completion.number)  # None: it was cancelled in the meantime
            if completion.made or (task is not None and task.makes):
                completion = _checked(task, completion)
                made += self._storage.record_outputs(node, task, completion)
            if task is None:
                continue
            if completion.outcome == failure.RETURNED:
                self._estimates.learn(task.profile.category, completion.seconds)
            self._lifecycle.complete(node, task, completion)
        if made:
            self._lifecycle.made(made)

    def _returned(self, event: Returned) -> None:
        node = self._nodes.get(event.node)
        if node is None:
            return
        for number in event.numbers:
            if task := node.assigned.get(number):
                self._returned_tasks += 1
                self._lifecycle.unassign(node, task)
                self._lifecycle.requeue(task)

    # --- events: nodes ---

    def _node_joined(self, event: NodeJoined) -> None:
        node = Node(event.info)
        node.share_out(self._tuning)
        self._storage.join(node)
        self._joined += 1
        self._candidates.open(node)
        self._draining.start_anew()
        self._tasks.recheck_fit()

    def _node_left(self, event: NodeLeft) -> None:
        node = self._nodes.get(event.node)
        if node is None:
            return
        self._draining.leave(event.node)
        self._candidates.close(event.node)
        self._tasks.recheck_fit()
        # A node starts its tasks in order, so only the oldest can have been running. Only these are charged an attempt.
        running = max(1, sum(min(count, node.capacity(shape, others=False)) for shape, count in node.shapes.items()))
        given_up: list[tuple[Task, str]] = []
        requeued: list[Task] = []
        for position, task in enumerate(list(node.assigned.values())):
            node.give(task)
            if position < running:
                task.attempts += 1
                if not event.told:
                    task.suspected()
            if self._max_retries is not None and task.attempts > self._max_retries:
                given_up.append((task, f"its node {event.node} was lost ({event.reason}), at attempt {task.attempts}"))
            else:
                requeued.append(task)
                self._retried += position < running
        lost = self._storage.leave(event.node)
        self._draining.start_anew()
        # The end of one task may end others, which recreate files for it alone.
        for task, reason in given_up:
            if task.state is not State.DONE:
                self._lifecycle.end(task, "node-lost", reason, node=event.node)
        for task in requeued:
            if task.state is not State.DONE:
                self._lifecycle.requeue(task)
        self._lifecycle.lost(lost)

    def _node_draining(self, event: NodeDraining) -> None:
        node = self._nodes.get(event.node)
        if node is not None:
            self._candidates.close(event.node)
            self._draining.drain(node)

    # --- events: files ---

    def _file_cached(self, event: FileCached) -> None:
        node = self._nodes.get(event.node)
        if node is None:
            return
        if event.problem is not None:
            self._lifecycle.lost(self._storage.not_cached(node, event))
        elif self._storage.cached(node, event):
            self._lifecycle.fetched(event.file)

    def _file_spoiled(self, event: FileSpoiled) -> None:
        self._lifecycle.lost(self._storage.spoiled(event))

    def _relayed(self, event: Relayed) -> None:
        """Handle a copy to the relay. ``source`` is the node it came from, if the copy failed and the node is here."""
        file = self._tables.files.get(event.file)
        source = self._storage.transfers.relayed(event.file, event.stamp, event.problem)
        if file is None:
            return
        if source is None:
            if file.relayed is not None and not file.holders:
                self._lifecycle.fetched(event.file)  # its source has left, and the file was lost until now
        elif event.lost:
            if self._storage.replicas.remove(source, file):
                self._lifecycle.lost([file])
        elif self._storage.transfers.relay_failed(event.file):
            self._lifecycle.unreadable(file, str(event.problem))

    def _libraries_run(self, event: LibrariesRun) -> None:
        if (node := self._nodes.get(event.node)) is not None:
            node.libraries = event.names

    def _asked(self, event: Asked) -> None:
        missing = self._storage.ask(event.request, event.file)
        if missing is not None:
            self._lifecycle.recreate([missing])

    def _tuned(self, event: Tuned) -> None:
        self._tuning.tune(event.parameters)
        self._storage.tuned()
        self._draining.start_anew()
        self._tasks.recheck_fit()
        for node in self._nodes.values():
            node.share_out(self._tuning)
            self._candidates.open(node)
        if self._tuning.immediate_recovery:
            lost = [file for file in self._tables.files if file.lost_with is not None and not file.is_there]
            self._lifecycle.lost(lost)


def _checked(task: Task | None, completion: Completion) -> Completion:
    """Return the completion, or a failure if an output is missing, whose consumers would otherwise wait for ever."""
    if task is None or completion.outcome != failure.RETURNED:
        return completion
    made = {name for name, _, _ in completion.made}
    is_file = isinstance(completion.body, str)
    for use in task.invocation.outputs:
        if use.source not in made and (use.kind == "temp" or (use.kind == "value" and is_file)):
            reason = f"node {completion.node} reported the end of the task, but not this file"
            record = failure.lost("output-missing", reason, path=use.name or use.source)
            return completion._replace(outcome=failure.LOST, body=record)
    return completion
