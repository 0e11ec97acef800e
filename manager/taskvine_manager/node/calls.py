"""A task on a node, and the resources of the node that its tasks share."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from taskvine_manager.node.devices import NO_GPUS, Devices, Gpus
from taskvine_manager.node.limits import Kills
from taskvine_manager.node.pinning import Cpus
from taskvine_manager.runtime.payload import Payload
from taskvine_manager.wire.messages import L1, Invocation, Profile


class Need(NamedTuple):
    """What a task takes of its node: cores, memory in MB (0 for no limit) and gpus."""

    cores: float
    memory: float
    gpus: Gpus = NO_GPUS


class Grant(NamedTuple):
    """What the processes of a task get of what a node has: names of gpus, and numbers of groups of CPUs."""

    devices: tuple[str, ...] = ()
    groups: tuple[int, ...] = ()


NO_GRANT = Grant()


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
    if library is not None and (library.gpus or library.gpu_memory):
        gpus = SHARE
    else:
        gpus = Gpus(float(profile.gpus or 0), profile.gpu_memory or 0.0)
    return Need(cores, profile.memory or 0.0, gpus)


SHARE = Gpus(1.0)
"""What a call takes of the gpus of its library: one of their shares."""


class Supply(Protocol):
    """Free resources that tasks take: those of a node, or of a library on it."""

    @property
    def cores(self) -> float:
        """Free cores."""
        ...

    def fits(self, need: Need) -> bool:
        """Return whether these resources are free."""
        ...

    def grant(self, need: Need) -> Grant:
        """Choose gpus and CPUs for a new process; what it needs must be free."""
        ...

    def suits(self, need: Need, grant: Grant) -> bool:
        """Return whether a process with this grant may run such a task now, or a new one should."""
        ...

    def has_room(self, device: str, need: Need, beside: Sequence[Need]) -> bool:
        """Return whether a gpu has room for a task, and for the tasks in ``beside``."""
        ...

    def take(self, need: Need, grant: Grant) -> None:
        """Take free resources."""
        ...

    def give(self, need: Need, grant: Grant) -> None:
        """Give resources back."""
        ...

    def visible(self, grant: Grant) -> str:
        """Return the names of the gpus that a task with this grant sees, with commas between them."""
        ...

    def cpus(self, grant: Grant) -> tuple[int, ...]:
        """Return the CPUs of a task with this grant; none if it is not bound to any."""
        ...


class Resources:
    """The free cores, memory (MB) and gpus of a node, and the CPUs of its tasks."""

    def __init__(self, cores: float, memory: float, devices: Devices | None = None, cpus: Cpus | None = None) -> None:
        self.cores = cores
        self.memory = memory
        self.devices = Devices() if devices is None else devices
        self._cpus = cpus

    def copy(self) -> Resources:
        """Return a copy without the CPUs, on which to try something."""
        return Resources(self.cores, self.memory, self.devices.copy())

    def fits(self, need: Need) -> bool:
        """Return whether these resources are free."""
        return (
            self.cores + 1e-9 >= need.cores
            and self.memory >= need.memory
            and (need.gpus == NO_GPUS or self.devices.pick(need.gpus) is not None)
        )

    def grant(self, need: Need) -> Grant:
        """Choose gpus and CPUs for a new process; what it needs must be free."""
        if need.gpus == NO_GPUS and self._cpus is None:
            return NO_GRANT
        groups = () if self._cpus is None else self._cpus.pick(need.cores)
        return Grant(self.devices.pick(need.gpus) or (), groups)

    def suits(self, need: Need, grant: Grant) -> bool:
        """Return whether a process with this grant may run such a task now.

        An idle process holds no gpus: another task may have taken those that it sees. Other tasks may also use its
        CPUs, while some that a new process would get are free.
        """
        if grant is NO_GRANT:
            return True
        if not all(self.devices.has_room(name, need.gpus) for name in grant.devices):
            return False
        cpus = self._cpus
        return cpus is None or cpus.load(grant.groups) <= cpus.load(cpus.pick(need.cores))

    def has_room(self, device: str, need: Need, beside: Sequence[Need]) -> bool:
        """Return whether a gpu has room for a task, and for the tasks in ``beside``."""
        return self.devices.has_room(device, need.gpus, [each.gpus for each in beside])

    def take(self, need: Need, grant: Grant) -> None:
        """Take free resources."""
        self.cores -= need.cores
        self.memory -= need.memory
        if grant is not NO_GRANT:
            self.devices.take(need.gpus, grant.devices)
            self._count(grant, 1)

    def give(self, need: Need, grant: Grant) -> None:
        """Give resources back."""
        self.cores += need.cores
        self.memory += need.memory
        if grant is not NO_GRANT:
            self.devices.give(need.gpus, grant.devices)
            self._count(grant, -1)

    def _count(self, grant: Grant, by: int) -> None:
        if self._cpus is not None:
            self._cpus.change(grant.groups, by)

    def visible(self, grant: Grant) -> str:
        """Return the names of the gpus that a task with this grant sees, with commas between them."""
        return ",".join(grant.devices)

    def cpus(self, grant: Grant) -> tuple[int, ...]:
        """Return the CPUs of a task with this grant; none if it is not bound to any."""
        return () if self._cpus is None else self._cpus.cpus(grant.groups)


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
        :class:`taskvine_manager.runtime.library.Library`, with ``env_vars``, ``gpu_kind``, ``slot_cores`` and
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
