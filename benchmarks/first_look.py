"""What a call costs: the TaskVineExecutor beside Parsl's HighThroughputExecutor, and its L2 beside its L1.

    python benchmarks/first_look.py                  three repetitions; some minutes
    python benchmarks/first_look.py --quick          one small repetition: whether it runs at all
    python benchmarks/first_look.py --json out.json  all numbers, with what they were measured on

Calls do nothing: what is left is the cost of calling. Each measurement is made in a process of its own, and the two
executors take turns, so that a machine that is busy for a while is so for both. Numbers differ between machines; what
is worth comparing is the ratio.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import as_completed
from typing import Any, NamedTuple

CORES = 2
WARM_UP = 200
"""Calls before those that are measured: as many as let every slot or worker have some."""


class Case(NamedTuple):
    """One line of the table."""

    key: str
    title: str
    unit: str
    executors: tuple[str, ...]


CASES = (
    Case("dfk", "no-op apps through the DFK, as parsl-perf does", "tasks/s", ("taskvine", "htex")),
    Case("first", "parsl.load() to the first result", "s", ("taskvine", "htex")),
    Case("latency", "one app after another, through the DFK", "ms", ("taskvine", "htex")),
    Case("direct", "no-op calls by submit()", "tasks/s", ("taskvine", "taskvine-L1")),
    Case("dfk-modes", "no-op apps through the DFK", "tasks/s", ("taskvine", "taskvine-L1")),
    Case("latency-modes", "one app after another, through the DFK", "ms", ("taskvine", "taskvine-L1")),
)
TITLES = {"taskvine": "TaskVineExecutor L2", "taskvine-L1": "TaskVineExecutor L1", "htex": "HighThroughputExecutor"}


# --- in a process of its own ----------------------------------------------------------------------------------------


def noop(extra_payload: Any) -> int:
    """The app of parsl-perf."""
    return 7


def make_executor(name: str) -> Any:
    from parsl.executors import HighThroughputExecutor
    from parsl.providers import LocalProvider

    provider = LocalProvider(init_blocks=1, max_blocks=1)
    if name == "htex":
        # As parsl/tests/configs/htex_local.py, without encryption and the workers' debugging log.
        return HighThroughputExecutor(
            label="htex", encrypted=False, cores_per_worker=1, max_workers_per_node=CORES, provider=provider
        )
    from taskvine_exec import TaskVineExecutor

    mode = "L1" if name == "taskvine-L1" else "L2"
    return TaskVineExecutor(label="taskvine", cores=CORES, provider=provider, function_exec_mode=mode)


def rate(call: Callable[[], Any], count: int) -> float:
    for future in as_completed([call() for _ in range(min(WARM_UP, count))]):
        future.result()
    start = time.perf_counter()
    for future in as_completed([call() for _ in range(count)]):
        if future.result() != 7:
            raise AssertionError(future)
    return count / (time.perf_counter() - start)


def latency(call: Callable[[], Any], count: int) -> float:
    for _ in range(10):
        call().result()
    taken = []
    for _ in range(count):
        start = time.perf_counter()
        call().result()
        taken.append(time.perf_counter() - start)
    return statistics.median(taken) * 1000


def measure(what: str, name: str, count: int) -> float:
    import parsl
    from parsl.config import Config

    executor = make_executor(name)
    if what == "direct":
        executor.start()
        try:
            return rate(lambda: executor.submit(noop, {}, ""), count)
        finally:
            executor.shutdown()
    app = parsl.python_app(noop)
    config = Config(executors=[executor], strategy="none", initialize_logging=False, run_dir="runinfo")
    start = time.perf_counter()
    with parsl.load(config):
        app("").result()
        if what == "first":
            return time.perf_counter() - start
        return latency(lambda: app(""), count) if what.startswith("latency") else rate(lambda: app(""), count)


# --- in the process that was started --------------------------------------------------------------------------------


def measure_apart(what: str, name: str, count: int) -> float:
    """Measure in a new process and directory."""
    # HighThroughputExecutor finds its programs on the path.
    path = os.pathsep.join([os.path.dirname(sys.executable), os.environ.get("PATH", "")])
    command = [sys.executable, os.path.abspath(__file__), "--measure", what, name, str(count)]
    with tempfile.TemporaryDirectory() as directory:
        done = subprocess.run(
            command, check=False, cwd=directory, env={**os.environ, "PATH": path}, stdout=subprocess.PIPE, text=True
        )
    if done.returncode:
        sys.exit(f"first_look: {what} with {name} failed")
    return float(done.stdout.split()[-1])


def count_for(options: argparse.Namespace, what: str, name: str) -> int:
    if what.startswith("latency"):
        return int(options.l1_tasks if name == "taskvine-L1" else options.sequential)
    return int({"htex": options.htex_tasks, "taskvine-L1": options.l1_tasks}.get(name, options.tasks))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--tasks", type=int, default=5000, help="calls of a repetition")
    parser.add_argument("--htex-tasks", type=int, default=2500, help="the same for the HighThroughputExecutor")
    parser.add_argument("--l1-tasks", type=int, default=50, help="the same for L1, which starts a process for each")
    parser.add_argument("--sequential", type=int, default=500, help="calls one after another")
    parser.add_argument("--quick", action="store_true", help="one small repetition")
    parser.add_argument("--json", metavar="FILE", help="write all numbers to a file")
    parser.add_argument("--measure", nargs=3, metavar=("WHAT", "EXECUTOR", "COUNT"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        what, name, count = options.measure
        print(measure(what, name, int(count)))
        return
    if options.quick:
        options.repetitions, options.tasks, options.htex_tasks = 1, 300, 200
        options.l1_tasks, options.sequential = 10, 50
    values = run(options)
    show(values, options.repetitions)
    if options.json:
        with open(options.json, "w", encoding="utf-8") as file:
            json.dump({"machine": machine(), "options": vars(options), "values": values}, file, indent=2)


def run(options: argparse.Namespace) -> dict[str, dict[str, list[float]]]:
    """Measure everything; values by case and executor."""
    from rich.progress import Progress

    values: dict[str, dict[str, list[float]]] = {case.key: {name: [] for name in case.executors} for case in CASES}
    with Progress(transient=True) as progress:
        steps = progress.add_task("", total=options.repetitions * sum(len(case.executors) for case in CASES))
        for case in CASES:
            for repetition in range(options.repetitions):
                turn = case.executors if repetition % 2 == 0 else case.executors[::-1]
                for name in turn:
                    progress.update(steps, description=f"{case.title}: {TITLES[name]}")
                    values[case.key][name].append(measure_apart(case.key, name, count_for(options, case.key, name)))
                    progress.advance(steps)
    return values


def show(values: dict[str, dict[str, list[float]]], repetitions: int) -> None:
    """Print the table: medians, extremes, and how many times better the first of two is."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    facts = machine()
    title = f"median of {repetitions} (least to most); {CORES} cores; " + ", ".join(f"{facts[key]}" for key in facts)
    table = Table(
        "what", "unit", "executor", "value", "", "ratio", box=box.SIMPLE, caption=title, caption_justify="left"
    )
    for column in (3, 4, 5):
        table.columns[column].justify = "right"
    for case in CASES:
        medians = {name: statistics.median(taken) for name, taken in values[case.key].items()}
        first, second = case.executors
        ratio = medians[first] / medians[second]
        if not case.unit.endswith("/s"):
            ratio = 1 / ratio
        for name in case.executors:
            taken = values[case.key][name]
            table.add_row(
                case.title if name == first else "",
                case.unit if name == first else "",
                TITLES[name],
                figure(medians[name]),
                f"{figure(min(taken))} to {figure(max(taken))}",
                f"{ratio:.1f}x" if name == first else "",
                end_section=name == second,
            )
    Console(width=None if sys.stdout.isatty() else 140).print(table)


def figure(value: float) -> str:
    """Three digits, but no fewer than there are before the point."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def machine() -> dict[str, str]:
    """What it was measured on."""
    import parsl

    processor = platform.processor() or platform.machine()
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            processor = next(line.partition(":")[2].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        pass
    return {
        "processor": processor,
        "processors": f"{os.cpu_count()} processors",
        "python": f"Python {platform.python_version()}",
        "parsl": f"parsl {parsl.__version__}",
    }


if __name__ == "__main__":
    main()
