"""Clusters calibrated from recorded runs."""

from __future__ import annotations

import math

import pytest

from taskvine_manager.record import Done, Record, Submitted
from taskvine_manager.runtime import failure
from taskvine_manager.wire.messages import Profile
from taskvine_tune.errors import BadSimulation
from taskvine_tune.simulation.api import Cluster, recorded, simulate
from taskvine_tune.simulation.calibration import calibrate, tuned

NODE = {"name": "n", "cores": 2.0, "memory": 1000.0, "disk": 500.0, "gpus": 1, "slots": None}


def ended(number: int, dispatched: float, started: float, seconds: float, after: float, size: int = 0) -> Done:
    made = ((f"r{number}", size),) if size > 65536 else ()
    return Done(number, failure.RETURNED, "n", dispatched, started, seconds, size, made, "", started + seconds + after)


def record(*calls: Done, nodes: int = 1, joined: float = 0.0, slots: int | None = None) -> Record:
    return Record(
        facts={"tune_parameters": {"temp-replica-count": 2.0, "immediate-recovery": 1.0, "of-another-version": 3.0}},
        profiles={0: Profile(0, "", "f", "L2", None, None, None, None, 0.0, "f")},
        submitted={call.number: Submitted(call.number, 0, 0, (), (), 100.0) for call in calls},
        done={call.number: call for call in calls},
        nodes=[(50.0, []), (joined, [{**NODE, "name": f"n{place}", "slots": slots} for place in range(nodes)])],
        ended=1000.0,
    )


def test_costs_of_calls_are_measured() -> None:
    run = record(
        ended(0, 101.0, 104.0, 1.0, 0.01),  # the first: 3 s until it began
        ended(1, 101.0, 105.5, 1.0, 0.01),  # half a second after the one before it had ended
        ended(2, 110.0, 110.5, 1.0, 0.01),
        ended(3, 120.0, 120.5, 1.0, 2.01, size=10_000_000),
        joined=100.5,
    )
    cluster = calibrate(run)
    assert (cluster.nodes, cluster.slots, cluster.memory, cluster.gpus) == (1, 2, 1000.0, 1)
    assert cluster.disk == 500 * 2**20
    assert cluster.startup == pytest.approx(0.5)
    assert cluster.latency == pytest.approx(0.01)
    assert cluster.overhead == pytest.approx(0.5)
    assert cluster.setup == pytest.approx(2.5)
    assert cluster.write_rate == pytest.approx(5e6)
    assert cluster.loss_rate == 0


def test_unrecorded_costs_are_zero() -> None:
    cluster = calibrate(record(nodes=3, joined=10.0, slots=7))
    assert (cluster.nodes, cluster.slots) == (3, 7)
    assert (cluster.startup, cluster.overhead, cluster.setup) == (0.0, 0.0, 0.0)
    assert cluster.latency == Cluster.latency
    assert math.isinf(cluster.write_rate)
    with pytest.raises(BadSimulation, match="names no nodes"):
        calibrate(Record())
    with pytest.raises(BadSimulation, match="cannot be read"):
        calibrate("/nothing/such")


def test_simulated_run_takes_as_long() -> None:
    """Calls one after another, with the costs measured here, are simulated to the second."""
    calls, now = [], 101.0
    for number in range(20):
        dispatched = now + 2 * 0.125  # the node reports that it is free, and is sent the next call
        began = dispatched + (3.0 if number == 0 else 0.25)
        calls.append(ended(number, dispatched, began, 2.0, 0.125))
        now = began + 2.0
    run = record(*calls, joined=101.0)
    run.nodes[-1][1][0]["cores"] = 1.0
    workload, cluster = recorded(run), calibrate(run)
    assert workload.measured == pytest.approx(1.0 + 3.0 + 19 * 0.25 + 20 * (2.0 + 2 * 0.125) + 0.125)
    assert simulate(workload, cluster).makespan == pytest.approx(workload.measured)


def test_parameters_of_a_run_are_read() -> None:
    assert tuned(record()) == {"temp-replica-count": 2, "immediate-recovery": True}
    assert tuned(Record()) == {}
