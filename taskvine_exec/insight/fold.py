"""Folds the entries of a record into the state of a run."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from typing import Any

from taskvine_exec.insight.state import Node, State, StoredFile, Task, Transfer
from taskvine_manager.record import entries, events
from taskvine_manager.runtime import failure
from taskvine_manager.wire import messages
from taskvine_manager.wire.messages import FileUse, Profile

MOST_ENDS = 100
"""Ends of processes that are kept for each node."""


def read_state(path: str | os.PathLike[str], until: float | None = None) -> State:
    """Read the state of a run, at a moment or at the end of its record.

    Parameters
    ----------
    path : path-like
        The file ``record.msgpack`` in an executor's log directory.
    until : float, optional
        The moment, in seconds since the epoch.

    Raises
    ------
    ValueError
        If the file is not a record, or has an unknown version.
    OSError
        If it cannot be read.
    """
    fold = Fold()
    fold.take_all(path, until)
    return fold.state


class Fold:
    """Folds the entries of a record into a :class:`State`, one after another."""

    def __init__(self) -> None:
        self.state = State()
        self._entries: dict[str, Callable[..., None]] = {
            "run": self._run,
            "profiles": self._profiles,
            "submitted": self._submitted,
            "done": self._done,
            "again": self._again,
            "cancelled": self._cancelled,
            "nodes": self._nodes,
            "events": self._events,
            "end": self._end,
        }
        self.handlers: dict[type, Callable[[Any], None]] = {
            events.Placed: self._placed,
            events.Waiting: self._waiting,
            events.Requeued: self._requeued,
            events.Recovery: self._recovery,
            events.RecoveryEnded: self._recovery_ended,
            events.Recoveries: self._recoveries,
            events.Failure: self._failure,
            events.Made: lambda it: self._made(it.file, it.node, it.size),
            events.Dropped: lambda it: self._dropped(it.file, it.node, it.why),
            events.Evicted: self._evicted,
            events.Lost: self._lost,
            events.Forgotten: self._forgotten,
            events.TransferStarted: self._transfer_started,
            events.TransferEnded: self._transfer_ended,
            events.InputStarted: self._input_started,
            events.InputEnded: self._input_ended,
            events.NodeStarted: self._node_started,
            events.NodeDrains: lambda it: self._mark(it.node, draining=True),
            events.NodeReleased: lambda it: self._mark(it.node, released=True),
            events.NodeEnded: lambda it: self._node_ended(it.node, it.reason, told=it.told),
            events.NodeExited: self._node_exited,
            events.Process: self._process,
            events.Libraries: lambda it: self._mark(it.node, libraries=tuple(it.names)),
            events.Block: self._block,
        }
        """What is called for each type of event."""

    @staticmethod
    def time_of(entry: tuple[Any, ...]) -> float:
        """Return the time of an entry; 0 if it has none."""
        if entry[0] == "run":
            return float(entry[2])
        return float(entry[1]) if len(entry) > 1 and isinstance(entry[1], float) else 0.0

    def take(self, entry: tuple[Any, ...]) -> None:
        """Add an entry; unknown ones are skipped.

        Raises
        ------
        TypeError, LookupError, ValueError, AttributeError
            If it is damaged.
        """
        handler = self._entries.get(entry[0])
        if handler is not None:
            self.state.now = max(self.state.now, self.time_of(entry))
            handler(*entry[1:])

    def take_all(self, path: str | os.PathLike[str], until: float | None = None) -> None:
        """Add the entries of a record, up to a moment or to its end.

        Raises
        ------
        ValueError
            If the file is not a record, is damaged, or has an unknown version.
        OSError
            If it cannot be read.
        """
        for number, entry in enumerate(entries(path)):
            try:
                if until is not None and self.time_of(entry) > until:
                    break
                self.take(entry)
            except (TypeError, LookupError, ValueError, AttributeError) as error:
                raise ValueError(f"{os.fspath(path)}: damaged in entry {number} ({entry[0]!r:.50})") from error

    # --- entries ---

    def _run(self, version: int, time: float, facts: dict[str, Any], *_: Any) -> None:
        self.state.started, self.state.facts = time, dict(facts)

    def _profiles(self, items: Iterable[tuple[Any, ...]], *_: Any) -> None:
        for item in items:
            profile = messages.profile(item[: len(Profile._fields)])
            self.state.profiles[profile.number] = profile

    def _submitted(self, time: float, items: Iterable[tuple[Any, ...]], *_: Any) -> None:
        for number, profile, _size, inputs, outputs, *_more in items:
            read = tuple(FileUse(*use[: len(FileUse._fields)]) for use in inputs)
            made = tuple(FileUse(*use[: len(FileUse._fields)]) for use in outputs)
            self._enter(Task(number, profile, read, made, time))

    def _enter(self, task: Task) -> None:
        self.state.tasks[task.number] = task
        for use in task.outputs:
            if use.kind != "local":
                self._file(use.source).makers.append(task.number)
        for use in task.inputs:
            if use.kind != "local":
                file = self._file(use.source)
                file.readers.add(task.number)
                if not file.holders:
                    task.missing.add(use.source)

    def _done(self, time: float, items: Iterable[tuple[Any, ...]], *_: Any) -> None:
        outcomes = {failure.RETURNED: "returned", failure.RAISED: "raised", failure.LOST: "lost"}
        for number, outcome, node, dispatched, started, seconds, size, made, _kind, *_more in items:
            task = self.state.tasks.get(number)
            if task is None:
                continue
            task.dispatched, task.started, task.seconds = dispatched, started, seconds
            task.size, task.ran_on = size, node
            self._over(task, outcomes[outcome], time)
            if not self.state.has_details and outcome == failure.RETURNED:
                self._expect_made(task, node, size, dict(made))

    def _expect_made(self, task: Task, node: str, size: int, made: dict[str, int]) -> None:
        """Note the files of a task that returned, in a record without details."""
        for file, length in made.items():
            self._made(file, node, length)
        for use in task.outputs:
            if use.kind == "value" and use.source not in made:
                self._made(use.source, events.MANAGER, size)

    def _again(self, time: float, numbers: Iterable[int], reason: str, *_: Any) -> None:
        if self.state.has_details:
            return  # the events say it, with more
        for number in numbers:
            if (task := self.state.tasks.get(number)) is not None:
                task.again.append((time, reason, ""))

    def _cancelled(self, time: float, numbers: Iterable[int], *_: Any) -> None:
        for number in numbers:
            if (task := self.state.tasks.get(number)) is not None and not task.outcome:
                self._over(task, "cancelled", time)

    def _nodes(self, time: float, items: Iterable[dict[str, Any]], *_: Any) -> None:
        """Note which nodes there are, in a record without details."""
        if self.state.has_details:
            return
        fields = events.NodeStarted._fields[1:]
        there = {item["name"]: item for item in items}
        for name, node in self.state.nodes.items():
            if node.left is None and name not in there:
                self._node_ended(name, "", told=False)
        for name, item in there.items():
            if name not in self.state.current_nodes():
                described: list[Any] = [item.get(each) for each in fields]
                self._node_started(events.NodeStarted(name, *described))

    def _events(self, time: float, items: Iterable[tuple[Any, ...]], *_: Any) -> None:
        for event in events.decoded(items):
            self.handlers[type(event)](event)

    def _end(self, time: float, *_: Any) -> None:
        self.state.ended = time

    # --- tasks ---

    def _unassign(self, task: Task) -> None:
        if task.node:
            if (node := self.state.nodes.get(task.node)) is not None:
                node.tasks.discard(task.number)
            task.node = ""

    def _over(self, task: Task, outcome: str, time: float) -> None:
        self._unassign(task)
        task.outcome, task.ended = outcome, time
        task.missing.clear()
        for use in task.inputs:
            if use.kind != "local" and (file := self.state.files.get(use.source)) is not None:
                file.readers.discard(task.number)

    def _placed(self, event: events.Placed) -> None:
        for number in event.numbers:
            task = self.state.tasks.get(number)
            if task is None or task.outcome:
                continue
            self._unassign(task)
            task.node, task.placement, task.placed = event.node, event, self.state.now
            if (node := self.state.nodes.get(event.node)) is not None:
                node.tasks.add(number)

    def _waiting(self, event: events.Waiting) -> None:
        task = self.state.tasks.get(event.number)
        if task is not None:
            task.waiting, task.waiting_since = event, self.state.now
            self.state.reasons[task.profile] = (self.state.now, event)

    def _requeued(self, event: events.Requeued) -> None:
        task = self.state.tasks.get(event.number)
        if task is None or task.outcome:
            return
        self._unassign(task)
        task.attempts = event.attempts
        task.again.append((self.state.now, event.why, task.placement.node if task.placement is not None else ""))

    def _recovery(self, event: events.Recovery) -> None:
        self.state.recoveries += 1
        origin = self.state.tasks.get(event.origin)
        read, made, profile = (origin.inputs, origin.outputs, origin.profile) if origin is not None else ((), (), -1)
        self._enter(Task(event.number, profile, read, made, self.state.now, event.origin))
        for file, node in event.files:
            self._file(file).lost_with = node

    def _recovery_ended(self, event: events.RecoveryEnded) -> None:
        task = self.state.tasks.get(event.number)
        if task is not None:
            self._over(task, "over", self.state.now)

    def _recoveries(self, event: events.Recoveries) -> None:
        self.state.recoveries = event.tasks

    def _failure(self, event: events.Failure) -> None:
        if (task := self.state.tasks.get(event.number)) is not None:
            task.failure = event

    # --- files ---

    def _file(self, name: str) -> StoredFile:
        file = self.state.files.get(name)
        if file is None:
            file = self.state.files[name] = StoredFile()
        return file

    def _made(self, name: str, place: str, size: int) -> None:
        file = self._file(name)
        if not file.holders:
            for number in file.readers:
                self.state.tasks[number].missing.discard(name)
        file.holders[place], file.size, file.lost_with = size, size, ""
        if (node := self.state.nodes.get(place)) is not None:
            node.files[name] = size

    def _dropped(self, name: str, place: str, why: str) -> None:
        file = self.state.files.get(name)
        if file is None or not file.holders:
            return
        for holder in [place] if place else list(file.holders):
            file.holders.pop(holder, None)
            if (node := self.state.nodes.get(holder)) is not None:
                node.files.pop(name, None)
        if not file.holders:
            if why not in ("unneeded", "redundant", "moved"):
                file.lost_with = place
            for number in file.readers:
                self.state.tasks[number].missing.add(name)

    def _evicted(self, event: events.Evicted) -> None:
        self.state.evicted += len(event.files)
        for name in event.files:
            self._dropped(name, event.node, "evicted")

    def _lost(self, event: events.Lost) -> None:
        self._dropped(event.file, event.node, "lost")
        self._file(event.file).lost_with = event.node

    def _forgotten(self, event: events.Forgotten) -> None:
        for name in event.files:
            file = self.state.files.get(name)
            if file is None:
                continue
            self._dropped(name, "", "unneeded")
            if not file.readers:
                del self.state.files[name]

    def _transfer_started(self, event: events.TransferStarted) -> None:
        self.state.transfers[event.file, event.node] = Transfer(event.source, self.state.now, event.for_task)

    def _transfer_ended(self, event: events.TransferEnded) -> None:
        self.state.transfers.pop((event.file, event.node), None)
        if not event.problem:
            self.state.moved += event.size

    def _input_started(self, event: events.InputStarted) -> None:
        self.state.reading[event.path, event.node] = Transfer(event.source, self.state.now, for_task=True)

    def _input_ended(self, event: events.InputEnded) -> None:
        self.state.reading.pop((event.path, event.node), None)
        if event.well:
            self.state.inputs.setdefault(event.path, {})[event.node] = event.size

    # --- nodes ---

    def _node_started(self, event: events.NodeStarted) -> None:
        self.state.nodes[event.node] = Node(event, self.state.now)

    def _mark(self, name: str, **fields: Any) -> None:
        if (node := self.state.nodes.get(name)) is not None:
            for each, value in fields.items():
                setattr(node, each, value)

    def _node_ended(self, name: str, reason: str, *, told: bool) -> None:
        node = self.state.nodes.get(name)
        if node is None:
            return
        node.left, node.reason, node.told = self.state.now, reason, told
        node.status = self.state.exits.get(node.info.pid)
        for number in list(node.tasks):
            self._unassign(self.state.tasks[number])
        for file in list(node.files):
            self._dropped(file, name, "lost")
        for kept in (self.state.transfers, self.state.reading):
            for key in [key for key in kept if key[1] == name]:
                del kept[key]
        for copies in self.state.inputs.values():
            copies.pop(name, None)

    def _node_exited(self, event: events.NodeExited) -> None:
        self.state.exits[event.pid] = event.status
        for node in self.state.nodes.values():
            if node.info.pid == event.pid:
                node.status = event.status

    def _process(self, event: events.Process) -> None:
        node = self.state.nodes.get(event.node)
        if node is None:
            return
        if event.step == "ended":
            node.processes.pop((event.kind, event.name), None)
            node.ends = [*node.ends[1 - MOST_ENDS :], (self.state.now, event)]
        else:
            node.processes[event.kind, event.name] = event

    def _block(self, event: events.Block) -> None:
        self.state.blocks[event.block] = (self.state.now, event)
