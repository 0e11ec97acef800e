"""Values over time: means over equal intervals (bins), and the rows of a timeline. Pure."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Sequence
from typing import NamedTuple

JITTER = 0.001
"""Seconds by which two intervals in one row may overlap: start and duration come from different clocks."""


class Grid(NamedTuple):
    """A span of time in equal bins."""

    start: float
    end: float
    bins: int

    @property
    def width(self) -> float:
        """Seconds in a bin."""
        return (self.end - self.start) / self.bins

    def middles(self) -> list[float]:
        """Return the middle of each bin, in seconds since the start."""
        return [(index + 0.5) * self.width for index in range(self.bins)]


def mean_open(intervals: Iterable[tuple[float, float, float]], grid: Grid) -> list[float]:
    """Return how many intervals are open in each bin, as means over time.

    Parameters
    ----------
    intervals : iterable of tuple
        Begin, end and weight of each; parts outside of the grid do not count.
    grid : Grid
        The bins.
    """
    parts = [0.0] * (grid.bins + 1)  # what intervals cover of the bins where they begin and end
    steps = [0.0] * (grid.bins + 1)  # changes of the number that covers whole bins
    width = grid.width
    for begin, end, weight in intervals:
        first = max(0.0, (begin - grid.start) / width)
        last = min(float(grid.bins), (end - grid.start) / width)
        if last <= first:
            continue
        begin_bin, end_bin = int(first), int(last)
        if begin_bin == end_bin:
            parts[begin_bin] += (last - first) * weight
            continue
        parts[begin_bin] += (begin_bin + 1 - first) * weight
        parts[end_bin] += (last - end_bin) * weight
        steps[begin_bin + 1] += weight
        steps[end_bin] -= weight
    found = []
    level = 0.0
    for part, step in zip(parts[: grid.bins], steps, strict=False):
        level += step
        found.append(part + level)
    return found


def mean_levels(changes: Sequence[tuple[float, float]], grid: Grid) -> list[float]:
    """Return the mean over time, in each bin, of a value that changes in steps.

    Parameters
    ----------
    changes : sequence of tuple
        Times in order, each with the value from then on. The value is 0 before the first.
    grid : Grid
        The bins.
    """
    ends = [time for time, _ in changes[1:]] + [max(grid.end, changes[-1][0])] if changes else []
    return mean_open(((time, end, value) for (time, value), end in zip(changes, ends, strict=True)), grid)


def rows(intervals: Sequence[tuple[float, float]]) -> list[int]:
    """Put intervals into rows such that no two in a row overlap, in as few rows as possible.

    Parameters
    ----------
    intervals : sequence of tuple
        Begin and end of each.

    Returns
    -------
    list of int
        The row of each interval. An interval takes the first row that is free.
    """
    found = [0] * len(intervals)
    free: list[int] = []
    busy: list[tuple[float, int]] = []
    for index in sorted(range(len(intervals)), key=intervals.__getitem__):
        begin, end = intervals[index]
        while busy and busy[0][0] <= begin + JITTER:
            heapq.heappush(free, heapq.heappop(busy)[1])
        row = heapq.heappop(free) if free else len(busy)
        heapq.heappush(busy, (end, row))
        found[index] = row
    return found


def quantile(ordered: Sequence[float], share: float) -> float:
    """Return a quantile of values in ascending order, interpolated between the nearest two.

    Raises
    ------
    ValueError
        If there are no values.
    """
    if not ordered:
        raise ValueError("no values")
    place = share * (len(ordered) - 1)
    below = int(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (place - below)
