"""What a report needs of a whole run, beside its last state: levels over time, transfers, losses, lost attempts."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from taskvine_exec.insight.fold import Fold
from taskvine_exec.insight.state import Node, Task, Transfer
from taskvine_manager.record import events

HOSTLESS = (events.MANAGER, events.RELAY)
"""Places of replicas that are on the manager's machine."""


class Stored(NamedTuple):
    """What is stored after an entry of the record: bytes by kind of place, and numbers of files and replicas.

    ``distinct`` counts the bytes of each temp file or result once, and ``inputs`` the nodes' copies of users' files.
    """

    time: float
    nodes: int
    manager: int
    distinct: int
    inputs: int
    files: int
    replicas: int


class Attempt(NamedTuple):
    """An attempt that ended without an outcome: its task left the node at ``end``."""

    number: int
    node: str
    placed: float
    end: float
    why: str


@dataclass
class Flow:
    """All transfers from one place to another.

    ``seconds`` is the sum of their durations. ``further`` counts those that made a further replica, for no task.
    """

    count: int = 0
    size: int = 0
    seconds: float = 0.0
    failed: int = 0
    further: int = 0


@dataclass
class Loss:
    """Files whose last replica was lost with a node, and their bytes."""

    files: int = 0
    size: int = 0


@dataclass
class Counts:
    """The numbers behind :class:`Stored`, as they change."""

    nodes: int = 0
    manager: int = 0
    distinct: int = 0
    inputs: int = 0
    files: int = 0
    replicas: int = 0


@dataclass(eq=False)
class History:
    """What happened in a run.

    Parameters
    ----------
    nodes : list of Node
        All nodes, in the order in which they joined. Several may have had the same name.
    stored : list of Stored
        Levels of storage, after each entry that changed them.
    attempts : list of Attempt
        Attempts that ended without an outcome.
    flows : dict
        Transfers by source and target.
    losses : dict
        Lost files by node.
    causes : dict
        The lost files that each recovery recreates, with the node that held the last replica, by the number of the
        task.
    kinds : dict
        Kinds of lost tasks by number; in a record without details, this is all that is known of their failure.
    tuned : list
        Tuning parameters that were changed in the run, with the time.
    """

    nodes: list[Node] = field(default_factory=list)
    stored: list[Stored] = field(default_factory=list)
    attempts: list[Attempt] = field(default_factory=list)
    flows: dict[tuple[str, str], Flow] = field(default_factory=dict)
    losses: dict[str, Loss] = field(default_factory=dict)
    causes: dict[int, Sequence[tuple[str, str]]] = field(default_factory=dict)
    kinds: dict[int, str] = field(default_factory=dict)
    tuned: list[tuple[float, dict[str, Any]]] = field(default_factory=list)


class HistoryFold(Fold):
    """Folds the entries of a record into a state, and notes its history."""

    def __init__(self) -> None:
        super().__init__()
        self.history = History()
        self._counts = Counts()
        self._changed = False
        self._copied: dict[str, int] = {}  # bytes of users' files by node
        self._entries["tuned"] = self._tuned

    def take(self, entry: tuple[Any, ...]) -> None:
        """Add an entry; unknown ones are skipped."""
        super().take(entry)
        if self._changed:
            self._changed = False
            now = self._counts
            self.history.stored.append(
                Stored(self.state.now, now.nodes, now.manager, now.distinct, now.inputs, now.files, now.replicas)
            )

    # --- entries ---

    def _tuned(self, time: float, parameters: Any, *_: Any) -> None:
        self.history.tuned.append((time, dict(parameters)))

    def _done(self, time: float, items: Iterable[tuple[Any, ...]], *more: Any) -> None:
        items = list(items)
        super()._done(time, items, *more)
        for number, _outcome, _node, _dispatched, _started, _seconds, _size, _files, kind, *_more in items:
            if not kind:
                continue
            self.history.kinds[number] = kind
            task = self.state.tasks.get(number)
            if kind == "node-lost" and task is not None and task.placement is not None:
                self.history.attempts.append(Attempt(number, task.placement.node, task.placed, time, kind))

    # --- tasks ---

    def _requeued(self, event: events.Requeued) -> None:
        task = self.state.tasks.get(event.number)
        if task is not None and not task.outcome and task.placement is not None:
            end = self.state.now
            self.history.attempts.append(Attempt(event.number, task.placement.node, task.placed, end, event.why))
        super()._requeued(event)

    def _recovery(self, event: events.Recovery) -> None:
        super()._recovery(event)
        self.history.causes[event.number] = event.files

    def _over(self, task: Task, outcome: str, time: float) -> None:
        if outcome == "cancelled" and task.node:
            self.history.attempts.append(Attempt(task.number, task.node, task.placed, time, outcome))
        super()._over(task, outcome, time)

    # --- files ---

    def _made(self, name: str, place: str, size: int) -> None:
        file = self._file(name)
        counts = self._counts
        if not file.holders:
            counts.files += 1
        else:
            counts.distinct -= file.size
        if place in file.holders:
            self._count(place, -file.holders[place], -1)
        super()._made(name, place, size)
        counts.distinct += size
        self._count(place, size, 1)

    def _dropped(self, name: str, place: str, why: str) -> None:
        file = self.state.files.get(name)
        before = dict(file.holders) if file is not None else {}
        super()._dropped(name, place, why)
        if file is None or not before:
            return
        for holder, size in before.items():
            if holder not in file.holders:
                self._count(holder, -size, -1)
        if not file.holders:
            self._counts.files -= 1
            self._counts.distinct -= file.size

    def _count(self, place: str, size: int, replicas: int) -> None:
        counts = self._counts
        if place in HOSTLESS:
            counts.manager += size
        else:
            counts.nodes += size
        counts.replicas += replicas
        self._changed = True

    def _lost(self, event: events.Lost) -> None:
        super()._lost(event)
        loss = self.history.losses.setdefault(event.node, Loss())
        loss.files += 1
        loss.size += self.state.files[event.file].size

    def _transfer_ended(self, event: events.TransferEnded) -> None:
        transfer = self.state.transfers.get((event.file, event.node))
        super()._transfer_ended(event)
        if transfer is not None:
            self._flow(transfer, event.node, event.size, event.seconds, failed=bool(event.problem))

    def _input_ended(self, event: events.InputEnded) -> None:
        transfer = self.state.reading.get((event.path, event.node))
        known = self.state.inputs.get(event.path, {}).get(event.node, 0)
        super()._input_ended(event)
        if transfer is not None:
            self._flow(transfer, event.node, event.size, self.state.now - transfer.since, failed=not event.well)
        if event.well:
            self._copied[event.node] = self._copied.get(event.node, 0) + event.size - known
            self._counts.inputs += event.size - known
            self._changed = True

    def _flow(self, transfer: Transfer, node: str, size: int, seconds: float, *, failed: bool) -> None:
        flow = self.history.flows.setdefault((transfer.source, node), Flow())
        if failed:
            flow.failed += 1
            return
        flow.count += 1
        flow.size += size
        flow.seconds += seconds
        flow.further += not transfer.for_task

    # --- nodes ---

    def _node_started(self, event: events.NodeStarted) -> None:
        super()._node_started(event)
        self.history.nodes.append(self.state.nodes[event.node])

    def _node_ended(self, name: str, reason: str, *, told: bool) -> None:
        super()._node_ended(name, reason, told=told)
        if size := self._copied.pop(name, 0):
            self._counts.inputs -= size
            self._changed = True


def read_history(path: str | os.PathLike[str]) -> HistoryFold:
    """Read a record with its history.

    Raises
    ------
    ValueError
        If the file is not a record, is damaged, or has an unknown version.
    OSError
        If it cannot be read.
    """
    fold = HistoryFold()
    fold.take_all(path)
    return fold
