"""What is simulated, and what comes of it: the cluster, its traffic and the outcome."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from taskvine_tune.errors import BadSimulation

__all__ = ["Cluster", "Outcome", "Traffic"]


@dataclass(frozen=True)
class Cluster:
    """Imagined nodes, all alike.

    Parameters
    ----------
    nodes
        How many there are.
    slots
        Cores of each. A job that asks for nothing takes one, unless the parameter ``executor.library-slots`` is set.
    disk
        Bytes of temp files that each can hold; 0 for no limit. Bytes beyond a whole MiB are of no use.
    bandwidth
        Bytes a second that each can send, and receive at the same time.
    loss_rate
        Losses per node and hour. Times to a node's loss are exponentially distributed.
    manager_bandwidth
        Bytes a second that the manager, and the user's files, can send, and receive at the same time.
    latency
        Seconds that a message takes, between the manager and a node or between nodes.
    startup
        Seconds until a node joins: from the beginning, and from the loss of the node whose place it takes.
    replace
        Whether another node takes the place of one that was lost.
    overhead
        Seconds that a call takes a place for, beside its run time.
    setup
        Seconds that a node's first calls take for their places in addition, as many of them as there are slots:
        functions are loaded, and what they import.
    write_rate
        Bytes a second that a call writes its results with, where they are too large to travel with its end.
    memory
        MB of each node.
    gpus
        Of each node.
    retries
        How often a job is tried again after its node was lost; None for ever. The executor's ``max_retries``.
    peer_transfers
        Whether nodes send files to each other.
    """

    nodes: int
    slots: int = 1
    disk: float = 0
    bandwidth: float = 1.25e9
    loss_rate: float = 0.0
    manager_bandwidth: float = 1.25e9
    latency: float = 0.0005
    startup: float = 0.0
    replace: bool = True
    overhead: float = 0.0
    setup: float = 0.0
    write_rate: float = math.inf
    memory: float = 1e6
    gpus: int = 0
    retries: int | None = None
    peer_transfers: bool = True

    def __post_init__(self) -> None:
        for name, least in (("nodes", 1), ("slots", 1), ("gpus", 0)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise BadSimulation(f"{name} must be a whole number of at least {least}, not {value!r}")
        for name in ("disk", "loss_rate", "latency", "startup", "overhead", "setup", "memory"):
            value = getattr(self, name)
            if not 0 <= value < math.inf:
                raise BadSimulation(f"{name} must be a number of at least 0, not {value!r}")
        for name in ("bandwidth", "manager_bandwidth", "write_rate"):
            if not getattr(self, name) > 0:
                raise BadSimulation(f"{name} must be above 0, not {getattr(self, name)!r}")
        if 0 < self.disk < 1 << 20:
            raise BadSimulation(f"disk must be at least 1 MiB, or 0 for no limit, not {self.disk!r} bytes")
        if self.retries is not None and self.retries < 0:
            raise BadSimulation(f"retries must be at least 0, not {self.retries!r}")


class Traffic(NamedTuple):
    """Transfers that came to their ends: how many, and their size together in bytes."""

    transfers: int
    size: int


@dataclass(frozen=True)
class Outcome:
    """What came of a simulation.

    Two of them are equal if the same happened, however long the computer took for it.

    Parameters
    ----------
    makespan
        Seconds from the beginning, when the nodes are started, until the last job has ended and the user has what was
        to be brought home.
    storage_peak
        Bytes of temp files on all nodes together, at most.
    moved
        Bytes that nodes have sent to each other.
    rerun
        Runs of jobs that had been begun before: what was running on a node that was lost, and what had ended and was
        made again.
    recovered
        How many of these made again what had been lost, or evicted.
    done, failed
        Jobs that returned; jobs that did not, because no node could ever hold them, because they ran out of tries or
        room, or because no node was left.
    undelivered
        Results that were to be brought to the user, and could not be.
    transfers
        By where bytes came from: ``"nodes"``, ``"manager"`` (files that passed through its directory), ``"user"`` (the
        user's files), and ``"results"`` (brought to the user).
    evicted
        Replicas that were removed to make room.
    lost_nodes
        Nodes that were lost.
    utilization
        The share of the nodes' time, while there were jobs, in which their slots ran jobs.
    decisions
        Jobs that were given to nodes.
    scheduling_seconds
        Seconds of processor time inside of the scheduler.
    events
        How often it was told something.
    """

    makespan: float
    storage_peak: int
    moved: int
    rerun: int
    recovered: int
    done: int
    failed: int
    undelivered: int
    transfers: Mapping[str, Traffic]
    evicted: int
    lost_nodes: int
    utilization: float
    decisions: int
    events: int
    scheduling_seconds: float = field(compare=False)

    @property
    def decisions_per_second(self) -> float:
        """Jobs given to nodes in each second of processor time inside of the scheduler."""
        return self.decisions / self.scheduling_seconds if self.scheduling_seconds else math.inf

    def as_dict(self) -> dict[str, Any]:
        """All of it, of what JSON knows."""
        values = {name: getattr(self, name) for name in self.__dataclass_fields__}
        traffic = {source: each._asdict() for source, each in self.transfers.items()}
        return {**values, "transfers": traffic, "decisions_per_second": self.decisions_per_second}
