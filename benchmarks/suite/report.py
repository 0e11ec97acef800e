"""Tables and figures of a run."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from benchmarks.suite.cases import CASES, Case
from benchmarks.suite.contenders import CONTENDERS
from benchmarks.suite.results import Key, Results, Summary
from benchmarks.suite.targets import verdicts

if TYPE_CHECKING:
    from rich.console import Console

HEADS = ("what", "size", "who", "median", "least to most", "ours is better by")


class Row(NamedTuple):
    """One line of a case's table."""

    key: Key
    unit: str
    summary: Summary
    advantage: Summary | None
    """Ratio by which the first contender of this project is better; above one, it is better."""

    @property
    def words(self) -> tuple[str, ...]:
        """Columns of the row, as in :data:`HEADS`."""
        case = CASES[self.key.case]
        gain = ""
        if self.advantage is not None:
            least_to_most = spread(self.advantage)
            gain = figure(self.advantage.median) + (f" ({least_to_most})" if least_to_most else "")
        return (
            f"{self.key.metric} ({self.unit})",
            f"{self.key.point:,} {case.unit}" if case.unit else "",
            CONTENDERS[self.key.contender].title,
            figure(self.summary.median),
            spread(self.summary),
            gain,
        )


def rows(results: Results, name: str) -> list[Row]:
    """Return the rows of a case's table, by metric, size and contender."""
    case = CASES[name]
    keys = [key for key in results if key.case == name]
    metrics = list(dict.fromkeys(key.metric for key in keys))
    order = list(case.contenders)
    keys.sort(key=lambda key: (metrics.index(key.metric), key.point, order.index(key.contender)))
    reference = next((each for each in case.contenders if each.startswith(("ours", "vine"))), None)
    found = []
    for key in keys:
        metric, summary = case.metric(key.metric), results.summary(key)
        assert summary is not None
        if summary.most == 0:
            continue  # a role that this contender does not have
        gain = None
        if reference is not None and key.contender != reference:
            gain = results.advantage(key._replace(contender=reference), key, more_is_better=metric.more_is_better)
        found.append(Row(key, metric.unit, summary, gain))
    return found


def figure(value: float) -> str:
    """Format a number with three significant digits, but always with all digits before the point."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def spread(summary: Summary) -> str:
    """Format the range from least to most; empty if they are equal."""
    return "" if summary.least == summary.most else f"{figure(summary.least)} to {figure(summary.most)}"


# --- on the terminal, in files ---


def show(console: Console, name: str, results: Results) -> None:
    """Print a case's table."""
    _print(console, f"{name}. {CASES[name].title}", HEADS, [row.words for row in rows(results, name)], "lllrrr")


def show_targets(console: Console, results: Results) -> None:
    """Print the targets and the measured values."""
    found = _targets(results)
    measured = [line for line in found if line[3]]
    if not measured:
        return
    rest = f"; {len(found) - len(measured)} more were not measured" if len(found) > len(measured) else ""
    _print(console, f"targets{rest}", ("case", "what", "bound", "found", "holds"), measured, "llrrl")


def _targets(results: Results) -> list[tuple[str, ...]]:
    words = {True: "yes", False: "no", None: "not measured"}
    return [
        (
            target.case,
            target.title,
            f"{'≥' if target.at_least else '≤'} {target.bound:g}",
            "" if value is None else figure(value),
            words[holds],
        )
        for target, value, holds in verdicts(results)
    ]


def _print(console: Console, title: str, heads: Sequence[str], lines: list[tuple[str, ...]], sides: str) -> None:
    from rich import box
    from rich.table import Table

    table = Table(title=title, title_justify="left", box=box.SIMPLE)
    for head, side in zip(heads, sides, strict=True):
        table.add_column(head, justify="right" if side == "r" else "left")
    before: tuple[str, ...] = ("", "")
    for line in lines:
        table.add_row(*(word if at > 1 or line[: at + 1] != before[: at + 1] else "" for at, word in enumerate(line)))
        before = line
    console.print(table)


def write_json(path: str, facts: dict[str, Any], results: Results) -> None:
    """Write all samples, and the summaries and verdicts derived from them."""
    measured = []
    for name in dict.fromkeys(key.case for key in results):
        for row in rows(results, name):
            measured.append(
                {
                    **row.key._asdict(),
                    "unit": row.unit,
                    "more_is_better": CASES[name].metric(row.key.metric).more_is_better,
                    "values": results.values(row.key),
                    **row.summary._asdict(),
                    "advantage": None if row.advantage is None else row.advantage._asdict(),
                }
            )
    found = [
        {"case": target.case, "title": target.title, "bound": target.bound, "at_least": target.at_least,
         "value": value, "holds": holds}
        for target, value, holds in verdicts(results)
    ]  # fmt: skip
    with open(path, "w", encoding="utf-8") as file:
        json.dump({**facts, "measured": measured, "targets": found}, file, indent=1)


def write_markdown(path: str, facts: dict[str, Any], results: Results) -> None:
    """Write the tables as Markdown."""
    lines = [", ".join(facts["machine"].values()) + f"; {facts['cores']} workers.", ""]
    for name in dict.fromkeys(key.case for key in results):
        lines += [f"## {name}. {CASES[name].title}", "", f"Medians of {facts['rounds'][name]}.", ""]
        lines += _markdown(HEADS, [row.words for row in rows(results, name)])
    lines += ["## targets", "", *_markdown(("case", "what", "bound", "found", "holds"), _targets(results))]
    for name, reason in facts["skipped"].items():
        lines.append(f"Not measured: {CONTENDERS[name].title}, because {reason}.")
    with open(path, "w", encoding="utf-8") as file:
        file.write("\n".join(lines) + "\n")


def _markdown(heads: Sequence[str], lines: list[tuple[str, ...]]) -> list[str]:
    return [*(f"| {' | '.join(line)} |" for line in [tuple(heads), ("---",) * len(heads), *lines]), ""]


def draw(directory: str, results: Results) -> list[str]:
    """Draw a figure for each case and metric with more than one row; return the paths."""
    import matplotlib

    matplotlib.use("agg")
    paths = []
    for name, metric in dict.fromkeys((key.case, key.metric) for key in results):
        chosen = [row for row in rows(results, name) if row.key.metric == metric and row.summary.median > 0]
        if len(chosen) > 1:
            path = os.path.join(directory, re.sub(r"\W+", "-", f"{name} {metric}") + ".png")
            _draw(path, CASES[name], metric, chosen)
            paths.append(path)
    return paths


def _draw(path: str, case: Case, metric: str, chosen: list[Row]) -> None:
    from matplotlib.figure import Figure

    picture = Figure(figsize=(7, 4), layout="constrained")
    axes = picture.add_subplot()
    by_contender: dict[str, list[Row]] = {}
    for row in chosen:
        by_contender.setdefault(row.key.contender, []).append(row)
    if len({row.key.point for row in chosen}) > 1:
        for name, line in by_contender.items():
            style = "-o" if name.startswith(("ours", "vine")) else "--s"
            axes.errorbar(
                [row.key.point for row in line], [row.summary.median for row in line], yerr=_bars(line), fmt=style,
                capsize=3, label=CONTENDERS[name].title,
            )  # fmt: skip
        axes.set(xscale="log", yscale="log", xlabel=case.unit, ylabel=f"{metric} ({chosen[0].unit})")
        axes.legend(fontsize="small")
    else:
        chosen = sorted(chosen, key=lambda row: row.summary.median)
        titles = [CONTENDERS[row.key.contender].title for row in chosen]
        colours = ["C0" if row.key.contender.startswith(("ours", "vine")) else "C7" for row in chosen]
        axes.barh(titles, [row.summary.median for row in chosen], xerr=_bars(chosen), color=colours, capsize=3)
        axes.set(xscale="log", xlabel=f"{metric} ({chosen[0].unit})")
    axes.set_title(case.title)
    picture.savefig(path, dpi=120)


def _bars(line: list[Row]) -> list[list[float]]:
    return [
        [row.summary.median - row.summary.least for row in line],
        [row.summary.most - row.summary.median for row in line],
    ]
