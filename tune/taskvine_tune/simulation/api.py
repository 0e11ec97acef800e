"""What would happen: a workload on imagined nodes, under the scheduler of the embedded engine itself.

The scheduler is a pure state machine, events in, instructions out. :func:`simulate` tells it what imagined nodes would
tell it, and does in simulated time what it says. Every decision (where calls run, what is replicated, evicted or made
again) is therefore the engine's own; only what takes time is a model. ``docs/simulation.md`` says what that leaves out.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from taskvine_tune.errors import BadSimulation
from taskvine_tune.simulation.workloads import GENERATORS, Job, Kind, Workload, generate, recorded
from taskvine_tune.tuning import TuneParameters

__all__ = [
    "GENERATORS",
    "Cluster",
    "Job",
    "Kind",
    "Outcome",
    "Traffic",
    "Workload",
    "compare",
    "generate",
    "recorded",
    "simulate",
    "vary",
]

WINDOW = 50_000
"""Jobs that are with the manager at a time, at most."""


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


def simulate(
    workload: Workload,
    cluster: Cluster,
    tuning: Mapping[str, Any] | None = None,
    seed: int = 0,
    *,
    window: int = WINDOW,
) -> Outcome:
    """Simulate a workload on a cluster.

    Parameters
    ----------
    workload
        See :func:`generate` and :func:`recorded`.
    cluster
        The nodes.
    tuning
        Tuning parameters; those that the embedded engine does not act on change nothing. ``max-workers`` limits the
        nodes, and ``executor.loss-interval`` adds losses: one in so many seconds, among all nodes.
    seed
        Of the losses of nodes: with the same seed, all comes out the same.
    window
        Jobs that are with the manager at a time, at most. Further ones are submitted as others end; this bounds what a
        simulation keeps in memory, beside the nodes and the files that are live.

    Returns
    -------
    Outcome
        What came of it.

    Raises
    ------
    BadSimulation
        If it never comes to an end: nodes are lost faster than any job ends.
    TuningError
        If the parameters are not valid, or in conflict with the cluster.
    """
    # The scheduler is imported here: imports of modules run from taskvine_manager to this package.
    from taskvine_tune.simulation.engine import Simulation

    if window < 1:
        raise BadSimulation(f"window must be at least 1, not {window}")
    parameters = TuneParameters(tuning).check(nodes=cluster.nodes, peer_transfers=cluster.peer_transfers)
    return Simulation(workload, cluster, parameters, seed, window).run()


def compare(
    workload: Workload,
    cluster: Cluster,
    parameter: str,
    values: Iterable[Any],
    tuning: Mapping[str, Any] | None = None,
    seeds: Iterable[int] = (0,),
) -> dict[Any, list[Outcome]]:
    """Simulate a workload once for each value of a parameter and each seed.

    Parameters
    ----------
    workload, cluster
        As for :func:`simulate`.
    parameter
        The name of a tuning parameter, or of a field of :class:`Cluster`.
    values
        What it is to be.
    tuning
        The other parameters.
    seeds
        Of the losses of nodes: the same for each value, so that what is compared had the same luck at first.

    Returns
    -------
    dict
        A list of outcomes by value, in the order of the seeds.
    """
    seeds = list(seeds)
    outcomes: dict[Any, list[Outcome]] = {}
    for value in values:
        here, parameters = vary(cluster, TuneParameters(tuning), {parameter: value})
        outcomes[value] = [simulate(workload, here, parameters, seed) for seed in seeds]
    return outcomes


def vary(
    cluster: Cluster, tuning: Mapping[str, Any] | None, setting: Mapping[str, Any]
) -> tuple[Cluster, TuneParameters]:
    """Set fields of a cluster and tuning parameters, whichever the names stand for.

    Parameters
    ----------
    cluster, tuning
        What holds otherwise.
    setting
        Values by name, with dashes or underscores.

    Returns
    -------
    tuple
        The cluster and the parameters.

    Raises
    ------
    BadSimulation, TuningError
        If there is no such name, or its value is not valid.
    """
    fields, parameters = {}, TuneParameters(tuning)
    for name, value in setting.items():
        if (field_name := name.replace("-", "_")) in Cluster.__dataclass_fields__:
            fields[field_name] = value
        else:
            parameters |= {name: value}
    return replace(cluster, **fields), parameters
