"""The dependency graph: what is released, when, and that nothing stays behind."""

from __future__ import annotations

import subprocess
import sys
from graphlib import TopologicalSorter

import hypothesis.strategies as st
import pytest
from hypothesis import given

from taskvine_manager.scheduling.graph import DependencyGraph
from tests.unit.taskvine_manager.scheduling.world import is_empty


def test_what_needs_nothing_is_ready() -> None:
    graph = DependencyGraph()
    assert graph.add(1, [], ["a"])
    assert len(graph.lacking) == 0


def test_ready_once_all_its_files_are_there() -> None:
    graph = DependencyGraph()
    assert not graph.add(1, ["a", "b", "a"], [])
    assert (len(graph.lacking), graph.is_ready(1), sorted(graph.missing(1))) == (1, False, ["a", "b"])
    assert graph.made(["a"]) == []
    assert graph.made(["a"]) == []
    assert graph.missing(1) == ["b"]
    assert graph.made(["b"]) == [1]
    assert (len(graph.lacking), graph.is_ready(1), graph.missing(1)) == (0, True, [])


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


def test_who_was_ready_is_named_when_a_file_is_lost_and_released_when_it_is_there_again() -> None:
    graph = DependencyGraph()
    graph.add(1, ["a"], [])
    graph.add(2, ["a", "b"], [])
    assert graph.made(["a"]) == [1]
    assert graph.lost("a") == [1]
    assert graph.lost("a") == []
    assert len(graph.lacking) == 2
    assert graph.made(["a"]) == [1]
    assert graph.made(["b"]) == [2]
    assert sorted(graph.lost("a")) == [1, 2]
    assert graph.lost("b") == []
    assert graph.missing(2) == ["a", "b"]
    graph.prune(1)
    assert graph.made(["a", "b"]) == [2]


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
    assert graph.makers("a") == []
    graph.add(1, [], ["a"])
    graph.add(2, [], ["a"])
    graph.add(3, ["a"], ["b", "c"])
    graph.add(4, ["b"], [])
    assert sorted(graph.makers("a")) == [1, 2]
    assert graph.consumers("a") == [3]
    assert graph.followers(1) == [3]
    assert graph.followers(3) == [4]
    graph.prune(1)
    assert graph.makers("a") == [2]
    assert graph.followers(1) == []
    graph.prune(2)
    assert graph.makers("a") == []
    assert graph.consumers("a") == [3]
    assert graph.consumers("never") == graph.makers("never") == []


def test_it_contains_those_that_are_not_over() -> None:
    graph = DependencyGraph()
    graph.add(1, ["a"], [])
    assert 1 in graph.ranks
    assert 2 not in graph.ranks
    graph.prune(1)
    assert 1 not in graph.ranks


def test_losing_what_nobody_needs_names_nobody() -> None:
    graph = DependencyGraph()
    graph.made(["a"])
    assert graph.lost("a") == []
    assert graph.lost("never") == []


def test_what_is_over_waits_no_more() -> None:
    graph = DependencyGraph()
    graph.add(1, ["a"], [])
    graph.prune(1)
    graph.prune(1)
    assert len(graph.lacking) == 0
    assert graph.made(["a"]) == []


def test_a_file_is_kept_for_its_consumers_when_its_maker_is_over() -> None:
    graph = DependencyGraph()
    graph.add(1, [], ["a"])
    graph.add(2, ["a"], [])
    graph.prune(1)
    assert graph.made(["a"]) == [2]
    graph.prune(2)
    graph.lost("a")
    assert is_empty(graph)


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
    before = len(graph.lacking)
    with pytest.raises(ValueError, match=story):
        graph.add(*last)
    assert len(graph.lacking) == before
    assert graph.makers("y") == []
    assert last[0] not in graph.ranks
    for number, _, _ in edges:
        graph.prune(number)
    assert is_empty(graph)


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
    for number in dag:
        graph.lost(f"f{number}")
    assert is_empty(graph)


# --- ranks ---


def ranks(graph: DependencyGraph, *numbers: int) -> list[int]:
    """Ranks as they are now: nothing changes by asking."""
    found = graph.rank(list(numbers))
    return [found[number] for number in numbers]


def test_the_rank_is_the_length_of_the_longest_way_to_the_end() -> None:
    graph = DependencyGraph()
    graph.add(1, [], ["a"])
    assert graph.rank([1]) == {1: 1}
    graph.add(2, ["a"], ["b"])
    assert graph.rank([2]) == {1: 2, 2: 1}
    graph.add(3, ["a"], [])
    assert graph.rank([3]) == {3: 1}  # beside a way that is as long
    graph.add(4, ["b", "a"], [])
    assert graph.rank([4]) == {1: 3, 2: 2, 4: 1}


def test_ranks_of_who_is_over_are_not_known() -> None:
    graph = DependencyGraph()
    graph.add(1, [], ["a"])
    graph.add(2, ["a"], [])
    graph.rank([1, 2])
    graph.prune(1)
    assert 1 not in graph.rank([2])
    assert ranks(graph, 2) == [1]


@given(dags(), st.booleans())
def test_ranks_are_right_however_the_graph_grew(dag: dict[int, set[int]], whole: bool) -> None:
    graph = DependencyGraph()
    numbers = list(TopologicalSorter(dag).static_order())
    known: dict[int, int] = {}
    for number in numbers:
        graph.add(number, [f"f{each}" for each in dag[number]], [f"f{number}"])
        if not whole:
            known.update(graph.rank([number]))
    if whole:
        known.update(graph.rank(numbers))
    right: dict[int, int] = {}
    for number in reversed(numbers):
        right[number] = 1 + max((right[other] for other in numbers if number in dag[other]), default=0)
    assert known == right


def test_one_more_call_in_a_long_chain_costs_no_walk_to_its_beginning(monkeypatch: pytest.MonkeyPatch) -> None:
    graph = DependencyGraph()
    length = 2000
    for number in range(length):
        graph.add(number, [f"f{number - 1}"] if number else [], [f"f{number}"])
        changed = graph.rank([number])
        assert len(changed) <= 300
    assert changed[length - 1] == 1
    assert changed[length - 100] == 100


def test_networkx_is_imported_with_the_first_edge_only() -> None:
    code = (
        "import sys; sys.path[:0] = sys.argv[1:]\n"
        "from taskvine_manager.scheduling.graph import DependencyGraph\n"
        "graph = DependencyGraph()\n"
        "graph.made(['a']); graph.lost('a'); graph.prune(1); graph.makers('a')\n"
        "graph.consumers('a'); graph.followers(1); graph.missing(1)\n"
        "assert 'networkx' not in sys.modules\n"
        "graph.add(1, ['a'], [])\n"
        "assert 'networkx' in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code, *sys.path], check=True)
