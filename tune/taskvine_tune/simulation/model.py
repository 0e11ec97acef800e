"""Data of a simulation: the cluster, its traffic and the outcome."""

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
        Cores of each. A task that requests nothing takes one, unless the parameter ``executor.library-slots`` is set.
    disk
        Bytes of temp files that each can hold; 0 for no limit. They are rounded down to whole MiB.
    bandwidth
        Bytes per second that each node can send, and receive at the same time.
    loss_rate
        Losses per node and hour. The time until a node is lost is exponentially distributed.
    manager_bandwidth
        Bytes per second that the manager can send, and receive at the same time. It also sends the user's files.
    latency
        Seconds that a message takes, between the manager and a node or between nodes.
    startup
        Seconds until a node joins, from the beginning or from the loss of the node that it replaces.
    replace
        Whether lost nodes are replaced.
    overhead
        Seconds that a task occupies its resources beyond its run time.
    setup
        Additional seconds of the first tasks on a node, as many as it has slots: they load functions and their imports.
    write_rate
        Bytes per second at which a task writes results that are too large for its completion message.
    memory
        MB of each node.
    gpus
        GPUs of each node.
    gpu_memory
        Memory of each GPU in MB; 0 if it is not known.
    retries
        Retries of a task whose node was lost; None for no limit. The executor's ``max_retries``.
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
    gpu_memory: float = 0.0
    retries: int | None = None
    peer_transfers: bool = True

    def __post_init__(self) -> None:
        for name, least in (("nodes", 1), ("slots", 1), ("gpus", 0)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise BadSimulation(f"{name} must be a whole number of at least {least}, not {value!r}")
        for name in ("disk", "loss_rate", "latency", "startup", "overhead", "setup", "memory", "gpu_memory"):
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
    """Number and total size in bytes of completed transfers."""

    transfers: int
    size: int


@dataclass(frozen=True)
class Outcome:
    """Outcome of a simulation.

    Two outcomes are equal if the same happened, whatever the processor time.

    Parameters
    ----------
    makespan
        Seconds from the beginning, when the nodes are started, until the last task has ended and the user has the
        results.
    storage_peak
        Most bytes of temp files on all nodes together.
    moved
        Bytes that nodes have sent to each other.
    rerun
        Repeated runs of tasks: of tasks that ran on a lost node, and of tasks that recreate files.
    recovered
        Tasks that ran again to recreate lost or evicted files.
    done, failed
        Tasks that returned; tasks that did not, because no node could ever hold them, because they ran out of retries
        or disk space, or because no node was left.
    undelivered
        Results that could not be brought to the user.
    transfers
        By the source of the bytes: ``"nodes"``, ``"manager"`` (files that passed through its directory), ``"user"``
        (the user's files), and ``"results"`` (brought to the user).
    evicted
        Replicas that were evicted.
    lost_nodes
        Nodes that were lost.
    utilization
        The share of the nodes' time in which their slots ran tasks.
    decisions
        Tasks that were assigned to nodes.
    scheduling_seconds
        Seconds of processor time in the scheduler.
    events
        Events that the scheduler received.
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
        """Tasks assigned to nodes per second of processor time in the scheduler."""
        return self.decisions / self.scheduling_seconds if self.scheduling_seconds else math.inf

    def as_dict(self) -> dict[str, Any]:
        """Return all values, as JSON can represent them."""
        values = {name: getattr(self, name) for name in self.__dataclass_fields__}
        traffic = {source: each._asdict() for source, each in self.transfers.items()}
        return {**values, "transfers": traffic, "decisions_per_second": self.decisions_per_second}
