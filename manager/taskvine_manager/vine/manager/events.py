"""What the core is told, and what it tells its shell to do: immutable, and without any behaviour.

Workers are named by their address, as TaskVine does; files by their id; what TaskVine was given by the number of its
:class:`~taskvine_manager.vine.manager.records.Flight`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

from taskvine_manager.runtime.payload import Payload
from taskvine_manager.vine.parcels import Parcel
from taskvine_manager.wire.messages import Completion, Invocation, NodeInfo, Profile

CACHED = frozenset({"temp", "local", "shared"})
"""Kinds of inputs that workers keep in their caches for other tasks, see :class:`Staged`."""


class Staged(NamedTuple):
    """A file of a TaskVine task: ``name`` is what it is called in the sandbox.

    ``kind`` says what ``source`` is: ``"local"``, the path of a file on this machine that many may read;
    ``"arguments"``, the path of one that this task alone reads; ``"kept"``, the same, for a task that TaskVine may have
    to run again when its call is over (if nodes are on this machine, the name is the path of a link, and nothing
    travels); ``"shared"``, the path of a claim to a buffer that arguments share; ``"temp"``, the id of a temp
    file; ``"brought"``, the path that an output is to have when it has come home; ``"added"``, the path of a file that
    it is to be added to.
    """

    kind: str
    source: str
    name: str


# --- events ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Submitted:
    """Invocations arrive, with functions and profiles that are new."""

    functions: tuple[tuple[str, Payload], ...]
    profiles: tuple[Profile, ...]
    invocations: list[Invocation]


@dataclass(frozen=True)
class Retired:
    """Profiles with which no more invocations arrive."""

    profiles: tuple[int, ...]


@dataclass(frozen=True)
class FunctionsGone:
    """Functions that no invocation needs any more, by key, and the numbers of the profiles that they had."""

    functions: dict[str, tuple[int, ...]]


@dataclass(frozen=True)
class Cancelled:
    """Invocations whose outcome nobody waits for any more."""

    numbers: tuple[int, ...]


@dataclass(frozen=True)
class Forgotten:
    """Temp files and results that nobody will ask for again."""

    files: tuple[str, ...]


@dataclass(frozen=True)
class Asked:
    """The user wants to read a temp file or result."""

    request: int
    file: str


@dataclass(frozen=True)
class Wanted:
    """What a temp file holds from ``offset`` on, in bytes, is to come home; it may have to be made again for that."""

    file: str
    offset: int


@dataclass(frozen=True)
class FilesLost:
    """Temp files that are not to be made again are on no worker any more."""

    files: tuple[str, ...]


@dataclass(frozen=True)
class NotRemade:
    """A temp file that somebody waits for cannot be made again, and the reason."""

    file: str
    reason: str


@dataclass(frozen=True)
class Draining:
    """The nodes of a block are to be let go."""

    block: str


@dataclass(frozen=True)
class WaitFor:
    """So many nodes must have joined before anything runs."""

    nodes: int


@dataclass(frozen=True)
class BatchOf:
    """So many calls may travel together at most; 0 for as many as are worth it."""

    calls: int


@dataclass(frozen=True)
class Connected:
    """Workers have joined, with what TaskVine says of them, or have gone; ``now`` is in seconds, of any clock."""

    joined: dict[str, dict[str, Any]]
    gone: tuple[str, ...]
    now: float


@dataclass(frozen=True)
class Placed:
    """TaskVine has sent what it was given to workers."""

    nodes: dict[int, str]


@dataclass(frozen=True)
class Answered:
    """A node's supervisor has answered: see :class:`~taskvine_manager.vine.parcels.Answer`.

    Large bodies are paths by now; ``spooled`` holds the sizes in bytes of those that came with the answer.
    """

    flight: int
    node: str
    completions: list[Completion]
    open: bool = False
    info: NodeInfo | None = None
    spooled: dict[str, int] | None = None


@dataclass(frozen=True)
class Failed:
    """TaskVine has ended a task without an answer; ``result`` is its word for that."""

    flight: int
    result: str


@dataclass(frozen=True)
class Refused:
    """What was to be launched cannot be: ``record`` says why."""

    flight: int
    record: bytes


@dataclass(frozen=True)
class CutShort:
    """A node that was to read a temp file has found that it is not what was made."""

    file: str


@dataclass(frozen=True)
class Cycle:
    """TaskVine is about to be given its turn: what there is room for is to be launched."""


@dataclass(frozen=True)
class Clock:
    """So late it is, in seconds of the clock of :class:`Connected`: nodes may have been idle for too long."""

    now: float


Event = (
    Submitted
    | Retired
    | FunctionsGone
    | Cancelled
    | Forgotten
    | Asked
    | Wanted
    | FilesLost
    | NotRemade
    | Draining
    | WaitFor
    | BatchOf
    | Connected
    | Placed
    | Answered
    | Failed
    | Refused
    | CutShort
    | Cycle
    | Clock
)


# --- instructions ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Launch:
    """Give TaskVine a function call that carries a parcel.

    ``feature`` is the name of the node that it is tied to, None if TaskVine is to place it: where its input files are
    if it reads any (``near``), else where most is free. ``running_time_min`` is how long the longest of its invocations
    runs at least, in seconds; 0 where none says so.
    """

    flight: int
    parcel: Parcel
    inputs: tuple[Staged, ...]
    outputs: tuple[Staged, ...]
    priority: float
    category: str
    feature: str | None
    near: bool
    running_time_min: float = 0.0


@dataclass(frozen=True)
class Abort:
    """Take a function call back from TaskVine."""

    flight: int


@dataclass(frozen=True)
class Release:
    """Let the files go that a function call was given: TaskVine will not need them to run it again."""

    flight: int


@dataclass(frozen=True)
class Drop:
    """Remove a temp file everywhere."""

    file: str


@dataclass(frozen=True)
class Prune:
    """Remove a temp file from all nodes, but not the means to make it again: files were made from it."""

    file: str


@dataclass(frozen=True)
class Renew:
    """Remove a file from all nodes, because one of them has spoiled or lost its replica; its readers get a new one.

    A file that is not ``recoverable`` stays if other nodes may have it; else it is lost.
    """

    file: str
    recoverable: bool


@dataclass(frozen=True)
class Adopt:
    """Make a temp file of a large result that is at ``path`` on this machine."""

    file: str
    path: str


@dataclass(frozen=True)
class Discard:
    """Remove the file of a value, if it has one."""

    value: Payload


@dataclass(frozen=True)
class Finish:
    """Tell the user's process how an invocation ended; ``value`` is the id of its result, if others may read it."""

    completion: Completion
    value: str = ""


@dataclass(frozen=True)
class Again:
    """An invocation is tried once more."""

    number: int
    reason: str


@dataclass(frozen=True)
class Locate:
    """Find out where a file can be read, bring it home if it is on other machines alone, and say so."""

    request: int
    file: str


@dataclass(frozen=True)
class Fetched:
    """A piece of a temp file that was wanted has come with an answer, or has not (``well``): ``record`` may say why."""

    flight: int
    file: str
    well: bool
    record: bytes = b""


@dataclass(frozen=True)
class Lost:
    """Tell the user's process that a file cannot be had."""

    request: int
    record: bytes


@dataclass(frozen=True)
class SayNodes:
    """The nodes, or what is known of them, have changed."""


@dataclass(frozen=True)
class Drained:
    """A block's nodes have nothing more to do, and nothing that only they have."""

    block: str


@dataclass(frozen=True)
class Dismiss:
    """End a node that was idle for too long: the process that stands for it."""

    pid: int


@dataclass(frozen=True)
class Reinstall:
    """TaskVine has given the library up: another is to take its place."""


Instruction = (
    Launch
    | Abort
    | Release
    | Drop
    | Prune
    | Renew
    | Adopt
    | Discard
    | Finish
    | Again
    | Locate
    | Fetched
    | Lost
    | SayNodes
    | Drained
    | Dismiss
    | Reinstall
)
