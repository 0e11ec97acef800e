"""The command ``sweep``: runs a program with many settings, and shows which one is best."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from taskvine_tune.command.terminal import (
    FINE,
    INVALID,
    console,
    count,
    in_bytes,
    make_table,
    positive,
    share,
    write_json,
)
from taskvine_tune.environment import QUANTITIES
from taskvine_tune.errors import LibraryMissing
from taskvine_tune.tuning import TuneParameters

# taskvine_tune.sweep needs numpy, which the other commands do not.
if TYPE_CHECKING:
    from rich.text import Text

    from taskvine_tune.statistics import Verdict
    from taskvine_tune.sweep import Results

__all__ = ["add_arguments", "run"]


def add_arguments(command: argparse.ArgumentParser) -> None:
    """Declare the options of the command."""
    add = command.add_argument
    add("space", metavar="SPACE", help="a file with lists of values by name, or ranges (--random)")
    add("program", metavar="PROGRAM", help="program to run; a .py file is run by this Python")
    add("arguments", nargs=argparse.REMAINDER, metavar="...", help="its arguments")
    add("--random", type=count, metavar="N", help="draw N random settings instead of trying all")
    add("--repetitions", type=count, metavar="N", help="runs of each setting (default: as few as a verdict needs)")
    add("--quantity", choices=QUANTITIES, default=QUANTITIES[0], help="quantity to minimize (%(default)s)")
    add("--confidence", type=share, default=0.95, metavar="C", help="confidence of the verdict (%(default)s)")
    add(
        "--losses",
        type=positive,
        metavar="SECONDS",
        help="kill a node of every run at this mean interval (executor.loss-interval), at the same times for all "
        "settings of a round; give the executor enough max_retries, and a factory or strategy that replaces nodes",
    )
    add("--timeout", type=positive, metavar="SECONDS", help="time limit for each run")
    add("--seed", type=int, default=0, help="random seed (%(default)s)")
    add("--csv", metavar="FILE", help="write every run to this file")
    add("--figure", metavar="FILE", help="draw every run into this file (.png, .svg, .pdf)")


def run(options: argparse.Namespace) -> int:
    """Run a program with many settings, and show which one is best."""
    try:
        from taskvine_tune import statistics, sweep
    except ModuleNotFoundError as error:
        raise LibraryMissing("a sweep", error.name or "numpy") from None
    if options.random is None:
        settings = sweep.grid(options.space)
    else:
        settings = sweep.sample(options.space, options.random, options.seed)
    if options.losses is not None:
        settings = sweep.with_losses(settings, options.losses)
    rivals = max(1, len(settings) - 1)
    repetitions = options.repetitions or statistics.fewest_repetitions(1 - (1 - options.confidence) / rivals)

    def say(run: sweep.Run) -> None:
        outcome = f"{run.wall_seconds:.3g} s" if not run.failed else f"failed, exit code {run.exit_code}"
        sys.stderr.write(
            f"round {run.round + 1}/{repetitions}, run {run.place + 1}/{len(settings)}: "
            f"{sweep.label(run.setting, settings)}: {outcome}\n"
        )

    try:
        results = sweep.sweep(
            [options.program, *options.arguments],
            settings,
            repetitions=repetitions,
            seed=options.seed,
            timeout=options.timeout,
            on_run=say,
        )
    except OSError as error:
        sys.stderr.write(f"taskvine-tune: {options.program} cannot be run: {error}\n")
        return INVALID
    # Save the measurements first, whether or not they allow a verdict.
    if options.csv:
        sweep.write_csv(results, options.csv)
    if not options.json:
        _show(results)
    if results.failed:
        sys.stderr.write(f"{len(results.failed)} runs failed; the first of them ended with:\n")
        sys.stderr.write(f"{results.failed[0].output}\n")
    if options.figure:
        sweep.draw_figure(results, options.figure, options.quantity)
    verdict = results.verdict(options.quantity, confidence=options.confidence, seed=options.seed)
    if options.json:
        write_json(_as_json(results, verdict, options.quantity))
    else:
        terminal = console()
        for line in _verdict_in_words(results, verdict):
            terminal.print(line, soft_wrap=True)
    return INVALID if results.failed else FINE


def _show(results: Results) -> None:
    from taskvine_tune import sweep

    table = make_table("setting")
    for quantity in QUANTITIES:
        table.add_column(quantity.replace("_", " "), justify="right")
    table.add_column("failed", justify="right")
    for setting, middle, failed in sweep.summary(results):
        cells = (_in_words(quantity, value) for quantity, value in middle.items())
        table.add_row(sweep.label(setting, results.settings), *cells, str(failed) if failed else "")
    console().print(table)


def _in_words(quantity: str, value: float | None) -> str:
    if value is None:
        return ""
    return in_bytes(value) if "bytes" in quantity else f"{value:.4g}"


def _verdict_in_words(results: Results, verdict: Verdict[TuneParameters]) -> Iterable[Text]:
    from rich.text import Text

    from taskvine_tune.sweep import label

    def name(setting: TuneParameters) -> str:
        return label(setting, results.settings)

    yield Text(verdict.in_words(name), style="bold green" if verdict.certain else "bold")
    # "0.8 (0.7 to 0.9) times" for times, which cannot be 0; "-20 (-30 to -10) against" for counts, which can be 0.
    sign, what = ("", "times") if verdict.measure == "ratio" else ("+", "against")
    for each in verdict.comparisons:
        estimate, low, high = (
            f"{value:{sign}.4g}" for value in (each.interval.estimate, each.interval.low, each.interval.high)
        )
        apart = "" if each.distinct else ": cannot be told apart"
        yield Text(f"  {estimate} ({low} to {high}) {what} {name(each.rival)}{apart}")


def _as_json(results: Results, verdict: Verdict[TuneParameters], quantity: str) -> dict[str, Any]:
    from taskvine_tune import sweep

    return {
        "quantity": quantity,
        "settings": [
            {"parameters": setting.to_dict(), "medians": middle, "failed": failed}
            for setting, middle, failed in sweep.summary(results)
        ],
        "verdict": {
            "best": verdict.best.to_dict(),
            "certain": verdict.certain,
            "confidence": verdict.confidence,
            "repetitions": verdict.repetitions,
            "needed": verdict.needed,
            "measure": verdict.measure,
            "comparisons": [
                {
                    "rival": each.rival.to_dict(),
                    **asdict(each.interval),
                    "distinct": each.distinct,
                }
                for each in verdict.comparisons
            ],
        },
    }
