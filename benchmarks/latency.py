"""Latency of one warm app after another, and of a chain of three: both engines beside HighThroughputExecutor.

    python -m benchmarks.latency                                500 calls in each of five rounds
    python -m benchmarks.latency --calls 100 --contenders embedded,taskvine

All executors belong to one DataFlowKernel in one process, and take turns in each round. The tables show the median and
the 95th percentile in milliseconds, and for this executor when each step of a call has ended, in microseconds since the
app was called. The steps come from the record that the manager always writes, and from two functions of this program
around `submit`.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

from benchmarks import apart

SECONDS = 300.0
WARM_UP = 50
CHAIN = 3
TITLES = {
    "htex": "HighThroughputExecutor",
    "embedded": "TaskVineExecutor, embedded",
    "taskvine": "TaskVineExecutor, TaskVine",
}
STEPS = (
    "the DFK calls submit",
    "submit has sent the task",
    "the manager has the task",
    "the node sends it to a slot",
    "the function begins",
    "the function ends",
    "the manager has the result",
    "the DFK's callbacks are called",
    "result() returns",
)
Found = dict[str, dict[str, list[float]]]


def nothing(*arguments: object) -> None:
    """Do nothing."""


def executor(name: str) -> Any:
    """Return the executor of a contender, with two cores."""
    from parsl.executors import HighThroughputExecutor
    from parsl.providers import LocalProvider

    from taskvine_exec import TaskVineExecutor

    provider = LocalProvider(init_blocks=1, min_blocks=1, max_blocks=1)
    if name == "htex":
        settings: dict[str, Any] = {"cores_per_worker": 1e-9, "max_workers_per_node": 2, "encrypted": False}
        return HighThroughputExecutor(label=name, address="127.0.0.1", provider=provider, **settings)
    return TaskVineExecutor(label=name, engine=name, cores=2, provider=provider)  # type: ignore[arg-type]


class Stamps:
    """When `submit` of an executor was called and returned, and when its futures were done, in seconds."""

    def __init__(self, executor: Any) -> None:
        self.times: list[list[float]] = []
        self._submit = executor.submit
        executor.submit = self

    def __call__(self, *arguments: Any, **keywords: Any) -> Any:
        stamps = [time.time()]
        future = self._submit(*arguments, **keywords)
        stamps.append(time.time())
        self.times.append(stamps)
        future.add_done_callback(lambda _: stamps.append(time.time()))
        return future


def steps(path: str, calls: list[tuple[int, float, float]], stamps: list[list[float]]) -> list[list[float]]:
    """Return for each step of :data:`STEPS` the microseconds from the call of the app, for each call.

    Parameters
    ----------
    path : str
        The record of the run.
    calls : list of (int, float, float)
        The number of each task, and when its app was called and its result was there.
    stamps : list of list of float
        As :class:`Stamps` has them, for all tasks in the order of their numbers.
    """
    from taskvine_manager.record import read_record

    record = read_record(path)
    rows = []
    for number, called, returned in calls:
        end, (begun, sent, done) = record.done[number], stamps[number]
        row = [begun, sent, record.submitted[number].time, end.dispatched, end.started, end.started + end.seconds]
        rows.append([(each - called) * 1e6 for each in (*row, end.time, done, returned)])
    return [list(column) for column in zip(*rows, strict=True)]


def measured(names: list[str], calls: int, rounds: int) -> Found:
    """Measure all contenders in this process: the seconds of each call and chain, and the ends of each step."""
    import parsl
    from parsl.config import Config

    executors = {name: executor(name) for name in names}
    apps: dict[str, Callable[..., Any]] = {name: parsl.python_app(nothing, executors=[name]) for name in names}
    found: Found = {name: {"call": [], "chain": []} for name in names}
    stamps: dict[str, Stamps] = {}
    marked: dict[str, list[tuple[int, float, float]]] = {name: [] for name in names}
    with parsl.load(
        Config(executors=list(executors.values()), run_dir=os.path.join(os.getcwd(), "runinfo"), strategy="none")
    ):
        for name, app in apps.items():
            for _ in range(WARM_UP):
                app().result()
            stamps[name] = Stamps(executors[name])
        for _ in range(rounds):
            for name, app in apps.items():
                for _ in range(calls):
                    number, called = len(stamps[name].times), time.time()
                    app().result()
                    marked[name].append((number, called, time.time()))
                for _ in range(calls // CHAIN):
                    called = time.time()
                    future = app()
                    for _ in range(CHAIN - 1):
                        future = app(future)
                    future.result()
                    found[name]["chain"].append(time.time() - called)
        paths = {
            name: os.path.join(executors[name].run.places.log, "record.msgpack") for name in names if name != "htex"
        }
    for name, done in marked.items():
        found[name]["call"] = [returned - called for _, called, returned in done]
    for name, path in paths.items():
        shifted = [(number + WARM_UP, called, returned) for number, called, returned in marked[name]]
        ends = steps(path, shifted, [[]] * WARM_UP + stamps[name].times)
        found[name].update(zip(STEPS, ends, strict=True))
    return found


def tables(found: Found) -> str:
    """Return the tables."""
    lines = [f"{'ms':32}{'call':>10}{'95 %':>10}{'chain of 3':>12}{'95 %':>10}{'call by HTEX':>14}{'chain':>8}"]
    medians = {name: [statistics.median(each[kind]) for kind in ("call", "chain")] for name, each in found.items()}
    for name, each in found.items():
        call, chain = (f"{1e3 * statistics.median(each[kind]):.2f}" for kind in ("call", "chain"))
        slow_call, slow_chain = (f"{1e3 * percentile(each[kind]):.2f}" for kind in ("call", "chain"))
        line = f"{TITLES[name]:32}{call:>10}{slow_call:>10}{chain:>12}{slow_chain:>10}"
        if "htex" in medians:
            ratios = [ours / theirs for ours, theirs in zip(medians[name], medians["htex"], strict=True)]
            line += f"{ratios[0]:>14.2f}{ratios[1]:>8.2f}"
        lines.append(line)
    ours = [name for name in found if name != "htex"]
    if ours:
        lines += ["", f"{'us from the call of the app':32}" + "".join(f"{name:>12}" for name in ours)]
        for step in STEPS:
            lines.append(f"{step:32}" + "".join(f"{statistics.median(found[name][step]):>12.0f}" for name in ours))
    return "\n".join(lines)


def percentile(times: list[float]) -> float:
    """Return the 95th percentile."""
    return sorted(times)[len(times) * 95 // 100]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, default=500, help="calls of a contender in a round (default: 500)")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--contenders", default=",".join(TITLES), help=f"some of {', '.join(TITLES)}")
    parser.add_argument("--inner", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    names = options.contenders.split(",")
    if unknown := [name for name in names if name not in TITLES]:
        parser.error(f"{unknown[0]} is not one of {', '.join(TITLES)}")
    if options.inner:
        print(json.dumps(measured(names, options.calls, options.rounds)))
        return 0
    sizes = ("--calls", options.calls, "--rounds", options.rounds, "--contenders", options.contenders)
    found = apart.measure("benchmarks.latency", "--inner", *sizes, timeout=SECONDS, quiet=True)
    print(", ".join(apart.machine().values()))
    print(tables(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
