"""Dependencies of tasks: the critical path, and the graph of categories. Pure."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Collection, Mapping
from typing import NamedTuple

from taskvine_exec.insight.state import State

Parents = Mapping[int, Collection[int]]
"""For each task, the tasks that make its inputs."""


def parents(state: State) -> dict[int, list[int]]:
    """Return, for each task that the user submitted, the tasks that make its inputs.

    If several tasks make a file, it is the last one that returned, or else the last one.
    """
    makers: dict[str, int] = {}
    for number, task in state.tasks.items():
        if task.origin is None:
            for use in task.outputs:
                before = makers.get(use.source)
                if use.kind != "local" and (
                    before is None or task.outcome == "returned" or state.tasks[before].outcome != "returned"
                ):
                    makers[use.source] = number
    found: dict[int, list[int]] = {}
    for number, task in state.tasks.items():
        if task.origin is None:
            made = (makers.get(use.source) for use in task.inputs if use.kind != "local")
            found[number] = list(dict.fromkeys(maker for maker in made if maker is not None and maker != number))
    return found


def in_order(parents: Parents) -> list[int]:
    """Return tasks such that each follows its parents. Tasks on a cycle, and those behind one, are left out."""
    children: dict[int, list[int]] = {}
    left = {}
    for number, before in parents.items():
        left[number] = len(before)
        for parent in before:
            children.setdefault(parent, []).append(number)
    ready = deque(number for number, count in left.items() if not count)
    ordered = []
    while ready:
        number = ready.popleft()
        ordered.append(number)
        for child in children.get(number, ()):
            left[child] -= 1
            if not left[child]:
                ready.append(child)
    return ordered


def critical_path(parents: Parents, seconds: Mapping[int, float]) -> list[int]:
    """Return the chain of dependent tasks with the largest sum of run times, the first task first.

    Parameters
    ----------
    parents : mapping
        Each task's parents.
    seconds : mapping
        Run times; tasks without one take no time.
    """
    sums: dict[int, float] = {}
    before: dict[int, int] = {}
    for number in in_order(parents):
        longest = max(parents[number], key=sums.__getitem__, default=None)
        sums[number] = seconds.get(number, 0.0)
        if longest is not None:
            sums[number] += sums[longest]
            before[number] = longest
    if not sums:
        return []
    number = max(sums, key=sums.__getitem__)
    path = [number]
    while number in before:
        number = before[number]
        path.append(number)
    return path[::-1]


class CategoryGraph(NamedTuple):
    """How categories depend on each other.

    ``layers`` lists categories such that most dependencies lead to a later layer. ``edges`` counts the dependencies
    between tasks of two categories.
    """

    layers: list[list[str]]
    edges: dict[tuple[str, str], int]


def category_graph(parents: Parents, categories: Mapping[int, str]) -> CategoryGraph:
    """Return the dependencies between categories; those without any are not part of it."""
    edges: Counter[tuple[str, str]] = Counter()
    for number, before in parents.items():
        for parent in before:
            edges[categories[parent], categories[number]] += 1
    # A category's layer is its longest distance from the start, as tasks have it; cycles of categories do not matter.
    depths: dict[int, int] = {}
    deepest: dict[str, list[int]] = {}
    for number in in_order(parents):
        depths[number] = max((depths[parent] + 1 for parent in parents[number]), default=0)
        deepest.setdefault(categories[number], []).append(depths[number])
    linked = {name for edge in edges for name in edge}
    typical = {name: sorted(found)[len(found) // 2] for name, found in deepest.items() if name in linked}
    layers = [
        sorted(name for name, each in typical.items() if each == depth) for depth in sorted(set(typical.values()))
    ]
    return CategoryGraph(layers, dict(edges))
