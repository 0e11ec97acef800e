"""The command ``taskvine-tune simulate``: its options, and what it shows."""

from __future__ import annotations

import argparse
import itertools
import json
import math
import statistics
from collections.abc import Iterable
from dataclasses import dataclass, fields, replace
from typing import Any

from rich.table import Table

from taskvine_tune import formats
from taskvine_tune.errors import BadSimulation
from taskvine_tune.simulation.api import (
    GENERATORS,
    WINDOW,
    Cluster,
    Outcome,
    Workload,
    generate,
    recorded,
    simulate,
    vary,
)
from taskvine_tune.simulation.calibration import calibrate, tuned
from taskvine_tune.simulation.workloads import read
from taskvine_tune.tuning import TuneParameters

__all__ = ["Results", "add_arguments", "as_json", "remarks", "run", "table"]

NODES = 10
"""Where nothing says how many."""

_UNITS = {"k": 1e3, "m": 1e6, "g": 1e9, "t": 1e12}


@dataclass(frozen=True)
class Results:
    """What was simulated, and what came of it: for each setting, an outcome for each seed."""

    workload: Workload
    settings: list[dict[str, Any]]
    outcomes: list[list[Outcome]]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of the command."""
    parser.description = (
        "Have imagined nodes run what a recorded run did, or a generated graph, under the scheduler of the embedded "
        "engine, and show what comes of it for each value of a parameter."
    )
    add = parser.add_argument
    add("record", nargs="?", metavar="RECORD", help="the record.msgpack of a run, in its executor's log directory")
    add("--at-once", action="store_true", help="submit all of a record at once, not when it was in the run")

    group = parser.add_argument_group("instead of a record")
    add = group.add_argument
    add("--generate", metavar="KIND", help=f"a graph: {', '.join(GENERATORS)}")
    add("--tasks", type=int, default=1000, metavar="N", help="how many (%(default)s)")
    add("--seconds", type=float, default=1.0, metavar="S", help="mean run time (%(default)s)")
    add(
        "--spread", type=float, default=0.0, metavar="SIGMA", help="of log-normal run times; 0: all alike (%(default)s)"
    )
    add("--size", type=_bytes, default=1e6, metavar="BYTES", help="of each result, as 500k or 2G (1M)")
    add("--width", type=int, default=100, metavar="N", help="of a layer, or of a round of maps (%(default)s)")
    add("--fan", type=int, default=2, metavar="N", help="results that a task of a layered graph reads (%(default)s)")

    group = parser.add_argument_group("nodes (of a record, the nodes that it ran on, unless these say otherwise)")
    for option, kind, unit, says in (
        ("nodes", int, "N", f"how many ({NODES})"),
        ("slots", int, "N", "cores of each (1)"),
        ("disk", _bytes, "BYTES", "of each, for temp files; 0: no limit (0)"),
        ("bandwidth", _bytes, "B/S", "of each node, each way (1.25G)"),
        ("manager-bandwidth", _bytes, "B/S", "of the manager, each way (1.25G)"),
        ("latency", float, "S", f"of a message ({Cluster.latency:g})"),
        ("startup", float, "S", "until a node joins (0)"),
        ("overhead", float, "S", "of each task, in its slot (0)"),
        ("setup", float, "S", "of the first task in each slot (0)"),
        ("write-rate", _bytes, "B/S", "of large results (no limit)"),
        ("failure-rate", float, "R", "losses of a node in an hour; times between them are exponential (0)"),
        ("retries", int, "N", "of a task whose node was lost (no limit)"),
    ):
        name = "loss_rate" if option == "failure-rate" else option.replace("-", "_")
        group.add_argument(f"--{option}", dest=name, type=kind, metavar=unit, help=says, default=argparse.SUPPRESS)
    group.add_argument(
        "--no-replacement",
        dest="replace",
        action="store_false",
        default=argparse.SUPPRESS,
        help="nobody takes the place of a lost node",
    )

    group = parser.add_argument_group("parameters")
    add = group.add_argument
    add(
        "--parameter",
        action="append",
        default=[],
        metavar="NAME=V1,V2",
        help="values to compare, of a tuning parameter or an option above (loss-rate for --failure-rate); several "
        "times: all combinations",
    )
    add("--tune", metavar="FILE", help="the other tuning parameters")
    add("--seed", type=int, default=0, help="of all that is drawn (%(default)s)")
    add("--repeat", type=int, default=1, metavar="N", help="simulate so many times, with one seed after another")
    add("--window", type=int, default=WINDOW, metavar="N", help="tasks with the manager at a time (%(default)s)")


def _bytes(text: str) -> float:
    factor = _UNITS.get(text[-1:].lower(), 1.0)
    try:
        number = float(text[:-1] if factor > 1 else text) * factor
    except ValueError:
        number = math.nan
    if not number >= 0:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of bytes, such as 1e9, 500k or 1.25G")
    return number


def run(options: argparse.Namespace) -> Results:
    """Do what the options say.

    Raises
    ------
    TuningError
        If something in them cannot be simulated.
    """
    if options.repeat < 1:
        raise BadSimulation(f"repeat must be at least 1, not {options.repeat}")
    workload, cluster, tuning = _given(options)
    own = {each.name: getattr(options, each.name) for each in fields(Cluster) if hasattr(options, each.name)}
    cluster = replace(cluster, **own)
    if options.tune:
        tuning |= TuneParameters(formats.read(options.tune))
    names, lists = [], []
    for text in options.parameter:
        name, values = _values(text)
        names.append(name)
        lists.append(values)
    settings = [dict(zip(names, values, strict=True)) for values in itertools.product(*lists)]
    # All are checked before the first is simulated, which may take minutes.
    varied = [vary(cluster, tuning, setting) for setting in settings]
    for here, parameters in varied:
        parameters.check(nodes=here.nodes, peer_transfers=here.peer_transfers)
    seeds = range(options.seed, options.seed + options.repeat)
    outcomes = [
        [simulate(workload, here, parameters, seed, window=options.window) for seed in seeds]
        for here, parameters in varied
    ]
    return Results(workload, settings, outcomes)


def _given(options: argparse.Namespace) -> tuple[Workload, Cluster, TuneParameters]:
    """What is to run, and where, unless options say otherwise."""
    if (options.record is None) == (options.generate is None):
        raise BadSimulation("name either the record of a run, or a kind of graph to --generate")
    if options.record is not None:
        record = read(options.record)
        workload = recorded(record, paced=not options.at_once)
        named = any(nodes for _, nodes in record.nodes)
        return workload, calibrate(record) if named else Cluster(NODES), tuned(record)
    workload = generate(
        options.generate,
        options.tasks,
        seconds=options.seconds,
        size=int(options.size),
        spread=options.spread,
        width=options.width,
        fan=options.fan,
        seed=options.seed,
    )
    return workload, Cluster(NODES), TuneParameters()


def _values(text: str) -> tuple[str, list[Any]]:
    name, equals, values = text.partition("=")
    if not (name and equals and values):
        raise BadSimulation(f"--parameter {text}: it takes the form NAME=V1,V2")
    try:
        return name, [json.loads(value.strip().lower()) for value in values.split(",")]
    except ValueError:
        raise BadSimulation(f"--parameter {text}: the values must be numbers, true or false") from None


def table(results: Results) -> Table:
    """The outcomes, a row for each setting: medians, and of the makespan what it lies between."""
    shown = Table(box=None, header_style="bold", pad_edge=False, title=results.workload.name, title_justify="left")
    for name in results.settings[0]:
        shown.add_column(name, justify="right")
    titles = (
        "makespan (s)",
        "moved",
        "transfers",
        "storage peak",
        "rerun",
        "evicted",
        "nodes lost",
        "in use",
        "failed",
    )
    for title in titles:
        shown.add_column(title, justify="right", no_wrap=True)
    for setting, outcomes in zip(results.settings, results.outcomes, strict=True):
        spans = [each.makespan for each in outcomes]
        between = f" ({min(spans):.4g} to {max(spans):.4g})" if len(spans) > 1 else ""
        count = _middle(sum(traffic.transfers for traffic in each.transfers.values()) for each in outcomes)
        shown.add_row(
            *(str(value).lower() for value in setting.values()),
            f"{statistics.median(spans):.5g}{between}",
            _in_words(_middle(each.moved for each in outcomes)),
            f"{count:,.0f}",
            _in_words(_middle(each.storage_peak for each in outcomes)),
            f"{_middle(each.rerun for each in outcomes):,.0f}",
            f"{_middle(each.evicted for each in outcomes):,.0f}",
            f"{_middle(each.lost_nodes for each in outcomes):,.0f}",
            f"{100 * _middle(each.utilization for each in outcomes):.0f} %",
            f"{_middle(each.failed for each in outcomes):,.0f}",
        )
    return shown


def _middle(values: Iterable[float]) -> float:
    return statistics.median(values)


def _in_words(size: float) -> str:
    for unit, factor in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size >= factor:
            return f"{size / factor:.3g} {unit}"
    return f"{size:.0f} B"


def remarks(results: Results) -> Iterable[str]:
    """What else there is to say of them."""
    if results.workload.measured is not None:
        yield f"the run that was recorded took {results.workload.measured:.5g} s"
    everything = [outcome for outcomes in results.outcomes for outcome in outcomes]
    decisions = sum(each.decisions for each in everything)
    seconds = sum(each.scheduling_seconds for each in everything)
    if seconds:
        yield f"the scheduler placed {decisions:,} tasks, {decisions / seconds:,.0f} in a second of processor time"
    if failed := sum(each.failed for each in everything):
        yield (
            f"{failed:,} tasks failed: no node can hold them or their results, they ran out of retries, "
            "or no node was left"
        )


def as_json(results: Results) -> dict[str, Any]:
    """What ``--json`` writes."""
    return {
        "workload": results.workload.name,
        "tasks": results.workload.count,
        "measured_seconds": results.workload.measured,
        "settings": [
            {"parameters": setting, "outcomes": [outcome.as_dict() for outcome in outcomes]}
            for setting, outcomes in zip(results.settings, results.outcomes, strict=True)
        ],
    }
