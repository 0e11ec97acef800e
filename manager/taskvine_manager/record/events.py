"""The details of a record: one class for each type of event, and the table of their tags.

Events are plain tuples, because many are made for each task: a NamedTuple costs a third of a frozen dataclass. They
have no time. The writer gives one time to all events that follow from the same message.

The scheduler emits them too, so this module imports no clock and no I/O.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

MANAGER = "manager"
"""Stands for a node's name where the manager itself holds a small result."""
RELAY = "relay"
"""The same for the manager's directory, through which files pass if nodes may not copy from each other."""
WORKERS = "workers"
"""The same for some worker of TaskVine, which does not say which one has a replica."""
FILES = "files"
"""Stands for a node's name where a node reads a user's file itself."""


# --- tasks ----------------------------------------------------------------------------------------------------------


class Placed(NamedTuple):
    """Tasks were assigned to a node.

    ``how`` is one of these:

    - ``"spread"``: tasks without inputs go to nodes with free capacity;
    - ``"inputs"``: the task goes to the node where it can start first;
    - ``"ahead"``: a short task goes to the node that makes its inputs;
    - ``"parcel"``: the tasks are in one parcel of the TaskVine engine.

    ``local`` and ``missing`` are the bytes of inputs that the node has and lacks. ``queue`` is the number of tasks that
    it had, or of parcels with several tasks on the TaskVine engine. ``cost`` is the expected number of seconds until
    the task can start. ``others`` lists other nodes that were considered, the next best first: ``(node, cost, local,
    room)``.
    """

    node: str
    numbers: Sequence[int]
    how: str
    local: int = 0
    missing: int = 0
    queue: int = 0
    cost: float = 0.0
    others: Sequence[tuple[str, float, int, int]] = ()


class Waiting(NamedTuple):
    """The reason why a task that could run is not placed has changed.

    It also holds for later tasks with the same resources. ``why`` is one of :data:`REASONS`. ``subject`` is a node, a
    file or a number, as the reason says. ``lacking`` lists nodes with the resource that they lack, for a few nodes.
    ``alike`` is how many tasks with the same resources wait.
    """

    number: int
    why: str
    subject: str = ""
    lacking: Sequence[tuple[str, str]] = ()
    alike: int = 1


REASONS = {
    "no-node": "no node has joined, or all drain",
    "few-nodes": "fewer nodes have joined than it waits for (subject: joined of wanted)",
    "full": "no node has enough free resources",
    "too-large": "no node that has joined has enough resources, even if it were empty",
    "reserved": "the nodes with free resources are kept for an earlier task (subject: its number)",
    "busy-node": "the node with its inputs is busy (subject: the node)",
    "transfer-limit": "an input cannot be copied now: its sources reached their limit (subject: the file)",
    "suspect": "tasks that may have killed a node are retried one at a time",
}
"""Reasons of :class:`Waiting`. Tasks that wait for inputs have no such event: their inputs show what they wait for."""


class Requeued(NamedTuple):
    """A task left its node without an end.

    ``why`` is ``"node-lost"``, ``"returned"`` (its node had not started it), ``"unreadable"`` (an input could not be
    read) or ``"yielded"`` (its outputs did not fit). ``attempts`` counts the attempts that it was charged so far.
    """

    number: int
    why: str
    attempts: int


class Recovery(NamedTuple):
    """A finished task runs again, as task ``number`` (below 0), to recreate files.

    ``files`` lists its lost files, each with the node that held the last replica.
    """

    number: int
    origin: int
    files: Sequence[tuple[str, str]]


class RecoveryEnded(NamedTuple):
    """A task that recreates files ended, or is not needed any more."""

    number: int


class Recoveries(NamedTuple):
    """TaskVine has run this many tasks again since the start to recreate lost files. It does not say which."""

    tasks: int


class Failure(NamedTuple):
    """A task raised or was lost.

    ``kind`` is the class of the exception, or the kind of the loss. ``text`` is the traceback or the reason, at most
    :data:`TEXT` characters. If an earlier task failed with the same text, ``same`` is its number, and the text is
    empty.
    """

    number: int
    kind: str
    text: str
    same: int | None = None


TEXT = 4000
"""Maximum number of characters in a :class:`Failure`."""


# --- files ----------------------------------------------------------------------------------------------------------


class Made(NamedTuple):
    """A node has a new replica of a temp file or result; or the :data:`MANAGER` or the :data:`RELAY` has it."""

    file: str
    node: str
    size: int


class Dropped(NamedTuple):
    """A replica was dropped.

    ``why`` is ``"unneeded"``, ``"redundant"``, ``"moved"``, ``"spoiled"`` or ``"unreadable"``. An empty ``node`` stands
    for all nodes.
    """

    file: str
    node: str
    why: str


class Evicted(NamedTuple):
    """Replicas were dropped from a full node, which needed ``size`` bytes."""

    node: str
    size: int
    files: Sequence[str]


class Lost(NamedTuple):
    """The last replica of a file was lost with a node."""

    file: str
    node: str


class Forgotten(NamedTuple):
    """Nothing depends on these files any more; all their replicas are dropped."""

    files: Sequence[str]


class TransferStarted(NamedTuple):
    """A replica is being copied to a node, for a task that reads it or as a further replica."""

    file: str
    node: str
    source: str
    for_task: bool


class TransferEnded(NamedTuple):
    """A transfer ended; ``problem`` is empty unless it failed. Unknown seconds are 0."""

    file: str
    node: str
    size: int = 0
    seconds: float = 0.0
    problem: str = ""


class InputStarted(NamedTuple):
    """A node begins to read a user's file, from another node's copy or itself (:data:`FILES`)."""

    path: str
    node: str
    source: str


class InputEnded(NamedTuple):
    """A node has read a user's file, or failed to."""

    path: str
    node: str
    size: int
    well: bool


# --- nodes ----------------------------------------------------------------------------------------------------------


class NodeStarted(NamedTuple):
    """A node has joined; the fields are those of :class:`~taskvine_manager.wire.messages.NodeInfo`."""

    node: str
    cores: float
    memory: float
    disk: float
    gpus: int
    slots: int | None
    block: str
    pid: int
    directory: str
    gpu_memory: tuple[float, ...] = ()


class NodeDrains(NamedTuple):
    """A node takes no new tasks, because it is to leave."""

    node: str


class NodeReleased(NamedTuple):
    """Nothing on a draining node is needed any more, and it was told to leave."""

    node: str


class NodeEnded(NamedTuple):
    """A node is gone. ``told`` is whether it had been told to leave."""

    node: str
    reason: str
    told: bool


class NodeExited(NamedTuple):
    """A process that the manager had started as a node has ended.

    ``status`` is its exit status, or the negative number of the signal that ended it.
    """

    pid: int
    status: int


class Process(NamedTuple):
    """A step in the life of a process on a node, or of a context.

    ``kind`` is ``"library"``, ``"context"`` or ``"slot"``. ``name`` is the name of the library, empty for the default
    one, or the number of the slot. ``step`` is ``"started"``, ``"ready"`` or ``"ended"``. ``status`` is as in
    :class:`NodeExited`, None if it is unknown.
    """

    node: str
    kind: str
    name: str
    step: str
    status: int | None = None
    reason: str = ""


class Libraries(NamedTuple):
    """From now on, these named libraries run on a node."""

    node: str
    names: Sequence[str]


class Block(NamedTuple):
    """The state of a block at its provider, as the user's process knows it.

    ``job`` is the job's id, ``state`` a name of Parsl's JobState, and ``reason`` what the batch system says.
    """

    block: str
    job: str
    state: str
    reason: str = ""
    exit_code: int | None = None


class Entrance(NamedTuple):
    """The address where nodes connect, and the reason of the last refusal, in words."""

    text: str


Event = (
    Placed
    | Waiting
    | Requeued
    | Recovery
    | RecoveryEnded
    | Recoveries
    | Failure
    | Made
    | Dropped
    | Evicted
    | Lost
    | Forgotten
    | TransferStarted
    | TransferEnded
    | InputStarted
    | InputEnded
    | NodeStarted
    | NodeDrains
    | NodeReleased
    | NodeEnded
    | NodeExited
    | Process
    | Libraries
    | Block
    | Entrance
)

TYPES: dict[str, type[Any]] = {
    "placed": Placed,
    "waiting": Waiting,
    "requeued": Requeued,
    "recovery": Recovery,
    "recovery-ended": RecoveryEnded,
    "recoveries": Recoveries,
    "failure": Failure,
    "made": Made,
    "dropped": Dropped,
    "evicted": Evicted,
    "lost": Lost,
    "forgotten": Forgotten,
    "transfer": TransferStarted,
    "transfer-ended": TransferEnded,
    "input": InputStarted,
    "input-ended": InputEnded,
    "node": NodeStarted,
    "node-drains": NodeDrains,
    "node-released": NodeReleased,
    "node-ended": NodeEnded,
    "node-exited": NodeExited,
    "process": Process,
    "libraries": Libraries,
    "block": Block,
    "entrance": Entrance,
}
"""The types of events by tag."""
TAGS = {kind: tag for tag, kind in TYPES.items()}
"""The tags by type."""


def encoded(events: Iterable[Event]) -> list[tuple[Any, ...]]:
    """Return events as plain tuples that begin with their tag."""
    return [(TAGS[type(event)], *event) for event in events]


def decoded(items: Iterable[Sequence[Any]]) -> list[Event]:
    """Return the events of an entry. Unknown types, and unknown fields at the end, are skipped.

    Raises
    ------
    TypeError
        If an event lacks a field.
    """
    found: list[Event] = []
    for item in items:
        known = _KINDS.get(item[0])
        if known is not None:
            kind, length = known
            # A NamedTuple's own constructor takes twice as long; only it knows the defaults of missing fields.
            fields = item[1:length]
            found.append(tuple.__new__(kind, fields) if len(item) >= length else kind(*fields))
    return found


_KINDS = {tag: (kind, len(kind._fields) + 1) for tag, kind in TYPES.items()}
"""The types of events by tag, and the length of an item with all fields."""
