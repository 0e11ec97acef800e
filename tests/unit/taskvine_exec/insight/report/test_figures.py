"""Parts of charts: thinned levels, rows that are joined, and texts of numbers."""

from __future__ import annotations

import pytest

from taskvine_exec.insight.history import Stored
from taskvine_exec.insight.report import text
from taskvine_exec.insight.report.figures import label, thinned
from taskvine_exec.insight.report.timeline import by_slot, fewer
from taskvine_exec.insight.series import Grid
from taskvine_exec.insight.statistics import Span


def test_last_change_in_a_quarter_of_a_bin_is_kept() -> None:
    grid = Grid(100.0, 108.0, 2)  # quarters of one second
    stored = [Stored(time, size, 0, 0, 0, 0, 0) for time, size in [(100.1, 1), (100.9, 2), (101.0, 3), (107.0, 4)]]
    assert [each.nodes for each in thinned(stored, grid)] == [2, 3, 4]


def span(number: int, node: str, begin: float, end: float) -> Span:
    return Span(number, "f", node, begin, end)


def test_nodes_have_as_many_rows_as_tasks_at_once() -> None:
    spans = [span(0, "b", 0, 2), span(1, "b", 1, 3), span(2, "b", 2, 4), span(3, "a", 0, 1)]
    rows = by_slot(spans, ["b", "idle", "a"])
    assert [(name, [each.number for each in there]) for name, there, _ in rows] == [
        ("b · 1", [0, 2]),
        ("b · 2", [1]),
        ("a · 1", [3]),
    ]


@pytest.mark.parametrize(
    ("most", "names"),
    [(6, ["a · 1", "a · 2", "b · 1", "b · 2", "c · 1", "c · 2"]), (3, ["a", "b", "c"]), (2, ["a … b", "c"])],
)
def test_too_many_rows_are_joined(most: int, names: list[str]) -> None:
    spans = [span(number, node, 0, 1) for number, node in enumerate("aabbcc")]
    joined = fewer(by_slot(spans, "abc"), most)
    assert [name for name, _, _ in joined] == names
    assert sum(count for _, _, count in joined) == 6
    assert sorted(each.number for _, there, _ in joined for each in there) == list(range(6))


def test_names_are_shortened_before_they_are_escaped() -> None:
    assert label("<" * 40, 5) == "&lt;&lt;…&lt;&lt;"
    assert label("a & b") == "a &amp; b"


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (None, "–"),
        (0.0, "0 ms"),
        (0.00123, "1.23 ms"),
        (0.0999, "0.0999 s"),
        (3.14159, "3.14 s"),
        (99.6, "1 min 40 s"),
        (3599.6, "60 min 00 s"),
        (7 * 3600 + 59, "7 h 00 min"),
    ],
)
def test_durations(value: float | None, shown: str) -> None:
    assert text.seconds(value) == shown


def test_numbers() -> None:
    assert text.several(1, "task") == "1 task"
    assert text.several(12345, "task") == "12,345 tasks"
    assert (text.share(1, 3), text.share(1, 0)) == ("33 %", "–")
    assert (text.size(1_500_000), text.size(-5)) == ("1.5 MB", "0 bytes")
