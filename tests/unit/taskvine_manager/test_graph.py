"""The dependency graph: what is released, when, and that nothing stays behind."""

from __future__ import annotations

import subprocess
import sys
from graphlib import TopologicalSorter

import hypothesis.strategies as st
import pytest
from hypothesis import given

from taskvine_manager.graph import DependencyGraph


def size(graph: DependencyGraph) -> int:
    """Nodes of the graph inside."""
    return 0 if graph._graph is None else len(graph._graph)


def test_what_needs_nothing_is_ready() -> None:
    graph = DependencyGraph()
    assert graph.add(1, [], ["a"])
    assert len(graph) == 0


def test_ready_once_all_its_files_are_there() -> None:
    graph = DependencyGraph()
    assert not graph.add(1, ["a", "b", "a"], [])
    assert graph.waiting() == [1]
    assert graph.made(["a"]) == []
    assert graph.made(["a"]) == []
    assert graph.made(["b"]) == [1]
    assert len(graph) == 0


def test_ready_at_once_if_its_files_are_there_already() -> None:
    graph = DependencyGraph()
    graph.made(["a"])
    assert graph.add(1, ["a"], [])


def test_what_becomes_ready_together_is_ordered_by_number() -> None:
    graph = DependencyGraph()
    for number, needs in ((3, ["a"]), (1, ["b"]), (2, ["a", "b"]), (4, ["b"])):
        graph.add(number, needs, [])
    assert graph.made(["a", "b"]) == [1, 2, 3, 4]


def test_a_lost_file_is_waited_for_again() -> None:
    graph = DependencyGraph()
    graph.add(1, ["a", "b"], [])
    graph.made(["a"])
    graph.lost("a")
    graph.lost("a")
    assert graph.made(["b"]) == []
    assert graph.made(["a"]) == [1]


def test_what_was_ready_is_not_called_back_and_not_released_twice() -> None:
    graph = DependencyGraph()
    graph.add(1, ["a"], [])
    assert graph.made(["a"]) == [1]
    graph.lost("a")
    assert len(graph) == 0
    assert graph.made(["a"]) == []


def test_a_lost_file_is_missing_to_who_comes_later() -> None:
    graph = DependencyGraph()
    graph.made(["a"])
    graph.lost("a")
    assert not graph.add(1, ["a"], [])


def test_losing_what_nobody_knows_is_nothing() -> None:
    graph = DependencyGraph()
    graph.lost("a")
    graph.add(1, ["a"], [])
    graph.lost("a")
    assert graph.made(["a"]) == [1]


def test_makers_are_known_until_they_are_over() -> None:
    graph = DependencyGraph()
    assert not graph.has_maker("a")
    graph.add(1, [], ["a"])
    graph.add(2, [], ["a"])
    graph.add(3, ["a"], [])
    assert graph.has_maker("a")
    graph.prune(1)
    assert graph.has_maker("a")
    graph.prune(2)
    assert not graph.has_maker("a")


def test_what_is_over_waits_no_more() -> None:
    graph = DependencyGraph()
    graph.add(1, ["a"], [])
    graph.prune(1)
    graph.prune(1)
    assert len(graph) == 0
    assert graph.made(["a"]) == []


def test_a_file_is_kept_for_its_consumers_when_its_maker_is_over() -> None:
    graph = DependencyGraph()
    graph.add(1, [], ["a"])
    graph.add(2, ["a"], [])
    graph.prune(1)
    assert graph.made(["a"]) == [2]
    graph.prune(2)
    assert size(graph) == 0


@pytest.mark.parametrize(
    ("edges", "last", "story"),
    [
        ([], (1, ["a"], ["a"]), "needs the file that it makes: a"),
        ([(1, ["a"], ["b"])], (2, ["b"], ["a"]), "2 -> a -> 1 -> b -> 2"),
        ([(1, ["a"], ["b"]), (2, ["b"], ["c"])], (3, ["x", "c"], ["y", "a"]), "3 -> a -> 1 -> b -> 2 -> c -> 3"),
    ],
)
def test_cycles_are_refused_and_leave_no_trace(
    edges: list[tuple[int, list[str], list[str]]], last: tuple[int, list[str], list[str]], story: str
) -> None:
    graph = DependencyGraph()
    for edge in edges:
        graph.add(*edge)
    before = size(graph), len(graph)
    with pytest.raises(ValueError, match=story):
        graph.add(*last)
    assert (size(graph), len(graph)) == before
    assert not graph.has_maker("y")


def test_who_makes_a_name_again_closes_no_cycle_with_what_is_over() -> None:
    graph = DependencyGraph()
    graph.add(1, ["a"], ["b"])
    graph.prune(1)
    graph.made(["b"])
    assert graph.add(2, ["b"], ["a"])


@st.composite
def dags(draw: st.DrawFn) -> dict[int, set[int]]:
    """Predecessors of each invocation."""
    count = draw(st.integers(1, 15))
    order = draw(st.permutations(range(count)))
    return {
        number: draw(st.sets(st.sampled_from(order[:place]), max_size=4)) if place else set()
        for place, number in enumerate(order)
    }


@given(dags(), st.randoms(use_true_random=False))
def test_released_in_the_rounds_of_a_topological_sort(dag: dict[int, set[int]], random: object) -> None:
    graph = DependencyGraph()
    numbers = list(dag)
    random.shuffle(numbers)  # type: ignore[attr-defined]
    ready = [number for number in numbers if graph.add(number, [f"f{each}" for each in dag[number]], [f"f{number}"])]
    sorter = TopologicalSorter(dag)
    sorter.prepare()
    while sorter.is_active():
        assert sorted(ready) == sorted(sorter.get_ready())
        sorter.done(*ready)
        for number in ready:
            graph.prune(number)
        ready = graph.made([f"f{number}" for number in ready])
    assert not ready
    assert (len(graph), size(graph)) == (0, 0)


def test_networkx_is_imported_with_the_first_edge_only() -> None:
    code = (
        "import sys; sys.path[:0] = sys.argv[1:]\n"
        "from taskvine_manager.graph import DependencyGraph\n"
        "graph = DependencyGraph()\n"
        "graph.made(['a']); graph.lost('a'); graph.prune(1); graph.has_maker('a')\n"
        "assert 'networkx' not in sys.modules\n"
        "graph.add(1, ['a'], [])\n"
        "assert 'networkx' in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code, *sys.path], check=True)
