"""Simulation of a workload on imagined nodes, with the scheduler of the embedded engine.

The scheduler is a pure state machine: events in, instructions out. :func:`simulate` gives it the events of imagined
nodes, and carries out its instructions in simulated time. Every decision (where tasks run, and which files are
replicated, evicted or recreated) is therefore the engine's own; only durations are modelled.
``docs/explanation/simulation.md`` describes the limits of the model.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from taskvine_tune.errors import BadSimulation
from taskvine_tune.simulation.model import Cluster, Outcome, Traffic
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
"""Most tasks at the manager at a time."""


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
        Tuning parameters; those that the embedded engine does not act on have no effect. ``max-workers`` limits the
        nodes, and ``executor.loss-interval`` adds losses: its value is the mean time between two losses among all
        nodes.
    seed
        Seed of the losses of nodes: the same seed gives the same outcome.
    window
        Most tasks at the manager at a time. More are submitted as others end. This bounds the memory of a simulation,
        apart from its nodes and live files.

    Returns
    -------
    Outcome
        The outcome.

    Raises
    ------
    BadSimulation
        If it would never end: nodes are lost faster than any task ends.
    TuningError
        If the parameters are not valid, or in conflict with the cluster.
    """
    # Imported late: only a simulation that runs needs the scheduler.
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
        The values to compare.
    tuning
        The other parameters.
    seeds
        Seeds of the losses of nodes. They are the same for each value, so that runs have the same losses at first.

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
    """Set fields of a cluster and tuning parameters, according to their names.

    Parameters
    ----------
    cluster, tuning
        The other values.
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
