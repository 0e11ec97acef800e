"""What the scheduler is told, and what it tells its shell to do: immutable, and without any behaviour."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from taskvine_manager.wire.messages import Completion, Invocation, NodeInfo, Profile

if TYPE_CHECKING:
    from taskvine_manager.scheduling.tasks import Task

RELAY = ""
"""Stands for the manager's own directory where a node is named: where files pass that may not go from node to node."""

Stamp = tuple[int, ...]
"""What changes about a file when somebody touches it; only its node knows what the numbers are."""


class Replica(NamedTuple):
    """A copy of a temp file: the node that has it, or :data:`RELAY`; its size in bytes; its stamp when it was made."""

    node: str
    size: int
    stamp: int


class InputCopy(NamedTuple):
    """A node's copy of a user's input file: the node, the copy's cache name, and the stamp of the user's file."""

    node: str
    name: str
    stamp: Stamp


# --- events ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Submitted:
    """Invocations arrive, with profiles that are new."""

    profiles: tuple[Profile, ...]
    invocations: list[Invocation]


@dataclass(frozen=True)
class Retired:
    """Profiles with which no more invocations arrive."""

    profiles: tuple[int, ...]


@dataclass(frozen=True)
class NodeJoined:
    """A node is ready for work."""

    info: NodeInfo


@dataclass(frozen=True)
class NodeLeft:
    """A node is gone; ``reason`` says how that was seen, ``told`` whether somebody had told it to go."""

    node: str
    reason: str
    told: bool = False


@dataclass(frozen=True)
class NodeDraining:
    """A node is to finish what it runs and take nothing new."""

    node: str


@dataclass(frozen=True)
class Completed:
    """A node reports invocations that ended."""

    node: str
    completions: list[Completion]


@dataclass(frozen=True)
class Returned:
    """A node gives back invocations that it has not begun."""

    node: str
    numbers: tuple[int, ...]


@dataclass(frozen=True)
class FileCached:
    """A node has fetched a replica, in so many seconds, or could not (``problem``; ``spoiled``: its source's fault)."""

    node: str
    file: str
    size: int
    problem: str | None
    stamp: int = 0
    seconds: float = 0.0
    spoiled: bool = False
    source: str | None = None
    """Where it came from, or was to; None for what is known to be under way."""


@dataclass(frozen=True)
class FileSpoiled:
    """A node's replica with this stamp could not be read, or is not what was put there."""

    node: str
    file: str
    stamp: int


@dataclass(frozen=True)
class InputCached:
    """A node has a copy of a user's input file, which has this many bytes; no ``name`` if it could not be had."""

    node: str
    path: str
    size: int
    name: str
    stamp: Stamp


@dataclass(frozen=True)
class Relayed:
    """A file has come to the manager's directory, or could not be brought there (``problem``).

    ``lost`` says whether that is because the file is not there, or is not what it was.
    """

    file: str
    stamp: int
    problem: str | None
    lost: bool = True


@dataclass(frozen=True)
class Crowded:
    """An invocation on a node has made files of so many bytes, and the node's cache has no room for them."""

    node: str
    number: int
    size: int


@dataclass(frozen=True)
class Cancelled:
    """Invocations whose outcome nobody waits for any more."""

    numbers: tuple[int, ...]


@dataclass(frozen=True)
class Forgotten:
    """Temp files that nobody will ask for again."""

    files: tuple[str, ...]


@dataclass(frozen=True)
class Asked:
    """The user wants to read a temp file or result: ``request`` is to be answered with where it is."""

    request: int
    file: str


@dataclass(frozen=True)
class Tuned:
    """TaskVine tuning parameters, by their names."""

    parameters: dict[str, float]


Event = (
    Submitted
    | Retired
    | NodeJoined
    | NodeLeft
    | NodeDraining
    | Completed
    | Returned
    | FileCached
    | FileSpoiled
    | InputCached
    | Relayed
    | Crowded
    | Cancelled
    | Forgotten
    | Asked
    | Tuned
)


# --- instructions ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Run:
    """Send invocations to a node.

    ``sources`` maps temp files that are not there to a replica, ``copies`` maps users' input files to another node's
    copy; ``values`` holds small results that are inputs, encoded. What is an input and in none of these is on the node,
    or made there by an invocation that it has been sent.
    """

    node: str
    tasks: list[Task]
    sources: dict[str, Replica]
    values: dict[str, bytes]
    copies: dict[str, InputCopy]


@dataclass(frozen=True)
class Finish:
    """Tell the user's process how invocations ended."""

    completions: list[Completion]


@dataclass(frozen=True)
class Again:
    """Invocations that had returned are run once more, for files of theirs that were lost."""

    numbers: list[int]


@dataclass(frozen=True)
class Fetch:
    """Have a node make a replica of a temp file."""

    node: str
    file: str
    source: Replica


@dataclass(frozen=True)
class Relay:
    """Bring a replica to the manager's directory."""

    file: str
    source: Replica


@dataclass(frozen=True)
class Drop:
    """Have a node, or the :data:`RELAY`, remove temp files."""

    node: str
    files: list[str]


@dataclass(frozen=True)
class Full:
    """Nothing can be removed from a node, now or later: what has no room there is not kept."""

    node: str


@dataclass(frozen=True)
class Kill:
    """Have a node end invocations."""

    node: str
    numbers: list[int]


@dataclass(frozen=True)
class Release:
    """A draining node holds nothing that anybody needs: let it go."""

    node: str


@dataclass(frozen=True)
class Discard:
    """Remove files that hold arguments: nothing will be called with them again."""

    paths: list[str]


@dataclass(frozen=True)
class Answer:
    """Where a file is that the user asked for: a replica, its bytes, or neither, and the record that says why."""

    request: int
    file: str
    where: Replica | bytes | None
    record: bytes = b""


Instruction = Run | Again | Finish | Fetch | Relay | Drop | Full | Kill | Release | Discard | Answer
