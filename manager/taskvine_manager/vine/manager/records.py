"""What the core knows of invocations, of what TaskVine was given, of temp files and of workers."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from taskvine_manager.vine.manager.batching import Need, Room
from taskvine_manager.vine.worker.worker import MARK
from taskvine_manager.wire.messages import L1, Invocation, NodeInfo, Profile

HOME = "manager"
"""What stands for a node's name where a file is beside the manager."""


class Job:
    """An invocation in the core's hands.

    ``alone`` is whether it may not travel with others, ``suspect`` whether it may have brought a worker down, ``tries``
    how many of its attempts were charged to it, ``renewals`` how many were lost because a node had not kept an input,
    ``flight`` what it was last launched with, while that is out.
    """

    __slots__ = (
        "alone",
        "category",
        "flight",
        "invocation",
        "need",
        "over",
        "priority",
        "profile",
        "renewals",
        "sequence",
        "suspect",
        "tries",
    )

    def __init__(self, invocation: Invocation, profile: Profile, sequence: int) -> None:
        self.invocation = invocation
        self.profile = profile
        self.sequence = sequence
        self.priority = profile.priority
        self.category = profile.category
        self.need = need_of(profile)
        self.tries = 0
        self.renewals = 0
        self.suspect = False
        self.over = False
        self.alone = (
            profile.mode == L1
            or any((profile.memory, profile.disk, profile.gpus))
            or any(use.kind != "value" for use in (*invocation.inputs, *invocation.outputs))
        )
        self.flight: Flight | None = None


def need_of(profile: Profile) -> Need:
    """What a call is counted with; one core if the user asked for nothing."""
    cores = 1.0 if profile.cores is None else profile.cores
    return Need(cores, profile.memory or 0.0, profile.disk or 0.0, float(profile.gpus or 0))


@dataclass(frozen=True)
class Greeting:
    """The errand of asking a worker's supervisor what it has."""


@dataclass(frozen=True)
class Rescue:
    """The errand of having a worker take copies of temp files, by being sent something that reads them."""

    files: tuple[str, ...]


@dataclass(frozen=True)
class Copy:
    """The errand of having one more worker take a copy of a temp file, because the user wants so many."""

    file: str


@dataclass(frozen=True)
class Fetch:
    """The errand of reading a piece of a temp file that somebody has asked for."""

    file: str


@dataclass(frozen=True)
class Probe:
    """The errand of reading one input of a call on the node that gave the call up: does the node really have it?"""

    file: str
    case: Case


@dataclass(eq=False)
class Case:
    """A call that its node gave up; ``open`` counts the inputs that are still looked at, ``bad`` are not there."""

    jobs: list[Job]
    open: int = 0
    bad: list[str] = field(default_factory=list)


@dataclass(eq=False)
class Flight:
    """A TaskVine task of ours, or a row of them: collecting what a parcel left open takes another.

    ``room`` is the node that it was given, with what is counted there for it (``taken``, None for a batch); ``pinned``
    is the address of the node that it is tied to, and ``node`` where it was last seen. ``temps`` counts the
    temp files that it makes or has made. TaskVine recreates them by running the task again, so what the task was given
    is kept until the flight has ``landed`` and they are gone. So are the temp files that it ``reads``, the results that
    it names by path (``reads_by_path``) and the ``functions`` of its tasks. ``given`` has the kinds of its inputs that
    nodes keep in their caches, by name or path.
    """

    number: int
    jobs: dict[int, Job] = field(default_factory=dict)
    room: Room | None = None
    taken: Need | None = None
    node: str | None = None
    pinned: str | None = None
    temps: int = 0
    landed: bool = False
    reads: tuple[str, ...] = ()
    reads_by_path: tuple[str, ...] = ()
    functions: tuple[str, ...] = ()
    given: dict[str, str] = field(default_factory=dict)
    errand: Greeting | Rescue | Copy | Fetch | Probe | None = None

    @property
    def where(self) -> str | None:
        """Address of the node that it is on or goes to, as far as that is known."""
        return self.node or self.pinned


@dataclass(eq=False)
class TempFile:
    """A temp file, and what was needed to make it.

    ``node`` is the name of one that has it, empty until it is made; ``rescue`` is the address of one that is to take a
    copy; ``gone`` is whether it is lost for good; ``readers`` counts the flights that would read it if they ran once
    more. ``replicas`` is how many nodes the user wants to have it, 0 for as many as TaskVine has of any; ``copies``
    holds the addresses of those that were sent one.
    """

    size: int = 0
    node: str = ""
    recoverable: bool = True
    rescue: str = ""
    gone: bool = False
    readers: int = 0
    replicas: int = 0
    copies: set[str] = field(default_factory=set)
    flight: Flight | None = None


class VineNode:
    """A worker, by what TaskVine says of it; one that was not started by us has neither a name nor a block.

    Parameters
    ----------
    address : str
        ``HOST:PORT`` of its connection.
    said : dict
        TaskVine's status of it.
    slots : int or None
        Function slots, where the user has said how many.
    now : float
        When it joined, in seconds.
    """

    def __init__(self, address: str, said: dict[str, Any], slots: int | None, now: float) -> None:
        arch = str(said.get("arch", ""))
        self.address = address
        self.ours = arch.startswith(MARK)
        self.name = arch.removeprefix(MARK) if self.ours else address
        block = self.name[1:].partition("-")[0] if self.ours and self.name.startswith("b") else ""
        cores = float(said.get("cores_total") or said.get("ncpus") or 0)
        self.info = NodeInfo(
            self.name,
            cores,
            float(said.get("memory_total") or 0),
            float(said.get("disk_total") or 0),
            int(said.get("gpus_total") or 0),
            slots,
            block,
            int(self.name.rpartition("-")[2]) if self.ours else 0,
            "",
        )
        total = Need(max(cores, float(self.slots)), self.info.memory, self.info.disk, float(self.info.gpus))
        self.room = Room(total, self.slots, self.name)
        self.functions: set[str] = set()
        """Keys of the functions that it was sent."""
        self.greeted = not self.ours
        self.draining = False
        self.leaving = False
        self.idle_since = now

    @property
    def slots(self) -> int:
        """Calls that it runs at once."""
        return self.info.slots or max(1, int(self.info.cores))
