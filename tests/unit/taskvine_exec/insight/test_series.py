"""Means over time, rows of a timeline, and quantiles."""

from __future__ import annotations

import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taskvine_exec.insight.series import JITTER, Grid, mean_levels, mean_open, quantile, rows

TIMES = st.floats(-10, 30, width=32)
INTERVALS = st.lists(st.tuples(TIMES, TIMES, st.floats(0, 5, width=16)).map(lambda t: (*sorted(t[:2]), t[2])))
GRIDS = st.builds(Grid, st.just(0.0), st.sampled_from([1.0, 7.0, 20.0]), st.integers(1, 30))


def inside(begin: float, end: float, grid: Grid) -> float:
    """Seconds of an interval within a grid."""
    return max(0.0, min(end, grid.end) - max(begin, grid.start))


def test_means_of_two_intervals() -> None:
    grid = Grid(100.0, 104.0, 4)
    assert mean_open([(100.5, 102.5, 1.0), (101.0, 103.0, 2.0)], grid) == [0.5, 3.0, 2.5, 0.0]
    assert grid.middles() == [0.5, 1.5, 2.5, 3.5]


@given(INTERVALS, GRIDS)
def test_means_keep_the_sum_over_time(intervals: list[tuple[float, float, float]], grid: Grid) -> None:
    means = mean_open(intervals, grid)
    assert len(means) == grid.bins
    expected = sum(weight * inside(begin, end, grid) for begin, end, weight in intervals)
    assert sum(means) * grid.width == pytest.approx(expected, abs=1e-6)


@given(INTERVALS, GRIDS)
def test_each_mean_is_that_of_its_bin(intervals: list[tuple[float, float, float]], grid: Grid) -> None:
    for index, mean in enumerate(mean_open(intervals, grid)):
        one = Grid(grid.start + index * grid.width, grid.start + (index + 1) * grid.width, 1)
        expected = sum(weight * inside(begin, end, one) for begin, end, weight in intervals) / grid.width
        assert mean == pytest.approx(expected, abs=1e-6)


def test_levels() -> None:
    assert mean_levels([(1.0, 4.0), (3.0, 8.0)], Grid(0.0, 4.0, 4)) == [0.0, 4.0, 4.0, 8.0]
    assert mean_levels([], Grid(0.0, 2.0, 2)) == [0.0, 0.0]
    assert mean_levels([(5.0, 1.0)], Grid(0.0, 2.0, 2)) == [0.0, 0.0]


@given(st.lists(st.tuples(st.integers(0, 30), st.integers(1, 10)).map(lambda t: (float(t[0]), float(t[0] + t[1])))))
def test_rows_are_free_and_few(intervals: list[tuple[float, float]]) -> None:
    found = rows(intervals)
    for index, (begin, end) in enumerate(intervals):
        for other, (since, until) in enumerate(intervals[:index]):
            if found[index] == found[other]:
                assert min(end, until) - max(begin, since) <= JITTER
    at_once = max((sum(b <= begin < e for b, e in intervals) for begin, _ in intervals), default=0)
    assert set(found) == set(range(at_once))


def test_row_outlives_a_small_overlap() -> None:
    assert rows([(0.0, 1.0), (0.9999, 2.0), (1.9, 3.0)]) == [0, 0, 1]


@given(st.lists(st.floats(-1e6, 1e6), min_size=2).map(sorted))
def test_quantiles_are_those_of_the_standard_library(values: list[float]) -> None:
    hundredths = statistics.quantiles(values, n=100, method="inclusive")
    assert quantile(values, 0.5) == pytest.approx(statistics.median(values), abs=1e-6)
    assert quantile(values, 0.95) == pytest.approx(hundredths[94], abs=1e-6)
    assert (quantile(values, 0.0), quantile(values, 1.0)) == (values[0], values[-1])


def test_quantile_of_nothing() -> None:
    with pytest.raises(ValueError):
        quantile([], 0.5)
