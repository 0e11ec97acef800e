"""The state of a run at a moment, as :mod:`taskvine_exec.insight.fold` makes it from the entries of a record.

All views of a run read this state, whether the run is over, goes on, or was killed. On the embedded engine, its tasks,
nodes, replicas and transfers are those of the scheduler itself after each message that it handled.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from taskvine_manager.record import events
from taskvine_manager.wire.messages import FileUse, Profile

NO_CATEGORY = "parsl-default"
"""Category of tasks for which the user gave none, if the names of functions are not taken as categories."""


@dataclass(eq=False, slots=True)
class Task:
    """A task.

    Parameters
    ----------
    number : int
        Its number; below 0 for a task that recreates lost files of the task ``origin``.
    profile : int
        Number of its profile.
    inputs, outputs : tuple
        The files that it reads and makes.
    submitted : float
        When the manager received it, in seconds since the epoch. All times are.
    origin : int or None
        The finished task that it runs again.
    node : str
        The node that it is on; empty for none.
    placement : Placed or None
        Its last placement; ``placed`` is when.
    missing : set of str
        The files that it reads and that do not exist now.
    attempts : int
        Attempts that it was charged because their node was lost.
    again : list
        Why it left a node without an end: time, reason, and the node (empty in a record without details).
    waiting : Waiting or None
        Why it, or the task at the head of its queue, was last found not to be placed; ``waiting_since`` is when.
    outcome : str
        ``"returned"``, ``"raised"``, ``"lost"``, ``"cancelled"``, or ``"over"`` (of a task that recreates files); empty
        while it has not ended.
    failure : Failure or None
        How it failed.
    ended, dispatched, started, seconds : float
        When it ended, when its node began to launch it, when its function was entered, and how long that ran.
    size : int
        Bytes of its result.
    ran_on : str
        The node that reported its end.
    """

    number: int
    profile: int
    inputs: tuple[FileUse, ...]
    outputs: tuple[FileUse, ...]
    submitted: float
    origin: int | None = None
    node: str = ""
    placement: events.Placed | None = None
    placed: float = 0.0
    missing: set[str] = field(default_factory=set)
    attempts: int = 0
    again: list[tuple[float, str, str]] = field(default_factory=list)
    waiting: events.Waiting | None = None
    waiting_since: float = 0.0
    outcome: str = ""
    failure: events.Failure | None = None
    ended: float = 0.0
    dispatched: float = 0.0
    started: float = 0.0
    seconds: float = 0.0
    size: int = 0
    ran_on: str = ""

    @property
    def state(self) -> str:
        """``"waiting"`` (for files), ``"ready"``, ``"assigned"`` or ``"done"``."""
        if self.outcome:
            return "done"
        if self.node:
            return "assigned"
        return "waiting" if self.missing else "ready"


@dataclass(eq=False)
class Node:
    """A node, also after its end.

    ``tasks`` holds the numbers of its tasks, and ``files`` the bytes of its replicas. ``processes`` maps kinds and
    names of its processes to their last step, and ``ends`` lists the last ends with their time. ``reason`` and ``told``
    say how it ended, ``status`` is the exit status of its process if it is known.
    """

    info: events.NodeStarted
    joined: float
    draining: bool = False
    released: bool = False
    libraries: tuple[str, ...] = ()
    tasks: set[int] = field(default_factory=set)
    files: dict[str, int] = field(default_factory=dict)
    processes: dict[tuple[str, str], events.Process] = field(default_factory=dict)
    ends: list[tuple[float, events.Process]] = field(default_factory=list)
    left: float | None = None
    reason: str = ""
    told: bool = False
    status: int | None = None


@dataclass(eq=False, slots=True)
class StoredFile:
    """A temp file or result, and the bytes that each place holds of it.

    Places are nodes, ``"manager"`` and ``"relay"``. ``makers`` are the tasks that make it, ``readers`` the unfinished
    tasks that read it, and ``lost_with`` is the node that held the last replica, if it is lost.
    """

    holders: dict[str, int] = field(default_factory=dict)
    makers: list[int] = field(default_factory=list)
    readers: set[int] = field(default_factory=set)
    lost_with: str = ""
    size: int = 0


@dataclass(eq=False, slots=True)
class Transfer:
    """A copy that is under way; ``source`` is a node, ``"relay"``, or ``"files"`` for a user's file itself."""

    source: str
    since: float
    for_task: bool


@dataclass(eq=False)
class State:
    """The state of a run.

    Parameters
    ----------
    facts : dict
        The plain data of the record's first entry.
    started, ended : float
        When the run began, and when the manager ended (None if it runs or was killed).
    now : float
        Time of the last entry.
    profiles : dict
        Profiles by number.
    tasks, nodes, files : dict
        All tasks by number, all nodes by name (the last one of each name), and the files that exist or are expected.
    transfers, reading : dict
        Copies of temp files and of users' files under way, by file and target.
    inputs : dict
        The nodes that have a copy of a user's file, with its bytes, by path.
    blocks : dict
        The last state of each block, with its time.
    entrance : str
        The address where nodes connect, and the reason of the last refusal, in words; empty if they are not known.
    exits : dict
        Exit statuses of processes that the manager started as nodes, by process id.
    reasons : dict
        The last reason why ready tasks of a profile wait, with its time.
    evicted, moved, recoveries : int
        Replicas that were evicted, bytes of complete transfers, and tasks that were run again for lost files.
    """

    facts: dict[str, Any] = field(default_factory=dict)
    started: float = 0.0
    ended: float | None = None
    now: float = 0.0
    profiles: dict[int, Profile] = field(default_factory=dict)
    tasks: dict[int, Task] = field(default_factory=dict)
    nodes: dict[str, Node] = field(default_factory=dict)
    files: dict[str, StoredFile] = field(default_factory=dict)
    transfers: dict[tuple[str, str], Transfer] = field(default_factory=dict)
    reading: dict[tuple[str, str], Transfer] = field(default_factory=dict)
    inputs: dict[str, dict[str, int]] = field(default_factory=dict)
    blocks: dict[str, tuple[float, events.Block]] = field(default_factory=dict)
    entrance: str = ""
    exits: dict[int, int] = field(default_factory=dict)
    reasons: dict[int, tuple[float, events.Waiting]] = field(default_factory=dict)
    evicted: int = 0
    moved: int = 0
    recoveries: int = 0

    @property
    def has_details(self) -> bool:
        """Whether the record has details; without them, only tasks and nodes are known."""
        return bool(self.facts.get("details"))

    def category(self, task: Task) -> str:
        """Return the category of a task, or the name of its function if the user gave none."""
        profile = self.profiles.get(task.profile)
        if profile is None:
            return "unknown"
        return profile.name if profile.category == NO_CATEGORY else profile.category

    def unfinished(self) -> Iterable[Task]:
        """Yield the tasks that have not ended."""
        return (task for task in self.tasks.values() if not task.outcome)

    def current_nodes(self) -> dict[str, Node]:
        """Return the nodes that have not left, by name."""
        return {name: node for name, node in self.nodes.items() if node.left is None}
