"""Long runs: memory, descriptors and latency stay flat.

    python tests/chaos/soak.py --calls 300000    this number of calls of several kinds on two slots
    python tests/chaos/soak.py --deaths 2000     this number of nodes killed, one after another, while calls run

A line is printed after each of ten rounds. The status is 1 if a call has a wrong result, if anything is left behind, or
if the last rounds use much more than the first ones: a tenth and 8 MB of memory, 8 descriptors in a process, or twice
the latency. Processes that end with their nodes are not compared.
"""

from __future__ import annotations

import argparse
import gc
import os
import random
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import parsl
import psutil
from parsl.config import Config
from parsl.providers import LocalProvider

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks import apart
from benchmarks.suite import processes
from taskvine_exec import TaskVineExecutor
from tests.chaos.run import nothing_left

ROUNDS = 10
WINDOW = 2_000
"""Calls in flight."""
PROBES = 200
"""Calls made one at a time to measure the median latency of a round."""
NODES = 2
SECONDS = 120.0


def small(number: int) -> int:
    return number + 1


def large(number: int) -> Any:
    import numpy as np

    return np.full(40_000, float(number))


def fails(number: int) -> None:
    raise ValueError(number)


@dataclass
class Row:
    """Measurements after a round: bytes and descriptors by role, seconds of a call, calls or deaths a second."""

    memory: dict[str, int]
    descriptors: dict[str, int]
    latency: float
    rate: float


def needs() -> tuple[dict[str, int], dict[str, int]]:
    """Return, for each role, the most memory (bytes that a process shares with no other) and descriptors of any
    process.
    """
    memory: dict[str, int] = {}
    descriptors: dict[str, int] = {}
    for pid, role in {os.getpid(): "user", **processes.roles()}.items():
        with suppress(psutil.Error):
            process = psutil.Process(pid)
            memory[role] = max(memory.get(role, 0), process.memory_full_info().uss)
            descriptors[role] = max(descriptors.get(role, 0), process.num_fds())
    return memory, descriptors


def measure(executor: TaskVineExecutor, rate: float) -> Row:
    """Measure a run while only a few calls run."""
    times = []
    for number in range(PROBES):
        begin = time.perf_counter()
        assert executor.submit(small, {}, number).result(SECONDS) == number + 1
        times.append(time.perf_counter() - begin)
    gc.collect()
    processes.settled()
    return Row(*needs(), statistics.median(times), rate)


def check(future: Future[Any], number: int) -> None:
    """Compare the outcome of a call with the expected one."""
    if number % 97 == 0:
        error = future.exception(SECONDS)
        assert isinstance(error, ValueError)
        assert error.args == (number,)
    elif number % 50 == 0:
        assert future.result(SECONDS).sum() == 40_000.0 * number
    else:
        assert future.result(SECONDS) == number + 1


def submit(executor: TaskVineExecutor, number: int) -> Future[Any]:
    """Submit the call with this number."""
    function: Any = fails if number % 97 == 0 else large if number % 50 == 0 else small
    return executor.submit(function, {}, number)


def calls(executor: TaskVineExecutor, count: int) -> Iterator[Row]:
    """Make ``count`` calls in rounds; some calls are always in flight."""
    for index in range(ROUNDS):
        numbers = range(index * count // ROUNDS, (index + 1) * count // ROUNDS)
        begin = time.perf_counter()
        flying: dict[int, Future[Any]] = {}
        for number in numbers:
            flying[number] = submit(executor, number)
            if len(flying) >= WINDOW:
                first = next(iter(flying))
                check(flying.pop(first), first)
        for number, future in flying.items():
            check(future, number)
        rate = len(numbers) / (time.perf_counter() - begin)
        del flying
        yield measure(executor, rate)


def deaths(executor: TaskVineExecutor, count: int) -> Iterator[Row]:
    """Kill ``count`` nodes in rounds while calls run; all calls return their results."""
    rng = random.Random(0)
    number = 0
    for index in range(ROUNDS):
        round_of = range(index * count // ROUNDS, (index + 1) * count // ROUNDS)
        begin = time.perf_counter()
        for _ in round_of:
            flying = {n: submit(executor, n) for n in range(number, number + 20)}
            number += 20
            check(flying[number - 20], number - 20)
            executor.wait_for_nodes(1, SECONDS)
            node = rng.choice(executor.nodes or [{"pid": 0}])
            with suppress(psutil.Error):
                if node["pid"]:
                    psutil.Process(node["pid"]).kill()
            for n, future in flying.items():
                check(future, n)
        rate = len(round_of) / (time.perf_counter() - begin)
        yield measure(executor, rate)


def show(rows: list[Row]) -> None:
    """Print the last row, after a header if it is the first."""
    row = rows[-1]
    roles = [role for role in ("user", "manager", "node", "library", "slots") if role in row.memory]
    if len(rows) == 1:
        print("round" + "".join(f"{role:>22}" for role in roles) + "      latency       rate")
    cells = "".join(f"{row.memory[role] / 1e6:11.1f} MB {row.descriptors.get(role, 0):4d} fd" for role in roles)
    print(f"{len(rows):5d}{cells} {row.latency * 1e3:9.2f} ms {row.rate:8.1f}/s", flush=True)


def grown(rows: list[Row], roles: tuple[str, ...]) -> list[str]:
    """Name what the last three rounds use much more of than the three rounds after the first."""
    early, late = rows[1:4], rows[-3:]
    said = []
    # roles differ by engine
    for role in (role for role in roles if all(role in row.memory for row in (*early, *late))):
        before, after = (statistics.median(row.memory[role] for row in part) for part in (early, late))
        if after > 1.1 * before + 8e6:
            said.append(f"memory of {role}")
        before, after = (statistics.median(row.descriptors[role] for row in part) for part in (early, late))
        if after > before + 8:
            said.append(f"descriptors of {role}")
    if statistics.median(row.latency for row in late) > 2 * statistics.median(row.latency for row in early):
        said.append("latency")
    return said


@contextmanager
def a_run(engine: Any) -> Iterator[TaskVineExecutor]:
    """Start an executor in a directory that must be empty in the end."""
    directory = tempfile.mkdtemp(prefix="tv", dir="/tmp")
    with nothing_left(directory):
        os.environ[apart.MARK] = directory
        provider = LocalProvider(init_blocks=NODES, min_blocks=NODES, max_blocks=NODES)
        executor = TaskVineExecutor(label="tv", engine=engine, cores=1, provider=provider, max_retries=10)
        config = Config(
            executors=[executor],
            strategy="simple",  # replaces blocks; calls do not pass through the DataFlowKernel, which would keep them
            strategy_period=0.05,
            run_dir=os.path.join(directory, "runinfo"),
            initialize_logging=False,
        )
        with parsl.load(config):
            assert executor.wait_for_nodes(NODES, SECONDS)
            yield executor
    shutil.rmtree(directory)


def main() -> int:
    """Run the chosen parts; print a table of their rounds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, default=0, help="how many calls")
    parser.add_argument("--deaths", type=int, default=0, help="how many nodes are killed")
    parser.add_argument("--engine", choices=("embedded", "taskvine"), default="embedded", help="of the executor")
    options = parser.parse_args()
    status = 0
    lasting = ("user", "manager")
    for name, count, work, roles in (
        ("calls", options.calls, calls, (*lasting, "node", "library", "slots")),
        ("deaths of nodes", options.deaths, deaths, lasting),
    ):
        if not count:
            continue
        print(f"{count:,} {name} on {options.engine}, in {ROUNDS} rounds")
        rows: list[Row] = []
        begin = time.perf_counter()
        with a_run(options.engine) as executor:
            for row in work(executor, count):
                rows.append(row)
                show(rows)
        said = grown(rows, roles)
        print(f"{time.perf_counter() - begin:.0f} s; " + (f"GROWN: {', '.join(said)}" if said else "flat"))
        status = status or int(bool(said))
    return status


if __name__ == "__main__":
    sys.exit(main())
