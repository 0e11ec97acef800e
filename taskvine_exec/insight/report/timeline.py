"""The timeline of a report: what each slot did. Many tasks are shown as the busy share of slots or nodes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from taskvine_exec.insight.report import text
from taskvine_exec.insight.report.analysis import Analysis
from taskvine_exec.insight.report.figures import Figure, Style, figure, label, named_axis, rounded
from taskvine_exec.insight.series import Grid, mean_open, rows
from taskvine_exec.insight.statistics import Span

MOST_BARS = 3000
"""Tasks that are drawn one by one."""
MOST_ROWS = 120
BINS = 300

Rows = list[tuple[str, list[Span], int]]
"""Name, tasks and number of slots of each row."""


def by_slot(spans: list[Span], nodes: Iterable[str]) -> Rows:
    """Put tasks into rows, as many for each node as ran there at the same time; nodes stay in their order.

    The record does not say in which slot a task ran. A task takes the first row of its node that is free.
    """
    by_node: dict[str, list[Span]] = {node: [] for node in nodes}
    for span in spans:
        by_node.setdefault(span.node, []).append(span)
    found: Rows = []
    for node, there in by_node.items():
        if not there:
            continue
        places = rows([(span.begin, span.end) for span in there])
        slots: list[list[Span]] = [[] for _ in range(max(places) + 1)]
        for span, place in zip(there, places, strict=True):
            slots[place].append(span)
        found += [(f"{node} · {index + 1}", slot, 1) for index, slot in enumerate(slots)]
    return found


def fewer(slots: Rows, most: int = MOST_ROWS) -> Rows:
    """Join the rows of each node if there are too many, and then the rows of several nodes."""
    if len(slots) <= most:
        return slots
    nodes: dict[str, list[tuple[str, list[Span], int]]] = {}
    for row in slots:
        nodes.setdefault(row[0].rpartition(" · ")[0], []).append(row)
    joined = [_joined(node, there) for node, there in nodes.items()]
    if len(joined) <= most:
        return joined
    group = -(-len(joined) // most)
    parts = [joined[start : start + group] for start in range(0, len(joined), group)]
    return [_joined(f"{part[0][0]} … {part[-1][0]}" if len(part) > 1 else part[0][0], part) for part in parts]


def _joined(name: str, parts: Rows) -> tuple[str, list[Span], int]:
    return name, [span for _, spans, _ in parts for span in spans], sum(count for _, _, count in parts)


def timeline(analysis: Analysis, style: Style) -> tuple[Figure, str]:
    """Return the chart, and what to say about it."""
    slots = by_slot(analysis.spans, (node.info.node for node in analysis.history.nodes))
    is_single = len(analysis.spans) <= MOST_BARS and len(slots) <= MOST_ROWS
    chosen = slots if is_single else fewer(slots)
    traces = _bars(chosen, style) if is_single else [_busy(chosen, analysis, style)]
    pitch = 16 if len(chosen) <= 40 else 9
    chart = figure(
        traces,
        130 + pitch * max(2, len(chosen)) if is_single else max(200, 90 + pitch * len(chosen)),
        barmode="overlay",
        xaxis=style.time_axis(),
        yaxis=named_axis([label(name, 18) for name, _, _ in chosen], every=1 if pitch == 16 else 2),
    )
    words = "The record does not say in which slot a task ran: each node has as many rows as it ran tasks at once."
    if not is_single:
        is_joined = len(chosen) < len(slots)
        rest = "Each row is one node, or several." if is_joined else words
        words = f"There are too many tasks to show each: the chart shows how busy slots were. {rest}"
    return chart, words


def _bars(slots: Rows, style: Style) -> list[dict[str, Any]]:
    """Return one trace for each colour."""
    found: dict[str, dict[str, Any]] = {}
    for index, (_, spans, _) in enumerate(slots):
        for span in spans:
            name = style.shown(span.category)
            trace = found.get(name)
            if trace is None:
                marker = {"color": style.colour(span.category), "line": {"width": 0}}
                trace = found[name] = {"type": "bar", "orientation": "h", "name": name, "marker": marker}
                trace |= {"y": [], "base": [], "x": [], "width": 0.8, "hovertext": [], "hoverinfo": "text"}
            trace["y"].append(index)
            trace["base"].append(style.at(span.begin))
            trace["x"].append(style.length(span.seconds))
            again = " (again, for lost files)" if span.number < 0 else ""
            what = f"task {span.number}{again}: {label(span.category)}"
            trace["hovertext"].append(f"{what}<br>{text.seconds(span.seconds)} on {label(span.node)}")
    return [found[name] for name in sorted(found)]


def _busy(slots: Rows, analysis: Analysis, style: Style) -> dict[str, Any]:
    grid = Grid(analysis.grid.start, analysis.grid.end, BINS)
    shares = [
        [min(1.0, rounded(value / count)) for value in mean_open(((s.begin, s.end, 1.0) for s in spans), grid)]
        for _, spans, count in slots
    ]
    return {
        "type": "heatmap",
        "x": [style.length(middle) for middle in grid.middles()],
        "z": [[float(f"{value:.2f}") for value in row] for row in shares],
        "zmin": 0,
        "zmax": 1,
        "hovertemplate": f"%{{x}} {style.unit}: %{{z:.0%}} busy<extra></extra>",
        "colorbar": {"tickformat": ".0%", "thickness": 10, "title": {"text": "busy"}},
    }
