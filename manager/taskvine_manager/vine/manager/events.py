"""Events that the core receives, and instructions that it returns to its shell: immutable, without behaviour.

Workers are named by their address, as in TaskVine, files by their id, and TaskVine tasks by the number of their parcel.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

from taskvine_manager.record.events import Event as Recorded
from taskvine_manager.runtime.payload import Payload
from taskvine_manager.vine.parcels import Parcel
from taskvine_manager.wire.messages import Completion, Invocation, NodeInfo, Profile

HOME = "manager"
"""Stands for a node's name if a file is on the manager's machine."""
URGENT = 1e299
"""Priority of parcels that run no task: greetings, cancellations, collection."""
CACHED = frozenset({"temp", "local", "shared"})
"""Kinds of inputs that workers keep in their caches for other tasks, see :class:`Staged`."""


class Staged(NamedTuple):
    """A file of a TaskVine task; ``name`` is its name in the sandbox.

    ``kind`` says what ``source`` is:

    - ``"local"``, the path of a file on this machine that many tasks may read;
    - ``"arguments"``, the path of a file that only this task reads;
    - ``"kept"``, the same, if TaskVine may have to run the task again after it has ended; with nodes on this machine,
      ``name`` is the path of a link, and nothing is sent;
    - ``"shared"``, the path of a claim to a buffer that arguments share;
    - ``"temp"``, the id of a temp file;
    - ``"brought"``, the final path of an output on this machine;
    - ``"added"``, the path of a file on this machine to which an output is appended.
    """

    kind: str
    source: str
    name: str


# --- events ---------------------------------------------------------------------------------------------------------


class Event:
    """What the core is told."""


Handle = Callable[[Event], None]
"""Passes an event to the core."""


@dataclass(frozen=True)
class Submitted(Event):
    """Event: new tasks, with functions and profiles that are new."""

    functions: tuple[tuple[str, Payload], ...]
    profiles: tuple[Profile, ...]
    invocations: list[Invocation]


@dataclass(frozen=True)
class Retired(Event):
    """Event: no more tasks arrive with these profiles."""

    profiles: tuple[int, ...]


@dataclass(frozen=True)
class FunctionsGone(Event):
    """Event: no task needs these functions any more; given by key, with the numbers of their profiles."""

    functions: dict[str, tuple[int, ...]]


@dataclass(frozen=True)
class Cancelled(Event):
    """Event: the outcome of these tasks is no longer wanted."""

    numbers: tuple[int, ...]


@dataclass(frozen=True)
class Forgotten(Event):
    """Event: the user will not read these temp files and results again."""

    files: tuple[str, ...]


@dataclass(frozen=True)
class Asked(Event):
    """Event: the user wants to read a temp file or result."""

    request: int
    file: str


@dataclass(frozen=True)
class Wanted(Event):
    """Event: the piece of a temp file from byte ``offset`` on is to be fetched; the file may have to be recreated."""

    file: str
    offset: int


@dataclass(frozen=True)
class FilesLost(Event):
    """Event: these temp files are on no worker any more, and must not be recreated."""

    files: tuple[str, ...]


@dataclass(frozen=True)
class NotRemade(Event):
    """Event: a temp file that is needed cannot be recreated, and the reason."""

    file: str
    reason: str


@dataclass(frozen=True)
class Draining(Event):
    """Event: the nodes of a block are to be released."""

    block: str


@dataclass(frozen=True)
class WaitFor(Event):
    """Event: the number of nodes that must have joined before anything runs has changed."""

    nodes: int


@dataclass(frozen=True)
class BatchOf(Event):
    """Event: the limit of tasks in one parcel has changed; 0 stands for the default limit."""

    tasks: int


@dataclass(frozen=True)
class Connected(Event):
    """Event: workers have joined, with TaskVine's status of them, or left; ``now`` is in seconds, of any clock."""

    joined: dict[str, dict[str, Any]]
    gone: tuple[str, ...]
    now: float


@dataclass(frozen=True)
class Placed(Event):
    """Event: TaskVine has sent its tasks to these workers."""

    nodes: dict[int, str]


@dataclass(frozen=True)
class Answered(Event):
    """Event: a node's supervisor has answered, see :class:`~taskvine_manager.vine.parcels.Answer`.

    Large bodies are paths by now. ``spooled`` holds the sizes in bytes of those that came with the answer.
    ``libraries`` names the named libraries that run on the node, None if the answer does not say.
    """

    parcel: int
    node: str
    completions: list[Completion]
    open: bool = False
    info: NodeInfo | None = None
    spooled: dict[str, int] | None = None
    libraries: tuple[str, ...] | None = None


@dataclass(frozen=True)
class Failed(Event):
    """Event: a TaskVine task has ended without an answer; ``result`` is TaskVine's name for the reason."""

    parcel: int
    result: str


@dataclass(frozen=True)
class Refused(Event):
    """Event: a task could not be launched; ``record`` says why."""

    parcel: int
    record: bytes


@dataclass(frozen=True)
class CutShort(Event):
    """Event: a temp file, or an input that nodes cache, was cut short, changed or lost on a node."""

    file: str


@dataclass(frozen=True)
class Cycle(Event):
    """Event: TaskVine is about to run, and tasks that nodes can take should be launched."""


@dataclass(frozen=True)
class Clock(Event):
    """Event: time has passed, and nodes may have been idle for too long; ``now`` is as in :class:`Connected`."""

    now: float


@dataclass(frozen=True)
class Looked(Event):
    """Event: it is time to say why tasks wait, in the record of the run."""


# --- instructions ---------------------------------------------------------------------------------------------------


class Instruction:
    """What the core tells its shell to do."""


Say = Callable[[Instruction], None]
"""Takes an instruction for the shell."""


@dataclass(frozen=True)
class Launch(Instruction):
    """Give TaskVine a function call that carries a parcel.

    ``feature`` is the name of the node that it is tied to. If it is None, TaskVine places the call: where its input
    files are if it reads any (``near``), otherwise where most resources are free. ``running_time_min`` is the longest
    minimum run time of its tasks, in seconds; 0 if none has one.
    """

    parcel: Parcel
    inputs: tuple[Staged, ...] = ()
    outputs: tuple[Staged, ...] = ()
    priority: float = URGENT
    category: str = ""
    feature: str | None = None
    near: bool = False
    running_time_min: float = 0.0


@dataclass(frozen=True)
class Abort(Instruction):
    """Take a function call back from TaskVine."""

    parcel: int


@dataclass(frozen=True)
class Release(Instruction):
    """Release the input files of a function call: TaskVine will not need them to run it again."""

    parcel: int


@dataclass(frozen=True)
class Drop(Instruction):
    """Remove a temp file everywhere."""

    file: str


@dataclass(frozen=True)
class Prune(Instruction):
    """Remove a temp file from all nodes, but keep the means to recreate it: other files were created from it."""

    file: str


@dataclass(frozen=True)
class Renew(Instruction):
    """Remove a file from all nodes, because one of them has spoiled or lost its replica; its readers get a new one.

    A file that is not ``recoverable`` stays if other nodes may have it; otherwise it is lost.
    """

    file: str
    recoverable: bool


@dataclass(frozen=True)
class Adopt(Instruction):
    """Make a temp file of a large result that is at ``path`` on this machine."""

    file: str
    path: str


@dataclass(frozen=True)
class Discard(Instruction):
    """Remove the file of a value, if it has one."""

    value: Payload


@dataclass(frozen=True)
class Finish(Instruction):
    """Tell the user's process how a task ended; ``value`` is the id of its result, if other tasks may read it."""

    completion: Completion
    value: str = ""


@dataclass(frozen=True)
class RunAgain(Instruction):
    """Tell the user's process that a task is retried."""

    number: int
    reason: str


@dataclass(frozen=True)
class Record(Instruction):
    """Add details to the record of the run."""

    events: list[Recorded]


@dataclass(frozen=True)
class Locate(Instruction):
    """Find out where a file can be read, fetch it if it is only on other machines, and report it."""

    request: int
    file: str


@dataclass(frozen=True)
class Fetched(Instruction):
    """Process the end of a fetch: if ``well``, a piece of a temp file has arrived; else ``record`` may say why not."""

    parcel: int
    file: str
    well: bool
    record: bytes = b""


@dataclass(frozen=True)
class Lost(Instruction):
    """Tell the user's process that a file cannot be read."""

    request: int
    record: bytes


@dataclass(frozen=True)
class SayNodes(Instruction):
    """Report the nodes: they, or what is known of them, have changed."""


@dataclass(frozen=True)
class Drained(Instruction):
    """Report that a block's nodes have no work, and no data that only they have."""

    block: str


@dataclass(frozen=True)
class Dismiss(Instruction):
    """End a node that was idle for too long, by the process that stands for it."""

    pid: int


@dataclass(frozen=True)
class Reinstall(Instruction):
    """Install the library again, because TaskVine has given it up."""
