"""All that a report says about a run, computed once from its record."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cached_property

from taskvine_exec.insight import causes, paths, statistics
from taskvine_exec.insight.history import History, read_history
from taskvine_exec.insight.series import Grid
from taskvine_exec.insight.state import State

BINS = 600
"""Bins of values over time."""


@dataclass(eq=False)
class Analysis:
    """A run with its statistics; each is computed when it is asked for.

    Parameters
    ----------
    state : State
        The state at the end of the record.
    history : History
        What happened before.
    """

    state: State
    history: History

    @classmethod
    def of(cls, path: str | os.PathLike[str]) -> Analysis:
        """Read a record."""
        fold = read_history(path)
        return cls(fold.state, fold.history)

    @cached_property
    def category(self) -> dict[int, str]:
        """Categories of tasks by number."""
        return statistics.categories(self.state)

    @cached_property
    def parents(self) -> dict[int, list[int]]:
        """For each task, the tasks that make its inputs."""
        return paths.parents(self.state)

    @cached_property
    def spans(self) -> list[statistics.Span]:
        """When tasks ran."""
        return statistics.spans(self.state, self.category)

    @cached_property
    def span_of(self) -> dict[int, statistics.Span]:
        """The same by number."""
        return {span.number: span for span in self.spans}

    @cached_property
    def waits(self) -> dict[int, tuple[float, float]]:
        """From when to when tasks were ready, but did not run."""
        return statistics.waits(self.state, self.parents, self.spans)

    @cached_property
    def categories(self) -> list[statistics.CategoryStatistics]:
        """Statistics of categories, the one with the largest sum of run times first."""
        return statistics.by_category(self.state, self.category, self.spans, self.waits)

    @cached_property
    def totals(self) -> statistics.Totals:
        """The run in numbers."""
        return statistics.totals(self.state, self.history, self.spans)

    @cached_property
    def grid(self) -> Grid:
        """The bins of values over time."""
        return Grid(self.totals.start, max(self.totals.end, self.totals.start + 0.001), BINS)

    @cached_property
    def critical_path(self) -> list[int]:
        """The chain of dependent tasks with the largest sum of run times."""
        return paths.critical_path(self.parents, {span.number: span.seconds for span in self.spans})

    @cached_property
    def graph(self) -> paths.CategoryGraph:
        """Dependencies between categories."""
        return paths.category_graph(self.parents, self.category)

    @cached_property
    def causes(self) -> list[causes.Cause]:
        """Failures by root cause."""
        return causes.causes(self.state, self.parents, self.category, self.history.kinds)

    @cached_property
    def losses(self) -> list[statistics.NodeLoss]:
        """What losses cost."""
        return statistics.losses(self.state, self.history, self.spans)
