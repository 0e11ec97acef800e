"""Instances of WfFormat become workloads and clusters."""

from __future__ import annotations

import pytest

from taskvine_tune.simulation.api import Cluster, simulate
from taskvine_tune.simulation.instances import machines, workload
from taskvine_tune.simulation.workloads import Kind, Result
from taskvine_tune.wfformat.instances import Instance, Task

TASKS = (
    Task("cut_ID1", "cut_ID1", 1.0, None, (), ("text",), ("a", "b")),
    Task("cut_ID2", "cut_ID2", 2.0, None, (), ("text",), ("c",)),
    Task("count_ID3", "count_ID3", 4.0, 2.0, ("cut_ID1", "cut_ID2"), ("a",), ()),
    Task("007", "007", 8.0, None, ("count_ID3",), (), ()),
)
INSTANCE = Instance(
    "letters", {task.id: task for task in TASKS}, {"text": 9, "a": 5, "b": 6, "c": 7}, (4, None, 8, 2), 20.0
)


def test_jobs() -> None:
    made = workload(INSTANCE)
    first, second, third, fourth = made.jobs()
    assert (made.name, made.count, made.measured) == ("letters of 4 tasks", 4, 20.0)
    assert made.files == {"text": 9}
    assert first.reads == ("text",)
    assert first.outputs == (Result("a", 5, "temp"), Result("b", 6, "temp"))
    assert second.outputs[1:] == (Result("end of cut_ID2", 0),)
    assert (third.temps, third.inputs, third.reads) == (("a",), ("end of cut_ID2",), ())
    assert fourth.inputs == ("end of count_ID3",)


def test_kinds_are_shared_by_tasks_of_one_name_and_size() -> None:
    made = workload(INSTANCE)
    assert made.kinds == (
        Kind("cut", category="cut"),
        Kind("count", cores=2.0, category="count"),
        Kind("007", category="007"),
    )
    assert [job.kind for job in made.jobs()] == [0, 0, 1, 2]


def test_the_critical_path_is_simulated() -> None:
    outcome = simulate(workload(INSTANCE), Cluster(2, 2, latency=0))
    assert (outcome.done, outcome.failed) == (4, 0)
    assert outcome.makespan == pytest.approx(2 + 4 + 8)


def test_machines() -> None:
    assert machines(INSTANCE, nodes=7) == Cluster(4, 4)
    assert machines(Instance("x", INSTANCE.tasks, INSTANCE.sizes, (None, None)), nodes=7) == Cluster(2, 1)
    assert machines(Instance("x", INSTANCE.tasks, INSTANCE.sizes), nodes=7) == Cluster(7, 1)
