"""What would happen: a workload on imagined nodes, under the scheduler of the embedded engine itself.

The scheduler is a pure state machine, events in, instructions out. :func:`simulate` tells it what imagined nodes would
tell it, and does in simulated time what it says. Every decision (where calls run, what is replicated, evicted or made
again) is therefore the engine's own; only what takes time is a model. ``docs/simulation.md`` says what that leaves out.
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
"""Jobs that are with the manager at a time, at most."""


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
