"""Run ``parsl-perf`` with TaskVineExecutor and with HighThroughputExecutor, and print both.

Each run is a new process in a new directory. parsl-perf submits more and more no-op apps, until an iteration takes
about ``--seconds``. The table has the rate of the last iteration.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import re
import statistics
import sys
from typing import Any

from benchmarks import apart
from benchmarks.suite.contenders import CONTENDERS
from benchmarks.suite.report import figure

FOLDER = os.path.dirname(os.path.abspath(__file__))
CONTENDER_FILES = {
    "ours-dag": ("taskvine.py", "embedded"),
    "vine-dag": ("taskvine.py", "taskvine"),
    "htex": ("htex.py", ""),
}
SECONDS = 900.0


def rates(said: str) -> list[tuple[int, float]]:
    """Return the numbers of apps and the rates of all iterations in parsl-perf's output."""
    counts = [int(number) for number in re.findall(r"^Will run (\d+) tasks", said, re.MULTILINE)]
    found = [float(number) for number in re.findall(r"^Tasks per second: ([\d.]+)", said, re.MULTILINE)]
    return list(zip(counts, found, strict=True))


def run(file: str, words: list[str]) -> list[tuple[int, float]]:
    """Run parsl-perf in this process."""
    from parsl.benchmark import perf

    sys.argv = ["parsl-perf", "--config", os.path.join(FOLDER, file), *words]
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        perf.cli_run()
    return rates(said.getvalue())


def main(arguments: list[str] | None = None) -> int:
    """Run the chosen contenders in turn; return 1 if one failed."""
    from rich.console import Console

    parser = argparse.ArgumentParser(prog="benchmarks.parsl_perf", description=__doc__.split("\n\n")[1])
    parser.add_argument("--contenders", default=",".join(CONTENDER_FILES), metavar="NAME,...")
    parser.add_argument("--seconds", type=float, default=20.0, help="time of the last iteration (default: 20)")
    parser.add_argument("--argsize", type=int, default=0, metavar="BYTES", help="size of an argument of each app")
    parser.add_argument("--cores", type=int, default=2)
    parser.add_argument("--repeat", type=int, default=3, metavar="ROUNDS")
    parser.add_argument("--quick", action="store_true", help="two iterations of at most 200 apps, one round")
    parser.add_argument("--json", metavar="FILE")
    parser.add_argument("--inner", metavar="FILE", help=argparse.SUPPRESS)
    options, rest = parser.parse_known_args(arguments)
    if options.inner:
        print("\n" + json.dumps(run(options.inner, rest)))
        return 0
    if rest:
        parser.error(f"unknown arguments: {' '.join(rest)}")
    names = options.contenders.split(",")
    for name in names:
        if name not in CONTENDER_FILES:
            parser.error(f"no contender is called {name!r}: {', '.join(CONTENDER_FILES)}")
    console = Console(width=None if sys.stdout.isatty() else 160)
    for name in [name for name in names if CONTENDERS[name].missing()]:
        console.print(f"without {CONTENDERS[name].title}: {CONTENDERS[name].missing()}")
        names.remove(name)
    words = ["--time", str(options.seconds), "--argsize", str(options.argsize)]
    words += ["--iterate", "50,200"] if options.quick else []
    found: dict[str, list[list[tuple[int, float]]]] = {name: [] for name in names}
    failed = {}
    for turn in range(1 if options.quick else options.repeat):
        for name in names if turn % 2 == 0 else names[::-1]:
            file, engine = CONTENDER_FILES[name]
            os.environ.update(TASKVINE_PERF_CORES=str(options.cores), TASKVINE_PERF_ENGINE=engine)
            try:
                inner = ("--inner", file, *words)
                found[name].append(apart.measure("benchmarks.parsl_perf", *inner, timeout=SECONDS, quiet=True))
            except apart.MeasurementFailed as error:
                failed[name] = str(error)
    _print(console, found)
    for name, reason in failed.items():
        console.print(f"{name} failed: {reason}", style="red", markup=False)
    if options.json:
        with open(options.json, "w", encoding="utf-8") as output:
            json.dump({"machine": apart.machine(), "arguments": vars(options), "rates": found}, output, indent=1)
    return 1 if failed else 0


def _print(console: Any, found: dict[str, list[list[tuple[int, float]]]]) -> None:
    from rich.table import Table

    table = Table("parsl-perf", "apps", "apps/s", "least to most", "÷ that of HighThroughputExecutor")
    last = {name: [each[-1] for each in rounds] for name, rounds in found.items() if rounds}
    medians = {name: statistics.median(rate for _, rate in rounds) for name, rounds in last.items()}
    for name, rounds in last.items():
        counts, speeds = zip(*rounds, strict=True)
        ratio = figure(medians[name] / medians["htex"]) if "htex" in medians else ""
        range_ = f"{figure(min(speeds))} to {figure(max(speeds))}"
        table.add_row(CONTENDERS[name].title, f"{max(counts):,}", figure(medians[name]), range_, ratio)
    console.print(table)


if __name__ == "__main__":
    sys.exit(main())
