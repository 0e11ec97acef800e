"""Graphs of tasks (pure). A graph has steps; a task reads results of tasks in the step before its own."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

from benchmarks.metg import work

SEED = 0x7A5C
SHARE = 0.25
"""Share of the tasks in the step before that a task of the random pattern reads."""


class Task(NamedTuple):
    """A task's place in its graph."""

    step: int
    point: int


def _trivial(width: int, step: int, point: int) -> set[int]:
    return set()


def _stencil(width: int, step: int, point: int) -> set[int]:
    return {point - 1, point, point + 1}


def _fft(width: int, step: int, point: int) -> set[int]:
    # The distance doubles from step to step, until it spans the graph; then it is one again.
    distance = 1 << ((step - 1) % max(1, (width - 1).bit_length()))
    return {point - distance, point, point + distance}


def _tree(width: int, step: int, point: int) -> set[int]:
    return {point // 2}


def _random(width: int, step: int, point: int) -> set[int]:
    drawn = random.Random(f"{SEED} {width} {step} {point}")
    return {point, *(other for other in range(width) if drawn.random() < SHARE)}


def _all_to_all(width: int, step: int, point: int) -> set[int]:
    return set(range(width))


PATTERNS: dict[str, Callable[[int, int, int], set[int]]] = {
    "trivial": _trivial,
    "stencil": _stencil,
    "fft": _fft,
    "tree": _tree,
    "random": _random,
    "all-to-all": _all_to_all,
}
"""Functions from width, step and point to points of the step before, some of which may lie outside of the graph."""


def width_of(pattern: str, width: int, step: int) -> int:
    """Return the number of tasks in a step; a tree has one in the first step, and doubles."""
    return min(width, 1 << min(step, 62)) if pattern == "tree" else width


@dataclass(frozen=True)
class Graph:
    """A graph of tasks.

    Parameters
    ----------
    pattern : str
        Key of :data:`PATTERNS`.
    width : int
        Most tasks in a step.
    steps : int
        Number of steps.
    """

    pattern: str
    width: int
    steps: int

    def __len__(self) -> int:
        """Return the number of tasks."""
        return sum(width_of(self.pattern, self.width, step) for step in range(self.steps))

    def __iter__(self) -> Iterator[Task]:
        """Yield the tasks, step by step."""
        for step in range(self.steps):
            for point in range(width_of(self.pattern, self.width, step)):
                yield Task(step, point)

    def inputs(self, task: Task) -> tuple[int, ...]:
        """Return the points of the step before that a task reads, in ascending order."""
        if task.step == 0:
            return ()
        before = width_of(self.pattern, self.width, task.step - 1)
        wanted = PATTERNS[self.pattern](self.width, task.step, task.point)
        return tuple(sorted(point for point in wanted if 0 <= point < before))

    def ends(self) -> list[Task]:
        """Return the tasks whose results no task reads."""
        read = {Task(task.step - 1, point) for task in self for point in self.inputs(task)}
        return [task for task in self if task not in read]

    def values(self) -> dict[Task, int]:
        """Return the values that the tasks must have."""
        found: dict[Task, int] = {}
        for task in self:
            read = [found[Task(task.step - 1, point)] for point in self.inputs(task)]
            found[task] = work.mixed(task.step, task.point, read)
        return found
