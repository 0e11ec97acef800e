"""The scheduler's events and instructions: immutable records without behaviour."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from taskvine_manager.record.events import Event as Recorded
from taskvine_manager.wire.messages import Completion, Invocation, NodeInfo, Profile

if TYPE_CHECKING:
    from taskvine_manager.scheduling.tasks import Task

RELAY = ""
"""Stands in place of a node's name for the manager's own directory. Files pass through it if nodes may not copy from
each other."""

Stamp = tuple[int, ...]
"""Numbers that change when a file is touched. Only the file's node interprets them."""


class Replica(NamedTuple):
    """A replica of a temp file: its node or :data:`RELAY`, its size in bytes, and its stamp when it was created."""

    node: str
    size: int
    stamp: int


class InputCopy(NamedTuple):
    """A node's copy of a user's input file: the node, the copy's cache name, and the stamp of the user's file."""

    node: str
    name: str
    stamp: Stamp


# --- events ---------------------------------------------------------------------------------------------------------


class Event:
    """What the scheduler is told."""


@dataclass(frozen=True)
class NodeEvent(Event):
    """What a node reports, or what happens to it; nothing follows if the node has already left."""

    node: str


@dataclass(frozen=True)
class Submitted(Event):
    """The user submitted tasks, with the profiles that are new."""

    profiles: tuple[Profile, ...]
    invocations: list[Invocation]


@dataclass(frozen=True)
class Retired(Event):
    """No new task will use these profiles."""

    profiles: tuple[int, ...]


@dataclass(frozen=True)
class NodeJoined(Event):
    """A node is ready for tasks."""

    info: NodeInfo


@dataclass(frozen=True)
class NodeLeft(NodeEvent):
    """A node is gone. ``reason`` says how this was noticed, ``told`` whether the node had been told to leave."""

    reason: str
    told: bool = False


@dataclass(frozen=True)
class NodeDraining(NodeEvent):
    """A node must finish its tasks and take no new ones."""


@dataclass(frozen=True)
class Completed(NodeEvent):
    """A node reports tasks that ended."""

    completions: list[Completion]


@dataclass(frozen=True)
class Returned(NodeEvent):
    """A node returns tasks that it has not started."""

    numbers: tuple[int, ...]


@dataclass(frozen=True)
class FileCached(NodeEvent):
    """A node fetched a replica, or failed to (``problem``; ``spoiled`` if the source's replica is at fault)."""

    file: str
    size: int
    problem: str | None
    stamp: int = 0
    seconds: float = 0.0
    spoiled: bool = False
    source: str | None = None
    """The source of the transfer; None for the source of the transfer under way."""


@dataclass(frozen=True)
class FileSpoiled(NodeEvent):
    """A node's replica with this stamp could not be read, or differs from what was stored."""

    file: str
    stamp: int


@dataclass(frozen=True)
class InputCached(NodeEvent):
    """A node has a copy of a user's input file of ``size`` bytes; ``name`` is empty if it could not get one."""

    path: str
    size: int
    name: str
    stamp: Stamp


@dataclass(frozen=True)
class Relayed(Event):
    """A file was copied to the manager's directory, or could not be (``problem``).

    ``lost`` says whether the copy failed because the file is missing or has changed.
    """

    file: str
    stamp: int
    problem: str | None
    lost: bool = True


@dataclass(frozen=True)
class Crowded(NodeEvent):
    """A task on a node produced files of ``size`` bytes that do not fit in the node's cache."""

    number: int
    size: int


@dataclass(frozen=True)
class LibrariesRun(NodeEvent):
    """From now on, these named libraries run on a node."""

    names: tuple[str, ...]


@dataclass(frozen=True)
class Cancelled(Event):
    """The outcome of these tasks is not awaited any more."""

    numbers: tuple[int, ...]


@dataclass(frozen=True)
class Forgotten(Event):
    """The user will not ask for these temp files again."""

    files: tuple[str, ...]


@dataclass(frozen=True)
class Looked(Event):
    """It is time to say why tasks wait, in the record of the run."""


@dataclass(frozen=True)
class Asked(Event):
    """The user wants to read a temp file or result; the :class:`Answer` to ``request`` says where it is."""

    request: int
    file: str


@dataclass(frozen=True)
class Tuned(Event):
    """New values of tuning parameters, by name."""

    parameters: dict[str, float]


# --- instructions ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Run:
    """Send tasks to a node.

    ``sources`` maps temp files that the node lacks to a replica, and ``copies`` maps users' input files to another
    node's copy. ``values`` holds small results that are inputs, encoded. Any other temp file or result is on the node,
    on its way there, or produced there by an earlier task. The node reads any other input file of a user directly.
    """

    node: str
    tasks: list[Task] = field(default_factory=list)
    sources: dict[str, Replica] = field(default_factory=dict)
    values: dict[str, bytes] = field(default_factory=dict)
    copies: dict[str, InputCopy] = field(default_factory=dict)


@dataclass(frozen=True)
class Finish:
    """Tell the user's process how tasks ended."""

    completions: list[Completion] = field(default_factory=list)


@dataclass(frozen=True)
class RunAgain:
    """Report that tasks which had returned are run again to recreate lost files."""

    numbers: list[int] = field(default_factory=list)


@dataclass(frozen=True)
class Record:
    """Add details to the record of the run."""

    events: list[Recorded]


@dataclass(frozen=True)
class Fetch:
    """Tell a node to fetch a replica of a temp file."""

    node: str
    file: str
    source: Replica


@dataclass(frozen=True)
class Relay:
    """Copy a replica to the manager's directory."""

    file: str
    source: Replica


@dataclass(frozen=True)
class Drop:
    """Remove temp files from a node or from the :data:`RELAY`."""

    node: str
    files: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Full:
    """Tell a node that no space will be freed for the outputs of some of its tasks: it gives them up."""

    node: str
    numbers: list[int]


@dataclass(frozen=True)
class Kill:
    """Tell a node to end tasks."""

    node: str
    numbers: list[int] = field(default_factory=list)


@dataclass(frozen=True)
class Release:
    """Tell a draining node to leave: nothing on it is needed."""

    node: str


@dataclass(frozen=True)
class Discard:
    """Remove files that hold arguments which no task will need again, or results of cancelled tasks."""

    paths: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Answer:
    """Tell where a requested file is: a replica, its bytes, or None and the ``record`` that says why."""

    request: int
    file: str
    where: Replica | bytes | None
    record: bytes = b""


Instruction = Run | RunAgain | Finish | Record | Fetch | Relay | Drop | Full | Kill | Release | Discard | Answer
