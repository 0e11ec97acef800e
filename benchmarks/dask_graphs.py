"""Dask graphs: our scheduler function beside Dask's own, and beside TaskVine's Dask executor.

    python -m benchmarks.dask_graphs                           about 200 MB of data for each case
    python -m benchmarks.dask_graphs --megabytes 8 --cases tree,stencil --contenders ours,threads

Each contender runs all cases in a separate process. A first graph starts its workers, which import numpy. Results
are compared with those of Dask's threads. The user's memory is the growth of the process's peak after the first graph;
results are small. A case that fails is reported, and the others go on.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from benchmarks import apart

SECONDS = 300.0


# --- cases: each returns a small collection ---


def _field(megabytes: float, columns: int = 1000) -> Any:
    import dask.array as da

    rows = max(80, int(megabytes * 1e6 / (8 * columns)))
    return da.random.default_rng(7).normal(size=(rows, columns), chunks=(-(-rows // 16), columns))


def _increased(number: float) -> float:
    return number + 1


def _sum(left: float, right: float) -> float:
    return left + right


def tree(megabytes: float) -> Any:
    """Add 1,024 numbers pairwise; no large data."""
    import dask

    level = [dask.delayed(_increased)(number) for number in range(1024)]
    while len(level) > 1:
        level = [dask.delayed(_sum)(*pair) for pair in zip(level[::2], level[1::2], strict=True)]
    return level[0]


def reduction(megabytes: float) -> Any:
    """Standardise an array and sum it up."""
    x = _field(megabytes)
    return ((x - x.mean(axis=0)) / x.std(axis=0)).max(axis=0)


def rechunk(megabytes: float) -> Any:
    """Change the chunks from rows to columns, and sum up along both."""
    x = _field(megabytes)
    return x.rechunk((-1, 125)).cumsum(axis=0)[-1]


def stencil(megabytes: float) -> Any:
    """Smooth an array three times; neighbours exchange borders."""
    import numpy as np

    x = _field(megabytes)
    for _ in range(3):
        x = x.map_overlap(lambda block: (np.roll(block, 1, 0) + block + np.roll(block, -1, 0)) / 3, depth=(1, 0))
    return x.sum(axis=0)


def svd(megabytes: float) -> Any:
    """Singular values of a tall matrix."""
    import dask.array as da

    return da.linalg.svd(_field(megabytes, columns=100))[1]


def climatology(megabytes: float) -> Any:
    """Monthly means of a daily field, and the spread of the anomalies."""
    import dask.array as da
    import numpy as np
    import xarray as xr

    days = 730
    width = max(4, int((megabytes * 1e6 / 8 / days) ** 0.5))
    values = da.random.default_rng(7).normal(size=(days, width, width), chunks=(46, width, width))
    dates = np.datetime64("2001-01-01", "ns") + np.arange(days) * np.timedelta64(1, "D")
    field = xr.DataArray(values, dims=("time", "lat", "lon"), coords={"time": dates})
    months = field.groupby("time.month")
    return (months - months.mean("time")).std(("lat", "lon")).data


def shuffle(megabytes: float) -> Any:
    """Shuffle a table by a key with many values, and average by it."""
    import dask.dataframe as dd
    import numpy as np
    import pandas as pd

    rows = int(megabytes * 1e6 / 16 / 16)

    def part(number: int) -> Any:
        draw = np.random.default_rng(number)
        return pd.DataFrame({"key": draw.integers(0, 1000, rows), "value": draw.normal(size=rows)})

    table = dd.from_map(part, range(16), meta=pd.DataFrame({"key": np.zeros(0, int), "value": np.zeros(0)}))
    # The order of rows differs between runs, and so does the last digit.
    return table.shuffle("key", npartitions=16).groupby("key").value.mean().sum()


CASES: dict[str, Callable[[float], Any]] = {
    each.__name__: each for each in (tree, reduction, rechunk, stencil, svd, climatology, shuffle)
}


# --- contenders ---

Scheduler = Any
"""What Dask accepts as scheduler; None for its default."""


@contextlib.contextmanager
def _ours(engine: str, cores: int) -> Iterator[Scheduler]:
    from taskvine_exec import TaskVineExecutor
    from taskvine_exec.clients.dask import DaskScheduler

    with DaskScheduler(TaskVineExecutor(engine=engine, cores=cores)) as scheduler:
        yield scheduler


@contextlib.contextmanager
def _pool(engine: str, cores: int) -> Iterator[Scheduler]:
    from parsl.concurrent import ParslPoolExecutor
    from parsl.config import Config

    from taskvine_exec import TaskVineExecutor

    config = Config(executors=[TaskVineExecutor(engine=engine, cores=cores)], strategy="none", initialize_logging=False)
    with ParslPoolExecutor(config) as pool:
        pool._max_workers = cores  # Dask asks for it
        yield pool


@contextlib.contextmanager
def _own(name: str, cores: int) -> Iterator[Scheduler]:
    import dask

    with dask.config.set(num_workers=cores):
        yield name


@contextlib.contextmanager
def _distributed(cores: int) -> Iterator[Scheduler]:
    from distributed import Client, LocalCluster

    with (
        LocalCluster(n_workers=cores, threads_per_worker=1, dashboard_address=None) as cluster,
        Client(cluster) as client,
    ):
        yield client


@contextlib.contextmanager
def _daskvine(mode: str, cores: int) -> Iterator[Scheduler]:
    from ndcctools.taskvine import DaskVine

    manager = DaskVine(port=0)
    shares: dict[str, Any] = {"lib_resources": {"cores": cores, "slots": cores}} if mode == "function-calls" else {}
    if mode == "tasks":
        shares = {"resources": {"cores": 1, "memory": 1000, "disk": 500}}

    def run(graph: Any, keys: Any, **kwargs: Any) -> Any:
        graph = graph if isinstance(graph, Mapping) else graph.__dask_graph__()
        # Its default order, by the sizes of inputs, fails on graphs with data in them.
        chosen = {"task_mode": mode, "task_priority_mode": "FIFO", "progress_disable": True, **shares}
        return manager.get(dict(graph), keys, **chosen)

    command = ["vine_worker", "--cores", str(cores), "--memory", "4000", "--disk", "4000", "127.0.0.1"]
    worker = subprocess.Popen([*command, str(manager.port)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield run
    finally:
        worker.kill()
        worker.wait()


@dataclass(frozen=True)
class Contender:
    """A way to run Dask graphs: its title, how it is opened for a number of cores, and the modules that it needs."""

    title: str
    open: Callable[[int], contextlib.AbstractContextManager[Scheduler]]
    needs: tuple[str, ...] = ()

    def missing(self) -> str | None:
        """Return why it cannot be measured here, or None."""
        for name in ("dask", *self.needs):
            try:
                __import__(name)
            except ImportError as error:
                return str(error)
        return None


_VINE = ("ndcctools.taskvine",)
CONTENDERS = {
    "ours": Contender("DaskScheduler, embedded", lambda cores: _ours("embedded", cores)),
    "vine": Contender("DaskScheduler, TaskVine", lambda cores: _ours("taskvine", cores), _VINE),
    "pool": Contender("ParslPoolExecutor, embedded", lambda cores: _pool("embedded", cores)),
    "threads": Contender("Dask's threads", lambda cores: _own("threads", cores)),
    "processes": Contender("Dask's processes", lambda cores: _own("processes", cores)),
    "distributed": Contender("dask.distributed", _distributed, ("distributed",)),
    "daskvine-calls": Contender("TaskVine's DaskVine, function calls", lambda c: _daskvine("function-calls", c), _VINE),
    "daskvine-tasks": Contender("TaskVine's DaskVine, tasks", lambda c: _daskvine("tasks", c), _VINE),
}


# --- measuring ---


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def inner(name: str, cases: list[str], megabytes: float, cores: int) -> dict[str, Any]:
    """Run one contender; return for each case its seconds, a digest of its result and its error."""
    import dask
    import numpy as np

    found: dict[str, Any] = {}
    with CONTENDERS[name].open(cores) as scheduler, dask.config.set({"dataframe.shuffle.method": "tasks"}):
        chosen = {} if name == "distributed" else {"scheduler": scheduler}
        _field(1).sum().compute(**chosen)
        before = _peak()
        for case in cases:
            made = CASES[case](megabytes)
            begin = time.perf_counter()
            try:
                result = made.compute(**chosen)
            except Exception as error:
                found[case] = {"error": f"{type(error).__name__}: {error}"[:500]}
                continue
            seconds = time.perf_counter() - begin
            found[case] = {"seconds": seconds, "digest": float(np.asarray(result, dtype=float).sum())}
    return {"cases": found, "memory": _peak() - before}


def main(arguments: list[str] | None = None) -> int:
    """Run all contenders in turn and print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--megabytes", type=float, default=200)
    parser.add_argument("--cores", type=int, default=2)
    parser.add_argument("--repeat", type=int, default=3, metavar="ROUNDS")
    parser.add_argument("--cases", default=",".join(CASES), metavar="NAME,...")
    parser.add_argument("--contenders", default=",".join(CONTENDERS), metavar="NAME,...")
    parser.add_argument("--json", metavar="FILE")
    parser.add_argument("--inner", metavar="NAME", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    cases = options.cases.split(",")
    for given, known in ((cases, CASES), (options.contenders.split(","), CONTENDERS)):
        for name in given:
            if name not in known:
                parser.error(f"nothing is called {name!r}: {', '.join(known)}")
    if options.inner:
        from benchmarks import dask_graphs  # by its name, workers import it: __main__ would be sent with each call

        print("\n" + json.dumps(dask_graphs.inner(options.inner, cases, options.megabytes, options.cores)))
        return 0
    return _run(options)


def _run(options: argparse.Namespace) -> int:
    names = options.contenders.split(",")
    for name in list(names):
        if reason := CONTENDERS[name].missing():
            print(f"without {CONTENDERS[name].title}: {reason}")
            names.remove(name)
    rounds: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
    failed: dict[str, str] = {}
    for turn in range(options.repeat):
        for name in names if turn % 2 == 0 else names[::-1]:
            if name in failed:
                continue
            words = [f"--{what}={getattr(options, what)}" for what in ("megabytes", "cores", "cases")]
            try:
                inner = ("benchmarks.dask_graphs", "--inner", name, *words)
                rounds[name].append(apart.measure(*inner, timeout=SECONDS, quiet=True))
            except apart.MeasurementFailed as error:
                failed[name] = str(error)
    wrong = _differences(rounds, options.cases.split(","))
    _print(options, rounds)
    for name, reason in {**failed, **wrong}.items():
        print(f"{name} failed: {reason}", file=sys.stderr)
    if options.json:
        report = {"machine": apart.machine(), "arguments": vars(options), "failed": failed, "rounds": rounds}
        with open(options.json, "w", encoding="utf-8") as file:
            json.dump(report, file, indent=1)
    return 1 if failed or wrong else 0


def _differences(rounds: Mapping[str, list[dict[str, Any]]], cases: list[str]) -> dict[str, str]:
    """Return the contenders whose results differ from those of the last one that has any, with the cases."""
    wrong: dict[str, str] = {}
    for case in cases:
        digests = [
            (name, each["cases"][case]["digest"])
            for name, found in rounds.items()
            for each in found
            if "digest" in each["cases"][case]
        ]
        expected = next((digest for name, digest in digests if name == "threads"), digests[-1][1] if digests else 0.0)
        for name, digest in digests:
            if abs(digest - expected) > 1e-6 * max(1.0, abs(expected)):
                wrong[name] = f"{case} gave {digest}, not {expected}"
    return wrong


def _print(options: argparse.Namespace, rounds: Mapping[str, list[dict[str, Any]]]) -> None:
    from rich.console import Console
    from rich.table import Table

    from benchmarks.suite.report import figure
    from benchmarks.suite.results import Summary

    cases = options.cases.split(",")
    table = Table("s, median", *cases, "user's memory, MB", title=f"{options.megabytes:g} MB, {options.cores} cores")
    for name, found in rounds.items():
        if not found:
            continue
        cells = []
        for case in cases:
            seconds = [each["cases"][case]["seconds"] for each in found if "seconds" in each["cases"][case]]
            cells.append(figure(Summary.of(seconds).median) if seconds else "failed")
        table.add_row(CONTENDERS[name].title, *cells, figure(max(each["memory"] for each in found)))
    Console(width=None if sys.stdout.isatty() else 160).print(table)
    for name, found in rounds.items():
        for case in cases:
            errors = [each["cases"][case]["error"] for each in found if "error" in each["cases"][case]]
            if errors:
                print(f"{name}, {case}: {errors[0]}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
