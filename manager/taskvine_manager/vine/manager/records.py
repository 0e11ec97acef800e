"""The core's records of tasks, TaskVine tasks, temp files and workers."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from taskvine_manager.vine.manager.batching import Need, Room
from taskvine_manager.vine.worker.worker import MARK
from taskvine_manager.wire.messages import L1, Invocation, NodeInfo, Profile

HOME = "manager"
"""Stands for a node's name if a file is on the manager's machine."""


class Job:
    """A task in the core.

    ``alone`` is whether it must not share a parcel, ``suspect`` whether it may have brought a worker down. ``tries``
    counts its attempts that were charged, and ``renewals`` those that failed because a node had lost an input.
    ``flight`` is the flight that it is in, if any.
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
    """Return the resources that a task is counted with; one core if the user asked for nothing."""
    cores = 1.0 if profile.cores is None else profile.cores
    return Need(cores, profile.memory or 0.0, profile.disk or 0.0, float(profile.gpus or 0))


@dataclass(frozen=True)
class Greeting:
    """Errand: ask a worker's supervisor for its resources."""


@dataclass(frozen=True)
class Rescue:
    """Errand: send a worker a parcel that reads temp files, so that it copies them."""

    files: tuple[str, ...]


@dataclass(frozen=True)
class Copy:
    """Errand: send one more worker a copy of a temp file, because the user wants more replicas."""

    file: str


@dataclass(frozen=True)
class Fetch:
    """Errand: read a piece of a temp file that the user has asked for."""

    file: str


@dataclass(frozen=True)
class Probe:
    """Errand: read one input of a task on the node that gave the task up, to see if the node has it."""

    file: str
    case: Case


@dataclass(eq=False)
class Case:
    """Tasks that their node gave up; ``open`` counts the inputs to check, and ``bad`` lists the missing ones."""

    jobs: list[Job]
    open: int = 0
    bad: list[str] = field(default_factory=list)


@dataclass(eq=False)
class Flight:
    """A TaskVine task of the engine, or a series of them: each collection of a parcel's open results takes another.

    ``room`` is the room of the node that it was placed on, and ``taken`` the resources counted there for it, None for a
    batch. ``pinned`` is the address of the node that it is tied to, and ``node`` the address where it was last seen.
    ``temps`` counts the temp files that it creates or has created. Its inputs are released once it has ``landed`` and
    these files are gone: until then TaskVine may run it again to recreate them. The temp files that it ``reads``, the
    results that it names by path (``reads_by_path``) and the ``functions`` of its tasks are needed for as long.
    ``given`` maps those of its inputs that nodes cache to their kinds, by name or path.
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
        """Address of the node that it is on or goes to, if known."""
        return self.node or self.pinned


@dataclass(eq=False)
class TempFile:
    """A temp file, and the means to recreate it.

    ``node`` is the name of one node that has it, empty until it is created. ``rescue`` is the address of a node that is
    to copy it, and ``gone`` whether it is lost for good. ``readers`` counts the flights that would read it if they ran
    again. ``replicas`` is the number of nodes on which the user wants it, 0 for TaskVine's usual number. ``copies``
    holds the addresses of the nodes that were sent a copy.
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
    """A worker as TaskVine describes it; a worker that we have not started has no block, and its name is its address.

    Parameters
    ----------
    address : str
        ``HOST:PORT`` of its connection.
    said : dict
        TaskVine's status of it.
    slots : int or None
        Function slots, if the user has set their number.
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
        """Tasks that it runs at once."""
        return self.info.slots or max(1, int(self.info.cores))
