"""One measurement, in a separate process: ``python -m benchmarks.metg.measure CONTENDER PATTERN JSON``.

The JSON holds a plan. The output is what :func:`searched` returns.
"""

from __future__ import annotations

import importlib
import json
import statistics
import sys
import threading
import time
import warnings
from dataclasses import dataclass
from typing import Any, NamedTuple

from benchmarks.metg import work
from benchmarks.metg.patterns import Graph, Task
from benchmarks.metg.search import efficiency, smallest
from benchmarks.suite.contenders import CONTENDERS, Session, Setting

WARM_UP = 1e-3
"""Seconds of a task while workers get to know the function."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What to measure.

    Parameters
    ----------
    cores : int
        Cores of the one node.
    width, steps : int
        Size of each graph.
    payload : int
        Bytes of each result.
    runs : int
        Runs of a graph for each duration, of which the median counts; fewer, once most are on one side of the target.
    target : float
        Efficiency to reach.
    within : float
        See :func:`benchmarks.metg.search.smallest`.
    least, most : float
        Shortest and longest duration of a task to try, in seconds.
    """

    cores: int = 2
    width: int = 16
    steps: int = 64
    payload: int = work.SMALLEST
    runs: int = 3
    target: float = 0.5
    within: float = 1.1
    least: float = 20e-6
    most: float = 0.5


class Speed(NamedTuple):
    """Seconds that :func:`work.spin` takes: a constant, and more for each round."""

    constant: float
    each: float

    def rounds(self, duration: float) -> int:
        """Return the number of rounds that take about this long; at least one."""
        return max(1, round((duration - self.constant) / self.each))

    def seconds(self, rounds: int) -> float:
        """Return the time of a number of rounds."""
        return self.constant + rounds * self.each


def calibrated(cores: int) -> Speed:
    """Measure the speed of :func:`work.spin` with all cores busy.

    It is measured in processor time, so that other programs on the machine do not count.
    """
    few, many = 10, 4000
    taken: list[tuple[float, float]] = []

    def spin() -> None:
        took = []
        for rounds, times in ((few, 50), (many, 3)):
            least = float("inf")
            for _ in range(times):
                begin = time.thread_time()
                work.spin(rounds)
                least = min(least, time.thread_time() - begin)
            took.append(least)
        taken.append((took[0], took[1]))

    threads = [threading.Thread(target=spin) for _ in range(cores)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    short, long = (statistics.mean(side) for side in zip(*taken, strict=True))
    each = (long - short) / (many - few)
    return Speed(max(0.0, short - few * each), each)


class Inputs(NamedTuple):
    """What does not change between runs of a graph: the inputs of each task, and the values that its ends must have."""

    graph: Graph
    points: dict[Task, tuple[int, ...]]
    ends: dict[Task, int]

    @classmethod
    def of(cls, graph: Graph) -> Inputs:
        """Compute them."""
        values = graph.values()
        return cls(graph, {task: graph.inputs(task) for task in graph}, {task: values[task] for task in graph.ends()})


def timed(session: Session, inputs: Inputs, rounds: int, payload: int) -> float:
    """Run a graph; return the seconds from the first submission to the last result.

    Raises
    ------
    work.WrongInput
        If a result is wrong.
    """
    futures: dict[Task, Any] = {}
    begin = time.perf_counter()
    for task, points in inputs.points.items():
        read = [futures[Task(task.step - 1, point)] for point in points]
        futures[task] = session.call(work.run, task.step, task.point, rounds, payload, points, *read)
    results = {task: futures[task].result() for task in inputs.ends}
    taken = time.perf_counter() - begin
    for task, result in results.items():
        if work.unpacked(result, task.step, task.point, payload) != inputs.ends[task]:
            raise work.WrongInput(f"task {task.point} in step {task.step} read a wrong value")
    return taken


def searched(session: Session, pattern: str, plan: Plan) -> dict[str, Any]:
    """Find the METG of one pattern; return it in seconds with all that was measured.

    ``granularity`` is Task Bench's own unit: the time of all cores divided by the number of tasks, at that duration.
    """
    inputs = Inputs.of(Graph(pattern, plan.width, plan.steps))
    count = len(inputs.points)
    speed = calibrated(plan.cores)
    warm = Inputs.of(Graph(pattern, plan.width, min(plan.steps, 8)))
    for _ in range(2):
        timed(session, warm, speed.rounds(WARM_UP), plan.payload)

    def measure(duration: float) -> float:
        found = []
        for _ in range(plan.runs):
            speed = calibrated(plan.cores)
            rounds = speed.rounds(duration)
            wall = timed(session, inputs, rounds, plan.payload)
            found.append(efficiency(useful=count * speed.seconds(rounds), wall=wall, cores=plan.cores))
            reached = sum(each >= plan.target for each in found)
            if 2 * max(reached, len(found) - reached) > plan.runs:
                break  # the other runs could not move the median to the other side of the target
        return statistics.median(found)

    found = smallest(measure, target=plan.target, start=1e-3, least=plan.least, most=plan.most, within=plan.within)
    reached = next((probe for probe in found.probes if probe.duration == found.metg), None)
    return {
        "metg": found.metg,
        "at_limit": found.at_limit,
        "granularity": None if reached is None else reached.duration / reached.efficiency,
        "tasks": count,
        "probes": [probe._asdict() for probe in found.probes],
    }


def main() -> None:
    """Measure, and print the outcome."""
    warnings.filterwarnings("ignore", message="Sending large graph")
    name, pattern, options = sys.argv[1:]
    contender, plan = CONTENDERS[name], Plan(**json.loads(options))
    for module in contender.modules:
        importlib.import_module(module)
    with contender.open(Setting(cores=plan.cores)) as session:
        found = searched(session, pattern, plan)
    print("\n" + json.dumps(found))


if __name__ == "__main__":
    main()
