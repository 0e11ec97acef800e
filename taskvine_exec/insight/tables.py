"""The state of a run as tables for a terminal."""

from __future__ import annotations

import datetime
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from taskvine_exec.insight.summary import STATES, BlockLine, Category, NodeLine, Summary
from taskvine_exec.insight.words import ended, in_bytes, in_seconds, plural, shown
from taskvine_tune.command.terminal import make_table

if TYPE_CHECKING:
    from rich.console import Group, RenderableType

MOST_ROWS = 20
"""Maximum number of rows of a table, unless all are asked for."""
_COLOURS = {
    "waiting": "dim",
    "ready": "yellow",
    "assigned": "cyan",
    "returned": "green",
    "raised": "red",
    "lost": "red",
    "cancelled": "magenta",
    "goes on": "cyan",
    "over": "green",
    "killed": "red",
}


def renderable(summary: Summary, title: str, *, every: bool = False) -> Group:
    """Return a summary as tables.

    Parameters
    ----------
    summary : Summary
        The state of a run in numbers.
    title : str
        Name of the run.
    every : bool
        Whether to show all rows of each table.
    """
    from rich.console import Group

    return Group(*_parts(summary, title, None if every else MOST_ROWS))


def _parts(summary: Summary, title: str, most: int | None) -> Iterator[RenderableType]:
    from rich.text import Text

    yield _head(summary, title)
    yield _counts(summary)
    for line in (*_speed(summary), *_data(summary)):
        yield Text(line)
    if summary.categories:
        yield from _table(_categories(summary.categories[:most], summary), len(summary.categories), most)
    if summary.nodes:
        yield from _table(_nodes(summary.nodes[:most], summary), len(summary.nodes), most)
    if summary.blocks:
        yield from _table(_blocks(summary.blocks[:most], summary), len(summary.blocks), most)
    if summary.lost_nodes:
        yield Text("")
        yield _lost(summary.lost_nodes if most is None else summary.lost_nodes[-most:])


def _table(table: RenderableType, rows: int, most: int | None) -> Iterator[RenderableType]:
    from rich.text import Text

    yield Text("")
    yield table
    if most is not None and rows > most:
        yield Text(f"and {rows - most:,} more (--all)", style="dim")


def _head(summary: Summary, title: str) -> RenderableType:
    from rich.text import Text

    if not summary.started:
        return Text.assemble((shown(title), "bold"), "  nothing is recorded yet")
    began = datetime.datetime.fromtimestamp(summary.started).strftime("%Y-%m-%d %H:%M:%S")
    seconds = in_seconds((summary.ended or summary.now) - summary.started)
    words = {
        "goes on": f"goes on since {seconds}",
        "over": f"over, after {seconds}",
        "killed": f"its manager is gone without an end of the run; last entry after {seconds}",
        "unknown": f"last entry after {seconds}; no word of its end",
    }[summary.run]
    return Text.assemble(
        (title, "bold"), f"  {summary.engine} engine, began {began}, ", (words, _COLOURS.get(summary.run, ""))
    )


def _counts(summary: Summary) -> RenderableType:
    from rich.text import Text

    text = Text(plural(summary.tasks, "task"))
    for name in STATES:
        if count := summary.states[name]:
            text.append(", " if ":" in text.plain else ": ")
            text.append(f"{count:,} {name}", style=_COLOURS[name])
    return text


def _speed(summary: Summary) -> Iterator[str]:
    if summary.rate and summary.run == "goes on":
        yield f"{summary.rate:.3g} tasks per second ended in the last minute"
    if (estimate := summary.estimate) is not None:
        words = f"about {in_seconds(estimate.seconds)} left, if no more tasks come"
        if estimate.path >= estimate.seconds > 0:
            words += "; the longest chain of tasks decides this"
        if estimate.unmeasured:
            words += f"; {plural(estimate.unmeasured, 'task')} of categories that were not measured"
        yield words


def _data(summary: Summary) -> Iterator[str]:
    if not summary.details:
        yield "the record has no details (executor.record-details): data, placements and reasons are not known"
        return
    yield (
        f"{plural(summary.files, 'file')} stored ({in_bytes(summary.stored)} with replicas), "
        f"{plural(summary.transfers + summary.reading, 'transfer')} under way, {in_bytes(summary.moved)} moved"
    )
    counts = {
        "evicted": plural(summary.evicted, "replica"),
        "lost for now": plural(summary.lost_files, "file"),
        "run again for lost files": plural(summary.recoveries, "task"),
        "queued again": plural(summary.retries, "attempt"),
    }
    said = [f"{count} {what}" for what, count in counts.items() if not count.startswith("0 ")]
    if summary.lost_nodes:
        said.append(f"{plural(len(summary.lost_nodes), 'node')} lost")
    if said:
        yield ", ".join(said)


def _categories(rows: Sequence[Category], summary: Summary) -> RenderableType:
    columns = [name for name in STATES if summary.states[name]]
    table = make_table("category", *columns, "per second", "median", "95 %")
    for row in rows:
        counts = [f"{row.states[name]:,}" if row.states[name] else "" for name in columns]
        times = ["" if each is None else in_seconds(each) for each in (row.median, row.most)]
        table.add_row(*map(shown, (row.name, *counts, f"{row.rate:.3g}" if row.rate else "", *times)))
    return table


def _nodes(rows: Sequence[NodeLine], summary: Summary) -> RenderableType:
    table = make_table(
        "node", "block", "state", "tasks", "cores", "gpus", "memory asked", "cache", "libraries", "since"
    )
    for row in rows:
        room = f"{row.slots} slots" if row.slots is not None else f"{row.cores:g}"
        memory = f"{in_bytes(row.memory_asked)} of {in_bytes(row.memory)}" if row.memory else ""
        cache = f"{in_bytes(row.cache)} of {in_bytes(row.disk)}" if row.disk else in_bytes(row.cache)
        since = in_seconds(summary.now - row.joined)
        gpus = f"{row.gpus:g}" if row.gpus else ""
        libraries = ", ".join(row.libraries)
        table.add_row(
            *map(shown, (row.name, row.block, row.state, f"{row.tasks}", room, gpus, memory, cache, libraries, since))
        )
    return table


def _blocks(rows: Sequence[BlockLine], summary: Summary) -> RenderableType:
    table = make_table("block", "job", "state", "since", "nodes", "the batch system says")
    for row in rows:
        code = "" if row.exit_code is None else f"exit code {row.exit_code}"
        words = ", ".join(filter(None, (row.reason, code)))
        table.add_row(
            *map(shown, (row.name, row.job, row.state, in_seconds(summary.now - row.since), f"{row.nodes}", words))
        )
    return table


def _lost(rows: Sequence[NodeLine]) -> RenderableType:
    table = make_table("lost node", "block", "after", "why")
    for row in rows:
        why = "; ".join(filter(None, (row.reason, ended(row.status))))
        table.add_row(*map(shown, (row.name, row.block, in_seconds((row.left or row.joined) - row.joined), why)))
    return table
