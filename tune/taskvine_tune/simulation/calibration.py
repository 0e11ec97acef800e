"""Estimates from the record of a run: the number and size of its nodes, and the overhead of each task."""

from __future__ import annotations

import math
import os
import statistics
from collections.abc import Iterable
from typing import TYPE_CHECKING

from taskvine_manager.parameters import PARAMETERS
from taskvine_manager.parameters.own import INLINE_LIMIT
from taskvine_manager.runtime.failure import RETURNED
from taskvine_tune.errors import BadSimulation
from taskvine_tune.simulation.model import Cluster
from taskvine_tune.simulation.workloads import read
from taskvine_tune.tuning import TuneParameters

if TYPE_CHECKING:
    from taskvine_manager.record import Done, Record

__all__ = ["calibrate", "tuned"]

LARGE = INLINE_LIMIT.maximum
"""Size in bytes from which a result is certainly a file."""


def calibrate(record: str | os.PathLike[str] | Record) -> Cluster:
    """Find a cluster like the one that a run was recorded on.

    From the record it takes the largest number of nodes at a time, their slots, memory, disk and GPUs. ``startup`` is
    the time from the first submission until the last of these nodes joined. The others are medians over tasks:

    - ``latency``: from the end of a task with a small result until the manager knew;
    - ``overhead``: from when a slot had a task and had ended the one before, until the task began;
    - ``setup``: the same of the first task on each node, minus ``overhead``;
    - ``write_rate``: bytes of large results, divided by the time from the end of the task until the manager knew, minus
      ``latency``.

    Records do not contain the duration of transfers: bandwidths are the defaults.

    Parameters
    ----------
    record
        The file ``record.msgpack`` in an executor's log directory, or a record that was read already.

    Returns
    -------
    Cluster
        The cluster, without losses.

    Raises
    ------
    BadSimulation
        If the record cannot be read, or names no nodes.
    """
    record = read(record)
    crowds = [nodes for _, nodes in record.nodes if nodes]
    if not crowds:
        raise BadSimulation("the record names no nodes")
    most = max(len(nodes) for nodes in crowds)
    time, nodes = next((time, nodes) for time, nodes in record.nodes if len(nodes) == most)
    first = nodes[0]
    slots = int(first["slots"] or max(1.0, first["cores"]))
    begin = min((each.time for each in record.submitted.values()), default=time)
    calls = [each for each in record.done.values() if each.outcome == RETURNED and each.started]
    small = [_after(each) for each in calls if sum(size for _, size in each.made) < LARGE and each.size < LARGE]
    latency = _middle(small, Cluster.latency)
    large = [(sum(size for _, size in each.made), _after(each) - latency) for each in calls]
    waits, firsts = _waits(calls)
    overhead = _middle(waits, 0.0)
    return Cluster(
        most,
        slots,
        disk=first["disk"] * 2**20 if first["disk"] >= 1 else 0,
        memory=first["memory"],
        gpus=first["gpus"],
        gpu_memory=min(first.get("gpu_memory") or [0.0]),
        latency=latency,
        overhead=overhead,
        setup=max(0.0, _middle(firsts, 0.0) - overhead),
        startup=max(0.0, time - begin),
        write_rate=_middle([size / seconds for size, seconds in large if size >= LARGE and seconds > 0], math.inf),
    )


def _after(done: Done) -> float:
    return max(0.0, done.time - done.started - done.seconds)


def _waits(calls: Iterable[Done]) -> tuple[list[float], list[float]]:
    """Return how long tasks waited in an idle slot; the first tasks on each node are in a second list."""
    waits: list[float] = []
    firsts: list[float] = []
    ends: dict[str, list[float]] = {}
    for each in sorted(calls, key=lambda each: each.started):
        before = ends.setdefault(each.node, [])
        free = max((end for end in before if end <= each.started), default=0.0)
        (waits if before else firsts).append(each.started - max(each.dispatched, free))
        before.append(each.started + each.seconds)
        if len(before) > 256:  # more than the slots of a node
            before.remove(min(before))
    return waits, firsts


def _middle(values: list[float], default: float) -> float:
    return statistics.median(values) if values else default


def tuned(record: Record) -> TuneParameters:
    """Return the tuning parameters at the start of a run, as far as they are known here."""
    values = record.facts.get("tune_parameters", {})
    return TuneParameters({name: value for name, value in values.items() if name in PARAMETERS})
