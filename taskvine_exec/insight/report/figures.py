"""Charts of a report, as the plain data that plotly.js draws.

They are plain dicts: plotly's own classes would check each value again, which takes longer than all else. Tests check
the dicts with these classes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from taskvine_exec.insight.history import Stored
from taskvine_exec.insight.report import text
from taskvine_exec.insight.report.analysis import Analysis
from taskvine_exec.insight.report.text import clipped, escaped
from taskvine_exec.insight.series import Grid, mean_levels, mean_open
from taskvine_exec.insight.statistics import capacity

Figure = dict[str, Any]

COLOURS = ("#4e79a7", "#f28e2b", "#59a14f", "#e15759", "#b07aa1", "#76b7b2", "#edc948", "#9c755f")
"""Colours of the categories with the largest sums of run times."""
OTHER = "#8c8c8c"
MUTED = "rgba(140,140,140,0.45)"


class Style:
    """What all charts of a run share: colours of categories, and the unit of time.

    Parameters
    ----------
    analysis : Analysis
        The run.
    """

    def __init__(self, analysis: Analysis) -> None:
        self.start, self.seconds = analysis.totals.start, analysis.totals.seconds
        self.colours = {each.name: colour for each, colour in zip(analysis.categories, COLOURS, strict=False)}
        self.unit, self.divisor = "s", 1.0
        for unit, divisor in (("min", 60.0), ("h", 3600.0)):
            if self.seconds > 10 * divisor:
                self.unit, self.divisor = unit, divisor

    def colour(self, category: str) -> str:
        """Return the colour of a category."""
        return self.colours.get(category, OTHER)

    def shown(self, category: str) -> str:
        """Return the name of a category in legends: all without a colour share one."""
        return label(category) if category in self.colours else "other categories"

    def length(self, seconds: float) -> float:
        """Return a duration in the charts' unit."""
        return rounded(seconds / self.divisor)

    def at(self, moment: float) -> float:
        """Return a moment as the time since the start of the run."""
        return self.length(moment - self.start)

    def time_axis(self, **more: Any) -> dict[str, Any]:
        """Return the axis of time, which is that of the manager: the clocks of nodes may be wrong."""
        title = {"text": f"time since the start ({self.unit})"}
        return {"title": title, "range": [0, self.length(max(self.seconds, 0.001))], "automargin": True, **more}


def label(name: str, length: int = text.NAME) -> str:
    """Return a user's name for a chart."""
    return escaped(clipped(name, length))


def rounded(value: float) -> float:
    """Keep five digits: more are not seen, and take space."""
    return float(f"{value:.5g}")


def figure(traces: list[dict[str, Any]], height: int, **layout: Any) -> Figure:
    """Return a chart with the layout that all share."""
    legend = {"orientation": "h", "yref": "container", "y": 0, "yanchor": "bottom", "x": 0, "traceorder": "normal"}
    margin = {"l": 8, "r": 8, "t": 32, "b": 70}
    shared = {"height": height, "margin": margin, "legend": legend, "hovermode": "closest"}
    return {"data": traces, "layout": {**shared, **layout}}


def running(analysis: Analysis, style: Style) -> Figure:
    """Running tasks by category, with the slots that there were; below, the tasks that were ready."""
    grid = analysis.grid
    times = [style.length(middle) for middle in grid.middles()]
    by_name: dict[str, list[tuple[float, float, float]]] = {}
    for span in analysis.spans:
        by_name.setdefault(style.shown(span.category), []).append((span.begin, span.end, 1.0))
    order = {style.shown(each.name): style.colour(each.name) for each in analysis.categories}
    traces = [
        _area(times, mean_open(by_name[name], grid), name, colour) for name, colour in order.items() if name in by_name
    ]
    open_ends = [(each.placed, each.end, 1.0) for each in analysis.history.attempts if each.why != "returned"]
    open_ends += [(task.placed or task.submitted, grid.end, 1.0) for task in analysis.state.unfinished() if task.node]
    if open_ends:
        name = "without a result"
        traces.append(_area(times, mean_open(open_ends, grid), name, MUTED))
    available = mean_open(capacity(analysis.history.nodes, analysis.totals.end), grid)
    traces.append(_line(times, available, "slots", dash="dash"))
    ready = mean_open(((since, until, 1.0) for since, until in analysis.waits.values()), grid)
    traces.append({**_line(times, ready, "ready, but not running", colour="#e15759"), "yaxis": "y2", "fill": "tozeroy"})
    return figure(
        traces,
        420,
        hovermode="x unified",
        xaxis=style.time_axis(anchor="y2"),
        yaxis={"domain": [0.34, 1], "rangemode": "tozero", "title": {"text": "running"}, "automargin": True},
        yaxis2={"domain": [0, 0.26], "rangemode": "tozero", "title": {"text": "ready"}, "automargin": True},
    )


def _area(times: list[float], values: list[float], name: str, colour: str) -> dict[str, Any]:
    return {
        "type": "scatter",
        "mode": "lines",
        "name": name,
        "x": times,
        "y": list(map(rounded, values)),
        "stackgroup": "running",
        "line": {"width": 0, "color": colour, "shape": "hvh"},
        "fillcolor": colour,
    }


def _line(times: list[float], values: Iterable[float], name: str, dash: str = "solid", colour: str = OTHER) -> Figure:
    return {
        "type": "scatter",
        "mode": "lines",
        "name": name,
        "x": times,
        "y": list(map(rounded, values)),
        "line": {"width": 1.5, "color": colour, "dash": dash, "shape": "hvh"},
    }


def storage(analysis: Analysis, style: Style) -> Figure:
    """Bytes that are stored, and below the numbers of files and replicas."""
    grid = analysis.grid
    times = [style.length(middle) for middle in grid.middles()]
    stored = thinned(analysis.history.stored, grid)

    def line(name: str, values: Iterable[int], axis: str, colour: str, dash: str = "solid") -> dict[str, Any]:
        changes = [(each.time, float(value)) for each, value in zip(stored, values, strict=True)]
        return {**_line(times, mean_levels(changes, grid), name, dash, colour), "yaxis": axis}

    traces = [
        line("on nodes", (each.nodes for each in stored), "y", COLOURS[0]),
        line("each file once", (each.distinct for each in stored), "y", COLOURS[0], "dot"),
        line("at the manager", (each.manager for each in stored), "y", COLOURS[4]),
        line("copies of your files", (each.inputs for each in stored), "y", COLOURS[1]),
        line("replicas", (each.replicas for each in stored), "y2", COLOURS[2]),
        line("files", (each.files for each in stored), "y2", COLOURS[2], "dot"),
    ]
    amount = {"rangemode": "tozero", "tickformat": "~s", "automargin": True}
    return figure(
        [trace for trace in traces if any(trace["y"])],
        420,
        hovermode="x unified",
        xaxis=style.time_axis(anchor="y2"),
        yaxis={**amount, "domain": [0.45, 1], "ticksuffix": "B"},
        yaxis2={**amount, "domain": [0, 0.37]},
    )


def thinned(stored: Sequence[Stored], grid: Grid) -> list[Stored]:
    """Keep the last of the changes in each quarter of a bin: a long run has many, and a chart shows means of bins."""
    last = {int(4 * (each.time - grid.start) / grid.width): each for each in stored}
    return list(last.values())


def critical_path(analysis: Analysis, style: Style, most: int = 400) -> Figure:
    """The tasks of the critical path over time, in rows of their categories."""
    ran = [analysis.span_of[number] for number in analysis.critical_path if number in analysis.span_of]
    ran = sorted(sorted(ran, key=lambda span: -span.seconds)[:most], key=lambda span: span.begin)
    names = list(dict.fromkeys(span.category for span in ran))
    waited = [(span, analysis.waits[span.number]) for span in ran if span.number in analysis.waits]
    traces = [
        {
            "type": "bar",
            "orientation": "h",
            "name": "ready, but not running",
            "y": [names.index(span.category) for span, _ in waited],
            "base": [style.at(since) for _, (since, _) in waited],
            "x": [style.length(until - since) for _, (since, until) in waited],
            "width": 0.8,
            "marker": {"color": MUTED},
            "hovertext": [f"task {span.number}: {text.seconds(until - since)}" for span, (since, until) in waited],
            "hoverinfo": "name+text",
        },
        {
            "type": "bar",
            "orientation": "h",
            "name": "running",
            "y": [names.index(span.category) for span in ran],
            "base": [style.at(span.begin) for span in ran],
            "x": [style.length(span.seconds) for span in ran],
            "width": 0.8,
            "marker": {"color": [style.colour(span.category) for span in ran], "line": {"width": 0}},
            "hovertext": [f"task {span.number}: {text.seconds(span.seconds)}" for span in ran],
            "hoverinfo": "name+text",
        },
    ]
    return figure(
        traces,
        90 + 24 * len(names),
        margin={"l": 8, "r": 8, "t": 32, "b": 44},
        barmode="overlay",
        showlegend=False,
        xaxis=style.time_axis(),
        yaxis=named_axis([label(name, 18) for name in names]),
    )


def named_axis(names: list[str], every: int = 1) -> dict[str, Any]:
    """Return an axis whose rows have names, the first at the top; with ``every=2``, each second row has one."""
    return {
        "tickmode": "array",
        "tickvals": list(range(0, len(names), every)),
        "ticktext": names[::every],
        "range": [len(names) - 0.5, -0.5],
        "fixedrange": True,
        "automargin": True,
        "showgrid": False,
    }
