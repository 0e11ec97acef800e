"""How many replicas of intermediate data are worth their storage, if nodes are lost now and then?

Runs a small data flow with every replication degree and loss rate of a configuration, several times and interleaved.
Simulates the same on imagined nodes, and draws the measurements over the simulations.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import figure
import model
from rich.console import Console
from rich.table import Table

from taskvine_tune.statistics import judge
from taskvine_tune.sweep import Run, grid, label, sweep, write_csv

HERE = Path(__file__).resolve().parent

#: Tuning parameters to try, of which lists are varied. ``taskvine-tune list`` shows all of them.
CONFIG: dict[str, Any] = {
    "temp-replica-count": [1, 2, 3],  # nodes that hold each result
    "transfer-temps-recovery": True,  # copy results again after a loss
    "executor": {"loss-interval": [0, 2, 1]},  # mean seconds of work between two losses; 0: none
}


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--degrees", type=int, nargs="+", help="replication degrees, instead of those of the configuration")
    add("--intervals", type=float, nargs="+", help="seconds between losses, instead of those of the configuration")
    add("--repetitions", type=int, default=2, help="runs of each setting (default: %(default)s)")
    add("--simulations", type=int, default=10, help="simulations of each point of a curve (default: %(default)s)")
    add("--nodes", type=int, default=4, help="nodes, of one core each (default: %(default)s)")
    add("--steps", type=int, default=12, help="steps of the workflow (default: %(default)s)")
    add("--seed", type=int, default=1, help="seed of the order of runs and of the losses (default: %(default)s)")
    add("--output", type=Path, default=HERE / "output", help="directory for results (default: %(default)s)")
    return parser.parse_args(arguments)


def measure(options: argparse.Namespace, console: Console) -> list[model.Measured]:
    """Run the workflow with every setting."""
    config = dict(CONFIG)
    if options.degrees:
        config["temp-replica-count"] = options.degrees
    if options.intervals:
        config["executor"] = {"loss-interval": options.intervals}
    settings = grid(config)
    measured: list[model.Measured] = []
    said = options.output / "said.json"
    count = len(settings) * options.repetitions

    def on_run(run: Run) -> None:
        name = label(run.setting, settings)
        if run.failed:
            console.print(f"{name}: failed\n{run.output}", markup=False)
            return
        measured.append(model.Measured.of(run, json.loads(said.read_text())))
        console.print(f"{len(measured)} of {count}: {name}: {measured[-1]}", markup=False, soft_wrap=True)

    workflow = [str(HERE / "workflow.py"), f"--nodes={options.nodes}", f"--steps={options.steps}"]
    where = [f"--output={options.output / 'runinfo'}", f"--said={said}"]
    results = sweep(
        [*workflow, *where], settings, repetitions=options.repetitions, seed=options.seed, timeout=120, on_run=on_run
    )
    write_csv(results, options.output / "runs.csv")
    return [] if results.failed else measured


def summarise(measured: Sequence[model.Measured], console: Console) -> None:
    """Show medians, and compare the degrees at each loss rate."""
    table = Table(box=None, header_style="bold", pad_edge=False)
    for title in ("losses (1/s)", "degree", "time (s)", "peak of storage (MB)", "re-executions", "nodes lost"):
        table.add_column(title, justify="right")
    for (rate, degree), group in model.grouped(measured, lambda each: (each.rate, each.degree)).items():
        middle = [model.median([getattr(each, name) for each in group]) for name in model.QUANTITIES]
        table.add_row(f"{rate:g}", str(degree), *(f"{value:.3g}" for value in middle))
    console.print(table)
    for rate, group in model.grouped(measured, lambda each: each.rate).items():
        samples = {
            f"degree {degree}": [each.seconds for each in runs]
            for degree, runs in model.grouped(group, lambda each: each.degree).items()
        }
        console.print(f"at {rate:g} losses a second: {judge(samples, measure='ratio')}", soft_wrap=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the example; return the exit status, which is 1 if a run failed."""
    options = parse_arguments(arguments)
    options.output.mkdir(parents=True, exist_ok=True)
    console = Console()
    measured = measure(options, console)
    if not measured:
        return 1
    summarise(measured, console)
    cluster = model.cluster(measured, options.nodes)
    console.print(
        f"simulated nodes: {(cluster.overhead + cluster.latency) * 1e3:.3g} ms beside the run time of a call, "
        f"{cluster.startup:.3g} s until a lost node is replaced",
        soft_wrap=True,
    )
    curves = model.curves(measured, cluster, options.simulations)
    path = options.output / "replication.png"
    figure.draw(measured, curves, path)
    console.print(f"wrote {path}", markup=False, soft_wrap=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
