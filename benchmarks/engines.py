"""What a call costs on TaskVine itself: this executor on both engines, beside Parsl's others.

    python benchmarks/engines.py                  three repetitions; ten minutes, most of them for the others
    python benchmarks/engines.py --quick          one small repetition: whether it runs at all
    python benchmarks/engines.py --json out.json

Needs ``ndcctools`` and its ``vine_worker`` (conda install -c conda-forge ndcctools). Every system has one worker with
two slots on this machine; each measurement is made in a process of its own, and the systems take turns. What is worth
comparing is the ratio.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

import dag
import first_look

SYSTEMS = {
    "taskvine": "TaskVineExecutor, TaskVine",
    "embedded": "TaskVineExecutor, embedded",
    "htex": "HighThroughputExecutor",
    "upstream": "parsl's TaskVineExecutor, serverless",
}
CORES = 2
CASES = {
    "rate": ("no-op apps through the DFK, as parsl-perf does", "tasks/s", ("taskvine", "embedded", "htex", "upstream")),
    "latency": ("one app after another", "ms", ("taskvine", "embedded", "htex", "upstream")),
    "first": ("parsl.load() to the first result", "s", ("taskvine", "embedded", "htex", "upstream")),
    "beside": ("new app beside a long one, 95th percentile", "ms", ("taskvine", "embedded", "upstream")),
    "tree": ("pairwise sum of 16 arrays of 32 MB", "s", ("taskvine", "embedded", "htex", "upstream")),
    "pending": ("rate with 100,000 pending by that with 5,000", "", ("taskvine", "embedded")),
    "idle": ("processor time of an idle manager", "% of a core", ("taskvine", "embedded")),
}


def noop(extra_payload: Any) -> int:
    """The app of parsl-perf."""
    return 7


def hold(until: str) -> None:
    """A long app: it ends when a file is there."""
    import os
    import time

    while not os.path.exists(until):
        time.sleep(0.01)


def free_port() -> int:
    """A port for upstream's manager: without one its factory asks a catalog server on the network where it listens."""
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        return int(probe.getsockname()[1])


def make_executor(system: str) -> Any:
    from parsl.providers import LocalProvider

    if system == "htex":
        return first_look.make_executor("htex")
    if system == "upstream":
        from parsl.executors.taskvine import TaskVineExecutor, TaskVineFactoryConfig, TaskVineManagerConfig

        return TaskVineExecutor(
            label="upstream",
            worker_launch_method="factory",
            function_exec_mode="serverless",
            manager_config=TaskVineManagerConfig(
                port=free_port(), address="127.0.0.1", shared_fs=True, library_config={"num_slots": CORES}
            ),
            factory_config=TaskVineFactoryConfig(min_workers=1, max_workers=1, cores=CORES, workers_per_cycle=1),
        )
    import taskvine_exec

    provider = LocalProvider(init_blocks=1, max_blocks=1)
    return taskvine_exec.TaskVineExecutor(label=system, engine=system, cores=CORES, provider=provider)


def measure(case: str, system: str, count: int) -> float:
    """Make one measurement."""
    import parsl
    from parsl.config import Config

    executor = make_executor(system)
    options: dict[str, Any] = {}
    if case == "tree" and system in ("taskvine", "embedded"):
        from taskvine_exec import DAG_RESOLVER

        options["dependency_resolver"] = DAG_RESOLVER
    config = Config(executors=[executor], strategy="none", initialize_logging=False, run_dir="runinfo", **options)
    start = time.perf_counter()
    with parsl.load(config):
        apps: dict[Any, Any] = {}

        def call(function: Callable[..., Any], *args: Any) -> Any:
            if function not in apps:
                apps[function] = parsl.python_app(function)
            return apps[function](*args)

        call(noop, "").result()
        if case == "first":
            return time.perf_counter() - start
        if case == "rate":
            return first_look.rate(lambda: call(noop, ""), count)
        if case == "latency":
            return first_look.latency(lambda: call(noop, ""), count)
        if case == "tree":
            for number in range(4):
                call(dag.add, call(dag.make, 1000, float(number)), 1.0).result()
            return dag.tree(call, 16, 32 * 2**17)
        if case == "beside":
            return beside(call, count)
        if case == "pending":
            few = statistics.median(first_look.rate(lambda: call(noop, ""), 5000) for _ in range(3))
            return first_look.rate(lambda: call(noop, ""), count) / few
        return idle(executor, 10.0)


def beside(call: Callable[..., Any], count: int) -> float:
    """Latency of short apps while a long one runs, in ms."""
    gate = os.path.abspath("over")
    long = call(hold, gate)
    taken = []
    for _ in range(count):
        time.sleep(0.1)
        start = time.perf_counter()
        call(noop, "").result()
        taken.append((time.perf_counter() - start) * 1000)
    assert not long.done()
    open(gate, "w").close()
    long.result()
    return statistics.quantiles(taken, n=20)[-1]


def idle(executor: Any, seconds: float) -> float:
    """Percent of a core that the manager's process takes with nothing to do."""
    import psutil

    process = psutil.Process(executor._manager.pid)
    before = sum(process.cpu_times()[:2])
    time.sleep(seconds)
    return 100 * (sum(process.cpu_times()[:2]) - before) / seconds


def measure_apart(case: str, system: str, count: int) -> float | None:
    """Measure in a new process and directory; None if that fails or does not end."""
    path = os.pathsep.join([os.path.dirname(sys.executable), os.environ.get("PATH", "")])
    command = [sys.executable, os.path.abspath(__file__), "--measure", case, system, str(count)]
    modules = os.pathsep.join(
        [os.path.dirname(command[1]), os.environ.get("PYTHONPATH", "")]
    )  # for everybody's workers
    with tempfile.TemporaryDirectory() as directory:
        try:
            done = subprocess.run(
                command,
                check=False,
                cwd=directory,
                env={**os.environ, "PATH": path, "PYTHONPATH": modules},
                capture_output=True,
                text=True,
                timeout=300,
            )
        except subprocess.TimeoutExpired:
            return None
    if done.returncode:
        print(done.stderr[-2000:], file=sys.stderr)
        return None
    return float(done.stdout.split()[-1])


COUNTS = {
    ("rate", "taskvine"): 20_000,
    ("rate", "embedded"): 20_000,
    ("rate", "htex"): 3_000,
    ("rate", "upstream"): 300,
    ("latency", "upstream"): 100,
    ("latency", "htex"): 300,
    ("beside", "upstream"): 10,
    ("pending", "taskvine"): 100_000,
    ("pending", "embedded"): 100_000,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--systems", nargs="+", choices=SYSTEMS, default=list(SYSTEMS))
    parser.add_argument("--quick", action="store_true", help="one small repetition")
    parser.add_argument("--json", metavar="FILE", help="write all numbers to a file")
    parser.add_argument("--measure", nargs=3, metavar=("CASE", "SYSTEM", "COUNT"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        case, system, count = options.measure
        print(measure(case, system, int(count)))
        return
    repetitions = 1 if options.quick else options.repetitions
    values: dict[str, dict[str, list[float]]] = {}
    for case in options.cases:
        title, unit, able = CASES[case]
        systems = [system for system in able if system in options.systems]
        values[case] = {system: [] for system in systems}
        for repetition in range(repetitions):
            for system in systems if repetition % 2 == 0 else systems[::-1]:
                count = COUNTS.get((case, system), 500 if case == "latency" else 50)
                value = measure_apart(case, system, max(10, count // 20) if options.quick else count)
                if value is not None:
                    values[case][system].append(value)
        print(f"{title} ({unit})" if unit else title)
        for system in systems:
            taken = values[case][system]
            if taken:
                spread = f"({first_look.figure(min(taken))} to {first_look.figure(max(taken))})"
                print(f"  {SYSTEMS[system]:38} {first_look.figure(statistics.median(taken)):>8}  {spread}", flush=True)
            else:
                print(f"  {SYSTEMS[system]:38}   failed", flush=True)
    if options.json:
        with open(options.json, "w", encoding="utf-8") as file:
            json.dump({"machine": first_look.machine(), "values": values}, file, indent=2)


if __name__ == "__main__":
    main()
