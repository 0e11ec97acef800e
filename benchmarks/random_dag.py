"""A random layered DAG of 10,000 tasks: correctness, speed, and the storage that pruning saves.

    python -m benchmarks.random_dag                    10,000 tasks, arrays of 40 KB
    python -m benchmarks.random_dag --quick            300 tasks, as a smoke test
    python -m benchmarks.random_dag --json out.json

The DAG runs twice, each time in a new process. The first run drops each future as soon as its last consumer is
submitted, so that nodes can remove results that nothing needs any more. The second run holds all futures until the end.
Results are compared with those of a serial run: in the first run those without a consumer, in the second all.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from benchmarks import apart

CORES = 2
REACH = 3
"""Most layers between a task and its parents."""
SECONDS = 600.0


class Node(NamedTuple):
    """A task, and the earlier tasks whose results it reads."""

    number: int
    parents: tuple[int, ...]


def draw(tasks: int, width: int, seed: int) -> list[Node]:
    """Draw a DAG.

    Parameters
    ----------
    tasks : int
        Number of tasks.
    width : int
        Tasks per layer.
    seed : int
        Seed of the random generator.

    Returns
    -------
    list of Node
        Tasks, in an order in which they can run. Those of the first layer have no parents. The others have one to
        three, most of them in the layer before.
    """
    rng = random.Random(seed)
    nodes = []
    for number in range(tasks):
        begin = number - number % width  # of its layer
        parents: set[int] = set()
        for _ in range(rng.randint(1, 3) if begin else 0):
            back = 1 if rng.random() < 0.75 else rng.randint(1, REACH)
            parents.add(rng.randrange(max(0, begin - back * width), begin))
        nodes.append(Node(number, tuple(sorted(parents))))
    return nodes


def mix(number: int, doubles: int, *parents: Any) -> Any:
    """Compute a task's result: whole numbers of about a million at most, so that sums are exact in any order."""
    import numpy as np

    total = np.arange(doubles, dtype=float) + number
    for parent in parents:
        total = (3 * total + parent) % 1_000_003
    return total


def serially(nodes: list[Node], doubles: int) -> dict[int, int]:
    """Compute all results in this process, one after another; return their digests."""
    last = last_uses(nodes)
    values: dict[int, Any] = {}
    digests: dict[int, int] = {}
    for node in nodes:
        values[node.number] = mix(node.number, doubles, *(values[parent] for parent in node.parents))
        digests[node.number] = digest(values[node.number])
        for number in last.get(node.number, ()):
            del values[number]
    return digests


def digest(array: Any) -> int:
    """Return a checksum of a result, by which results are compared."""
    import zlib

    return zlib.crc32(array.tobytes())


def last_uses(nodes: list[Node]) -> dict[int, list[int]]:
    """Map each task to those of its parents of which it is the last consumer."""
    last = {parent: node.number for node in nodes for parent in node.parents}
    found: dict[int, list[int]] = {}
    for number, consumer in last.items():
        found.setdefault(consumer, []).append(number)
    return found


def results(call: Callable[..., Any], nodes: list[Node], doubles: int, *, hold: bool) -> Iterator[tuple[int, Any]]:
    """Submit a DAG; yield the results of all tasks, or only of those without a consumer.

    Parameters
    ----------
    call : callable
        Submits :func:`mix` and returns a future.
    nodes : list of Node
        The DAG.
    doubles : int
        Length of each array.
    hold : bool
        Whether to hold all futures until the end.

    Yields
    ------
    number : int
        Number of a task.
    result : numpy.ndarray
        Its result.
    """
    last = last_uses(nodes)
    futures: dict[int, Any] = {}
    for node in nodes:
        futures[node.number] = call(node.number, doubles, *(futures[parent] for parent in node.parents))
        for number in () if hold else last.get(node.number, ()):
            del futures[number]
    for number, future in futures.items():
        yield number, future.result(SECONDS)


def measure(arguments: argparse.Namespace) -> None:
    """Run the DAG once, and print a report as JSON."""
    import parsl

    from taskvine_exec import TaskVineExecutor, local_config

    doubles = arguments.kilobytes * 1000 // 8
    nodes = draw(arguments.tasks, arguments.width, arguments.seed)
    expected = serially(nodes, doubles)
    with tempfile.TemporaryDirectory() as directory:
        config = local_config(cores=CORES, initialize_logging=False, run_dir=f"{directory}/runinfo")
        executor = config.executors[0]
        assert isinstance(executor, TaskVineExecutor)
        parsl.load(config)
        try:
            app = parsl.python_app(mix)
            for future in [app(0, doubles) for _ in range(20)]:
                future.result()  # the slots have imported what they need
            begin = time.perf_counter()
            found = {
                number: digest(result) for number, result in results(app, nodes, doubles, hold=arguments.case == "held")
            }
            seconds = time.perf_counter() - begin
            stats = executor.stats()
        finally:
            parsl.dfk().cleanup()
    wrong = [number for number, each in found.items() if expected[number] != each]
    if wrong:
        sys.exit(f"{len(wrong)} results are not those of the serial run: {wrong[:10]}")
    again = stats["tasks_recovered"] + stats["tasks_retried"]
    report = {"seconds": seconds, "peak": stats["bytes_stored_at_most"], "compared": len(found), "again": again}
    print(json.dumps(report))


def main() -> None:
    """Run it both ways and print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--tasks", type=int, default=10_000)
    parser.add_argument("--width", type=int, default=100, help="tasks per layer")
    parser.add_argument("--kilobytes", type=int, default=40, help="size of each array")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", metavar="FILE")
    parser.add_argument("--case", choices=("pruned", "held"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.case:
        measure(arguments)
        return
    if arguments.quick:
        arguments.tasks, arguments.width = 300, 20
    reports = {case: _apart(case, arguments) for case in ("pruned", "held")}
    _print(arguments, reports)
    if arguments.json:
        with open(arguments.json, "w", encoding="utf-8") as file:
            json.dump({"arguments": vars(arguments), "reports": reports}, file, indent=2)


def _apart(case: str, arguments: argparse.Namespace) -> dict[str, Any]:
    words = [f"--{name}={getattr(arguments, name)}" for name in ("tasks", "width", "kilobytes", "seed")]
    report: dict[str, Any] = apart.measure("benchmarks.random_dag", "--case", case, *words)
    return report


def _print(arguments: argparse.Namespace, reports: dict[str, dict[str, Any]]) -> None:
    from rich.console import Console
    from rich.table import Table

    edges = sum(len(node.parents) for node in draw(arguments.tasks, arguments.width, arguments.seed))
    title = f"{arguments.tasks} tasks, {edges} edges, {arguments.kilobytes} KB each, seed {arguments.seed}"
    table = Table(
        "futures", "tasks/s", "seconds", "storage at most (MB)", "compared, all equal", "run again", title=title
    )
    for case, report in reports.items():
        row = (f"{arguments.tasks / report['seconds']:.0f}", f"{report['seconds']:.1f}", f"{report['peak'] / 1e6:.1f}")
        futures = {"pruned": "let go", "held": "all held"}[case]
        table.add_row(futures, *row, str(report["compared"]), str(report["again"]))
    Console().print(table)
    print(f"storage with pruning / without: {reports['pruned']['peak'] / reports['held']['peak']:.3f}")


if __name__ == "__main__":
    main()
