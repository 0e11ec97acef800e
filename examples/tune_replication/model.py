"""What was measured, and the same simulated: the recorded graph of one run, on imagined nodes that are lost."""

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
"""Bytes a second that a file is copied with from one directory of this machine to another."""
REPLACED = 1.0
"""Seconds until a lost node is replaced, where no run has lost one."""
POINTS = 4
"""Rates of losses that curves are simulated for, beside 0 and those that were measured."""
WARM_UP = "meet"
"""The app that the workflow begins with, and that is no part of what is measured."""
LOOK = "heat"
"""The app whose results the workflow waits for before it goes on."""

median = statistics.median
Key = TypeVar("Key", bound=Hashable)
Item = TypeVar("Item")


@dataclass(frozen=True)
class Measured:
    """One run.

    Parameters
    ----------
    degree
        Nodes that were to hold each result.
    rate
        Losses of nodes a second, on average, of all nodes together.
    seconds
        From the first step's submission until the result was there.
    storage
        The most that all nodes together have held, in MB.
    reexecutions
        Runs of tasks beyond the first of each.
    losses
        Nodes that were killed.
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
        """Put together what the sweep, the executor and the workflow have measured."""
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
    """What was simulated for a degree: times (s) and peaks of storage (MB) by rate of losses, one for each seed."""

    degree: int
    rates: tuple[float, ...]
    seconds: tuple[tuple[float, ...], ...]
    storage: tuple[tuple[float, ...], ...]


def grouped(items: Iterable[Item], key: Callable[[Item], Key]) -> dict[Key, list[Item]]:
    """Items by a key, in the keys' order."""
    groups: dict[Key, list[Item]] = {}
    for item in items:
        groups.setdefault(key(item), []).append(item)
    return dict(sorted(groups.items(), key=lambda group: group[0]))  # type: ignore[arg-type, return-value]


def calmest(measured: Sequence[Measured]) -> Record:
    """The record of a run without losses, or with as few as there are: what is simulated, and what it is fitted to."""
    run = min(measured, key=lambda each: (each.rate, each.losses, each.degree))
    return _without_warm_up(read_record(run.record))


def cluster(measured: Sequence[Measured], nodes: int) -> Cluster:
    """Imagined nodes like those that were measured.

    What calls cost beside their run times comes from the calmest run, and how long it takes to replace a node from all
    those with losses.
    """
    waits = [wait for each in measured if each.losses for wait in _replacements(read_record(each.record))]
    return dataclasses.replace(
        calibrate(calmest(measured)),
        nodes=nodes,
        bandwidth=BANDWIDTH,
        startup=median(waits) if waits else REPLACED,
        setup=0.0,  # it is in the above
        retries=None,
    )


def _without_warm_up(record: Record) -> Record:
    numbers = {number for number, each in record.submitted.items() if _app(record, number) != WARM_UP}
    return dataclasses.replace(
        record,
        submitted={number: record.submitted[number] for number in record.submitted if number in numbers},
        done={number: record.done[number] for number in record.done if number in numbers},
    )


def _as_the_program_goes(record: Record) -> Record:
    """What the graph alone does not say of the program, for a replay in which things end in another order.

    It waits: nothing is submitted behind a look before that has been taken. And it holds nothing that has been read:
    what the record says is forgotten, a millisecond after it was read for the last time, is from the beginning.
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


def _replacements(record: Record) -> list[float]:
    """Seconds from the loss of a node to the first call on the node that takes its place."""
    lost: list[float] = []
    came: list[str] = []
    known: set[str] = set()
    for time, nodes in record.nodes:
        names = {node["name"] for node in nodes}
        lost += [time] * len(known - names)
        if lost:  # those that came before were there from the beginning
            came += sorted(names - known)
        known = names
    first: dict[str, float] = {}
    for done in record.done.values():
        first[done.node] = min(done.started, first.get(done.node, done.started))
    pairs = zip(lost, came, strict=False)  # the last may have had no time to be replaced
    return [first[name] - time for time, name in pairs if first.get(name, 0.0) > time]


def curves(measured: Sequence[Measured], like: Cluster, simulations: int) -> list[Curve]:
    """Simulate the graph of a run without losses for every degree, from no losses to the most that were tried.

    Parameters
    ----------
    measured
        The runs.
    like
        The nodes.
    simulations
        How often, each time with other losses.

    Returns
    -------
    list of Curve
        One for each degree.
    """
    # Not at its pace: that of a run without losses would be none with them.
    workload = recorded(_as_the_program_goes(calmest(measured)), paced=False)
    tried = {each.rate for each in measured}
    rates = tuple(sorted({*tried, *(float(rate) for rate in np.linspace(0, max(tried), POINTS + 1))}))
    found = []
    for degree in sorted({each.degree for each in measured}):
        tuning = {"temp-replica-count": degree, "transfer-temps-recovery": True}
        outcomes: list[list[Outcome]] = []
        for rate in rates:
            # The nodes' rate is an hour's, and for each of them.
            lossy = dataclasses.replace(like, loss_rate=3600 * rate / like.nodes)
            seeds = range(simulations) if rate else range(1)
            outcomes.append([simulate(workload, lossy, tuning, seed) for seed in seeds])
        found.append(
            Curve(
                degree,
                rates,
                # Imagined nodes start with the work, real ones were there.
                tuple(tuple(each.makespan - like.startup for each in group) for group in outcomes),
                tuple(tuple(each.storage_peak / 1e6 for each in group) for group in outcomes),
            )
        )
    return found
