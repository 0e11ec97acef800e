"""Melt a gold nanoparticle with Parsl and the TaskVineExecutor, and compare the executor's two modes.

``--mode L1`` runs every task in a fresh Python process, ``--mode L2`` as a function call in a warm library. The
default, ``--mode both``, does both and checks that their numbers agree to the last bit.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import report
import workflow
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

HERE = Path(__file__).resolve().parent


def at_least(minimum: int) -> Callable[[str], int]:
    """Make an argparse type for integers with a lower bound."""

    def integer(text: str) -> int:
        value = int(text)
        if value < minimum:
            raise argparse.ArgumentTypeError(f"must be at least {minimum}, not {value}")
        return value

    return integer


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse and validate the command line; exit with status 2 if it is invalid."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--mode", choices=["L1", "L2", "both"], default="both", help="how tasks are run (default: %(default)s)")
    add(
        "--engine",
        choices=["auto", "embedded", "taskvine"],
        default="auto",
        help="engine that runs them (default: %(default)s)",
    )
    add("--replicas", type=at_least(1), default=8, help="replicas, from 300 K to 1200 K (default: %(default)s)")
    # The first segment equilibrates; averages need at least one more.
    add("--segments", type=at_least(2), default=5, help="segments per replica, 1 to equilibrate (default: %(default)s)")
    add("--steps", type=at_least(10), default=300, help="time steps of 8 fs per segment (default: %(default)s)")
    add("--nodes", type=at_least(1), default=2, help="nodes sharing this machine's cores (default: %(default)s)")
    add("--replication", type=at_least(1), default=1, help="nodes that keep each trajectory (default: %(default)s)")
    add("--output", type=Path, default=HERE / "output", help="directory for figures and numbers (default: %(default)s)")
    add("--seed", type=at_least(0), default=1, help="seed of all random numbers (default: %(default)s)")
    add("--executor", choices=["ours", "threads"], default="ours", help=argparse.SUPPRESS)
    parsed = parser.parse_args(arguments)
    if parsed.replication > parsed.nodes:
        parser.error(f"--replication {parsed.replication} needs as many nodes; there are {parsed.nodes} (--nodes)")
    return parsed


@contextmanager
def progress(console: Console, mode: report.Mode, total: int) -> Iterator[Callable[[], None]]:
    """Show how many tasks are done; yield the function to call once per task.

    On a terminal, show a live bar; elsewhere (a log file, a CI job), print a line per quarter of the tasks.
    """
    if console.is_terminal:
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        with Progress(*columns, console=console) as bar:
            task = bar.add_task(report.MODE_NAMES[mode], total=total)
            yield partial(bar.advance, task)
        return

    done = 0

    def line() -> None:
        nonlocal done
        done += 1
        if 4 * done // total > 4 * (done - 1) // total:
            console.print(f"{report.MODE_NAMES[mode]}: {done} of {total} tasks")

    yield line


def run(arguments: argparse.Namespace, mode: report.Mode, console: Console) -> report.ModeRun:
    """Run the workflow in one mode."""
    plan = workflow.Plan(
        structure=HERE / "gold_nanoparticle.xyz",
        replicas=arguments.replicas,
        segments=arguments.segments,
        steps=arguments.steps,
        seed=arguments.seed,
    )
    with progress(console, mode, plan.tasks) as on_done:
        if arguments.executor == "threads":
            with tempfile.TemporaryDirectory() as scratch:
                return workflow.run_in_threads(
                    plan, mode, threads=arguments.nodes, output=arguments.output, scratch=Path(scratch), on_done=on_done
                )
        return workflow.run_mode(
            plan,
            mode,
            engine=arguments.engine,
            nodes=arguments.nodes,
            replication=arguments.replication,
            output=arguments.output,
            on_done=on_done,
        )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the example; return the exit status, which is 1 if the modes disagree."""
    parsed = parse_arguments(arguments)
    parsed.output.mkdir(parents=True, exist_ok=True)
    console = Console()
    modes: list[report.Mode] = ["L1", "L2"] if parsed.mode == "both" else [parsed.mode]
    runs = [run(parsed, mode, console) for mode in modes]

    console.print(report.physics_table(runs[0].analyses))
    console.print(report.modes_table(runs))
    for name, draw in (
        ("physics.png", partial(report.physics_figure, runs[0].analyses)),
        ("modes.png", partial(report.modes_figure, runs)),
        ("numbers.json", partial(report.write_numbers, runs[0].analyses)),
    ):
        draw(parsed.output / name)
        # No markup or wrapping: a path may contain brackets, and users copy it.
        console.print(f"wrote {parsed.output / name}", markup=False, soft_wrap=True)

    if len(runs) == 2:
        different = report.disagreements(*runs)
        if different:
            console.print(f"L1 and L2 DISAGREE in replicas {different}", style="bold red")
            return 1
        console.print(f"L1 and L2 agree to the last bit in all {parsed.replicas} replicas", style="bold green")
    return 0


if __name__ == "__main__":
    sys.exit(main())
