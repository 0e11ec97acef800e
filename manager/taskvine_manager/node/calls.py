"""A task on a node, and the resources of the node that its tasks share."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple, Protocol

from taskvine_manager.node.limits import Kills
from taskvine_manager.runtime.payload import Payload
from taskvine_manager.wire.messages import L1, Invocation, Profile

Need = tuple[float, float, int]
"""Cores, memory in MB (0 for no limit) and gpus."""


def shares(cores: float, slots: int | None) -> tuple[float, float]:
    """Return the cores of an L1 task and of a function call that request none.

    Parameters
    ----------
    cores : float
        Cores of the node.
    slots : int or None
        Configured number of slots; None for as many as there are cores.
    """
    process = min(1.0, cores)
    return process, cores / slots if slots else process


def needed(profile: Profile, process_cores: float, slot_cores: float) -> Need:
    """Return what a task takes of its node; see :func:`shares`."""
    cores, library = profile.cores, profile.library
    if cores is None:
        cores = process_cores if profile.mode == L1 or library is not None else slot_cores
    gpus = 1 if library is not None and library.gpus else profile.gpus or 0  # one share of the library's gpus
    return cores, profile.memory or 0.0, gpus


class Supply(Protocol):
    """Free resources that tasks take: those of a node, or of a library on it."""

    @property
    def cores(self) -> float: ...
    @property
    def gpus(self) -> list[str]: ...

    def fits(self, cores: float, memory: float, gpus: int) -> bool: ...
    def take(self, cores: float, memory: float, gpus: Iterable[str]) -> None: ...
    def give(self, cores: float, memory: float, gpus: Iterable[str]) -> None: ...
    def visible(self, gpus: Iterable[str]) -> str:
        """Return the ``CUDA_VISIBLE_DEVICES`` of a task that has taken these gpus."""
        ...


class Resources:
    """The free cores, memory (MB) and gpus of a node."""

    def __init__(self, cores: float, memory: float, gpus: list[str]) -> None:
        self.cores = cores
        self.memory = memory
        self.gpus = list(gpus)

    def fits(self, cores: float, memory: float, gpus: int) -> bool:
        """Return whether these resources are free."""
        return self.cores + 1e-9 >= cores and self.memory >= memory and len(self.gpus) >= gpus

    def take(self, cores: float, memory: float, gpus: Iterable[str]) -> None:
        """Take free resources."""
        self.cores -= cores
        self.memory -= memory
        self.gpus = [gpu for gpu in self.gpus if gpu not in set(gpus)]

    def give(self, cores: float, memory: float, gpus: Iterable[str]) -> None:
        """Give resources back."""
        self.cores += cores
        self.memory += memory
        self.gpus = sorted([*self.gpus, *gpus])

    def visible(self, gpus: Iterable[str]) -> str:
        """Return the ``CUDA_VISIBLE_DEVICES`` of a task that has taken these gpus."""
        return ",".join(gpus)


class Call:
    """A task on the node: its needs and its state."""

    __slots__ = (
        "behind",
        "directory",
        "dispatched",
        "given",
        "invocation",
        "kill_record",
        "left",
        "need",
        "profile",
        "retried",
        "supply",
        "tries",
        "values",
    )

    def __init__(self, invocation: Invocation, profile: Profile, need: Need) -> None:
        self.invocation = invocation
        self.profile = profile
        self.need = need
        self.dispatched = 0.0
        self.directory: str | None = None
        self.values: dict[str, Payload] = {}
        """Small results that it reads, encoded."""
        self.behind: set[str] = set()
        """Files that this task waits for, because other tasks here make them or the node fetches them."""
        self.supply: Any = None
        """What the manager sent for its inputs; kept while it waits."""
        self.given: Payload | None = None
        """``values`` as one payload, once it is sent to a slot."""
        self.kill_record: bytes | None = None
        """The failure record to report if its process is killed on purpose; None if it is not."""
        self.left: tuple[str, ...] = ()
        """Undeclared files that it wrote in a private directory."""
        self.tries = 0
        """Slot deaths that it has seen without being lost."""
        self.retried = False
        """Whether it ran in a library that died, and runs once more."""


class Ending(NamedTuple):
    """The end of a task, as in a Completion."""

    outcome: int
    body: Payload
    started: float
    seconds: float
    made: tuple[tuple[str, int, int], ...] = ()


Report = Callable[[Call, int, Payload, float, float], None]
"""Handles the end of a task: ``(call, outcome, body, started, seconds)``."""


class Shared(NamedTuple):
    """What function slots and L1 tasks of a node share.

    Parameters
    ----------
    config : dict
        Settings of the processes: the first packet to the library, see
        :class:`taskvine_manager.runtime.library.Library`, with ``env_vars``, ``has_gpus``, ``slot_cores`` and
        ``temporary``.
    functions : mapping of str to (bytes or str)
        The functions of the tasks, encoded.
    resources : Supply
        The resources that they take.
    report : callable
        Called with ``(call, outcome, body, started, seconds)`` for each task that has ended.
    kills : Kills
        Detects processes that the system has killed for lack of memory.
    """

    config: dict[str, Any]
    functions: Mapping[str, Payload]
    resources: Supply
    report: Report
    kills: Kills
