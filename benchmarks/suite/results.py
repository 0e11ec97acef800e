"""Samples of measurements, and summaries of them (pure)."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Iterator
from typing import NamedTuple

IN_TURN = "in the user's process, in turn with them"
"""Name of a metric: time of calls in the user's process, each made between two calls through the executor."""


class Key(NamedTuple):
    """Key of a value: a case, its metric, the size (in the case's unit), and the contender."""

    case: str
    metric: str
    point: int
    contender: str


class Summary(NamedTuple):
    """Median, least and most of some values."""

    median: float
    least: float
    most: float

    @classmethod
    def of(cls, values: Iterable[float]) -> Summary:
        """Summarize at least one value."""
        ordered = sorted(values)
        return cls(statistics.median(ordered), ordered[0], ordered[-1])


class Results:
    """All samples of a run, in the order of its rounds."""

    def __init__(self) -> None:
        self._values: dict[Key, dict[int, float]] = {}

    def add(self, key: Key, turn: int, value: float) -> None:
        """Add the value from one round."""
        self._values.setdefault(key, {})[turn] = value

    def __iter__(self) -> Iterator[Key]:
        return iter(self._values)

    def __contains__(self, key: Key) -> bool:
        return key in self._values

    def values(self, key: Key) -> list[float]:
        """Return the values of all rounds."""
        return [value for _, value in sorted(self._values.get(key, {}).items())]

    def summary(self, key: Key) -> Summary | None:
        """Return median, least and most; None if nothing was measured."""
        values = self.values(key)
        return Summary.of(values) if values else None

    def median(self, key: Key) -> float | None:
        """Return the median; None if nothing was measured."""
        summary = self.summary(key)
        return None if summary is None else summary.median

    def ratio(self, above: Key, below: Key) -> Summary | None:
        """Return the ratio of two medians, and the least and most ratio of the rounds that have both values.

        A temporary load on the machine affects both values of a round, so their ratio varies less than they do.
        """
        upper, lower = self.median(above), self.median(below)
        rounds = self._values.get(above, {}).keys() & self._values.get(below, {}).keys()
        if upper is None or not lower:
            return None
        each = [self._values[above][turn] / self._values[below][turn] for turn in rounds if self._values[below][turn]]
        middle = upper / lower
        return Summary(middle, min([middle, *each]), max([middle, *each]))

    def advantage(self, ours: Key, theirs: Key, *, more_is_better: bool) -> Summary | None:
        """Return the ratio by which ours is better; above one, it is."""
        return self.ratio(ours, theirs) if more_is_better else self.ratio(theirs, ours)

    def points(self, case: str, metric: str, contender: str) -> list[int]:
        """Return the measured sizes."""
        return sorted({key.point for key in self._values if key[:2] == (case, metric) and key.contender == contender})
