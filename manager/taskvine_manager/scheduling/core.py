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

from taskvine_manager.record import events as recorded
from taskvine_manager.runtime import failure
from taskvine_manager.scheduling import invariants
from taskvine_manager.scheduling.candidates import Candidates
from taskvine_manager.scheduling.checking import Checker, check
from taskvine_manager.scheduling.draining import Draining
from taskvine_manager.scheduling.events import (
    Asked,
    Cancelled,
    Completed,
    Crowded,
    Event,
    FileCached,
    FileSpoiled,
    Forgotten,
    InputCached,
    Instruction,
    LibrariesRun,
    Looked,
    NodeDraining,
    NodeEvent,
    NodeJoined,
    NodeLeft,
    Relayed,
    Retired,
    Returned,
    Submitted,
    Tuned,
)
from taskvine_manager.scheduling.eviction import Eviction
from taskvine_manager.scheduling.files import File
from taskvine_manager.scheduling.lifecycle import Lifecycle
from taskvine_manager.scheduling.nodes import Node
from taskvine_manager.scheduling.placement import Placement
from taskvine_manager.scheduling.storage import Storage
from taskvine_manager.scheduling.tables import Settings, Tables
from taskvine_manager.scheduling.tasks import State, Task
from taskvine_manager.wire.messages import Completion


class Scheduler:
    """Places tasks on nodes, keeps temp files replicated, and recreates lost files.

    Parameters
    ----------
    settings : Settings
        What does not change during the run.
    check : bool
        Whether the scheduler checks its state after events, and keeps the story of each task for errors.
    """

    def __init__(self, settings: Settings, *, check: bool = False) -> None:
        self._joined = 0
        self._retried = 0
        self._returned_tasks = 0
        self._checker = Checker() if check else None
        self._tables = tables = Tables(settings, self._checker)
        self._tasks, self._tuning, self._details = tables.tasks, tables.tuning, tables.outbox.details
        self.nodes = tables.nodes
        """The nodes, by name."""
        self.tasks: Mapping[int, Task] = tables.tasks
        """The unfinished tasks, by number; tasks that recreate lost files have numbers below 0."""
        self._storage = Storage(tables)
        self._draining = Draining(tables, self._storage.replication)
        self._candidates = Candidates(tables)
        self._eviction = Eviction(tables, self._storage, self._candidates)
        self._lifecycle = Lifecycle(tables, self._storage, self._candidates)
        self._placement = Placement(tables, self._storage, self._lifecycle, self._candidates, self._eviction)
        self.parts = invariants.Parts(tables, self._storage, self._draining, self._candidates, self._placement)
        """The parts of the scheduler, to look at."""
        self.handlers: dict[type, Callable[[Any], None]] = {
            Submitted: self._lifecycle.submit,
            Retired: lambda event: self._tasks.retire(event.profiles),
            NodeJoined: self._node_joined,
            NodeLeft: self._node_left,
            NodeDraining: self._node_draining,
            Completed: self._completed,
            Returned: self._returned,
            FileCached: self._file_cached,
            FileSpoiled: lambda event: self._lifecycle.lost(self._storage.spoiled(event)),
            InputCached: self._storage.inputs.cached,
            Relayed: self._relayed,
            Crowded: self._eviction.crowded,
            LibrariesRun: self._libraries_run,
            Cancelled: self._lifecycle.cancel,
            Forgotten: self._lifecycle.forget,
            Asked: self._asked,
            Tuned: self._tuned,
            Looked: lambda event: self._placement.reasons.look(),
        }
        """What is called for each type of event."""

    def handle(self, event: Event) -> list[Instruction]:
        """Process an event; return the instructions that follow from it, in order.

        Raises
        ------
        TypeError
            If there is no such event.
        InvariantBroken
            If the scheduler checks its state, and finds that it contradicts itself.
        """
        handler = self.handlers.get(type(event))
        if handler is None:
            raise TypeError(f"the scheduler handles no events of type {type(event).__name__}: {event!r}")
        if self._checker is not None:
            self._checker.begin(event)
        if not isinstance(event, NodeEvent) or event.node in self.nodes:
            handler(event)
        for lost in self._eviction.relieve():
            self._lifecycle.lost(lost, evicted=True)
        self._placement.refuse_oversized()
        self._placement.place(self._joined)
        self._storage.replication.replicate()
        self._draining.rescue()
        self._draining.release()
        if self._checker is not None:
            self._checker.end(invariants.INVARIANTS, self.parts, self.parts.size)
        return self._tables.outbox.take()

    def check(self) -> None:
        """Check the state now.

        Raises
        ------
        InvariantBroken
            If it contradicts itself.
        """
        check(invariants.INVARIANTS, self.parts)

    # --- queries by the shell ---

    @property
    def waiting(self) -> int:
        """Number of the user's tasks that wait for files of other tasks."""
        return self._tasks.count(State.WAITING)

    @property
    def holds(self) -> bool:
        """Whether ready tasks were not placed, and the record shall say why; see :class:`.events.Looked`."""
        return bool(self._placement.reasons.held)

    @property
    def recovering(self) -> int:
        """Number of tasks that recreate lost files."""
        return sum(number < 0 for number in self._tasks) if self._tasks.recovered else 0

    @property
    def ready(self) -> int:
        """Number of tasks that could run now if a node had capacity."""
        return self._tasks.count(State.READY)

    @property
    def files(self) -> Iterable[File]:
        """The temp files and results that have a record."""
        return self._tables.files.values()

    def stats(self) -> dict[str, Any]:
        """Return counts since the start, and the current state."""
        tasks, storage = self._tasks, self._storage
        return {
            "tasks_done": tasks.done,
            "tasks_pending": sum(number >= 0 for number in tasks),
            "tasks_waiting": self.waiting,
            "tasks_recovered": tasks.recovered,
            "tasks_retried": self._retried,
            "tasks_returned": self._returned_tasks,
            "nodes": len(self.nodes),
            "libraries": dict(Counter(name for node in self.nodes.values() for name in node.libraries)),
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

    def _completed(self, event: Completed) -> None:
        node = self.nodes[event.node]
        made: list[str] = []
        for completion in event.completions:
            task = node.assigned.get(completion.number)  # None: it was cancelled in the meantime
            if completion.made or (task is not None and task.makes):
                completion = _checked(task, completion)
                made += self._storage.record_outputs(node, task, completion)
            if task is None:
                if not completion.made:
                    self._tables.outbox.discard(completion.body)
                continue
            if completion.outcome == failure.RETURNED:
                stored = sum(size for _, size, _ in completion.made)
                self._placement.estimates.learn(task.profile.category, completion.seconds, stored)
            self._lifecycle.complete(node, task, completion)
        if made:
            self._lifecycle.made(made)

    def _returned(self, event: Returned) -> None:
        node = self.nodes[event.node]
        for number in event.numbers:
            if task := node.assigned.get(number):
                self._returned_tasks += 1
                self._lifecycle.unassign(node, task)
                self._lifecycle.requeue(task, "returned")

    # --- events: nodes ---

    def _node_joined(self, event: NodeJoined) -> None:
        if self._details is not None:
            self._details.append(recorded.NodeStarted(*event.info))
        node = Node(event.info, self._tuning)
        self._storage.join(node)
        self._joined += 1
        self._candidates.open(node)
        self._draining.start_anew()
        self._tasks.recheck_fit()

    def _node_left(self, event: NodeLeft) -> None:
        node = self.nodes[event.node]
        if self._details is not None:
            self._details.append(recorded.NodeEnded(event.node, event.reason, event.told))
        self._draining.leave(event.node)
        self._candidates.close(event.node)
        self._tasks.recheck_fit()
        # A node starts its tasks in order, so only the oldest can have been running. Only these are charged an attempt.
        running = max(1, sum(min(count, node.capacity(shape, others=False)) for shape, count in node.shapes.items()))
        max_retries = self._tables.settings.max_retries
        given_up: list[tuple[Task, str]] = []
        requeued: list[Task] = []
        for position, task in enumerate(list(node.assigned.values())):
            node.give(task)
            if position < running:
                task.attempts += 1
                if not event.told:
                    task.suspected()
            if max_retries is not None and task.attempts > max_retries:
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
                self._lifecycle.requeue(task, "node-lost")
        self._lifecycle.lost(lost)

    def _node_draining(self, event: NodeDraining) -> None:
        self._candidates.close(event.node)
        self._draining.drain(self.nodes[event.node])

    # --- events: files ---

    def _file_cached(self, event: FileCached) -> None:
        node = self.nodes[event.node]
        if event.problem is not None:
            self._lifecycle.lost(self._storage.not_cached(node, event))
        elif self._storage.cached(node, event):
            self._lifecycle.fetched(event.file)

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
            if self._storage.replicas.remove(source, file, "spoiled"):
                self._lifecycle.lost([file])
        elif self._storage.transfers.relay_failed(event.file):
            self._lifecycle.unreadable(file, str(event.problem))

    def _libraries_run(self, event: LibrariesRun) -> None:
        self.nodes[event.node].libraries = event.names
        if self._details is not None:
            self._details.append(recorded.Libraries(event.node, event.names))

    def _asked(self, event: Asked) -> None:
        missing = self._storage.ask(event.request, event.file)
        if missing is not None:
            self._lifecycle.recreate([missing])

    def _tuned(self, event: Tuned) -> None:
        self._tuning.tune(event.parameters)
        self._storage.tuned()
        self._draining.start_anew()
        self._tasks.recheck_fit()
        for node in self.nodes.values():
            node.needs.clear()
            self._candidates.open(node)
        if self._tuning.immediate_recovery:
            lost = [file for file in self.files if file.lost_with is not None and not file.is_there]
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
