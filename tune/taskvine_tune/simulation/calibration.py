"""What the record of a run says of the nodes that it ran on: how many, how large, and what each call cost there."""

from __future__ import annotations

import math
import os
import statistics
from collections.abc import Iterable
from typing import TYPE_CHECKING

from taskvine_manager.parameters import PARAMETERS
from taskvine_tune.errors import BadSimulation
from taskvine_tune.simulation.model import Cluster
from taskvine_tune.simulation.workloads import read
from taskvine_tune.tuning import TuneParameters

if TYPE_CHECKING:
    from taskvine_manager.record import Done, Record

__all__ = ["calibrate", "tuned"]

LARGE = 1 << 16
"""Bytes from which on a result is certainly a file: ``inline_limit`` ends there."""


def calibrate(record: str | os.PathLike[str] | Record) -> Cluster:
    """Find a cluster like the one that a run was recorded on.

    Taken from the record are the number of nodes (the most that there were at a time), their slots, memory, disk and
    gpus; ``startup``, from the first submission to the last of these nodes; and these medians of what invocations took:

    - ``latency``: from the end of a call with a small result until the manager knew;
    - ``overhead``: from when a slot had a call and had ended the one before it, until the call began;
    - ``setup``: the same of the first call on each node, less ``overhead``;
    - ``write_rate``: bytes of large results, by the time from the end of the call until the manager knew, less
      ``latency``.

    Records do not tell how long transfers took: bandwidths are the defaults.

    Parameters
    ----------
    record
        The file ``record.msgpack`` in an executor's log directory, or what was read of it.

    Returns
    -------
    Cluster
        See there; no losses.

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
    calls = [each for each in record.done.values() if each.outcome == 0 and each.started]
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
        latency=latency,
        overhead=overhead,
        setup=max(0.0, _middle(firsts, 0.0) - overhead),
        startup=max(0.0, time - begin),
        write_rate=_middle([size / seconds for size, seconds in large if size >= LARGE and seconds > 0], math.inf),
    )


def _after(done: Done) -> float:
    return max(0.0, done.time - done.started - done.seconds)


def _waits(calls: Iterable[Done]) -> tuple[list[float], list[float]]:
    """How long calls waited in a slot that did nothing else; apart from these, the first on each node."""
    waits: list[float] = []
    firsts: list[float] = []
    ends: dict[str, list[float]] = {}
    for each in sorted(calls, key=lambda each: each.started):
        before = ends.setdefault(each.node, [])
        free = max((end for end in before if end <= each.started), default=0.0)
        (waits if before else firsts).append(each.started - max(each.dispatched, free))
        before.append(each.started + each.seconds)
        if len(before) > 256:  # the slots of a node, and some more
            before.remove(min(before))
    return waits, firsts


def _middle(values: list[float], default: float) -> float:
    return statistics.median(values) if values else default


def tuned(record: Record) -> TuneParameters:
    """The tuning parameters that a run began with, as far as they are known here."""
    values = record.facts.get("tune_parameters", {})
    return TuneParameters({name: value for name, value in values.items() if name in PARAMETERS})
