"""The command ``simulate``: simulates a run, and shows its outcomes."""

from __future__ import annotations

import argparse
import itertools
import json
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields, replace
from statistics import median
from typing import TYPE_CHECKING, Any

from taskvine_tune import formats
from taskvine_tune.command.terminal import FINE, INVALID, console, in_bytes, make_table, write_json
from taskvine_tune.errors import BadSimulation
from taskvine_tune.simulation import instances
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
from taskvine_tune.wfformat.instances import read_instance

if TYPE_CHECKING:
    from rich.table import Table

__all__ = ["add_arguments", "run"]

NODES = 10
"""Default number of nodes."""

_WHOLE, _PERCENT = "{:,.0f}".format, "{:.0%}".format
_MEDIANS: dict[str, tuple[Callable[[Outcome], float], Callable[[float], str]]] = {
    "moved": (lambda outcome: outcome.moved, in_bytes),
    "transfers": (lambda outcome: sum(traffic.transfers for traffic in outcome.transfers.values()), _WHOLE),
    "storage peak": (lambda outcome: outcome.storage_peak, in_bytes),
    "rerun": (lambda outcome: outcome.rerun, _WHOLE),
    "evicted": (lambda outcome: outcome.evicted, _WHOLE),
    "nodes lost": (lambda outcome: outcome.lost_nodes, _WHOLE),
    "in use": (lambda outcome: outcome.utilization, _PERCENT),
    "failed": (lambda outcome: outcome.failed, _WHOLE),
}
"""Columns of the table that show a median: what it is of, and how it is shown."""

_UNITS = {"k": 1e3, "m": 1e6, "g": 1e9, "t": 1e12}


@dataclass(frozen=True)
class _Results:
    """The simulated workload and settings, and for each setting an outcome per seed."""

    workload: Workload
    settings: list[dict[str, Any]]
    outcomes: list[list[Outcome]]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of the command."""
    parser.description = (
        "Simulate a recorded run, an instance of WfFormat or a generated graph on imagined nodes, with the scheduler "
        "of the embedded engine. Show the outcome for each value of a parameter."
    )
    add = parser.add_argument
    add(
        "record",
        nargs="?",
        metavar="RECORD",
        help="the record.msgpack of a run, in its executor's log directory; or a .json file, an instance of WfFormat",
    )
    add("--at-once", action="store_true", help="submit all tasks of a record at once, not at their times in the run")

    group = parser.add_argument_group("instead of a record")
    add = group.add_argument
    add("--generate", metavar="KIND", help=f"a graph: {', '.join(GENERATORS)}")
    add("--tasks", type=int, default=1000, metavar="N", help="number of tasks (%(default)s)")
    add("--seconds", type=float, default=1.0, metavar="S", help="mean run time (%(default)s)")
    add(
        "--spread",
        type=float,
        default=0.0,
        metavar="SIGMA",
        help="sigma of log-normal run times; 0: equal ones (%(default)s)",
    )
    add("--size", type=_bytes, default=1e6, metavar="BYTES", help="size of each result, such as 500k or 2G (1M)")
    add("--width", type=int, default=100, metavar="N", help="tasks in a layer, or maps in a round (%(default)s)")
    add("--fan", type=int, default=2, metavar="N", help="results that a task of a layered graph reads (%(default)s)")

    group = parser.add_argument_group("nodes (for a record or an instance, the defaults are those that it ran on)")
    for option, kind, unit, says in (
        ("nodes", int, "N", f"number of nodes ({NODES})"),
        ("slots", int, "N", "cores of each node (1)"),
        ("disk", _bytes, "BYTES", "disk of each node for temp files; 0: no limit (0)"),
        ("bandwidth", _bytes, "B/S", "bandwidth of each node in each direction (1.25G)"),
        ("manager-bandwidth", _bytes, "B/S", "bandwidth of the manager in each direction (1.25G)"),
        ("latency", float, "S", f"latency of a message ({Cluster.latency:g})"),
        ("startup", float, "S", "time until a node joins (0)"),
        ("overhead", float, "S", "overhead of each task in its slot (0)"),
        ("setup", float, "S", "set-up time of the first task in each slot (0)"),
        ("write-rate", _bytes, "B/S", "rate of writing large results (no limit)"),
        ("failure-rate", float, "R", "losses per node and hour, at exponential intervals (0)"),
        ("retries", int, "N", "retries of a task whose node was lost (no limit)"),
    ):
        name = "loss_rate" if option == "failure-rate" else option.replace("-", "_")
        group.add_argument(f"--{option}", dest=name, type=kind, metavar=unit, help=says, default=argparse.SUPPRESS)
    group.add_argument(
        "--no-replacement",
        dest="replace",
        action="store_false",
        default=argparse.SUPPRESS,
        help="do not replace lost nodes",
    )

    group = parser.add_argument_group("parameters")
    add = group.add_argument
    add(
        "--parameter",
        action="append",
        default=[],
        metavar="NAME=V1,V2",
        help="values to compare, of a tuning parameter or an option above (loss-rate for --failure-rate); if given "
        "several times, all combinations",
    )
    add("--tune", metavar="FILE", help="file with the other tuning parameters")
    add("--seed", type=int, default=0, help="random seed (%(default)s)")
    add("--repeat", type=int, default=1, metavar="N", help="simulate N times, with consecutive seeds")
    add("--window", type=int, default=WINDOW, metavar="N", help="most tasks at the manager at a time (%(default)s)")


def _bytes(text: str) -> float:
    factor = _UNITS.get(text[-1:].lower(), 1.0)
    try:
        number = float(text[:-1] if factor > 1 else text) * factor
    except ValueError:
        number = math.nan
    if not number >= 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of bytes, such as 1e9, 500k or 1.25G")
    return number


def run(options: argparse.Namespace) -> int:
    """Simulate what the options describe, and show the outcomes."""
    results = _simulated(options)
    if options.json:
        write_json(_as_json(results))
    else:
        terminal = console()
        terminal.print(_table(results))
        for line in _remarks(results):
            terminal.print(line, soft_wrap=True)
    return INVALID if any(outcome.failed for outcomes in results.outcomes for outcome in outcomes) else FINE


def _simulated(options: argparse.Namespace) -> _Results:
    """Run the simulations that the options describe.

    Raises
    ------
    TuningError
        If something cannot be simulated.
    """
    if options.repeat < 1:
        raise BadSimulation(f"repeat must be at least 1, not {options.repeat}")
    workload, cluster, tuning = _given(options)
    own = {each.name: getattr(options, each.name) for each in fields(Cluster) if hasattr(options, each.name)}
    cluster = replace(cluster, **own)
    if options.tune:
        tuning |= TuneParameters(formats.read(options.tune))
    values = dict(map(_values, options.parameter))
    settings = [dict(zip(values, each, strict=True)) for each in itertools.product(*values.values())]
    # Check all settings before the first simulation, which may take minutes.
    varied = [vary(cluster, tuning, setting) for setting in settings]
    for here, parameters in varied:
        parameters.check(nodes=here.nodes, peer_transfers=here.peer_transfers)
    seeds = range(options.seed, options.seed + options.repeat)
    outcomes = [
        [simulate(workload, here, parameters, seed, window=options.window) for seed in seeds]
        for here, parameters in varied
    ]
    return _Results(workload, settings, outcomes)


def _given(options: argparse.Namespace) -> tuple[Workload, Cluster, TuneParameters]:
    """Return the workload, the cluster and the parameters, before options change them."""
    if (options.record is None) == (options.generate is None):
        raise BadSimulation("name either the record of a run, or a kind of graph to --generate")
    if options.record is not None and options.record.endswith(".json"):
        instance = read_instance(options.record)
        return instances.workload(instance), instances.machines(instance, nodes=NODES), TuneParameters()
    if options.record is not None:
        record = read(options.record)
        workload = recorded(record, paced=not options.at_once)
        named = any(nodes for _, nodes in record.nodes)
        return workload, calibrate(record) if named else Cluster(NODES), tuned(record)
    given = {name: getattr(options, name) for name in ("seconds", "spread", "width", "fan", "seed")}
    workload = generate(options.generate, options.tasks, size=int(options.size), **given)
    return workload, Cluster(NODES), TuneParameters()


def _values(text: str) -> tuple[str, list[Any]]:
    name, equals, values = text.partition("=")
    if not (name and equals and values):
        raise BadSimulation(f"--parameter {text}: it takes the form NAME=V1,V2")
    try:
        return name, [json.loads(value.strip().lower()) for value in values.split(",")]
    except ValueError:
        raise BadSimulation(f"--parameter {text}: the values must be numbers, true or false") from None


def _table(results: _Results) -> Table:
    """Return a table with a row for each setting: medians, and the range of the makespan."""
    shown = make_table(title=results.workload.name)
    for name in results.settings[0]:
        shown.add_column(name, justify="right")
    for title in ("makespan (s)", *_MEDIANS):
        shown.add_column(title, justify="right", no_wrap=True)
    for setting, outcomes in zip(results.settings, results.outcomes, strict=True):
        spans = [each.makespan for each in outcomes]
        between = f" ({min(spans):.4g} to {max(spans):.4g})" if len(spans) > 1 else ""
        values = (in_words(median(map(value, outcomes))) for value, in_words in _MEDIANS.values())
        shown.add_row(*(str(value).lower() for value in setting.values()), f"{median(spans):.5g}{between}", *values)
    return shown


def _remarks(results: _Results) -> Iterable[str]:
    """Yield further results in sentences."""
    if results.workload.measured is not None:
        yield f"the recorded run took {results.workload.measured:.5g} s"
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


def _as_json(results: _Results) -> dict[str, Any]:
    """Return what ``--json`` writes."""
    return {
        "workload": results.workload.name,
        "tasks": results.workload.count,
        "measured_seconds": results.workload.measured,
        "settings": [
            {"parameters": setting, "outcomes": [outcome.as_dict() for outcome in outcomes]}
            for setting, outcomes in zip(results.settings, results.outcomes, strict=True)
        ],
    }
