"""The sections of a report: what each says about a run."""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from typing import Any

from taskvine_exec.insight.report import figures, networks, text
from taskvine_exec.insight.report.analysis import Analysis
from taskvine_exec.insight.report.figures import Style
from taskvine_exec.insight.report.page import Section
from taskvine_exec.insight.report.timeline import timeline
from taskvine_exec.insight.state import Node
from taskvine_exec.insight.statistics import lost_nodes, slots

MOST_ROWS = 200
"""Rows of a table; longer ones are cut off, and say so."""
MOST_SLOWEST = 25
MOST_LINKS = 60
MOST_CAUSES = 50
NO_DETAILS = (
    "This record has no details: it was made with record-details off, or by an older version. "
    "Waiting times are counted until a task ran."
)


def sections(analysis: Analysis) -> list[Section]:
    """Return all sections of a run's report."""
    style = Style(analysis)
    return [
        _summary(analysis),
        _running(analysis, style),
        _timeline(analysis, style),
        _categories(analysis),
        _slowest(analysis),
        _critical_path(analysis, style),
        _graph(analysis, style),
        _transfers(analysis),
        _storage(analysis, style),
        _losses(analysis),
        _failures(analysis),
        _nodes(analysis),
        _configuration(analysis),
    ]


def _summary(analysis: Analysis) -> Section:
    totals, state = analysis.totals, analysis.state
    section = Section("summary", "Summary")
    began, end = text.moment(totals.start), text.moment(totals.end)
    if state.ended is not None:
        section.text(f"The run began at {began} and ended at {end}.")
    else:
        section.text(
            f"The run began at {began}. Its record has no end: the run goes on, or its manager was killed. "
            f"The last entry is of {end}."
        )
    outcomes = totals.outcomes
    failed = outcomes["raised"] + outcomes["lost"]
    left = outcomes["waiting"] + outcomes["ready"] + outcomes["assigned"]
    lost = len(lost_nodes(state, analysis.history))
    section.tiles(
        [
            ("duration", text.seconds(totals.seconds), False),
            ("tasks", text.number(outcomes.total()), False),
            ("returned", text.number(outcomes["returned"]), False),
            ("failed", text.number(failed), failed > 0),
            ("cancelled", text.number(outcomes["cancelled"]), False),
            ("not finished", text.number(left), left > 0),
            ("run time of all tasks", text.seconds(totals.busy), False),
            ("of the slots' time used", text.share(totals.busy, totals.available), False),
            ("critical path", text.seconds(_path_seconds(analysis)), False),
            ("nodes", text.number(len(analysis.history.nodes)), False),
            ("nodes lost", text.number(lost) if state.has_details else "–", lost > 0),
            ("tasks run again for lost files", text.number(state.recoveries), state.recoveries > 0),
            ("bytes transferred", text.size(totals.moved) if analysis.history.flows else "–", False),
            ("most bytes on nodes", text.size(totals.stored), False),
        ]
    )
    if not state.has_details:
        section.note(NO_DETAILS)
    return section


def _path_seconds(analysis: Analysis) -> float:
    return sum(analysis.span_of[number].seconds for number in analysis.critical_path if number in analysis.span_of)


def _running(analysis: Analysis, style: Style) -> Section:
    section = Section("running", "Running tasks over time")
    if not analysis.state.tasks:
        section.text("No task was submitted.")
        return section
    section.chart(figures.running(analysis, style))
    section.note(
        "Values are means over short intervals. A task is ready if all its inputs have been made. "
        "It can then wait for a node, for its inputs to be copied, or for a slot."
    )
    return section


def _timeline(analysis: Analysis, style: Style) -> Section:
    section = Section("timeline", "Timeline by slot")
    if not analysis.spans:
        section.text("No task has run.")
        return section
    chart, words = timeline(analysis, style)
    section.chart(chart)
    section.note(words)
    return section


def _categories(analysis: Analysis) -> Section:
    section = Section("categories", "Categories")
    columns = ["category", "#tasks", "#failed", "#cancelled", "#not finished", "#run time", "#share"]
    columns += ["#median", "#p95", "#longest", "#median wait", "#results"]
    total = sum(each.total for each in analysis.categories)
    rows = []
    for each in analysis.categories:
        left = each.outcomes["waiting"] + each.outcomes["ready"] + each.outcomes["assigned"]
        counts = [text.number(count) for count in (each.tasks, each.failed, each.outcomes["cancelled"], left)]
        times = [text.seconds(value) for value in (each.median, each.p95, each.longest, each.wait)]
        amounts = [text.seconds(each.total), text.share(each.total, total)]
        rows.append([text.clipped(each.name, 60), *counts, *amounts, *times, text.size(each.result_bytes)])
    _table(section, columns, rows)
    section.note("Median, p95 and longest are run times of functions. The wait is from when all inputs had been made.")
    return section


def _slowest(analysis: Analysis) -> Section:
    section = Section("slowest", "Slowest tasks")
    medians = {each.name: each.median for each in analysis.categories}
    rows = []
    for span in heapq.nlargest(MOST_SLOWEST, analysis.spans, key=lambda span: span.seconds):
        task = analysis.state.tasks[span.number]
        median = medians.get(span.category)
        times = f"{span.seconds / median:.1f} ×" if median else "–"
        placement = task.placement
        moved = text.size(placement.missing) if placement is not None else "–"
        name = text.clipped(span.category, 60) + (" (again)" if task.origin is not None else "")
        began = text.seconds(max(0.0, span.begin - analysis.totals.start))
        number = span.number if task.origin is None else task.origin
        rows.append([number, name, text.seconds(span.seconds), times, span.node, began, moved])
    columns = ["#task", "category", "#run time", "#of the median", "node", "#began after", "#inputs fetched"]
    _table(section, columns, rows)
    return section


def _critical_path(analysis: Analysis, style: Style) -> Section:
    section = Section("path", "Critical path")
    path = analysis.critical_path
    total = _path_seconds(analysis)
    if not path or not total:
        section.text("No task has run.")
        return section
    waited = sum(until - since for number in path for since, until in [analysis.waits.get(number, (0.0, 0.0))])
    section.text(
        f"The longest chain of dependent tasks has {text.several(len(path), 'task')}, which ran for "
        f"{text.seconds(total)} in all. The run took {text.seconds(analysis.totals.seconds)}: with any number of "
        f"nodes, it could not have been shorter than this chain. Its tasks were ready for {text.seconds(waited)} "
        f"before they ran."
    )
    section.chart(figures.critical_path(analysis, style))
    shown = path if len(path) <= MOST_LINKS else [*path[: MOST_LINKS // 2], *path[-MOST_LINKS // 2 :]]
    rows = []
    for number in shown:
        span = analysis.span_of.get(number)
        since, until = analysis.waits.get(number, (0.0, 0.0))
        name = text.clipped(analysis.category[number], 60)
        times = [text.seconds(until - since), text.seconds(span.seconds if span is not None else None)]
        rows.append([number, name, *times, span.node if span is not None else "–"])
    _table(section, ["#task", "category", "#waited", "#run time", "node"], rows)
    if len(shown) < len(path):
        section.note(f"The table has the first and the last {MOST_LINKS // 2} of {text.number(len(path))} tasks.")
    return section


def _graph(analysis: Analysis, style: Style) -> Section:
    section = Section("graph", "Dependencies by category")
    if not analysis.graph.edges:
        section.text("No task read what another task made.")
        return section
    chart = networks.categories(analysis, style)
    section.chart(chart)
    linked = {name for layer in analysis.graph.layers for name in layer}
    drawn, arrows = len(chart["data"][1]["x"]), len(chart["layout"]["annotations"])
    words = "An arrow leads from a category to one that reads its files or results. Its width shows how many do."
    if drawn < len(linked):
        words += f" These are the {drawn} of {len(linked)} categories with the most dependencies."
    if arrows == networks.MOST_ARROWS:
        words += f" Only the {arrows} widest arrows are drawn."
    section.note(words)
    return section


def _transfers(analysis: Analysis) -> Section:
    section = Section("transfers", "Transfers between nodes")
    flows = analysis.history.flows
    if not flows:
        section.text("No transfers were recorded.")
        if analysis.state.facts.get("engine") == "taskvine":
            section.note("TaskVine copies files by itself. Only transfers that the executor orders are recorded.")
        return section
    section.chart(networks.transfers(analysis))
    rows = []
    for (source, target), flow in sorted(flows.items(), key=lambda item: -item[1].size)[:20]:
        rate = f"{text.size(flow.size / flow.seconds)}/s" if flow.seconds > 0 else "–"
        ends = [networks.PLACES.get(source, source), networks.PLACES.get(target, target)]
        counts = [text.number(flow.count), text.number(flow.further), text.number(flow.failed)]
        rows.append([*ends, text.size(flow.size), *counts, rate])
    _table(section, ["from", "to", "#bytes", "#transfers", "#as further replicas", "#failed", "#rate of one"], rows)
    if len(flows) > 20:
        section.note(f"The table has the 20 largest of {text.number(len(flows))} pairs.")
    return section


def _storage(analysis: Analysis, style: Style) -> Section:
    section = Section("storage", "Storage and replicas over time")
    if not analysis.history.stored:
        section.text("No temp files or large results were recorded.")
        return section
    section.chart(figures.storage(analysis, style))
    most = max(analysis.history.stored, key=lambda each: each.nodes)
    section.text(
        f"The nodes held at most {text.size(most.nodes)}, after {text.seconds(most.time - analysis.totals.start)}."
    )
    if evicted := analysis.state.evicted:
        section.text(f"Replicas that were evicted because a disk was full: {text.number(evicted)}.")
    return section


def _losses(analysis: Analysis) -> Section:
    section = Section("losses", "Losses and their cost")
    losses = analysis.losses
    if not losses:
        is_known = analysis.state.has_details
        section.text(
            "No node was lost, and no task ran again for lost files." if is_known else "No losses were recorded."
        )
        return section
    cost = sum(each.seconds for each in losses)
    share = f"{text.share(cost, analysis.totals.busy)} of the run time of all tasks"
    is_known = not analysis.state.recoveries or bool(analysis.history.causes)
    if is_known:
        section.text(f"Losses cost at most {text.seconds(cost)} of run time, which is {share}.")
    else:
        section.text(f"Attempts that ended with their node had run for at most {text.seconds(cost)}, which is {share}.")
    rows = []
    for each in losses:
        left = each.node.left if each.node is not None else None
        when = text.seconds(left - analysis.totals.start) if left is not None else "–"
        cut = [text.number(each.interrupted), text.seconds(each.interrupted_seconds)]
        files = [text.number(each.files), text.size(each.size)]
        again = [text.number(each.recovered), text.seconds(each.recovered_seconds)]
        rows.append([each.name or "other causes", when, _end(analysis, each.node), *cut, *files, *again])
    columns = ["node", "#after", "~reason", "#tasks interrupted", "#they ran at most"]
    columns += ["#files lost", "#bytes", "#tasks run again", "#run time of these"]
    _table(section, columns, rows)
    if any(not each.name for each in losses):
        section.note("Other causes: files that had been dropped or evicted, and were needed again.")
    if not is_known:
        tasks = text.several(analysis.state.recoveries, "task")
        section.note(f"TaskVine ran {tasks} again for lost files. It does not say which, or how long they ran.")
    return section


def _end(analysis: Analysis, node: Node | None) -> str:
    """Return how a node ended, with what the batch system says of its block."""
    if node is None or node.left is None:
        return ""
    words = node.reason
    if node.status is not None:
        words += f", status {node.status}" if node.status >= 0 else f", signal {-node.status}"
    block = analysis.state.blocks.get(node.info.block)
    if block is not None:
        event = block[1]
        code = f", exit code {event.exit_code}" if event.exit_code is not None else ""
        words += f"; block {event.block} (job {event.job}): {event.state}{code}"
        if event.reason:
            words += f", {event.reason}"
    return words


def _failures(analysis: Analysis) -> Section:
    section = Section("failures", "Failures by root cause")
    causes = analysis.causes
    if not causes:
        section.text("No task failed.")
        return section
    for cause in causes[:MOST_CAUSES]:
        message = text.clipped(cause.message, 300) or cause.kind
        if not message.startswith(cause.kind):
            message = f"{cause.kind}: {message}"
        behind = f" (and {text.number(cause.dependents)} that depend on them)" if cause.dependents else ""
        place = f" ({cause.place.rpartition('/')[2]})" if cause.place else ""
        summary = f"{text.several(len(cause.tasks), 'task')}{behind}: {message}{place}"
        inside = [f"First: task {cause.first}, after {text.seconds(cause.time - analysis.totals.start)}."]
        inside.append(
            "Categories: " + ", ".join(f"{name} ({count})" for name, count in cause.categories.most_common(9))
        )
        numbers = ", ".join(map(str, cause.tasks[:20])) + (", …" if len(cause.tasks) > 20 else "")
        inside.append(f"Tasks: {numbers}")
        section.details(summary, inside, cause.text)
    if len(causes) > MOST_CAUSES:
        section.note(f"These are the {MOST_CAUSES} largest of {text.number(len(causes))} groups.")
    section.note("A task that Parsl tries again counts once for each try.")
    return section


def _nodes(analysis: Analysis) -> Section:
    section = Section("nodes", "Nodes and blocks")
    ran: dict[str, int] = {}
    for span in analysis.spans:
        ran[span.node] = ran.get(span.node, 0) + 1
    rows = []
    for node in analysis.history.nodes:
        info = node.info
        memory = f"{text.number(info.memory or 0)} MB"
        since = text.seconds(node.joined - analysis.totals.start)
        until = text.seconds(node.left - analysis.totals.start) if node.left is not None else "–"
        size = [slots(node), f"{info.cores or 0:g}", memory, info.gpus or 0]
        rows.append([info.node, info.block, *size, since, until, text.number(ran.get(info.node, 0)), node.reason])
    columns = ["node", "block", "#slots", "#cores", "#memory", "#gpus", "#joined after", "#left after", "#tasks"]
    _table(section, [*columns, "~end"], rows)
    blocks = [
        [event.block, event.job, event.state, event.reason, "–" if event.exit_code is None else event.exit_code]
        for _, event in analysis.state.blocks.values()
    ]
    if blocks:
        section.heading("Blocks")
        _table(section, ["block", "job", "last state", "~reason", "#exit code"], blocks)
    return section


def _configuration(analysis: Analysis) -> Section:
    section = Section("configuration", "Configuration and versions")
    facts = analysis.state.facts
    _table(section, ["fact", "~value"], [[name, value] for name, value in _flat(facts)])
    if analysis.history.tuned:
        section.heading("Tuning parameters that were changed in the run")
        rows = [
            [text.seconds(time - analysis.totals.start), name, value]
            for time, parameters in analysis.history.tuned
            for name, value in parameters.items()
        ]
        _table(section, ["#after", "parameter", "~value"], rows)
    section.heading("Functions and their resources")
    profiles = [
        [
            *(each.name, each.category, each.mode),
            *map(_amount, (each.cores, each.memory, each.disk, each.gpus, each.priority)),
        ]
        for each in analysis.state.profiles.values()
    ]
    columns = ["function", "category", "mode", "#cores", "#memory (MB)", "#disk (MB)", "#gpus", "#priority"]
    _table(section, columns, profiles)
    return section


def _amount(value: float | None) -> str:
    return "–" if value is None else f"{value:g}"


def _flat(facts: Any, prefix: str = "") -> Iterator[tuple[str, object]]:
    """Yield the facts within facts, each with its path."""
    for name, value in facts.items():
        if isinstance(value, dict) and value:
            yield from _flat(value, f"{prefix}{name}: ")
        else:
            yield f"{prefix}{name}", "none" if value == {} else value


def _table(section: Section, columns: list[str], rows: list[list[Any]]) -> None:
    section.table(columns, rows[:MOST_ROWS])
    if len(rows) > MOST_ROWS:
        section.note(f"The table has the first {MOST_ROWS} of {text.number(len(rows))} rows.")
