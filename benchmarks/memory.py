"""Memory of every process of a run before, during and after many calls.

    python -m benchmarks.memory                      3,000 functions, then 100,000 apps
    python -m benchmarks.memory --engine taskvine --functions 300 --apps 10000

First, distinct closures that hold ``--size`` bytes each are called, and then dropped. Then no-op apps are called in
rounds through the DFK. The tables show unique set sizes (bytes that would be free if the process ended) by process. The
first table compares sizes before the calls, after them with all functions alive, and after these were dropped.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import sys
from collections.abc import Callable
from typing import Any

from benchmarks import apart
from benchmarks.suite import processes

SECONDS = 900.0
WARM_UP = 300
ROUNDS = 10


def closure(number: int, size: int) -> Callable[[], int]:
    """Make a unique function, which holds ``size`` random bytes."""
    data = number.to_bytes(8, "big") + os.urandom(size)

    def call() -> int:
        return len(data)

    return call


def noop() -> None:
    """Do nothing."""


def measured(functions: int, size: int, apps: int, engine: str, resolver: bool) -> dict[str, list[dict[str, int]]]:
    """Run both parts in this process.

    Returns
    -------
    dict
        Bytes by process for each part: ``functions`` has three tables (before, with all functions alive, after they
        were dropped); ``apps`` has one from before the rounds, and one from after each round.
    """
    import parsl
    from parsl.config import Config

    from taskvine_exec import DAG_RESOLVER, TaskVineExecutor

    def look() -> dict[str, int]:
        gc.collect()
        processes.settled()
        return processes.memory()

    executor: Any = TaskVineExecutor(engine=engine, cores=2)
    resolved = {"dependency_resolver": DAG_RESOLVER} if resolver else {}
    with parsl.load(Config(executors=[executor], run_dir=os.path.join(os.getcwd(), "runinfo"), **resolved)):
        app = parsl.python_app(noop)

        def round_of(count: int) -> None:
            for future in [app() for _ in range(count)]:
                future.result()

        def call_closures(count: int) -> list[Callable[[], int]]:
            made = [closure(number, size) for number in range(count)]
            for future in [executor.submit(function, {}) for function in made]:
                assert future.result() == size + 8
            return made

        round_of(WARM_UP)
        call_closures(10)
        tables = [look()]
        held = call_closures(functions)
        tables.append(look())
        del held
        gc.collect()
        round_of(WARM_UP)  # nodes are told to forget functions along with the next tasks
        tables.append(look())
        rounds = [look()]
        for _ in range(ROUNDS):
            round_of(apps // ROUNDS)
            rounds.append(look())
    return {"functions": tables, "apps": rounds}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--functions", type=int, default=3000)
    parser.add_argument("--size", type=int, default=25_000, help="bytes that each function holds (default: 25,000)")
    parser.add_argument("--apps", type=int, default=100_000)
    parser.add_argument("--engine", default="embedded", choices=("embedded", "taskvine"))
    parser.add_argument("--resolver", action="store_true", help="use DAG_RESOLVER")
    parser.add_argument("--inner", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.inner:
        print(
            json.dumps(measured(options.functions, options.size, options.apps, options.engine, options.resolver)),
        )
        return 0
    result = apart.measure("benchmarks.memory", "--inner", *sys.argv[1:], timeout=SECONDS)
    print(", ".join(apart.machine().values()))
    before, during, after = result["functions"]
    print(f"\n{options.functions:,} functions of {options.size:,} bytes ({options.engine}), MB by process")
    print(f"{'':32}{'before':>10}{'all alive':>12}{'gone':>10}{'gone/before':>14}")
    for role in before:
        numbers = [table.get(role, 0) / 1e6 for table in (before, during, after)]
        print(f"{role:32}{numbers[0]:10.1f}{numbers[1]:12.1f}{numbers[2]:10.1f}{numbers[2] / numbers[0]:14.2f}")
    rounds = result["apps"]
    print(f"\n{options.apps:,} apps in {ROUNDS} rounds, MB by process")
    for role in rounds[0]:
        print(f"{role:32}" + "".join(f"{table.get(role, 0) / 1e6:8.1f}" for table in rounds))
    return 0


if __name__ == "__main__":
    sys.exit(main())
