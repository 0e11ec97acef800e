"""Statistics of a whole run: run times by category, waits, use of slots, and what losses cost. Pure."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from taskvine_exec.insight.causes import FAILED
from taskvine_exec.insight.history import Attempt, History
from taskvine_exec.insight.paths import Parents
from taskvine_exec.insight.series import quantile, rows
from taskvine_exec.insight.state import Node, State

NO_CATEGORY = "parsl-default"
"""Category of tasks for which the user gave none, if the names of functions are not taken as categories."""


class Span(NamedTuple):
    """When a task ran, in seconds since the epoch. ``end - begin`` is the run time of its function if it is known."""

    number: int
    category: str
    node: str
    begin: float
    end: float

    @property
    def seconds(self) -> float:
        """Its run time."""
        return self.end - self.begin


def categories(state: State) -> dict[int, str]:
    """Return the category of each task, or the name of its function if it has none."""
    names = {
        number: profile.name if profile.category == NO_CATEGORY else profile.category
        for number, profile in state.profiles.items()
    }
    return {number: names.get(task.profile, "unknown") for number, task in state.tasks.items()}


def spans(state: State, category: Mapping[int, str]) -> list[Span]:
    """Return when tasks ran, for those that ended on a node or were run again for lost files."""
    found = []
    for number, task in state.tasks.items():
        if task.started:
            begin, end = task.started, task.started + task.seconds
        elif task.origin is not None and task.placed and task.outcome:
            begin, end = task.placed, task.ended
        elif task.dispatched and task.outcome:
            begin, end = task.dispatched, max(task.dispatched, task.ended)
        else:
            continue
        node = task.ran_on or (task.placement.node if task.placement is not None else "")
        if math.isfinite(begin) and math.isfinite(end):  # nodes tell these times
            found.append(Span(number, category[number], node, begin, max(begin, end)))
    return found


def waits(state: State, parents: Parents, ran: Iterable[Span]) -> dict[int, tuple[float, float]]:
    """Return from when to when each task was ready, but did not run: all its inputs had been made.

    Tasks whose inputs were never made are missing.
    """
    begun = {span.number: span.begin for span in ran}
    found = {}
    for number, before in parents.items():
        task = state.tasks[number]
        makers = [state.tasks[parent] for parent in before]
        if any(maker.outcome != "returned" for maker in makers) or (task.missing and not task.outcome):
            continue
        ready = max(task.submitted, max((maker.ended for maker in makers), default=0.0))
        until = begun.get(number) or task.placed or task.ended or state.now
        found[number] = (ready, max(ready, until))
    return found


@dataclass
class CategoryStatistics:
    """The tasks of one category. Times are in seconds; ``median``, ``p95`` and ``longest`` are run times."""

    name: str
    outcomes: Counter[str] = field(default_factory=Counter)
    total: float = 0.0
    median: float | None = None
    p95: float | None = None
    longest: float | None = None
    wait: float | None = None
    result_bytes: int = 0

    @property
    def tasks(self) -> int:
        """Number of its tasks."""
        return sum(self.outcomes.values())

    @property
    def failed(self) -> int:
        """Number of its tasks that raised or were lost."""
        return sum(self.outcomes[outcome] for outcome in FAILED)


def by_category(
    state: State, category: Mapping[int, str], ran: Iterable[Span], waited: Mapping[int, tuple[float, float]]
) -> list[CategoryStatistics]:
    """Return the statistics of all categories, the one with the largest sum of run times first.

    ``wait`` is the median of the times for which tasks were ready. Tasks that recreate files are left out.
    """
    found: dict[str, CategoryStatistics] = {}
    waits_of: dict[str, list[float]] = {}
    for number, task in state.tasks.items():
        if task.origin is None:
            name = category[number]
            each = found.setdefault(name, CategoryStatistics(name))
            each.outcomes[task.outcome or task.state] += 1
            each.result_bytes += task.size
            if number in waited:
                ready, until = waited[number]
                waits_of.setdefault(name, []).append(until - ready)
    seconds: dict[str, list[float]] = {}
    for span in ran:
        if span.number >= 0:
            seconds.setdefault(span.category, []).append(span.seconds)
    for name, values in seconds.items():
        values.sort()
        each = found[name]
        each.total, each.longest = sum(values), values[-1]
        each.median, each.p95 = quantile(values, 0.5), quantile(values, 0.95)
    for name, values in waits_of.items():
        found[name].wait = quantile(sorted(values), 0.5)
    return sorted(found.values(), key=lambda each: (-each.total, each.name))


def slots(node: Node) -> int:
    """Return how many tasks of one core a node can run at the same time."""
    return max(1, int(node.info.slots or node.info.cores or 1))


def capacity(nodes: Iterable[Node], end: float) -> list[tuple[float, float, float]]:
    """Return the time that each node was there, with its slots as the weight."""
    return [(node.joined, end if node.left is None else node.left, float(slots(node))) for node in nodes]


@dataclass
class NodeLoss:
    """What the end of a node cost.

    Parameters
    ----------
    name : str
        The node; empty for replicas that were dropped because they were not needed then, or because a disk was full.
    node : Node or None
        The node, if it is known.
    interrupted : int
        Attempts that ended with it.
    interrupted_seconds : float
        The time for which these can have run at most.
    files, size : int
        Files whose last replica was lost, and their bytes.
    recovered : int
        Tasks that ran again to recreate such files.
    recovered_seconds : float
        How long they were on nodes.
    """

    name: str
    node: Node | None = None
    interrupted: int = 0
    interrupted_seconds: float = 0.0
    files: int = 0
    size: int = 0
    recovered: int = 0
    recovered_seconds: float = 0.0

    @property
    def seconds(self) -> float:
        """All run time that it cost, at most."""
        return self.interrupted_seconds + self.recovered_seconds


def lost_nodes(state: State, history: History) -> list[Node]:
    """Return the nodes that ended without being told to; none if the record has no details, which say that."""
    return [node for node in history.nodes if state.has_details and node.left is not None and not node.told]


def losses(state: State, history: History, ran: Sequence[Span]) -> list[NodeLoss]:
    """Return what losses cost, in order of time: of nodes that were not told to leave, or whose end cost something."""
    found: dict[str, NodeLoss] = {}
    nodes = {node.info.node: node for node in history.nodes}

    def loss(name: str) -> NodeLoss:
        return found.setdefault(name, NodeLoss(name, nodes.get(name)))

    for node in lost_nodes(state, history):
        loss(node.info.node)
    cut: dict[str, list[Attempt]] = {}
    for attempt in history.attempts:
        if attempt.why == "node-lost":
            cut.setdefault(attempt.node, []).append(attempt)
    before: dict[str, list[tuple[float, float]]] = {name: [] for name in cut}
    for span in ran:
        if span.node in before:
            before[span.node].append((span.begin, span.end))
    for name, attempts in cut.items():
        loss(name).interrupted = len(attempts)
        loss(name).interrupted_seconds = _cut_seconds(attempts, before[name], nodes.get(name))
    for number, files in history.causes.items():
        task = state.tasks[number]
        each = loss(next((node for _, node in files if node), ""))
        each.recovered += 1
        if task.placed:
            each.recovered_seconds += max(0.0, (task.ended or state.now) - task.placed)
    for name, files_lost in history.losses.items():
        if name in found:
            found[name].files, found[name].size = files_lost.files, files_lost.size
    return sorted(found.values(), key=lambda each: (each.node.left or 0.0) if each.node is not None else 0.0)


def _cut_seconds(attempts: Sequence[Attempt], before: Sequence[tuple[float, float]], node: Node | None) -> float:
    """Return how long attempts that ended with their node can have run at most, since it does not say when they began.

    A node runs as many as it has slots. Each begins after it was placed, and after earlier tasks in its slot. Those
    have the beginnings and ends ``before``. They are put into as few slots as possible.
    """
    freed = dict.fromkeys(range(slots(node) if node is not None else len(attempts)), 0.0)
    for row, (_, end) in zip(rows(before), before, strict=True):
        freed[row] = max(freed.get(row, 0.0), end)
    placed = sorted(attempt.placed for attempt in attempts)
    last = max(attempt.end for attempt in attempts)
    return sum(max(0.0, last - max(pair)) for pair in zip(placed, sorted(freed.values()), strict=False))


class Totals(NamedTuple):
    """A run in numbers. ``busy`` and ``available`` are sums over slots, in seconds."""

    start: float
    end: float
    outcomes: Counter[str]
    busy: float
    available: float
    moved: int
    stored: int

    @property
    def seconds(self) -> float:
        """Duration of the run so far."""
        return self.end - self.start


def totals(state: State, history: History, ran: Iterable[Span]) -> Totals:
    """Return the totals of a run."""
    end = state.ended or state.now
    outcomes = Counter(task.outcome or task.state for task in state.tasks.values() if task.origin is None)
    busy = sum(span.seconds for span in ran)
    available = sum(weight * (until - since) for since, until, weight in capacity(history.nodes, end))
    moved = sum(flow.size for flow in history.flows.values())
    stored = max((each.nodes for each in history.stored), default=0)
    return Totals(state.started, end, outcomes, busy, available, moved, stored)
