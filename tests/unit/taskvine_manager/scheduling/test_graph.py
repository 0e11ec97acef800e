"""The dependency graph: which tasks become ready, when, and that nothing stays behind."""

from __future__ import annotations

import subprocess
import sys
from graphlib import TopologicalSorter

import hypothesis.strategies as st
import pytest
from hypothesis import given

from taskvine_manager.scheduling.graph import DependencyGraph
from tests.unit.taskvine_manager.scheduling.world import is_empty


def test_task_without_inputs_is_ready() -> None:
    graph = DependencyGraph()
    assert graph.add(1, [], ["a"])
    assert len(graph.lacking) == 0


def test_task_is_ready_once_all_files_exist() -> None:
    graph = DependencyGraph()
    assert not graph.add(1, ["a", "b", "a"], [])
    assert (len(graph.lacking), graph.is_ready(1), sorted(graph.missing(1))) == (1, False, ["a", "b"])
    assert graph.made(["a"]) == []
    assert graph.made(["a"]) == []
    assert graph.missing(1) == ["b"]
    assert graph.made(["b"]) == [1]
    assert (len(graph.lacking), graph.is_ready(1), graph.missing(1)) == (0, True, [])


def test_task_is_ready_at_once_if_its_files_exist() -> None:
    graph = DependencyGraph()
    graph.made(["a"])
    assert graph.add(1, ["a"], [])


def test_ready_tasks_are_ordered_by_number() -> None:
    graph = DependencyGraph()
    for number, needs in ((3, ["a"]), (1, ["b"]), (2, ["a", "b"]), (4, ["b"])):
        graph.add(number, needs, [])
    assert graph.made(["a", "b"]) == [1, 2, 3, 4]


def test_lost_file_is_waited_for_again() -> None:
    graph = DependencyGraph()
    graph.add(1, ["a", "b"], [])
    graph.made(["a"])
    graph.lost("a")
    graph.lost("a")
    assert graph.made(["b"]) == []
    assert graph.made(["a"]) == [1]


def test_ready_task_waits_again_for_a_lost_file() -> None:
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


def test_later_task_waits_for_a_lost_file() -> None:
    graph = DependencyGraph()
    graph.made(["a"])
    graph.lost("a")
    assert not graph.add(1, ["a"], [])


def test_losing_an_unknown_file_changes_nothing() -> None:
    graph = DependencyGraph()
    graph.lost("a")
    graph.add(1, ["a"], [])
    graph.lost("a")
    assert graph.made(["a"]) == [1]


def test_producers_are_known_until_they_end() -> None:
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


def test_graph_contains_unfinished_tasks() -> None:
    graph = DependencyGraph()
    graph.add(1, ["a"], [])
    assert 1 in graph.ranks
    assert 2 not in graph.ranks
    graph.prune(1)
    assert 1 not in graph.ranks


def test_losing_an_unneeded_file_names_no_task() -> None:
    graph = DependencyGraph()
    graph.made(["a"])
    assert graph.lost("a") == []
    assert graph.lost("never") == []


def test_ended_task_does_not_wait() -> None:
    graph = DependencyGraph()
    graph.add(1, ["a"], [])
    graph.prune(1)
    graph.prune(1)
    assert len(graph.lacking) == 0
    assert graph.made(["a"]) == []


def test_file_is_kept_for_its_consumers_after_its_producer() -> None:
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


def test_ended_tasks_close_no_cycle() -> None:
    graph = DependencyGraph()
    graph.add(1, ["a"], ["b"])
    graph.prune(1)
    graph.made(["b"])
    assert graph.add(2, ["b"], ["a"])


@st.composite
def dags(draw: st.DrawFn) -> dict[int, set[int]]:
    """Return the tasks that each task depends on."""
    count = draw(st.integers(1, 15))
    order = draw(st.permutations(range(count)))
    return {
        number: draw(st.sets(st.sampled_from(order[:place]), max_size=4)) if place else set()
        for place, number in enumerate(order)
    }


@given(dags(), st.randoms(use_true_random=False))
def test_tasks_become_ready_in_topological_order(dag: dict[int, set[int]], random: object) -> None:
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
    """Return the present ranks, without changing them."""
    found = graph.rank(list(numbers))
    return [found[number] for number in numbers]


def test_rank_is_the_longest_path_to_the_end() -> None:
    graph = DependencyGraph()
    graph.add(1, [], ["a"])
    assert graph.rank([1]) == {1: 1}
    graph.add(2, ["a"], ["b"])
    assert graph.rank([2]) == {1: 2, 2: 1}
    graph.add(3, ["a"], [])
    assert graph.rank([3]) == {3: 1}  # beside a path of the same length
    graph.add(4, ["b", "a"], [])
    assert graph.rank([4]) == {1: 3, 2: 2, 4: 1}


def test_ended_tasks_have_no_rank() -> None:
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


def test_new_task_of_a_long_chain_is_cheap(monkeypatch: pytest.MonkeyPatch) -> None:
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
