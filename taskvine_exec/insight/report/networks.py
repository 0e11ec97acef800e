"""Charts of what leads from one to another: transfers between nodes, and dependencies between categories."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

from taskvine_exec.insight.history import Flow
from taskvine_exec.insight.report import text
from taskvine_exec.insight.report.analysis import Analysis
from taskvine_exec.insight.report.figures import Figure, Style, figure, label
from taskvine_manager.record.events import FILES, MANAGER, RELAY, WORKERS

MOST_PLACES = 48
MOST_CATEGORIES = 40
MOST_ARROWS = 50
ROW = 4
"""Categories side by side: more would not fit a phone."""
NAMES = 16
"""Names along an axis."""
PLACES = {FILES: "your files", MANAGER: "manager", RELAY: "relay", WORKERS: "workers"}
REST = "other nodes"


def transfers(analysis: Analysis) -> Figure:
    """Bytes by source and target; nodes with little traffic are taken together."""
    flows = analysis.history.flows
    traffic: Counter[str] = Counter()
    for (source, target), flow in flows.items():
        traffic[source] += flow.size
        traffic[target] += flow.size
    kept = {place for place, _ in traffic.most_common(MOST_PLACES)}
    sums: dict[tuple[str, str], Flow] = {}
    for pair, flow in flows.items():
        source, target = (place if place in kept else REST for place in pair)
        total = sums.setdefault((source, target), Flow())
        total.count, total.size = total.count + flow.count, total.size + flow.size
    order = [*PLACES, *(node.info.node for node in analysis.history.nodes)]
    ranks = {place: rank for rank, place in enumerate(order)} | {REST: len(order)}
    sources = sorted({source for source, _ in sums}, key=lambda place: ranks.get(place, -1))
    targets = sorted({target for _, target in sums}, key=lambda place: ranks.get(place, -1))
    cells = [[sums.get((source, target)) for target in targets] for source in sources]
    trace = {
        "type": "heatmap",
        "x": list(range(len(targets))),
        "y": list(range(len(sources))),
        "z": [[flow.size if flow is not None else None for flow in row] for row in cells],
        "text": [
            [_told(source, target, flow) for target, flow in zip(targets, row, strict=True)]
            for source, row in zip(sources, cells, strict=True)
        ],
        "zmin": 0,
        "zmax": max((flow.size for pair, flow in sums.items() if REST not in pair), default=None),
        "hovertemplate": "%{text}<extra></extra>",
        "xgap": 1,
        "ygap": 1,
        "colorbar": {"tickformat": "~s", "ticksuffix": "B", "thickness": 10},
    }
    return figure(
        [trace],
        190 + 22 * len(sources),
        meta="still",
        xaxis={**_places(targets, -(-len(targets) // NAMES)), "title": {"text": "to"}, "tickangle": -60},
        yaxis={**_places(sources), "title": {"text": "from"}, "autorange": "reversed"},
    )


def _places(names: list[str], every: int = 1) -> dict[str, Any]:
    """Return an axis with the names of nodes, or some of them."""
    shown = [label(PLACES.get(name, name), 16) for name in names]
    ticks = {"tickmode": "array", "tickvals": list(range(0, len(names), every)), "ticktext": shown[::every]}
    return {**ticks, "automargin": True, "fixedrange": True, "showgrid": False}


def _told(source: str, target: str, flow: Flow | None) -> str:
    ends = f"{label(PLACES.get(source, source))} → {label(PLACES.get(target, target))}"
    if flow is None:
        return f"{ends}: nothing"
    return f"{ends}<br>{text.size(flow.size)} in {text.several(flow.count, 'transfer')}"


def categories(analysis: Analysis, style: Style) -> Figure:
    """Categories of tasks, with arrows to those that read what they make."""
    layers, edges = analysis.graph
    weights: Counter[str] = Counter()
    for pair, count in edges.items():
        for name in pair:
            weights[name] += count
    kept = {name for name, _ in weights.most_common(MOST_CATEGORIES)}
    layers = [found for layer in layers if (found := [name for name in layer if name in kept])]
    lines = [layer[start : start + ROW] for layer in layers for start in range(0, len(layer), ROW)]
    # Each row is shifted, and so is each second category in it: arrows should not run through other categories.
    places = {
        name: ((index + 0.5 + (0.12 if depth % 2 else 0.0)) / len(line), -depth - (0.25 if index % 2 else 0.0))
        for depth, line in enumerate(lines)
        for index, name in enumerate(line)
    }
    known = {each.name: each for each in analysis.categories}
    largest = max((known[name].tasks for name in places), default=1)
    within = {name: count for (name, other), count in edges.items() if name == other}
    arrows = sorted(edges.items(), key=lambda item: -item[1])
    between = dict([(pair, n) for pair, n in arrows if pair[0] != pair[1] and kept.issuperset(pair)][:MOST_ARROWS])
    nodes = {
        "type": "scatter",
        "mode": "markers+text",
        "x": [x for x, _ in places.values()],
        "y": [y for _, y in places.values()],
        "text": [label(name, 16) for name in places],
        "textposition": "bottom center",
        "hovertext": [
            f"{label(name)}: {text.several(known[name].tasks, 'task')}, {text.seconds(known[name].total)} in all"
            + (f"<br>dependencies within: {text.number(within[name])}" if name in within else "")
            for name in places
        ],
        "hoverinfo": "text",
        "marker": {
            "color": [style.colour(name) for name in places],
            "size": [12 + 22 * math.sqrt(known[name].tasks / largest) for name in places],
            "opacity": 1,
        },
        "showlegend": False,
    }
    middles = {
        "type": "scatter",
        "mode": "markers",
        "x": [(places[start][0] + places[end][0]) / 2 for start, end in between],
        "y": [(places[start][1] + places[end][1]) / 2 for start, end in between],
        "hovertext": [
            f"{label(start)} → {label(end)}: {text.number(count)} dependencies"
            for (start, end), count in between.items()
        ],
        "hoverinfo": "text",
        "marker": {"color": "rgba(140,140,140,0.8)", "size": 6},
        "showlegend": False,
    }
    heaviest = max(between.values(), default=1)
    hidden = {"visible": False, "fixedrange": True}
    return figure(
        [middles, nodes],
        70 + 95 * len(lines),
        meta="still",
        margin={"l": 8, "r": 8, "t": 16, "b": 8},
        xaxis={**hidden, "range": [-0.05, 1.1]},
        yaxis={**hidden, "range": [-len(lines) + 0.3, 0.4]},
        annotations=[_arrow(places[start], places[end], count / heaviest) for (start, end), count in between.items()],
    )


def _arrow(start: tuple[float, float], end: tuple[float, float], weight: float) -> dict[str, Any]:
    ends = {"x": end[0], "y": end[1], "ax": start[0], "ay": start[1]}
    axes = {"xref": "x", "yref": "y", "axref": "x", "ayref": "y"}
    head = {"arrowhead": 2, "arrowwidth": 0.8 + 1.7 * weight, "standoff": 12, "startstandoff": 8}
    return {**ends, **axes, **head, "text": "", "showarrow": True, "opacity": 0.7}
