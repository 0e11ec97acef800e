"""Simulations: cases with a known outcome, bounds that always hold, and the effects of losses."""

from __future__ import annotations

import dataclasses
import math
import os
import random
import subprocess
import sys
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from taskvine_tune.errors import BadSimulation, TuningError
from taskvine_tune.simulation.api import Cluster, Outcome, Traffic, compare, generate, simulate, vary
from taskvine_tune.simulation.workloads import Job, Kind, Result, Workload

MB = 1 << 20

#: Nodes where everything takes no time, except what a test sets.
QUICK: dict[str, Any] = {"latency": 0.0, "bandwidth": math.inf, "manager_bandwidth": math.inf}


def workload(*jobs: Job, **fields: Any) -> Workload:
    return Workload("test", len(jobs), lambda: iter(jobs), **fields)


def job(seconds: float, *inputs: str, makes: str = "", size: int = MB, **fields: Any) -> Job:
    return Job(seconds, inputs, (Result(makes, size),) if makes else (), **fields)


def all_done(outcome: Outcome, count: int) -> bool:
    return (outcome.done, outcome.failed, outcome.undelivered) == (count, 0, 0)


# --- outcomes that are known ---


def test_a_chain_takes_the_sum_of_its_run_times() -> None:
    outcome = simulate(generate("chain", 50, seconds=2.0), Cluster(3, 2, **QUICK))
    assert all_done(outcome, 50)
    assert outcome.makespan == pytest.approx(100.0)
    assert outcome.moved == 0  # each on the node of the one before
    assert outcome.storage_peak == 2_000_000  # the input, and the output
    assert (outcome.rerun, outcome.evicted, outcome.lost_nodes) == (0, 0, 0)
    assert outcome.transfers == {"results": Traffic(1, 1_000_000)}
    assert outcome.utilization == pytest.approx(1 / 6)


@pytest.mark.parametrize(("nodes", "slots", "count"), [(1, 1, 7), (4, 2, 100), (5, 3, 45), (7, 1, 8)])
def test_independent_jobs_fill_all_slots(nodes: int, slots: int, count: int) -> None:
    outcome = simulate(generate("independent", count, seconds=3.0, size=0), Cluster(nodes, slots, **QUICK))
    assert all_done(outcome, count)
    assert outcome.makespan == pytest.approx(3.0 * math.ceil(count / (nodes * slots)))
    assert outcome.decisions == count
    assert outcome.decisions_per_second > 0
    assert outcome.utilization == pytest.approx(3.0 * count / (outcome.makespan * nodes * slots))


def test_messages_take_their_time() -> None:
    outcome = simulate(generate("chain", 10, seconds=1.0, size=0), Cluster(1, 1, **QUICK | {"latency": 0.1}))
    assert outcome.makespan == pytest.approx(0.1 + 10 * (1.0 + 2 * 0.1))  # the node's greeting; there and back


def test_a_node_joins_after_its_start() -> None:
    outcome = simulate(generate("chain", 2, size=0), Cluster(1, startup=30.0, **QUICK))
    assert outcome.makespan == pytest.approx(32.0)


def test_overhead_and_writing_occupy_a_slot() -> None:
    cluster = Cluster(1, overhead=0.5, write_rate=1e6, **QUICK)
    assert simulate(generate("chain", 4, seconds=1.0, size=2_000_000), cluster).makespan == pytest.approx(4 * 3.5)
    assert simulate(generate("chain", 4, seconds=1.0, size=1000), cluster).makespan == pytest.approx(4 * 1.5)


def test_missing_inputs_are_copied_at_the_nodes_bandwidth() -> None:
    # Two jobs read one result, and each of two nodes has one slot: one node has to copy the result.
    jobs = workload(job(1.0, makes="a", size=10 * MB), job(100.0, "a"), job(100.0, "a"))
    outcome = simulate(jobs, Cluster(2, **QUICK | {"bandwidth": 2.0 * MB}))
    assert outcome.makespan == pytest.approx(1.0 + 5.0 + 100.0)
    assert outcome.transfers == {"nodes": Traffic(1, 10 * MB)}
    assert outcome.moved == 10 * MB
    assert outcome.storage_peak == 20 * MB


def test_results_are_fetched_at_the_managers_bandwidth() -> None:
    outcome = simulate(generate("independent", 4, size=10 * MB), Cluster(4, **QUICK | {"manager_bandwidth": 2.0 * MB}))
    assert outcome.makespan == pytest.approx(1.0 + 20.0)
    assert outcome.transfers == {"results": Traffic(4, 40 * MB)}


def test_without_peer_transfers_files_pass_through_the_manager() -> None:
    jobs = workload(job(1.0, makes="a", size=10 * MB), job(100.0, "a"), job(100.0, "a"))
    cluster = Cluster(2, peer_transfers=False, **QUICK | {"manager_bandwidth": 2.0 * MB})
    outcome = simulate(jobs, cluster)
    assert outcome.transfers == {"manager": Traffic(1, 10 * MB)}
    assert outcome.makespan == pytest.approx(1.0 + 5.0 + 5.0 + 100.0)  # there, and from there to the other node
    with pytest.raises(TuningError, match="enable_peer_transfers"):
        simulate(jobs, cluster, {"temp-replica-count": 2})


def test_a_users_file_is_read_once_and_passed_on() -> None:
    jobs = [job(50.0, reads=("/data",)) for _ in range(4)]
    cluster = Cluster(4, **QUICK | {"bandwidth": 10.0, "manager_bandwidth": 10.0})
    outcome = simulate(workload(*jobs, files={"/data": 100}), cluster)
    assert all_done(outcome, 4)
    assert outcome.transfers["user"] == Traffic(1, 100)
    assert outcome.transfers["nodes"] == Traffic(3, 300)


def test_jobs_arrive_at_their_submission_times() -> None:
    jobs = [job(1.0, submitted=10.0 * place) for place in range(4)]
    assert simulate(workload(*jobs), Cluster(1, **QUICK)).makespan == pytest.approx(31.0)


def test_results_are_held_until_a_number_of_jobs_has_ended() -> None:
    held = [job(1.0, makes=f"r{place}", forgets=((f"r{place}", 6),)) for place in range(10)]
    at_once = [job(1.0, makes=f"r{place}", forgets=((f"r{place}", 0),)) for place in range(10)]
    assert simulate(workload(*held), Cluster(1, **QUICK)).storage_peak == 6 * MB
    assert simulate(workload(*at_once), Cluster(1, **QUICK)).storage_peak == MB


def test_requests_limit_concurrent_jobs() -> None:
    kinds = (Kind(cores=2.0), Kind(memory=600.0))
    jobs = [job(1.0, kind=place % 2) for place in range(8)]
    outcome = simulate(workload(*jobs, kinds=kinds), Cluster(1, 4, memory=1000.0, **QUICK))
    assert outcome.makespan == pytest.approx(4.0)  # of the second kind, one at a time
    wide = simulate(workload(*jobs, kinds=(Kind(), Kind())), Cluster(1, 4, **QUICK))
    assert wide.makespan == pytest.approx(2.0)


@pytest.mark.parametrize(
    ("kind", "rounds"),
    [
        (Kind(gpus=0.5), 2),
        (Kind(gpus=0.6), 4),
        (Kind(gpu_memory=300.0, mode="L1"), 2),
        (Kind(gpus=1, gpu_memory=900.0), 4),
    ],
)
def test_jobs_share_gpus(kind: Kind, rounds: int) -> None:
    jobs = workload(*(job(1.0, kind=0) for _ in range(8)), kinds=(kind,))
    cluster = Cluster(1, 8, gpus=2, gpu_memory=900.0, **QUICK)
    assert simulate(jobs, cluster).makespan == pytest.approx(rounds)


def test_unlimited_disk_fits_every_request() -> None:
    jobs = workload(job(1.0), kinds=(Kind(disk=1e9),))
    assert simulate(jobs, Cluster(1, **QUICK)).done == 1
    assert simulate(jobs, Cluster(1, disk=1e9, **QUICK)).failed == 1


def test_shares_of_a_node_are_proportional_if_that_is_tuned() -> None:
    jobs = workload(*(job(1.0, kind=0) for _ in range(8)), kinds=(Kind(memory=500.0),))
    cluster = Cluster(1, 8, memory=1000.0 * 4, **QUICK)
    assert simulate(jobs, cluster).makespan == pytest.approx(1.0)
    whole = {"proportional-resources": True, "proportional-whole-tasks": True}
    assert simulate(jobs, cluster, whole).makespan == pytest.approx(1.0)
    jobs = workload(*(job(1.0, kind=0) for _ in range(8)), kinds=(Kind(memory=1000.0),))
    assert simulate(jobs, cluster, whole).makespan == pytest.approx(2.0)


def test_library_slots_are_slots() -> None:
    jobs = generate("independent", 8, size=0)
    assert simulate(jobs, Cluster(1, 2, **QUICK), {"executor.library-slots": 4}).makespan == pytest.approx(2.0)


def test_impossible_job_fails() -> None:
    jobs = [job(1.0, makes="a"), job(1.0, kind=1), job(1.0, "a")]
    outcome = simulate(workload(*jobs, kinds=(Kind(), Kind(cores=8.0))), Cluster(3, 4, **QUICK))
    assert (outcome.done, outcome.failed) == (2, 1)


def test_full_disk_fails_or_evicts() -> None:
    too_large = workload(job(1.0, makes="a", size=20 * MB, is_final=True), job(1.0, "a"))
    outcome = simulate(too_large, Cluster(1, disk=10 * MB, **QUICK))
    assert (outcome.done, outcome.failed, outcome.undelivered) == (0, 2, 1)
    # Six results that are all read at the end do not fit; evicted ones are recreated.
    names = [f"r{place}" for place in range(6)]
    jobs = [job(1.0, makes=name, size=4 * MB) for name in names] + [job(1.0, name) for name in names]
    outcome = simulate(workload(*jobs), Cluster(1, disk=10 * MB, **QUICK))
    assert all_done(outcome, 12)
    assert outcome.storage_peak <= 10 * MB
    assert outcome.evicted > 0


def test_short_calls_are_sent_ahead() -> None:
    far: dict[str, Any] = QUICK | {"latency": 0.05}
    short = simulate(generate("independent", 400, seconds=0.001, size=0), Cluster(1, **far))
    assert all_done(short, 400)
    assert short.makespan < 400 * 0.1 / 4  # each would have taken a message in both directions
    chain = simulate(generate("chain", 400, seconds=0.001, size=0), Cluster(1, **far))
    assert all_done(chain, 400)
    assert chain.makespan < 400 * 0.1 / 4


# --- bounds ---


@st.composite
def graphs(draw: st.DrawFn) -> list[Job]:
    jobs: list[Job] = []
    for number in range(draw(st.integers(1, 25))):
        parents = draw(st.sets(st.integers(0, number - 1), max_size=3)) if number else set()
        size = draw(st.sampled_from([0, 1000, MB, 5 * MB]))
        seconds = draw(st.sampled_from([0.001, 0.5, 1.0, 7.0]))
        jobs.append(job(seconds, *(f"r{parent}" for parent in sorted(parents)), makes=f"r{number}", size=size))
    return jobs


def longest_path(jobs: list[Job]) -> float:
    ends: dict[str, float] = {}
    for each in jobs:
        ends[each.outputs[0].name] = max((ends[name] for name in each.inputs), default=0.0) + each.seconds
    return max(ends.values())


@settings(max_examples=40, deadline=None)
@given(jobs=graphs(), nodes=st.integers(1, 4), slots=st.integers(1, 3), replicas=st.integers(1, 3))
def test_each_job_runs_once_and_none_before_what_it_reads(
    jobs: list[Job], nodes: int, slots: int, replicas: int
) -> None:
    cluster = Cluster(nodes, slots, bandwidth=2.0 * MB)
    outcome = simulate(workload(*jobs), cluster, {"temp-replica-count": min(replicas, nodes)})
    assert all_done(outcome, len(jobs))
    work = sum(each.seconds for each in jobs)
    assert outcome.makespan >= max(longest_path(jobs), work / (nodes * slots)) - 1e-6
    assert outcome.rerun == outcome.recovered == 0
    assert outcome.utilization * outcome.makespan * nodes * slots == pytest.approx(work, rel=0.01, abs=0.01)


@settings(max_examples=25, deadline=None)
@given(jobs=graphs(), nodes=st.integers(1, 4), seed=st.integers(0, 1000), disk=st.sampled_from([0, 40 * MB]))
def test_every_job_is_done_despite_losses(jobs: list[Job], nodes: int, seed: int, disk: int) -> None:
    outcome = simulate(workload(*jobs), Cluster(nodes, 2, disk=disk, loss_rate=100.0, bandwidth=2.0 * MB), seed=seed)
    assert outcome.done + outcome.failed == len(jobs)
    assert outcome.failed == 0 or disk
    if not outcome.lost_nodes and not disk:
        assert outcome.rerun == 0


# --- losses ---

LOSSY = Cluster(8, 2, loss_rate=15.0, startup=5.0)
LAYERS = generate("layered", 200, seconds=10.0, size=5_000_000, width=40, seed=1)


def test_same_seed_gives_the_same_outcome() -> None:
    one, other = simulate(LAYERS, LOSSY, seed=3), simulate(LAYERS, LOSSY, seed=3)
    assert one == other
    assert one.lost_nodes > 0
    assert one != simulate(LAYERS, LOSSY, seed=4)


def test_outcome_does_not_depend_on_hashes_of_strings() -> None:
    program = (
        "from taskvine_tune.simulation.api import *\n"
        "layers = generate('layered', 200, seconds=10.0, size=5_000_000, width=40)\n"
        "o = simulate(layers, Cluster(40, 2, loss_rate=15.0), {'temp-replica-count': 3})\n"
        "print(o.makespan, o.moved, o.rerun, o.events)"
    )
    path = os.pathsep.join(filter(None, sys.path))
    said = {
        subprocess.run(
            [sys.executable, "-c", program],
            env={"PATH": os.defpath, "PYTHONPATH": path, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(said) == 1


def test_replicas_avoid_recreations() -> None:
    seeds = range(4)
    alone, double = compare(LAYERS, LOSSY, "temp-replica-count", [1, 2], seeds=seeds).values()
    for outcome in (*alone, *double):
        assert all_done(outcome, 200)
        assert outcome.lost_nodes > 0
    assert sum(each.recovered for each in double) < sum(each.recovered for each in alone) / 2
    assert sum(each.storage_peak for each in double) > sum(each.storage_peak for each in alone)
    assert sum(each.moved for each in double) > sum(each.moved for each in alone)


def test_lost_node_loses_its_running_jobs() -> None:
    outcome = simulate(generate("independent", 40, seconds=60.0, size=0), Cluster(4, loss_rate=10.0, **QUICK), seed=2)
    assert all_done(outcome, 40)
    assert outcome.lost_nodes > 0
    assert 0 < outcome.rerun <= outcome.lost_nodes + outcome.recovered
    assert outcome.makespan > 600.0


def test_without_replacement_or_retries_jobs_fail() -> None:
    jobs = generate("independent", 60, seconds=100.0, size=0)
    alone = simulate(jobs, Cluster(3, loss_rate=30.0, replace=False), seed=1)
    assert alone.lost_nodes == 3
    assert alone.failed > 0
    assert alone.done + alone.failed == 60
    once = simulate(jobs, Cluster(3, loss_rate=10.0, retries=0), seed=1)
    assert once.failed > 0
    assert once.rerun == 0
    assert once.done + once.failed == 60


def test_hopeless_simulation_is_an_error() -> None:
    with pytest.raises(BadSimulation, match="the others never will"):
        simulate(generate("chain", 3, seconds=1000.0), Cluster(2, loss_rate=3600.0))


# --- scale ---


def test_window_limits_submitted_jobs() -> None:
    jobs = generate("layered", 600, width=50)
    narrow = simulate(jobs, Cluster(10, 2, **QUICK), window=120)
    assert all_done(narrow, 600)
    wide = simulate(jobs, Cluster(10, 2, **QUICK))
    assert narrow.makespan == pytest.approx(wide.makespan, rel=0.1)


def test_generated_jobs_are_not_held() -> None:
    """Neither the simulation nor the scheduler keeps anything of jobs that have ended."""
    from taskvine_tune.simulation.engine import Simulation
    from taskvine_tune.tuning import TuneParameters

    simulation = Simulation(generate("layered", 400, width=20), Cluster(5, 2), TuneParameters(), 0, 100)
    assert simulation.run().done == 400
    assert simulation.user.is_content
    assert not simulation.core.tasks
    assert not list(simulation.core.files)
    assert not any(node.files or node.assigned for node in simulation.core.nodes.values())


# --- the interface ---


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"nodes": 0}, "nodes must be a whole number of at least 1, not 0"),
        ({"nodes": -3}, "nodes must be"),
        ({"nodes": 2.5}, "nodes must be a whole number"),
        ({"nodes": True}, "nodes must be a whole number"),
        ({"slots": 0}, "slots must be"),
        ({"gpus": -1}, "gpus must be"),
        ({"disk": -1}, "disk must be a number of at least 0"),
        ({"disk": 1000}, "disk must be at least 1 MiB"),
        ({"bandwidth": 0}, "bandwidth must be above 0"),
        ({"manager_bandwidth": -1}, "manager_bandwidth must be above 0"),
        ({"write_rate": 0}, "write_rate must be above 0"),
        ({"bandwidth": math.nan}, "bandwidth must be above 0"),
        ({"loss_rate": -1}, "loss_rate must be"),
        ({"loss_rate": math.inf}, "loss_rate must be"),
        ({"latency": -0.1}, "latency must be"),
        ({"startup": math.nan}, "startup must be"),
        ({"overhead": -1}, "overhead must be"),
        ({"memory": -1}, "memory must be"),
        ({"retries": -1}, "retries must be at least 0"),
    ],
)
def test_impossible_clusters_are_refused(fields: dict[str, Any], says: str) -> None:
    with pytest.raises(BadSimulation, match=says):
        Cluster(**{"nodes": 1, **fields})


def test_contradictory_arguments_are_refused() -> None:
    with pytest.raises(TuningError, match="did you mean 'temp-replica-count'"):
        simulate(LAYERS, Cluster(2), {"temp-replicas": 2})
    with pytest.raises(TuningError, match="2 nodes at most"):
        simulate(LAYERS, Cluster(2), {"temp-replica-count": 3})
    with pytest.raises(BadSimulation, match="window must be at least 1"):
        simulate(LAYERS, Cluster(2), window=0)


def test_fields_and_parameters_are_varied_by_their_names() -> None:
    cluster, tuning = vary(Cluster(2), {"temp-replica-count": 2}, {"loss-rate": 3.0, "clean_redundant_replicas": True})
    assert cluster == Cluster(2, loss_rate=3.0)
    assert tuning == {"temp-replica-count": 2, "clean-redundant-replicas": True}
    outcomes = compare(generate("independent", 8, size=0), Cluster(1, **QUICK), "slots", [1, 2, 4])
    assert {slots: each.makespan for slots, (each,) in outcomes.items()} == pytest.approx({1: 8.0, 2: 4.0, 4: 2.0})
    with pytest.raises(TuningError):
        compare(LAYERS, Cluster(2), "nodez", [1])


def test_outcome_as_plain_data() -> None:
    outcome = simulate(generate("chain", 3), Cluster(1))
    told = outcome.as_dict()
    assert told["transfers"] == {"results": {"transfers": 1, "size": 1_000_000}}
    assert {field.name for field in dataclasses.fields(Outcome)} < set(told)


@pytest.mark.parametrize("seed", range(40))
def test_all_tasks_run_on_small_disks(seed: int) -> None:
    """A task needs space for three files; a node has space for four to six, but more than one task at a time."""
    draw = random.Random(seed)
    slots, fit, later = draw.randint(1, 4), draw.randint(4, 6), draw.choice([0.0, 0.02, 0.5])
    size = int(4 * MB / (fit + 0.2))

    def seconds() -> float:
        return draw.choice([0.001, 0.003, 0.01]) * draw.uniform(0.5, 2)

    parts = [job(seconds(), makes=f"part{number}", size=size) for number in range(10)]
    sums = [
        job(seconds(), f"part{number}", f"part{number + 1}", makes=f"sum{number}", size=size, submitted=later)
        for number in range(9)
    ]
    outcome = simulate(workload(*parts, *sums), Cluster(1, slots, disk=4 * MB, latency=draw.choice([1e-4, 1e-3])))
    assert all_done(outcome, 19)
    assert outcome.evicted


def test_batch_limits_how_many_short_tasks_a_slot_gets_at_once() -> None:
    """Some tasks are a thousand times longer than others, which may then wait behind them in the same slot."""
    tasks = generate("independent", 2000, seconds=0.0004, spread=3, seed=1)
    alone, together = (simulate(tasks, Cluster(1, 4, **QUICK), {"executor.batch": batch}) for batch in (1, 0))
    assert alone.makespan != together.makespan
    assert all_done(alone, 2000)
    assert all_done(together, 2000)
