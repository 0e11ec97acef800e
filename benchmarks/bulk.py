"""``executor.map`` of many calls of ``abs``, beside ``concurrent.futures.ProcessPoolExecutor.map``.

    python -m benchmarks.bulk                                1,000,000 calls in 3 rounds
    python -m benchmarks.bulk --calls 100000 --engine taskvine

All run in the same process, one after another in each round: ours with chunks that it chooses, ours with chunks of
``--chunksize`` calls, and the process pool with the same chunks. Rates are medians of the rounds, and processor times
are those of the best round.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from typing import Any

from benchmarks import apart
from benchmarks.suite import processes

SECONDS = 900.0
OURS, FIXED, POOL = "executor.map", "executor.map, these chunks", "ProcessPoolExecutor.map, these chunks"
SHOWN = (("workers",), ("manager", "node", "slots"))
"""Roles of the process pool's other processes, and of ours."""


def _status(process: int, field: str) -> int:
    """Return a field of a process's status in bytes; 0 if it has ended."""
    with contextlib.suppress(OSError), open(f"/proc/{process}/status", encoding="ascii") as file:
        for line in file:
            if line.startswith(f"{field}:"):
                return int(line.split()[1]) * 1024
    return 0


def _forget_peaks() -> None:
    """Set the peak resident set of each process to its present size."""
    for process in (os.getpid(), *processes.roles()):
        with contextlib.suppress(OSError), open(f"/proc/{process}/clear_refs", "w", encoding="ascii") as file:
            file.write("5")


def _peaks() -> dict[str, int]:
    """Return the peak resident set by role; of several processes with a role, the largest."""
    peaks: dict[str, int] = {}
    for process, role in {os.getpid(): "user", **processes.roles()}.items():
        peaks[role] = max(peaks.get(role, 0), _status(process, "VmHWM"))
    return peaks


def _timed(run: Callable[[Iterable[int]], Iterable[int]], calls: int) -> dict[str, Any]:
    """Run a contender; return its seconds, the processor time of the user's and of other processes, and peaks."""
    _forget_peaks()
    before = processes.seconds()
    begun = time.perf_counter()
    total = sum(run(range(-calls, 0)))
    seconds = time.perf_counter() - begun
    used = processes.growth(before, processes.seconds())
    if total != calls * (calls + 1) // 2:
        raise ValueError(f"the results are wrong: their sum is {total}")
    user = sum(spent for role, spent in used.items() if role.startswith("user,"))
    return {"seconds": seconds, "user": user, "others": sum(used.values()) - user, "peaks": _peaks()}


def measured(calls: int, rounds: int, chunksize: int, engine: str) -> dict[str, Any]:
    """Measure in this process; return what :func:`_timed` does for each round, by contender."""
    from taskvine_exec import TaskVineExecutor

    settings: Any = {"engine": engine, "cores": 2}
    found: dict[str, list[dict[str, Any]]] = {}
    with ProcessPoolExecutor(2) as pool, TaskVineExecutor(**settings) as executor:
        executor.start()
        contenders: dict[str, Callable[[Iterable[int]], Iterable[int]]] = {
            OURS: lambda numbers: executor.map(abs, numbers),
            FIXED: lambda numbers: executor.map(abs, numbers, chunksize=chunksize),
            POOL: lambda numbers: pool.map(abs, numbers, chunksize=chunksize),
        }
        for run in contenders.values():
            _timed(run, 4 * chunksize)  # all processes have started
        for _ in range(rounds):
            for name, run in contenders.items():
                found.setdefault(name, []).append(_timed(run, calls))
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--chunksize", type=int, default=16_384)
    parser.add_argument("--engine", default="embedded", choices=("embedded", "taskvine"))
    parser.add_argument("--inner", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.inner:
        print(json.dumps(measured(options.calls, options.rounds, options.chunksize, options.engine)))
        return 0
    result = apart.measure("benchmarks.bulk", "--inner", *sys.argv[1:], timeout=SECONDS)
    print(", ".join(apart.machine().values()))
    print(f"\n{options.calls:,} calls of abs in chunks of {options.chunksize:,} ({options.engine}), rounds in turn")
    print(f"{'':40}{'calls/s':>12}{'rounds':>24}{'CPU us a call: user':>22}{'others':>8}")
    for name, rounds in result.items():
        rates = sorted(options.calls / each["seconds"] for each in rounds)
        user, others = (1e6 * min(each[key] for each in rounds) / options.calls for key in ("user", "others"))
        spread = f"{rates[0]:,.0f} to {rates[-1]:,.0f}"
        print(f"{name:40}{statistics.median(rates):12,.0f}{spread:>24}{user:22.2f}{others:8.2f}")
    print("\npeak resident set, MB")
    for name, rounds in result.items():
        shown = {role: max(each["peaks"].get(role, 0) for each in rounds) for role in ("user", *SHOWN[name != POOL])}
        print(f"{name:40}" + ", ".join(f"{role} {size / 1e6:.0f}" for role, size in shown.items()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
