"""Cost of a decision of the scheduler, and whether it grows with the number of nodes and tasks.

    python -m benchmarks.scheduler                  10 to 1,000 nodes, 10,000 to 1,000,000 tasks; some twenty minutes
    python -m benchmarks.scheduler --quick          small, as a smoke test
    python -m benchmarks.scheduler --json out.json

The simulation (``taskvine_tune.simulation.api``) drives the scheduler of the embedded engine. The cost is the processor
time inside ``Scheduler.handle`` for all events (submissions, ends, transfers), divided by the number of tasks that it
gave to nodes. Time of the simulation around it and of other processes is not counted. Python's cyclic garbage collector
is off: its time grows with the number of live objects, and the scheduler makes no cycles. Each measurement runs in a
new process, and the sizes take turns.

Tasks take 60 s, and nodes have four slots. ``independent`` tasks are submitted all at once. A ``layered`` task reads
two results of 1 MB from the layer before; layers have 4 tasks for each slot. Layered tasks are submitted as others end,
so that the number of submitted tasks for each node stays the same.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from typing import Any

from benchmarks import apart

SLOTS = 4
NODES = (10, 100, 1000)
TASKS = (10_000, 100_000, 1_000_000)
FLAT = 1.3
"""Largest ratio of a decision's cost at the largest size to that at the smallest size that counts as flat."""


def measure(kind: str, nodes: int, tasks: int) -> dict[str, Any]:
    """Simulate once; return the costs."""
    import gc
    import resource
    import time

    from taskvine_tune.simulation.api import Cluster, generate, simulate

    width = 4 * SLOTS * nodes
    workload = generate(kind, tasks, seconds=60.0, spread=0.3, size=1_000_000, width=width)
    window = tasks if kind == "independent" else 2 * width
    gc.collect()
    gc.disable()
    begin = time.process_time()
    outcome = simulate(workload, Cluster(nodes, SLOTS), window=window)
    assert outcome.done == workload.count
    return {
        "kind": kind,
        "nodes": nodes,
        "tasks": tasks,
        "microseconds": outcome.scheduling_seconds / outcome.decisions * 1e6,
        "decisions_per_second": outcome.decisions_per_second,
        "events_per_task": outcome.events / outcome.decisions,
        "seconds": time.process_time() - begin,
        "megabytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


def main() -> None:
    """Measure all sizes in turn, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--kinds", nargs="+", default=["independent", "layered"])
    parser.add_argument("--nodes", nargs="+", type=int, default=NODES)
    parser.add_argument("--tasks", nargs="+", type=int, default=TASKS)
    parser.add_argument("--json", metavar="FILE")
    parser.add_argument("--one", nargs=3, metavar=("KIND", "NODES", "TASKS"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        kind, nodes, tasks = options.one
        print(json.dumps(measure(kind, int(nodes), int(tasks))))
        return
    if options.quick:
        options.repeat, options.nodes, options.tasks = 1, (10, 50), (2000, 10_000)
    middle_tasks, middle_nodes = (
        sorted(options.tasks)[len(options.tasks) // 2],
        sorted(options.nodes)[len(options.nodes) // 2],
    )
    sizes = [(nodes, middle_tasks) for nodes in options.nodes]
    sizes += [(middle_nodes, tasks) for tasks in options.tasks if tasks != middle_tasks]
    found: dict[tuple[str, int, int], list[dict[str, Any]]] = {}
    for _ in range(options.repeat):
        for kind in options.kinds:
            for nodes, tasks in sizes:
                found.setdefault((kind, nodes, tasks), []).append(_apart(kind, nodes, tasks))
    _report(found, options, middle_nodes, middle_tasks)
    if options.json:
        with open(options.json, "w", encoding="utf-8") as file:
            json.dump([each for runs in found.values() for each in runs], file, indent=2)


def _apart(kind: str, nodes: int, tasks: int) -> dict[str, Any]:
    result: dict[str, Any] = apart.measure("benchmarks.scheduler", "--one", kind, nodes, tasks)
    print(json.dumps(result), file=sys.stderr)
    return result


def _report(found: dict[Any, list[dict[str, Any]]], options: argparse.Namespace, nodes: int, tasks: int) -> None:
    from rich.console import Console
    from rich.table import Table

    def cost(kind: str, nodes: int, tasks: int) -> float:
        return statistics.median(each["microseconds"] for each in found[(kind, nodes, tasks)])

    table = Table("tasks are", "nodes", "tasks", "µs a decision", "decisions/s", "events a task", "whole run (s)", "MB")
    for (kind, *size), runs in found.items():
        row = [statistics.median(each[name] for each in runs) for name in ("decisions_per_second", "events_per_task")]
        row += [statistics.median(each[name] for each in runs) for name in ("seconds", "megabytes")]
        figures = (f"{row[0]:,.0f}", f"{row[1]:.2f}", f"{row[2]:.1f}", f"{row[3]:,.0f}")
        table.add_row(kind, *(f"{each:,}" for each in size), f"{cost(kind, *size):.1f}", *figures)
    console = Console(width=120)
    console.print(table)
    for kind in options.kinds:
        by_nodes = cost(kind, max(options.nodes), tasks) / cost(kind, min(options.nodes), tasks)
        by_tasks = cost(kind, nodes, max(options.tasks)) / cost(kind, nodes, min(options.tasks))
        for what, ratio, sizes in (("nodes", by_nodes, options.nodes), ("tasks", by_tasks, options.tasks)):
            verdict = "flat" if ratio <= FLAT else f"not flat: more than {FLAT}"
            console.print(f"{kind}: from {min(sizes):,} to {max(sizes):,} {what}: {ratio:.2f} times, {verdict}")


if __name__ == "__main__":
    main()
