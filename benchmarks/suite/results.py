"""Pure: samples of measurements, and what follows from them."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Iterator
from typing import NamedTuple

IN_TURN = "in the user's process, in turn with them"
"""A metric: what calls take there, each between two through the executor."""


class Key(NamedTuple):
    """What a value belongs to: a case, what of it, its size (in the case's unit), and who was measured."""

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
        """Of at least one value."""
        ordered = sorted(values)
        return cls(statistics.median(ordered), ordered[0], ordered[-1])


class Results:
    """All samples of a run, in the order of its rounds."""

    def __init__(self) -> None:
        self._values: dict[Key, dict[int, float]] = {}

    def add(self, key: Key, turn: int, value: float) -> None:
        """Take the value that a round gave."""
        self._values.setdefault(key, {})[turn] = value

    def __iter__(self) -> Iterator[Key]:
        return iter(self._values)

    def __contains__(self, key: Key) -> bool:
        return key in self._values

    def values(self, key: Key) -> list[float]:
        """Values of all rounds."""
        return [value for _, value in sorted(self._values.get(key, {}).items())]

    def summary(self, key: Key) -> Summary | None:
        """Median, least and most; None if it was not measured."""
        values = self.values(key)
        return Summary.of(values) if values else None

    def median(self, key: Key) -> float | None:
        """Median; None if it was not measured."""
        summary = self.summary(key)
        return None if summary is None else summary.median

    def ratio(self, above: Key, below: Key) -> Summary | None:
        """One by another: of their medians, and the least and the most of the rounds that have both.

        What disturbs a machine for a while disturbs both of a round: their ratio varies less than they do.
        """
        upper, lower = self.median(above), self.median(below)
        rounds = self._values.get(above, {}).keys() & self._values.get(below, {}).keys()
        if upper is None or not lower:
            return None
        each = [self._values[above][turn] / self._values[below][turn] for turn in rounds if self._values[below][turn]]
        middle = upper / lower
        return Summary(middle, min([middle, *each]), max([middle, *each]))

    def advantage(self, ours: Key, theirs: Key, *, more_is_better: bool) -> Summary | None:
        """How many times better ours is: above one, ours is."""
        return self.ratio(ours, theirs) if more_is_better else self.ratio(theirs, ours)

    def points(self, case: str, metric: str, contender: str) -> list[int]:
        """At which sizes it was measured."""
        return sorted({key.point for key in self._values if key[:2] == (case, metric) and key.contender == contender})
