"""Real runs and their simulations: the molecular dynamics example, and a pairwise sum of 16 arrays of 32 MB.

    python -m benchmarks.simulated                  three repetitions; some minutes
    python -m benchmarks.simulated --quick          small, as a smoke test
    python -m benchmarks.simulated --json out.json

Both programs run in turn on two nodes of one slot and on one node of two slots, each time in a new process. The nodes
have computed small sums before the measured sum; the example is measured from its start. For each run, the makespan in
its record is compared with a simulated one. Both last from the first submission until the manager knows of the last
end. For the sum they begin with the measured sum, but the small sums are simulated too, because the scheduler learns
from them. The simulation knows one of these:

replay     everything from the run itself: run times, sizes, edges and times of submissions; and, calibrated from its
           record, start-up, latency, overhead, set-up and the rate of writing
run times  the same, but calibrated from the previous run of the same program on the same nodes; only the start-up is
           from the run itself
forecast   everything from the previous run
elsewhere  everything from a run on the other nodes, except the number of nodes and slots

Records do not contain the bandwidth between nodes. It is measured by copying a file after the run from which the
other costs are calibrated: the median of five copies.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks import apart

PLACES = {"2 nodes of 1 slot": (2, 1), "1 node of 2 slots": (1, 2)}
PROGRAMS = ("sum tree", "molecular dynamics")
WAYS = ("replay", "run times", "forecast", "elsewhere")
TARGET = 0.20
EXAMPLE = os.path.join(apart.ROOT, "examples", "molecular_dynamics")


# ---- Real runs


def run_tree(nodes: int, slots: int, megabytes: int) -> float:
    """Sum arrays; return the time when that began."""
    import parsl
    from parsl.config import Config
    from parsl.providers import LocalProvider

    from benchmarks.suite import work
    from taskvine_exec import DAG_RESOLVER, TaskVineExecutor

    provider = LocalProvider(init_blocks=nodes, min_blocks=nodes, max_blocks=nodes)
    executor = TaskVineExecutor(cores=slots, provider=provider)
    config = Config([executor], strategy="none", initialize_logging=False, dependency_resolver=DAG_RESOLVER)
    with parsl.load(config):
        make, add = parsl.python_app(work.make), parsl.python_app(work.add)
        for number in range(20):
            warm = [add(make(1000, float(number)), 1.0) for _ in range(2 * nodes * slots)]
            assert all(each.result()[0] == number + 1 for each in warm)
        begin = time.time()
        level = [make(megabytes << 17, float(number)) for number in range(16)]
        while len(level) > 1:
            level = [add(a, b) for a, b in zip(level[::2], level[1::2], strict=True)]
        assert level.pop().result()[-1] == sum(range(16))
    return begin


def run_dynamics(nodes: int, steps: int) -> float:
    """Melt the nanoparticle; return the time when that began."""
    sys.path.insert(0, EXAMPLE)
    import workflow

    plan = workflow.Plan(
        structure=Path(EXAMPLE, "gold_nanoparticle.xyz"),
        replicas=8,
        segments=5 if steps > 50 else 2,
        steps=steps,
        seed=1,
    )
    begin = time.time()
    workflow.run_mode(plan, "L2", engine="embedded", nodes=nodes, replication=1, output=Path(), on_done=lambda: None)
    return begin


def bandwidth() -> float:
    """Return the bytes per second of a file copy, as between two nodes of one machine."""
    with tempfile.TemporaryDirectory(dir="/dev/shm" if os.path.isdir("/dev/shm") else None) as directory:
        source, size = os.path.join(directory, "a"), 64 << 20
        Path(source).write_bytes(bytes(size))
        rates = []
        for number in range(5):
            begin = time.perf_counter()
            shutil.copyfile(source, os.path.join(directory, f"b{number}"))
            rates.append(size / (time.perf_counter() - begin))
    return statistics.median(rates)


# ---- Simulations


class Run(NamedTuple):
    """A real run: its record, the time when the measured part began, and the bandwidth of a copy at its end."""

    record: Any
    begin: float
    bandwidth: float

    @property
    def prelude(self) -> float:
        """Seconds from the first submission until the measured part began."""
        return max(0.0, self.begin - min(each.time for each in self.record.submitted.values()))


def simulated(way: str, run: Run, before: Run, elsewhere: Run, place: str) -> tuple[float, float]:
    """Return the makespan of a run, and that of its simulation."""
    from taskvine_tune.simulation.api import recorded, simulate
    from taskvine_tune.simulation.calibration import calibrate

    times = {"replay": run, "run times": run, "forecast": before, "elsewhere": elsewhere}[way]
    costs = {"replay": run, "run times": before, "forecast": before, "elsewhere": elsewhere}[way]
    nodes, slots = PLACES[place]
    rate = costs.bandwidth
    like = calibrate(costs.record)
    like = dataclasses.replace(like, nodes=nodes, slots=slots, bandwidth=rate, manager_bandwidth=rate)
    if way == "run times":
        like = dataclasses.replace(like, startup=calibrate(run.record).startup)
    measured = recorded(run.record).measured
    assert measured is not None
    return measured - run.prelude, simulate(recorded(times.record), like).makespan - times.prelude


def main() -> None:
    """Run and simulate everything, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--programs", nargs="+", choices=PROGRAMS, default=PROGRAMS)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--megabytes", type=int, default=32, help="size of each array")
    parser.add_argument("--steps", type=int, default=300, help="time steps of each segment")
    parser.add_argument("--json", metavar="FILE")
    parser.add_argument("--one", nargs=3, metavar=("PROGRAM", "PLACE", "RECORD"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.quick:
        options.repeat, options.megabytes, options.steps = 1, 1, 20
    if options.one:
        program, place, target = options.one
        nodes, slots = PLACES[place]
        tree = program == "sum tree"
        begin = run_tree(nodes, slots, options.megabytes) if tree else run_dynamics(nodes, options.steps)
        shutil.copy(next(Path("runinfo").rglob("record.msgpack")), target)
        print(json.dumps([begin, bandwidth()]))
        return
    found: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as directory:
        # One more turn: every run that is simulated needs a previous one.
        runs = {
            (program, place, turn): _real(program, place, os.path.join(directory, f"{program}-{place}-{turn}"), options)
            for turn in range(options.repeat + 1)
            for program in options.programs
            for place in PLACES
        }
        for (program, place, turn), run in runs.items():
            other = next(each for each in PLACES if each != place)
            for way in WAYS if turn else ():
                before, away = runs[program, place, turn - 1], runs[program, other, turn]
                measured, guess = simulated(way, run, before, away, place)
                found.append({"program": program, "place": place, "way": way, "measured": measured, "simulated": guess})
    _report(found)
    if options.json:
        with open(options.json, "w", encoding="utf-8") as file:
            json.dump({**apart.machine(), "runs": found}, file, indent=2)


def _real(program: str, place: str, path: str, options: argparse.Namespace) -> Run:
    size = ("--megabytes", options.megabytes, "--steps", options.steps)
    begin, rate = apart.measure("benchmarks.simulated", *size, "--one", program, place, path, timeout=600, quiet=True)
    from taskvine_manager.record import read_record

    return Run(read_record(path), begin, rate)


def _report(found: list[dict[str, Any]]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("program", "nodes", "what is known", "measured (s)", "simulated (s)", "error, median", "largest")
    for program in dict.fromkeys(each["program"] for each in found):
        for place in PLACES:
            for way in WAYS:
                runs = [
                    each for each in found if (each["program"], each["place"], each["way"]) == (program, place, way)
                ]
                errors = [each["simulated"] / each["measured"] - 1 for each in runs]
                measured = ", ".join(f"{each['measured']:.2f}" for each in runs)
                guessed = ", ".join(f"{each['simulated']:.2f}" for each in runs)
                middle = statistics.median(errors)
                style = None if abs(middle) <= TARGET else "bold red"
                largest = max(errors, key=abs)
                table.add_row(program, place, way, measured, guessed, f"{middle:+.1%}", f"{largest:+.1%}", style=style)
    Console(width=140).print(table)


if __name__ == "__main__":
    main()
