"""Dependencies of tasks: their order, the critical path, and the graph of categories."""

from __future__ import annotations

from functools import cache
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taskvine_exec.insight.paths import category_graph, critical_path, in_order, parents
from taskvine_exec.insight.state import State, Task
from taskvine_manager.wire.messages import FileUse


@st.composite
def graphs(draw: Any) -> dict[int, list[int]]:
    """Graphs without cycles, in any order."""
    count = draw(st.integers(0, 12))
    order = draw(st.permutations(range(count)))
    return {
        number: draw(st.lists(st.sampled_from(order[:place]), unique=True, max_size=3)) if place else []
        for place, number in enumerate(order)
    }


@given(graphs())
def test_each_task_follows_its_parents(graph: dict[int, list[int]]) -> None:
    place = {number: index for index, number in enumerate(in_order(graph))}
    assert set(place) == set(graph)
    assert all(place[parent] < place[number] for number, before in graph.items() for parent in before)


def test_tasks_on_a_cycle_are_left_out() -> None:
    assert in_order({1: [], 2: [3], 3: [2], 4: [3], 5: [1]}) == [1, 5]


@given(graphs(), st.data())
def test_no_path_takes_longer(graph: dict[int, list[int]], data: st.DataObject) -> None:
    seconds = {number: float(data.draw(st.integers(0, 9))) for number in graph}

    @cache
    def longest(number: int) -> float:
        return seconds[number] + max(map(longest, graph[number]), default=0.0)

    path = critical_path(graph, seconds)
    assert sum(seconds[number] for number in path) == max(map(longest, graph), default=0.0)
    assert all(before in graph[after] for before, after in pairwise(path))


def test_long_chain() -> None:
    chain = {number: [number - 1] if number else [] for number in range(20_000)}
    assert critical_path(chain, dict.fromkeys(chain, 1.0)) == list(chain)


def state_of(*tasks: Task) -> State:
    return State(tasks={task.number: task for task in tasks})


def task(number: int, reads: str = "", makes: str = "", **more: Any) -> Task:
    """A task whose files have names of one letter."""
    inputs, outputs = (tuple(FileUse("temp", name, name) for name in names) for names in (reads, makes))
    return Task(number, 0, inputs, outputs, 0.0, **more)


def test_parents_make_the_inputs() -> None:
    state = state_of(task(0, "", "ab"), task(1, "ab"), task(2, "z"), task(-1, "", "a", origin=0))
    assert parents(state) == {0: [], 1: [0], 2: []}


@pytest.mark.parametrize(
    ("outcomes", "maker"), [(("raised", "returned"), 1), (("returned", "raised"), 0), (("raised", "raised"), 1)]
)
def test_maker_is_the_one_that_returned(outcomes: tuple[str, str], maker: int) -> None:
    makers = [task(number, "", "a", outcome=outcome) for number, outcome in enumerate(outcomes)]
    assert parents(state_of(*makers, task(2, "a")))[2] == [maker]


def test_users_files_make_no_parents() -> None:
    use = FileUse("local", "x", "/data/x")
    state = state_of(Task(0, 0, (), (use,), 0.0), Task(1, 0, (use,), (), 0.0))
    assert parents(state) == {0: [], 1: []}


def test_categories_in_layers() -> None:
    graph = {0: [], 1: [], 2: [0, 1], 3: [2], 4: [3], 5: []}
    names = {0: "load", 1: "load", 2: "sum", 3: "sum", 4: "plot", 5: "alone"}
    layers, edges = category_graph(graph, names)
    assert layers == [["load"], ["sum"], ["plot"]]
    assert edges == {("load", "sum"): 2, ("sum", "sum"): 1, ("sum", "plot"): 1}
