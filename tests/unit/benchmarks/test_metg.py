"""Graphs of tasks, the search for the smallest duration, and the checks of tasks."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.metg import table, work
from benchmarks.metg.__main__ import main
from benchmarks.metg.measure import Inputs, Speed, timed
from benchmarks.metg.patterns import PATTERNS, Graph, Task
from benchmarks.metg.search import efficiency, smallest
from benchmarks.suite.contenders import Session
from benchmarks.suite.results import Results

GRAPHS = st.builds(Graph, st.sampled_from(sorted(PATTERNS)), st.integers(1, 20), st.integers(1, 12))


class Done:
    """A future that has its result."""

    def __init__(self, result: bytes) -> None:
        self.value = result

    def result(self) -> bytes:
        return self.value


def inputs(pattern: str, *, width: int, step: int, point: int) -> tuple[int, ...]:
    return Graph(pattern, width, step + 1).inputs(Task(step, point))


@given(GRAPHS)
def test_inputs_lie_in_the_step_before(graph: Graph) -> None:
    tasks = list(graph)
    assert len(tasks) == len(set(tasks)) == len(graph)
    for task in tasks:
        points = graph.inputs(task)
        assert len(points) == len(set(points))
        assert all(Task(task.step - 1, point) in tasks for point in points)
        assert bool(points) is (task.step > 0 and graph.pattern != "trivial")


@given(GRAPHS)
def test_every_task_is_an_end_or_is_read(graph: Graph) -> None:
    read = {Task(task.step - 1, point) for task in graph for point in graph.inputs(task)}
    assert read.isdisjoint(graph.ends())
    assert read.union(graph.ends()) == set(graph)
    assert all(task in graph.ends() for task in graph if task.step == graph.steps - 1)


@given(st.sampled_from(["stencil", "fft", "random"]), st.integers(1, 20), st.integers(1, 12))
def test_a_task_reads_its_own_point(pattern: str, width: int, step: int) -> None:
    assert all(point in inputs(pattern, width=width, step=step, point=point) for point in range(width))


@given(st.integers(1, 40))
def test_each_result_of_an_fft_depends_on_the_whole_first_step(width: int) -> None:
    steps = (width - 1).bit_length()
    reached = {0}
    for step in range(steps, 0, -1):
        reached = {other for point in reached for other in inputs("fft", width=width, step=step, point=point)}
    assert width & (width - 1) or reached == set(range(width))


def test_the_patterns_are_those_that_are_described() -> None:
    assert inputs("trivial", width=8, step=3, point=5) == ()
    assert inputs("stencil", width=8, step=3, point=5) == (4, 5, 6)
    assert inputs("stencil", width=8, step=3, point=7) == (6, 7)
    assert [inputs("fft", width=8, step=step, point=5) for step in (1, 2, 3, 4)] == [
        (4, 5, 6),
        (3, 5, 7),
        (1, 5),
        (4, 5, 6),
    ]
    assert inputs("tree", width=8, step=3, point=5) == (2,)
    assert inputs("all-to-all", width=4, step=1, point=0) == (0, 1, 2, 3)
    assert [len(Graph("tree", 5, steps)) for steps in (1, 2, 3, 4, 5)] == [1, 3, 7, 12, 17]


def test_random_inputs_are_drawn_again_for_each_task_and_always_the_same() -> None:
    drawn = [inputs("random", width=16, step=step, point=3) for step in range(1, 30)]
    assert drawn == [inputs("random", width=16, step=step, point=3) for step in range(1, 30)]
    assert len(set(drawn)) > 20


@given(GRAPHS, st.integers(work.SMALLEST, 100))
def test_tasks_of_a_graph_agree_with_its_values(graph: Graph, payload: int) -> None:
    session = Session(call=lambda function, *args: Done(function(*map(unwrapped, args))))
    assert timed(session, Inputs.of(graph), 0, payload) >= 0


def unwrapped(argument: Any) -> Any:
    return argument.result() if isinstance(argument, Done) else argument


def test_a_wrong_value_is_an_error() -> None:
    def call(function: Any, step: int, point: int, *args: Any) -> Done:
        result = function(step, point, *map(unwrapped, args))
        # Its place is right, its value is not.
        return Done(work.packed(step, point, 7, len(result)) if (step, point) == (1, 2) else result)

    with pytest.raises(work.WrongInput, match="read a wrong value"):
        timed(Session(call=call), Inputs.of(Graph("stencil", 4, 3)), 0, 24)


@pytest.mark.parametrize(
    "data",
    [
        work.packed(1, 3, 5, 48),
        work.packed(0, 2, 5, 48),
        work.packed(1, 2, 5, 47),
        work.packed(1, 2, 5, 24) + work.packed(1, 2, 6, 24),
    ],
)
def test_a_wrong_input_is_an_error(data: bytes) -> None:
    assert work.unpacked(work.packed(1, 2, 5, 48), 1, 2, 48) == 5
    with pytest.raises(work.WrongInput):
        work.run(2, 2, 0, 48, (2,), data)


def test_a_missing_input_is_an_error() -> None:
    with pytest.raises(work.WrongInput, match="got 1 inputs, not 2"):
        work.run(2, 2, 0, 24, (1, 2), work.packed(1, 1, 5, 24))


def test_efficiency_is_useful_work_by_the_time_of_all_cores() -> None:
    assert efficiency(useful=3.0, wall=2.0, cores=2) == 0.75


@given(cost=st.floats(3e-5, 1.0), start=st.floats(1e-6, 10.0), target=st.floats(0.1, 0.9), within=st.floats(1.01, 2.0))
def test_with_a_constant_cost_the_search_finds_where_half_is_useful(
    cost: float, start: float, target: float, within: float
) -> None:
    expected = cost * target / (1 - target)
    found = smallest(lambda d: d / (d + cost), target=target, start=start, least=1e-6, most=20.0, within=within)
    assert found.metg is not None
    assert not found.at_limit
    assert expected * 0.999 <= found.metg <= expected * within * 1.001
    assert found.metg in [probe.duration for probe in found.probes if probe.efficiency >= target]
    assert len(found.probes) < 40


def test_the_search_ends_at_its_limits() -> None:
    never = smallest(lambda d: 0.4, least=1e-5, most=2.0)
    assert never.metg is None
    assert never.probes[-1].duration == 2.0
    always = smallest(lambda d: 0.9, least=1e-5, most=2.0)
    assert (always.metg, always.at_limit) == (1e-5, True)


@given(st.floats(1e-5, 1.0))
def test_rounds_take_the_duration_that_was_wanted(duration: float) -> None:
    speed = Speed(constant=5e-6, each=3e-7)
    assert speed.seconds(speed.rounds(duration)) == pytest.approx(duration, abs=3e-7)


def test_tables_have_a_line_for_each_contender() -> None:
    results, facts = Results(), {
        "patterns": ["trivial", "tree"], "contenders": ["ours", "htex", "threads", "dask"],
        "plan": {"width": 16, "most": 4.0, "target": 0.5}, "unreached": [("threads", "tree")],
    }  # fmt: skip
    for turn, factor in enumerate((1.0, 1.2)):
        for name, metg in (("ours", 100.0), ("htex", 1000.0)):
            results.add(table.key("trivial", 16, name), turn, metg * factor)
    assert table.lines(results, facts) == [
        ("TaskVineExecutor, embedded, L2", "110 (100 to 120)", "failed"),
        ("HighThroughputExecutor", "1,100 (1,000 to 1,200)", "failed"),
        ("ThreadPoolExecutor", "failed", "> 4,000,000"),
    ]
    assert table.ratios(results, facts) == (
        "ours",
        [("HighThroughputExecutor", "10", ""), ("ThreadPoolExecutor", "", "")],
    )


@pytest.mark.parametrize(
    "words", [["--patterns", "ring"], ["--contenders", "null"], ["--payload", "3"], ["--target", "1"]]
)
def test_unknown_or_impossible_arguments_are_refused(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(words)
    assert words[0] in capsys.readouterr().err or words[1] in capsys.readouterr().err
