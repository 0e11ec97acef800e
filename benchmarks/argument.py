"""One large array as an argument of many calls: time, and what the node stores.

    python -m benchmarks.argument                        100 MB, 500 calls: needs 6 GB of memory
    python -m benchmarks.argument --megabytes 8 --calls 20

The same array is given to all calls, which are all submitted before the first result is awaited. With Dask the array is
scattered first, which counts. HighThroughputExecutor sends the array with each call and would hold all copies in the
user's process, so it gets fewer calls, and only a few at a time.

Afterwards the array is changed in place, at its begin, in its middle and at its end. Calls with the changed array must
return the changed values.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable
from typing import Any

from benchmarks import apart
from benchmarks.stored import Watch
from benchmarks.suite.contenders import CONTENDERS, Session, Setting

SECONDS = 600.0
DEFAULT = ("ours", "ours-dag", "vine", "htex", "dask")
AT_A_TIME = {"htex": 4}
"""Most calls in flight, for contenders whose user's process holds a copy of the array for each."""
FEWER = {"htex": 10}
"""Contenders that get so many times fewer calls."""
PAGE = 4096
MEMORY = "TASKVINE_EXEC_MEMORY"
"""Environment variable: the directory in memory where TaskVineExecutor's nodes keep files."""


def read(data: Any, at: int) -> tuple[int, int]:
    """Return the sum of one byte of each page, and the byte at one place."""
    return int(data[::PAGE].sum(dtype="int64")), int(data[at])


def small(data: Any) -> int:
    """Return the length of some data: workers import numpy to read it."""
    return len(data)


def ran(session: Session, data: Any, calls: int, at_a_time: int) -> float:
    """Give the array to all calls; return the seconds until the last result."""
    places = [number * 7919 % len(data) for number in range(calls)]
    expected = [read(data, at) for at in places]
    waiting: deque[Any] = deque()
    found = []
    begin = time.perf_counter()
    shared = session.share(data)
    for at in places:
        if len(waiting) >= at_a_time:
            found.append(waiting.popleft().result())
        waiting.append(session.call(read, shared, at))
    found += [future.result() for future in waiting]
    taken = time.perf_counter() - begin
    if list(map(tuple, found)) != expected:
        raise AssertionError("calls have read something other than the array")
    return taken


def changed(session: Session, data: Any) -> int:
    """Change the array in place between calls; return how many of them read the changed values."""
    count = 0
    for at in (0, len(data) // 2, len(data) - 1):
        session.call(read, session.share(data), at).result()
        data[at] ^= 0xFF
        found = tuple(session.call(read, session.share(data), at).result())
        if found != read(data, at):
            raise AssertionError(f"the array was changed at {at}, but a call read {found}, not {read(data, at)}")
        count += 1
    return count


def measure(name: str, megabytes: int, calls: int, cores: int, limit: int) -> dict[str, Any]:
    """Run one contender in the current directory, which is empty."""
    import numpy as np

    os.mkdir("tmp")
    os.environ["TMPDIR"] = os.path.abspath("tmp")
    tempfile.tempdir = None
    data = (np.arange(megabytes * 1_000_000, dtype=np.uint32) % 251).astype(np.uint8)
    with CONTENDERS[name].open(Setting(cores=cores)) as session:
        for future in [session.call(small, data[:1000].copy()) for _ in range(20 * cores)]:
            future.result()
        with Watch([os.getcwd(), os.environ[MEMORY]], limit) as watch:
            taken = ran(session, data, calls, AT_A_TIME.get(name, calls))
        stats: Callable[[], dict[str, Any]] | None = getattr(session.executor, "stats", None)
        return {
            "seconds": taken,
            "calls": calls,
            "stored": watch.both,
            "files": watch.files,
            "memory": watch.memory,
            "bytes_stored_at_most": stats()["bytes_stored_at_most"] if stats is not None else None,
            "changed": changed(session, data),
        }


def main(arguments: list[str] | None = None) -> int:
    """Run all contenders in turn and print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--megabytes", type=int, default=100)
    parser.add_argument("--calls", type=int, default=500)
    parser.add_argument("--cores", type=int, default=2)
    parser.add_argument("--repeat", type=int, default=3, metavar="ROUNDS")
    parser.add_argument("--contenders", default=",".join(DEFAULT), metavar="NAME,...")
    parser.add_argument("--limit", type=int, default=6000, metavar="MB", help="end a measurement that stores more")
    parser.add_argument("--json", metavar="FILE")
    parser.add_argument("--inner", metavar="NAME", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.inner:
        from benchmarks import argument  # by its name, workers import it: __main__ would be sent with each call

        limit = options.limit * 1_000_000
        print(
            "\n" + json.dumps(argument.measure(options.inner, options.megabytes, options.calls, options.cores, limit))
        )
        return 0
    for name in options.contenders.split(","):
        if name not in DEFAULT:
            parser.error(f"no contender is called {name!r}: {', '.join(DEFAULT)}")
    return _run(options)


def _run(options: argparse.Namespace) -> int:
    names = options.contenders.split(",")
    for name in list(names):
        if reason := CONTENDERS[name].missing():
            print(f"without {CONTENDERS[name].title}: {reason}")
            names.remove(name)
    found: dict[str, list[dict[str, Any]]] = {}
    failed: dict[str, str] = {}
    for turn in range(options.repeat):
        for name in names if turn % 2 == 0 else names[::-1]:
            if name in failed:
                continue
            calls = max(1, options.calls // FEWER.get(name, 1))
            words = [f"--{what}={getattr(options, what)}" for what in ("megabytes", "cores", "limit")]
            inner = ("benchmarks.argument", "--inner", name, "--calls", calls, *words)
            try:
                with tempfile.TemporaryDirectory(dir="/dev/shm", ignore_cleanup_errors=True) as memory:
                    os.environ[MEMORY] = memory
                    each = apart.measure(*inner, timeout=SECONDS, quiet=True)
            except apart.MeasurementFailed as error:
                failed[name] = str(error)
                continue
            finally:
                del os.environ[MEMORY]
            found.setdefault(name, []).append(each)
    _print(options, {name: found[name] for name in names if name in found})
    for name, reason in failed.items():
        print(f"{name} failed: {reason}", file=sys.stderr)
    if options.json:
        report = {"machine": apart.machine(), "arguments": vars(options), "failed": failed, "rounds": found}
        with open(options.json, "w", encoding="utf-8") as file:
            json.dump(report, file, indent=1)
    return 1 if failed else 0


def _print(options: argparse.Namespace, found: dict[str, list[dict[str, Any]]]) -> None:
    from rich.console import Console
    from rich.table import Table

    from benchmarks.suite.report import figure, spread
    from benchmarks.suite.results import Summary

    table = Table(
        "executor", "calls", "ms a call", "least to most", "stored at most, MB", "in files", "in memory",
        "changes seen", title=f"one array of {options.megabytes} MB",
    )  # fmt: skip
    for name, rounds in found.items():
        time_ = Summary.of(1000 * each["seconds"] / each["calls"] for each in rounds)
        sizes = (figure(max(each[what] for each in rounds) / 1e6) for what in ("stored", "files", "memory"))
        seen = f"{min(each['changed'] for each in rounds)} of 3"
        calls = f"{rounds[0]['calls']:,}"
        table.add_row(CONTENDERS[name].title, calls, figure(time_.median), spread(time_), *sizes, seen)
    Console(width=None if sys.stdout.isatty() else 160).print(table)


if __name__ == "__main__":
    sys.exit(main())
