"""The state of a run in numbers: tasks, nodes, blocks, transfers and losses. Pure."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import asdict, dataclass, field
from typing import Any

from taskvine_exec.insight.estimate import Estimate, estimate
from taskvine_exec.insight.state import Node, State, Task

WINDOW = 60.0
"""Seconds over which rates are counted."""
STATES = ("waiting", "ready", "assigned", "returned", "raised", "lost", "cancelled")
"""States and outcomes of tasks, in the order in which they are shown."""
MB = 1 << 20


@dataclass
class Category:
    """The tasks of a category, by state; ``rate`` counts those that ended, per second. Times are of their functions."""

    name: str
    states: dict[str, int] = field(default_factory=lambda: dict.fromkeys(STATES, 0))
    rate: float = 0.0
    median: float | None = None
    most: float | None = None

    @property
    def tasks(self) -> int:
        """The number of its tasks."""
        return sum(self.states.values())


@dataclass
class NodeLine:
    """A node. Memory and disk are in bytes; ``memory_asked`` is what its tasks asked for."""

    name: str
    block: str
    state: str
    joined: float
    tasks: int
    cores: float
    slots: int | None
    gpus: float
    memory: float
    memory_asked: float
    cache: int
    disk: float
    files: int
    libraries: tuple[str, ...]
    left: float | None = None
    reason: str = ""
    status: int | None = None


@dataclass
class BlockLine:
    """A block: its job, the provider's state since ``since``, and its nodes that are there."""

    name: str
    job: str
    state: str
    since: float
    reason: str
    exit_code: int | None
    nodes: int


@dataclass
class Summary:
    """The state of a run in numbers.

    ``run`` is ``"goes on"``, ``"over"``, ``"killed"`` or ``"unknown"``. Times are in seconds since the epoch. ``rate``
    is the number of tasks that ended per second of the last minute. ``stored`` counts the bytes of all replicas.
    """

    run: str
    engine: str
    started: float
    now: float
    ended: float | None
    details: bool
    tasks: int
    states: dict[str, int]
    rate: float
    categories: list[Category]
    nodes: list[NodeLine]
    lost_nodes: list[NodeLine]
    blocks: list[BlockLine]
    transfers: int
    reading: int
    moved: int
    stored: int
    files: int
    lost_files: int
    evicted: int
    recoveries: int
    retries: int
    estimate: Estimate | None

    def as_dict(self) -> dict[str, Any]:
        """Return it as values that JSON can represent."""
        return asdict(self)


def summarize(state: State, *, now: float | None = None, is_live: bool | None = None) -> Summary:
    """Count what a state has.

    Parameters
    ----------
    state : State
        The state of the run.
    now : float, optional
        The present time, in seconds since the epoch; default: the time of the record's last entry.
    is_live : bool, optional
        Whether the manager still runs; None if that is unknown.
    """
    now = state.now if now is None else max(now, state.now)
    over = state.ended is not None
    tasks = [task for task in state.tasks.values() if task.origin is None]
    categories = _categories(state, tasks, now)
    lost = [_node(state, name, node) for name, node in state.nodes.items() if node.left is not None and not node.told]
    return Summary(
        run="over" if over else {True: "goes on", False: "killed", None: "unknown"}[is_live],
        engine=str(state.facts.get("engine", "")),
        started=state.started,
        now=now,
        ended=state.ended,
        details=state.has_details,
        tasks=len(tasks),
        states={name: sum(category.states[name] for category in categories) for name in STATES},
        rate=sum(category.rate for category in categories),
        categories=categories,
        nodes=[_node(state, name, node) for name, node in state.current_nodes().items()],
        lost_nodes=sorted(lost, key=lambda node: node.left or 0.0),
        blocks=_blocks(state),
        transfers=len(state.transfers),
        reading=len(state.reading),
        moved=state.moved,
        stored=sum(sum(file.holders.values()) for file in state.files.values()),
        files=sum(bool(file.holders) for file in state.files.values()),
        lost_files=sum(bool(file.lost_with) and not file.holders for file in state.files.values()),
        evicted=state.evicted,
        recoveries=state.recoveries,
        retries=sum(len(task.again) for task in tasks),
        estimate=None if over or is_live is False else estimate(state, now),
    )


def _categories(state: State, tasks: list[Task], now: float) -> list[Category]:
    found: dict[str, Category] = {}
    times: dict[str, list[float]] = defaultdict(list)
    last = state.now if state.ended is not None else now
    window = min(WINDOW, max(last - state.started, 1e-3))
    names = {number: state.category(Task(0, number, (), (), 0.0)) for number in state.profiles}
    for task in tasks:
        name = names.get(task.profile, "unknown")
        category = found.get(name)
        if category is None:
            category = found[name] = Category(name)
        category.states[task.outcome or task.state] += 1
        if task.outcome == "returned" and task.started:
            times[name].append(task.seconds)
        if task.outcome and task.ended > last - window:
            category.rate += 1 / window
    for name, seconds in times.items():
        seconds.sort()
        found[name].median = seconds[len(seconds) // 2]
        found[name].most = seconds[min(len(seconds) - 1, int(len(seconds) * 0.95))]
    return sorted(found.values(), key=lambda category: (-category.tasks, category.name))


def _node(state: State, name: str, node: Node) -> NodeLine:
    profiles = [state.profiles.get(state.tasks[number].profile) for number in node.tasks]
    asked = sum(profile.memory or 0.0 for profile in profiles if profile is not None)
    words = "gone" if node.left is not None else "released" if node.released else "drains" if node.draining else "there"
    info = node.info
    return NodeLine(
        name=name,
        block=info.block or "",
        state=words,
        joined=node.joined,
        tasks=len(node.tasks),
        cores=info.cores,
        slots=info.slots,
        gpus=info.gpus or 0,
        memory=(info.memory or 0.0) * MB,
        memory_asked=asked * MB,
        cache=sum(node.files.values()),
        disk=(info.disk or 0.0) * MB,
        files=len(node.files),
        libraries=node.libraries,
        left=node.left,
        reason=node.reason,
        status=node.status,
    )


def _blocks(state: State) -> list[BlockLine]:
    nodes = Counter(node.info.block for node in state.current_nodes().values())
    return [
        BlockLine(name, block.job, block.state, time, block.reason, block.exit_code, nodes[name])
        for name, (time, block) in state.blocks.items()
    ]


def tables(state: State) -> dict[str, Any]:
    """Return the tasks that have not ended, the files and the copies under way, as values that JSON can represent."""
    return {
        "tasks": [
            {
                "number": task.number,
                "name": profile.name if (profile := state.profiles.get(task.profile)) is not None else "",
                "state": task.state,
                "node": task.node,
                "attempts": task.attempts,
                "missing": sorted(task.missing),
            }
            for task in state.unfinished()
        ],
        "files": {name: file.holders for name, file in state.files.items() if file.holders},
        "transfers": [
            {"file": file, "node": node, "source": transfer.source, "since": transfer.since}
            for (file, node), transfer in (*state.transfers.items(), *state.reading.items())
        ],
    }
