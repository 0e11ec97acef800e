"""What each hook of ``taskvine_exec/parsl_hooks`` saves in the user's process, and on nodes.

    python -m benchmarks.hooks                                  every hook, 3,000 apps, five alternations
    python -m benchmarks.hooks --hooks records,stand-ins --apps 20000

Each measurement is a new process, which runs apps through the DFK with the hook on or off, on the embedded engine. On
and off alternate. The table shows medians for each side. Its columns are microseconds of processor time and of time
for an app, bytes of memory that the user's process gains for an app while all futures are held, and the largest number
of megabytes on nodes. Each hook is measured with the apps that it is for.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

from benchmarks import apart
from taskvine_exec.parsl_hooks.switches import VARIABLE

SECONDS = 300.0
WARM_UP = 300
LARGE = 40_000
"""Bytes of a result that stays on nodes."""
ARGUMENT = 10_000_000
"""Bytes of a large argument of many apps."""
WORK = {
    "collector": "no-op",
    "comparison": "arguments",
    "conditions": "no-op",
    "files": "lists",
    "frames": "chain",
    "futures": "pairs",
    "launching": "no-op",
    "lock": "no-op",
    "proxies": "proxies",
    "records": "pairs",
    "resolver": "chain",
    "stand-ins": "chain",
    "wrappers": "walltime",
}
"""The work for each hook. The others make no difference to an app: ``jobs`` is about blocks."""
FIGURES = {"cpu": "us CPU", "wall": "us", "held": "B held", "stored": "MB on nodes"}


def noop(*arguments: object) -> None:
    """Do nothing."""


def timed(walltime: int = 60) -> None:
    """Do nothing, in less than a minute."""


def increment(number: int) -> int:
    return number + 1


def make(size: int) -> bytes:
    return b"x" * size


def size(data: bytes) -> int:
    return len(data)


def measured(work: str, apps: int) -> dict[str, float]:
    """Run one workload in this process; return the figures for an app."""
    import numpy as np
    import parsl
    import psutil
    from parsl.config import Config

    from taskvine_exec import DAG_RESOLVER, TaskVineExecutor

    executor = TaskVineExecutor(engine="embedded", cores=2, results="reference" if work == "proxies" else "value")
    resolver: dict[str, Any] = {"dependency_resolver": DAG_RESOLVER} if work in ("chain", "pairs") else {}
    nothing, with_walltime, plus, made, sized = map(parsl.python_app, (noop, timed, increment, make, size))
    array = np.arange(ARGUMENT // 8)

    def chain(count: int) -> list[Any]:
        futures = [plus(0)]
        while len(futures) < count:
            futures.append(plus(futures[-1]))
        return futures

    works: dict[str, Callable[[int], list[Any]]] = {
        "arguments": lambda count: [nothing(array) for _ in range(count // 20)],
        "chain": chain,
        "lists": lambda count: [nothing([number, executor.label]) for number in range(count)],
        "no-op": lambda count: [nothing() for _ in range(count)],
        "pairs": lambda count: [sized(made(LARGE)) for _ in range(count // 2)],
        "proxies": lambda count: [sized(made(LARGE)) for _ in range(count // 2)],
        "walltime": lambda count: [with_walltime(walltime=60) for _ in range(count)],
    }

    def run(count: int) -> list[Any]:
        futures = works[work](count)
        for future in futures:
            future.result()
        return futures

    with parsl.load(Config(executors=[executor], run_dir=os.path.join(os.getcwd(), "runinfo"), **resolver)):
        run(WARM_UP)
        gc.collect()
        memory, cpu, wall = psutil.Process().memory_info().rss, time.process_time(), time.perf_counter()
        futures = run(apps)
        cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
        held = psutil.Process().memory_info().rss - memory
        apps = len(futures)
        del futures
        stored = executor.stats()["bytes_stored_at_most"]
    return {"cpu": 1e6 * cpu / apps, "wall": 1e6 * wall / apps, "held": held / apps, "stored": stored / 1e6}


def compared(hook: str, apps: int, rounds: int) -> tuple[dict[str, float], dict[str, float]]:
    """Measure a hook on and off in turn; return the medians of both sides."""
    sides: dict[str, list[dict[str, float]]] = {"": [], hook: []}
    for round_ in range(rounds):
        for off in sorted(sides, reverse=bool(round_ % 2)):
            os.environ[VARIABLE] = off
            inner = ("--inner", WORK[hook], "--apps", apps)
            sides[off].append(apart.measure("benchmarks.hooks", *inner, timeout=SECONDS, quiet=True))
    on, off_ = ({name: statistics.median(each[name] for each in side) for name in FIGURES} for side in sides.values())
    return on, off_


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hooks", default=",".join(WORK), help=f"some of {', '.join(WORK)}")
    parser.add_argument("--apps", type=int, default=3000)
    parser.add_argument("--rounds", type=int, default=5, help="alternations (default: 5)")
    parser.add_argument("--inner", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.inner:
        print(json.dumps(measured(options.inner, options.apps)))
        return 0
    print(", ".join(apart.machine().values()))
    print(f"{'hook':12}{'work':11}" + "".join(f"{f'{unit}: on':>16}{'off':>10}{'':7}" for unit in FIGURES.values()))
    for hook in options.hooks.split(","):
        if hook not in WORK:
            parser.error(f"{hook} is not one of {', '.join(WORK)}")
        on, off = compared(hook, options.apps, options.rounds)
        shown = ""
        for name in FIGURES:
            change = f"{off[name] / on[name] - 1:+7.0%}" if on[name] else ""
            shown += f"{on[name]:16,.1f}{off[name]:10,.1f}{change:7}"
        print(f"{hook:12}{WORK[hook]:11}{shown}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
