"""Generated graphs have the promised shapes, and records become the workloads that they record."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taskvine_manager.record import Recorder, read_record
from taskvine_manager.runtime import failure
from taskvine_manager.wire.messages import Completion, FileUse, Invocation, Profile
from taskvine_tune.errors import BadSimulation
from taskvine_tune.simulation.workloads import GENERATORS, Job, Kind, Workload, generate, recorded

PROFILE = Profile(0, "key", "work", "L2", 2.0, 100.0, None, None, 1.0, "work", True)


def consumers(jobs: list[Job]) -> dict[str, int]:
    """The number of jobs that read each result, by its name."""
    counts = {each.name: 0 for job in jobs for each in job.outputs}
    for job in jobs:
        for name in job.inputs:
            counts[name] += 1
    return counts


@given(
    kind=st.sampled_from(sorted(GENERATORS)),
    tasks=st.integers(1, 300),
    width=st.integers(1, 50),
    fan=st.integers(1, 5),
    seed=st.integers(0, 5),
)
def test_graphs_are_complete(kind: str, tasks: int, width: int, fan: int, seed: int) -> None:
    workload = generate(kind, tasks, width=width, fan=fan, seed=seed)
    jobs = list(workload.jobs())
    assert len(jobs) == workload.count == (tasks - 1 if kind == "tree" and tasks % 2 == 0 and tasks > 1 else tasks)
    assert jobs == list(workload.jobs())
    made: set[str] = set()
    gone: set[str] = set()
    for job in jobs:
        assert set(job.inputs) <= made - gone
        made |= {each.name for each in job.outputs}
        forgotten = {name for name, _ in job.forgets}
        assert not forgotten & gone
        gone |= forgotten
    # A result that is read is forgotten with its last reader; the user reads the others.
    read = {name for name, count in consumers(jobs).items() if count}
    assert gone == read
    assert {each.name for job in jobs if job.is_final for each in job.outputs} == made - read


def test_shapes() -> None:
    chain = list(generate("chain", 4).jobs())
    assert [job.inputs for job in chain] == [(), ("r0",), ("r1",), ("r2",)]
    tree = list(generate("tree", 7).jobs())
    assert sorted(len(job.inputs) for job in tree) == [0, 0, 0, 0, 2, 2, 2]
    assert sum(job.is_final for job in tree) == 1
    rounds = list(generate("map-reduce", 24, width=8, fan=2).jobs())
    assert [len(job.inputs) for job in rounds] == ([0] * 8 + [8] * 4) * 2
    layers = list(generate("layered", 30, width=10, fan=3, seed=2).jobs())
    assert all(not job.inputs for job in layers[:10])
    for number, job in enumerate(layers[10:], 10):
        assert len(set(job.inputs)) == 3
        assert {int(name[1:]) // 10 for name in job.inputs} == {number // 10 - 1}
    assert all(not job.inputs for job in generate("independent", 5).jobs())


def test_run_times_are_spread_around_their_mean() -> None:
    times = [job.seconds for job in generate("independent", 5000, seconds=3.0, spread=0.5, seed=1).jobs()]
    assert sum(times) / len(times) == pytest.approx(3.0, rel=0.05)
    assert min(times) < 2.0 < 5.0 < max(times)
    assert {job.seconds for job in generate("independent", 10, seconds=3.0).jobs()} == {3.0}


@pytest.mark.parametrize(
    ("kind", "options", "says"),
    [
        ("star", {}, "no kind of graph 'star'"),
        ("chain", {"tasks": 0}, "tasks must be at least 1"),
        ("layered", {"width": 0}, "width must be at least 1"),
        ("layered", {"fan": 0}, "fan must be at least 1"),
        ("chain", {"size": -1}, "size must be at least 0"),
        ("chain", {"seconds": -1.0}, "seconds must be a number of at least 0"),
        ("chain", {"seconds": float("nan")}, "seconds must be a number of at least 0"),
        ("chain", {"spread": float("inf")}, "spread must be a number of at least 0"),
    ],
)
def test_impossible_workloads_are_refused(kind: str, options: dict[str, Any], says: str) -> None:
    with pytest.raises(BadSimulation, match=says):
        generate(kind, **{"tasks": 10, **options})


def test_a_workload_has_jobs() -> None:
    with pytest.raises(BadSimulation, match="there are no tasks"):
        Workload("none", 0, lambda: iter(()))


# --- records ---


def value(name: str) -> FileUse:
    return FileUse("value", "", name)


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "record.msgpack")


def write(path: str, outcome: int = failure.RETURNED, *, end: bool = True, body: bytes = b"xyz") -> None:
    """A run: task 1 reads the large result of 0 and a user's file; 2 was cancelled."""
    recorder = Recorder(path, engine="embedded")
    reads = (value("r0"), FileUse("local", "in", path), FileUse("temp", "t", "t@9"))
    recorder.submitted(
        [PROFILE],
        [
            Invocation(0, 0, b"", (), (value("r0"), FileUse("temp", "t", "t@9"))),
            Invocation(1, 0, b"", reads, (value("r1"),)),
            Invocation(2, 0, b""),
        ],
    )
    recorder.done([Completion(0, failure.RETURNED, "/gone", "n", 1.0, 1.0, 2.5, (("r0", 10**6, 1), ("t@9", 77, 1)))])
    recorder.note("forgotten", ["r0"])
    if end:
        recorder.done([Completion(1, outcome, body, "n", 1.0, 1.0, 0.5)])
    recorder.note("cancelled", [2])
    recorder.close()


def test_a_record_becomes_a_workload(path: str) -> None:
    write(path)
    workload = recorded(path, paced=False)
    assert workload.count == 2
    first, second = workload.jobs()
    assert [tuple(each) for each in first.outputs] == [("r0", 10**6, "value", 0), ("t@9", 77, "temp", 0)]
    assert (first.seconds, first.inputs, first.forgets) == (2.5, (), ())
    assert (second.seconds, second.inputs, second.temps, second.reads) == (0.5, ("r0",), ("t@9",), (path,))
    assert [tuple(each) for each in second.outputs] == [("r1", 3, "value", 0)]
    assert second.forgets == (("r0", 1),)  # from the time when its last reader exists, and one task has ended
    assert workload.kinds == (Kind("work", "L2", 2.0, 100.0, None, None, 1.0, "work", True),)
    assert workload.files == {path: os.path.getsize(path)}
    assert workload.measured is not None
    assert 0 <= workload.measured < 10
    paced = [job.submitted for job in recorded(read_record(path)).jobs()]
    assert paced == sorted(paced)
    assert paced[0] == 0


def test_unusable_records_are_refused(path: str, tmp_path: Path) -> None:
    with pytest.raises(BadSimulation, match="cannot be read"):
        recorded(path)
    write(path, end=False)
    with pytest.raises(BadSimulation, match=r"1 of 3 tasks have no end in the record, the first is 1"):
        recorded(path)
    other = str(tmp_path / "raised")
    write(other, failure.RAISED)
    with pytest.raises(BadSimulation, match=r"task 1 \(work\) did not return .*it raised"):
        recorded(other)
    lost = str(tmp_path / "lost")
    write(lost, failure.LOST, body=failure.lost("node-lost", "it went"))
    with pytest.raises(BadSimulation, match=r"lost: node-lost"):
        recorded(lost)
    empty = str(tmp_path / "empty")
    Recorder(empty).close()
    with pytest.raises(BadSimulation, match="nothing was submitted"):
        recorded(empty)
    junk = tmp_path / "junk"
    junk.write_bytes(b"no record at all")
    with pytest.raises(BadSimulation, match="not the record of a run"):
        recorded(str(junk))
    cut = tmp_path / "cut"
    write(str(cut) + "0")
    whole = Path(str(cut) + "0").read_bytes()
    cut.write_bytes(whole[: len(whole) - 60])
    with pytest.raises(BadSimulation, match=r"cut short"):
        recorded(str(cut))
