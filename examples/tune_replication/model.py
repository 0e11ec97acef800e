"""Measured runs, and simulations of the same: the recorded graph of one run on simulated nodes that are lost."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from taskvine_manager.record import Record, Submitted, read_record
from taskvine_manager.wire.messages import FileUse
from taskvine_tune.simulation.api import Cluster, Outcome, recorded, simulate
from taskvine_tune.simulation.calibration import calibrate
from taskvine_tune.sweep import Run

QUANTITIES = ("seconds", "storage", "reexecutions", "losses")

BANDWIDTH = 1e9
"""Bytes per second with which a file is copied from one directory of this machine to another."""
REPLACED = 1.0
"""Seconds until a lost node is replaced, used if no run has lost one."""
POINTS = 4
"""Number of loss rates for which curves are simulated, besides 0 and the measured ones."""
WARM_UP = "meet"
"""The app with which the workflow begins, and which is not measured."""
LOOK = "heat"
"""The app for whose results the workflow waits before it continues."""

median = statistics.median
Key = TypeVar("Key", bound=Hashable)
Item = TypeVar("Item")


@dataclass(frozen=True)
class Measured:
    """One run.

    Parameters
    ----------
    degree
        Replication degree: the number of nodes that hold each result.
    rate
        Average losses per second, of all nodes together.
    seconds
        Time from the first step's submission until the result was there.
    storage
        Peak of the data on all nodes together, in MB.
    reexecutions
        Number of attempts beyond the first of each task.
    losses
        Number of killed nodes.
    record
        The path of its record.
    """

    degree: int
    rate: float
    seconds: float
    storage: float
    reexecutions: float
    losses: float
    record: str

    @classmethod
    def of(cls, run: Run, said: Mapping[str, Any]) -> Measured:
        """Combine the measurements of the sweep, the executor and the workflow."""
        interval = run.setting["executor.loss-interval"]
        report = run.report
        return cls(
            degree=int(run.setting["temp-replica-count"]),
            rate=1 / interval if interval else 0.0,
            seconds=said["seconds"],
            storage=(report.storage_peak_bytes or 0.0) / 1e6,
            reexecutions=report.reexecutions or 0.0,
            losses=report.losses or 0.0,
            record=said["record"],
        )

    def __str__(self) -> str:
        return (
            f"{self.seconds:.2f} s, {self.storage:.0f} MB at most, {self.losses:g} nodes lost, "
            f"{self.reexecutions:g} re-executions"
        )


@dataclass(frozen=True)
class Curve:
    """The simulations for one degree: times (s) and peaks of storage (MB) by loss rate, one for each seed."""

    degree: int
    rates: tuple[float, ...]
    seconds: tuple[tuple[float, ...], ...]
    storage: tuple[tuple[float, ...], ...]


def grouped(items: Iterable[Item], key: Callable[[Item], Key]) -> dict[Key, list[Item]]:
    """Group items by a key, in the order of the keys."""
    groups: dict[Key, list[Item]] = {}
    for item in items:
        groups.setdefault(key(item), []).append(item)
    return dict(sorted(groups.items(), key=lambda group: group[0]))  # type: ignore[arg-type, return-value]


def calmest(measured: Sequence[Measured]) -> Record:
    """Return the record of the run with the fewest losses, to which the simulation is fitted and which it replays."""
    run = min(measured, key=lambda each: (each.rate, each.losses, each.degree))
    return without_warm_up(read_record(run.record))


def cluster(measured: Sequence[Measured], nodes: int) -> Cluster:
    """Return simulated nodes like the measured ones.

    The overhead of tasks comes from the run with the fewest losses. The time to replace a node comes from all runs with
    losses.
    """
    waits = [wait for each in measured if each.losses for wait in replacements(read_record(each.record))]
    return dataclasses.replace(
        calibrate(calmest(measured)),
        nodes=nodes,
        bandwidth=BANDWIDTH,
        startup=median(waits) if waits else REPLACED,
        setup=0.0,  # included in startup
        retries=None,
    )


def without_warm_up(record: Record) -> Record:
    numbers = {number for number, each in record.submitted.items() if _app(record, number) != WARM_UP}
    return dataclasses.replace(
        record,
        submitted={number: record.submitted[number] for number in record.submitted if number in numbers},
        done={number: record.done[number] for number in record.done if number in numbers},
    )


def as_the_program_goes(record: Record) -> Record:
    """Add properties of the program that the graph lacks, for a replay in which tasks end in another order.

    The program waits: it submits nothing after a :data:`LOOK` before that has ended. It does not hold results that have
    been read: a file that was read and then forgotten counts as forgotten from the start.
    """
    submitted: dict[int, Submitted] = {}
    looks: list[FileUse] = []
    waited: list[FileUse] = []
    for number, each in record.submitted.items():
        if _app(record, number) == LOOK:
            looks += each.outputs
        elif looks:
            waited, looks = looks, []
        submitted[number] = each._replace(inputs=(*each.inputs, *waited))
    read = {use.source for each in submitted.values() for use in each.inputs}
    forgotten = {file: record.started if file in read else time for file, time in record.forgotten.items()}
    return dataclasses.replace(record, submitted=submitted, forgotten=forgotten)


def _app(record: Record, number: int) -> str:
    return record.profiles[record.submitted[number].profile].name


def replacements(record: Record) -> list[float]:
    """Return the seconds from each loss of a node to the first task on its replacement."""
    lost: list[float] = []
    came: list[str] = []
    known: set[str] = set()
    for time, nodes in record.nodes:
        names = {node["name"] for node in nodes}
        lost += [time] * len(known - names)
        if lost:  # nodes that came before are the initial ones
            came += sorted(names - known)
        known = names
    first: dict[str, float] = {}
    for done in record.done.values():
        first[done.node] = min(done.started, first.get(done.node, done.started))
    pairs = zip(lost, came, strict=False)  # the last lost nodes may not have been replaced in time
    return [first[name] - time for time, name in pairs if first.get(name, 0.0) > time]


def curves(measured: Sequence[Measured], like: Cluster, simulations: int) -> list[Curve]:
    """Simulate the graph of a run without losses for every degree, from no losses to the highest measured rate.

    Parameters
    ----------
    measured
        The runs.
    like
        The nodes.
    simulations
        Number of simulations of each point, with different losses.

    Returns
    -------
    list of Curve
        One for each degree.
    """
    # Not paced: with losses, the program would not submit tasks at the recorded times.
    workload = recorded(as_the_program_goes(calmest(measured)), paced=False)
    tried = {each.rate for each in measured}
    rates = tuple(sorted({*tried, *(float(rate) for rate in np.linspace(0, max(tried), POINTS + 1))}))
    found = []
    for degree in sorted({each.degree for each in measured}):
        tuning = {"temp-replica-count": degree, "transfer-temps-recovery": True}
        outcomes: list[list[Outcome]] = []
        for rate in rates:
            # loss_rate is per hour and node.
            lossy = dataclasses.replace(like, loss_rate=3600 * rate / like.nodes)
            seeds = range(simulations) if rate else range(1)
            outcomes.append([simulate(workload, lossy, tuning, seed) for seed in seeds])
        found.append(
            Curve(
                degree,
                rates,
                # Simulated nodes start with the work; real ones had started before.
                tuple(tuple(each.makespan - like.startup for each in group) for group in outcomes),
                tuple(tuple(each.storage_peak / 1e6 for each in group) for group in outcomes),
            )
        )
    return found
