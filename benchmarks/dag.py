"""Dependent apps: a sum tree of large arrays and a chain of small calls, beside other executors in one run.

    python benchmarks/dag.py                  tree of 16 arrays of 32 MB, chain of 1,000; three repetitions
    python benchmarks/dag.py --quick          small: whether it runs at all
    python benchmarks/dag.py --json out.json

TaskVineExecutor runs with DAG_RESOLVER, HighThroughputExecutor without (it has none); dask.distributed, where it is
installed, runs outside Parsl, with two single-thread workers. Each measurement is made in a process of its own, the
systems take turns, and what is worth comparing is the ratio.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

SYSTEMS = ("taskvine", "htex", "threads", "dask")
CORES = 2


def make(count: int, fill: float) -> Any:
    """A leaf of the tree."""
    import numpy as np

    return np.full(count, fill)


def add(a: Any, b: Any) -> Any:
    """An inner node of the tree."""
    return a + b


def increment(x: int) -> int:
    """A link of the chain."""
    return x + 1


def tree(call: Callable[..., Any], leaves: int, count: int) -> float:
    """Sum ``leaves`` arrays of ``count`` doubles pairwise; return seconds."""
    begin = time.perf_counter()
    level = [call(make, count, float(number)) for number in range(leaves)]
    while len(level) > 1:
        level = [call(add, a, b) for a, b in zip(level[::2], level[1::2], strict=True)]
    result = level[0].result()
    seconds = time.perf_counter() - begin
    assert result[-1] == sum(range(leaves))
    return seconds


def chain(call: Callable[..., Any], links: int) -> float:
    """Run ``links`` calls, each on the result of the one before; return seconds."""
    begin = time.perf_counter()
    future = call(increment, 0)
    for _ in range(links - 1):
        future = call(increment, future)
    assert future.result() == links
    return time.perf_counter() - begin


def with_parsl(system: str, work: Callable[[Callable[..., Any]], float]) -> float:
    """Run a piece of work on one of Parsl's executors."""
    import parsl
    from parsl.config import Config
    from parsl.executors import HighThroughputExecutor, ThreadPoolExecutor
    from parsl.providers import LocalProvider

    options: dict[str, Any] = {}
    executor: Any
    if system == "taskvine":
        from taskvine_exec import DAG_RESOLVER, TaskVineExecutor

        executor = TaskVineExecutor(cores=CORES)
        options["dependency_resolver"] = DAG_RESOLVER
    elif system == "htex":
        provider = LocalProvider(init_blocks=1, max_blocks=1)
        executor = HighThroughputExecutor(encrypted=False, max_workers_per_node=CORES, provider=provider)
    else:
        executor = ThreadPoolExecutor(max_threads=CORES)
    with tempfile.TemporaryDirectory() as directory:
        parsl.load(
            Config([executor], strategy="none", initialize_logging=False, run_dir=f"{directory}/runinfo", **options)
        )
        apps = {function: parsl.python_app(function) for function in (make, add, increment)}
        for number in range(20):  # both workers have imported what they need
            apps[add](apps[make](1000, float(number)), 1.0).result()
        try:
            return work(lambda function, *args: apps[function](*args))
        finally:
            parsl.dfk().cleanup()


def with_dask(work: Callable[[Callable[..., Any]], float]) -> float:
    """Run a piece of work on a local dask.distributed cluster."""
    from distributed import Client, LocalCluster

    with (
        LocalCluster(n_workers=CORES, threads_per_worker=1, dashboard_address=None, host="127.0.0.1") as cluster,
        Client(cluster) as client,
    ):
        for number in range(20):
            client.submit(add, client.submit(make, 1000, float(number)), 1.0).result()
        return work(lambda function, *args: client.submit(function, *args, pure=False))


def measure(arguments: argparse.Namespace) -> None:
    """Make one measurement and print it."""
    works = {
        "tree": lambda call: tree(call, arguments.leaves, arguments.megabytes * 2**17),
        "chain": lambda call: chain(call, arguments.links),
    }
    work = works[arguments.case]
    print(with_dask(work) if arguments.system == "dask" else with_parsl(arguments.system, work))


def main() -> None:
    """Run all measurements in turn and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--leaves", type=int, default=16)
    parser.add_argument("--megabytes", type=int, default=32, help="of each array")
    parser.add_argument("--links", type=int, default=1000)
    parser.add_argument("--json", metavar="FILE")
    parser.add_argument("--case", choices=("tree", "chain"), help=argparse.SUPPRESS)
    parser.add_argument("--system", choices=SYSTEMS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.system:
        measure(arguments)
        return
    if arguments.quick:
        arguments.repeat, arguments.leaves, arguments.megabytes, arguments.links = 1, 4, 1, 50
    systems = [name for name in SYSTEMS if name != "dask" or importlib.util.find_spec("distributed")]
    seconds: dict[str, dict[str, list[float]]] = {}
    for _ in range(arguments.repeat):
        for case in ("tree", "chain"):
            for system in systems:
                seconds.setdefault(case, {}).setdefault(system, []).append(_apart(case, system, arguments))
    _report(seconds)
    if arguments.json:
        with open(arguments.json, "w", encoding="utf-8") as file:
            json.dump(seconds, file, indent=2)


def _apart(case: str, system: str, arguments: argparse.Namespace) -> float:
    command = [sys.executable, __file__, "--case", case, "--system", system]
    for name in ("leaves", "megabytes", "links"):
        command += [f"--{name}", str(getattr(arguments, name))]
    path = os.pathsep.join([os.path.dirname(sys.executable), os.environ.get("PATH", os.defpath)])
    said = subprocess.run(command, env={**os.environ, "PATH": path}, capture_output=True, text=True, check=False)
    if said.returncode:
        sys.exit(f"{case} on {system} failed:\n{said.stderr[-3000:]}")
    return float(said.stdout.split()[-1])


def _report(seconds: dict[str, dict[str, list[float]]]) -> None:
    from rich.console import Console
    from rich.table import Table

    for case, systems in seconds.items():
        table = Table("system", "median (s)", "lowest", "highest", "ours / theirs", title=case)
        ours = statistics.median(systems["taskvine"])
        for system, times in systems.items():
            median = statistics.median(times)
            row = (f"{median:.3f}", f"{min(times):.3f}", f"{max(times):.3f}", f"{ours / median:.3f}")
            table.add_row(system, *row)
        Console().print(table)


if __name__ == "__main__":
    main()
