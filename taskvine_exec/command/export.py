"""``report``, ``trace``, ``dot`` and ``graphml``: a run as a page, and in formats of other programs."""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Iterator
from typing import TextIO

from taskvine_exec.command.runs import Problem, add_run, find, is_live
from taskvine_exec.insight import graph
from taskvine_exec.insight import report as reports
from taskvine_exec.insight import trace as traces
from taskvine_manager.record import read_record
from taskvine_tune.command.terminal import FINE

__all__ = [
    "add_graph_arguments",
    "add_report_arguments",
    "add_trace_arguments",
    "dot",
    "graphml",
    "report",
    "trace",
]


def add_trace_arguments(command: argparse.ArgumentParser) -> None:
    """Declare the options of ``trace``."""
    add_run(command)
    command.add_argument("-o", "--output", metavar="FILE", help="default: standard output")
    command.epilog = "Open the file at https://ui.perfetto.dev, which works without sending it, or in chrome://tracing."


def add_graph_arguments(command: argparse.ArgumentParser) -> None:
    """Declare the options of ``dot`` and ``graphml``."""
    add_run(command)
    command.add_argument("-o", "--output", metavar="FILE", help="default: standard output")


def add_report_arguments(command: argparse.ArgumentParser) -> None:
    """Declare the options of ``report``."""
    add_run(command)
    command.add_argument("-o", "--output", metavar="FILE", default="report.html", help="default: %(default)s")


def report(options: argparse.Namespace) -> int:
    """Write a page about a run."""
    try:
        reports.write(find(options.where).record, options.output)
    except ModuleNotFoundError as error:
        raise Problem(str(error)) from error
    return FINE


def trace(options: argparse.Namespace) -> int:
    """Write a run as a trace."""
    fold = traces.read(find(options.where).record)
    with _output(options.output) as file:
        traces.write(fold, file)
    return FINE


def dot(options: argparse.Namespace) -> int:
    """Write the graph of a run for Graphviz."""
    return _graph(options, graph.dot)


def graphml(options: argparse.Namespace) -> int:
    """Write the graph of a run as GraphML."""
    return _graph(options, graph.graphml)


def _graph(options: argparse.Namespace, lines: graph.Lines) -> int:
    source = find(options.where)
    state = source.read()
    live = graph.snapshot(state) if state.has_details and is_live(state) is not False else None
    made = graph.build(read_record(source.record), live)
    with _output(options.output) as file:
        file.writelines(lines(made))
    return FINE


@contextlib.contextmanager
def _output(path: str | None) -> Iterator[TextIO]:
    if path is None:
        yield sys.stdout
        return
    with open(path, "w", encoding="utf-8", errors="replace", newline="\n") as file:
        yield file
