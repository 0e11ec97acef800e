"""Tables of a run (pure, but for printing)."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from benchmarks.suite.contenders import CONTENDERS
from benchmarks.suite.report import figure, spread
from benchmarks.suite.results import Key, Results

if TYPE_CHECKING:
    from rich.console import Console

METRIC = "METG"
REFERENCES = ("ours-dag", "ours", "vine-dag", "vine")
"""Contenders of this project: the first that was measured is compared with the others."""


def key(pattern: str, width: int, contender: str) -> Key:
    """Return the key of a contender's METG with one pattern."""
    return Key(pattern, METRIC, width, contender)


def lines(results: Results, facts: dict[str, Any]) -> list[tuple[str, ...]]:
    """Return a line for each contender: its METG in microseconds, by pattern."""
    return [
        (CONTENDERS[name].title, *(_cell(results, facts, pattern, name) for pattern in facts["patterns"]))
        for name in measured(results, facts)
    ]


def ratios(results: Results, facts: dict[str, Any]) -> tuple[str, list[tuple[str, ...]]]:
    """Return the reference, and a line for each other contender: its METG divided by the reference's."""
    names, width = measured(results, facts), facts["plan"]["width"]
    reference = next((name for name in REFERENCES if name in names), "")
    found = []
    for name in names if reference else ():
        if name != reference:
            cells = []
            for pattern in facts["patterns"]:
                ratio = results.ratio(key(pattern, width, name), key(pattern, width, reference))
                cells.append("" if ratio is None else _with_range(figure(ratio.median), spread(ratio)))
            found.append((CONTENDERS[name].title, *cells))
    return reference, found


def measured(results: Results, facts: dict[str, Any]) -> list[str]:
    """Return the contenders of which anything is known, in their order."""
    known = {each.contender for each in results} | {name for name, _ in facts["unreached"]}
    return [name for name in facts["contenders"] if name in known]


def _cell(results: Results, facts: dict[str, Any], pattern: str, name: str) -> str:
    summary = results.summary(key(pattern, facts["plan"]["width"], name))
    if summary is None:
        return f"> {figure(facts['plan']['most'] * 1e6)}" if (name, pattern) in facts["unreached"] else "failed"
    return _with_range(figure(summary.median), spread(summary))


def _with_range(middle: str, range_: str) -> str:
    return f"{middle} ({range_})" if range_ else middle


def show(console: Console, results: Results, facts: dict[str, Any]) -> None:
    """Print both tables."""
    title = f"METG({facts['plan']['target']:.0%}) in µs"
    _print(console, title, facts, lines(results, facts))
    reference, found = ratios(results, facts)
    if found:
        _print(console, f"the same, divided by that of {CONTENDERS[reference].title}", facts, found)


def _print(console: Console, title: str, facts: dict[str, Any], found: list[tuple[str, ...]]) -> None:
    from rich import box
    from rich.table import Table

    console.print(title, soft_wrap=True)
    table = Table("", box=box.SIMPLE)
    for pattern in facts["patterns"]:
        table.add_column(pattern, justify="right")
    for line in found:
        table.add_row(*line)
    console.print(table)


def write(path: str, results: Results, facts: dict[str, Any], samples: list[dict[str, Any]]) -> None:
    """Write all samples and their medians as JSON."""
    medians = [{**each._asdict(), "values": results.values(each), "median": results.median(each)} for each in results]
    with open(path, "w", encoding="utf-8") as file:
        json.dump({**facts, "unit": "µs", "medians": medians, "samples": samples}, file, indent=1)
