"""The command ``taskvine-tune``: shows parameters, checks files of them, and tries them out."""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from taskvine_manager.parameters import (
    ENGINES,
    PARAMETERS,
    TASKVINE_VERSION,
    Engine,
    Parameter,
    Standing,
    Support,
    canonical,
    find,
)
from taskvine_tune import formats
from taskvine_tune.errors import LibraryMissing, TuningError
from taskvine_tune.simulation import command as simulated
from taskvine_tune.tuning import TuneParameters, conflicts, examine

if TYPE_CHECKING:
    from taskvine_tune.statistics import Verdict
    from taskvine_tune.sweep import Results

__all__ = ["FINE", "INVALID", "as_json", "main"]

#: Exit codes. For an invalid command line, argparse uses 2.
FINE, INVALID = 0, 1

#: Columns of output that is not a terminal, unless COLUMNS is set.
_WIDE = 160

#: Columns below which the effects of parameters do not fit.
_NARROW = 120

#: A copy of those in taskvine_tune.sweep, which needs numpy.
_QUANTITIES = ("wall_seconds", "makespan_seconds", "bytes_moved", "storage_peak_bytes", "reexecutions", "losses")

_STYLES = {
    Support.NATIVE: "green",
    Support.EMULATED: "green",
    Support.OURS: "green",
    Support.CLAMPED: "yellow",
    Support.NO_EFFECT: "red",
    Support.IGNORED: "dim",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command.

    Parameters
    ----------
    arguments
        The words after its name; None for those of this process.

    Returns
    -------
    int
        The exit code: 0, or 1 if a name, a file or a measurement is not valid, or a run failed.

    Raises
    ------
    SystemExit
        With code 2 if the command line is not valid, with 0 after ``--help``.
    """
    options = _parser().parse_args(arguments)
    try:
        code: int = options.run(options)
        sys.stdout.flush()
    except TuningError as error:
        sys.stderr.write(f"taskvine-tune: {error}\n")
        return INVALID
    except BrokenPipeError:  # for example, `taskvine-tune list | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return INVALID
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="taskvine-tune",
        description=f"Tuning parameters of TaskVine {TASKVINE_VERSION} and of TaskVineExecutor.",
        epilog="Exit codes: 0 success; 1 invalid name, file or measurement, or failed run; 2 invalid command line.",
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    command = _command(commands, "list", "list the parameters", _list)
    command.add_argument("part", nargs="?", default="", metavar="PART", help="only parameters whose names contain this")
    command.add_argument("--engine", choices=ENGINES, help="only parameters that have an effect on this engine")

    command = _command(commands, "explain", "describe a parameter", _explain)
    command.add_argument("name", metavar="NAME", help="its name or an alias, with dashes or underscores")
    command.formatter_class = argparse.RawDescriptionHelpFormatter
    command.epilog = _parameters_in_lines()

    command = _command(commands, "check", "check a file of parameters", _check)
    command.add_argument("file", metavar="FILE", help=f"a file that ends with {', '.join(formats.ENDINGS)}")
    command.add_argument("--engine", choices=ENGINES, help="show what this engine does with them")
    command.add_argument("--nodes", type=_count, metavar="N", help="largest number of nodes")
    command.add_argument("--no-peer-transfers", action="store_true", help="nodes do not send files to each other")

    command = _command(commands, "sweep", "run a program with many settings, and find the best one", _sweep)
    command.add_argument("space", metavar="SPACE", help="a file with lists of values by name, or ranges (--random)")
    command.add_argument("program", metavar="PROGRAM", help="program to run; a .py file is run by this Python")
    command.add_argument("arguments", nargs=argparse.REMAINDER, metavar="...", help="its arguments")
    command.add_argument("--random", type=_count, metavar="N", help="draw N random settings instead of trying all")
    command.add_argument(
        "--repetitions", type=_count, metavar="N", help="runs of each setting (default: as few as a verdict needs)"
    )
    command.add_argument(
        "--quantity", choices=_QUANTITIES, default=_QUANTITIES[0], help="quantity to minimize (%(default)s)"
    )
    command.add_argument(
        "--confidence", type=_share, default=0.95, metavar="C", help="confidence of the verdict (%(default)s)"
    )
    command.add_argument(
        "--losses",
        type=_seconds,
        metavar="SECONDS",
        help="kill a node of every run at this mean interval (executor.loss-interval), at the same times for all "
        "settings of a round; give the executor enough max_retries, and a factory or strategy that replaces nodes",
    )
    command.add_argument("--timeout", type=_seconds, metavar="SECONDS", help="time limit for each run")
    command.add_argument("--seed", type=int, default=0, help="random seed (%(default)s)")
    command.add_argument("--csv", metavar="FILE", help="write every run to this file")
    command.add_argument("--figure", metavar="FILE", help="draw every run into this file (.png, .svg, .pdf)")

    command = _command(commands, "simulate", "simulate a run on other nodes or with other parameters", _simulate)
    simulated.add_arguments(command)
    return parser


def _parameters_in_lines() -> str:
    """Return names, defaults and bounds, for help texts."""
    rows = [("name", "default", "bounds")]
    rows += [(each.name, each.shown(each.default), each.bounds) for each in PARAMETERS.values()]
    widths = [max(len(row[column]) for row in rows) for column in range(2)]
    return "\n".join(f"  {name:{widths[0]}}  {default:{widths[1]}}  {bounds}" for name, default, bounds in rows)


def _command(commands: Any, name: str, does: str, run: Any) -> argparse.ArgumentParser:
    command: argparse.ArgumentParser = commands.add_parser(name, help=does, description=does.capitalize() + ".")
    command.add_argument("--json", action="store_true", help="write JSON instead of tables")
    command.set_defaults(run=run)
    return command


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 1")
    return int(text)


def _share(text: str) -> float:
    number = _positive(text)
    if number >= 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not between 0 and 1")
    return number


def _seconds(text: str) -> float:
    return _positive(text)


def _positive(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not 0 < number < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0")
    return number


# ---- Commands


def _list(options: argparse.Namespace) -> int:
    part = canonical(options.part).lower()
    chosen = [
        each
        for each in PARAMETERS.values()
        if any(part in name for name in (each.name, *each.aliases))
        and (options.engine is None or each.on(options.engine).support.acts)
    ]
    if options.json:
        return _write_json([as_json(each) for each in chosen])
    table = Table(box=None, header_style="bold", pad_edge=False)
    for column in ("name", "default", "bounds", *ENGINES):
        table.add_column(column, no_wrap=True)
    console = _console()
    if with_effect := console.width >= _NARROW:
        table.add_column("effect", ratio=1)
    for each in chosen:
        engines = [_support(each.on(engine)) for engine in ENGINES]
        effect = [each.effect] if with_effect else []
        table.add_row(each.name, each.shown(each.default), each.bounds, *engines, *effect)
    console.print(table)
    return FINE


def _explain(options: argparse.Namespace) -> int:
    parameter = find(options.name)
    if options.json:
        return _write_json(as_json(parameter))
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for title, text in _story(parameter):
        table.add_row(title, text)
    _console().print(table)
    return FINE


def _story(parameter: Parameter) -> Iterable[tuple[str, str | Text]]:
    yield "name", parameter.name
    if parameter.aliases:
        yield "also called", ", ".join(parameter.aliases)
    yield "effect", parameter.effect
    yield "type", parameter.kind
    yield "default", parameter.shown(parameter.default)
    yield "bounds", parameter.bounds
    for value, meaning in parameter.meanings:
        yield f"{value:g} means", meaning
    for engine in ENGINES:
        standing = parameter.on(engine)
        yield engine, Text.assemble(_support(standing), f": {standing.note}" if standing.note else "")
    if parameter.since:
        yield "since", f"cctools {parameter.since}"
    yield "can be set", "at any time" if parameter.live else "before the start"


def _check(options: argparse.Namespace) -> int:
    values, problems = examine(formats.read(options.file))
    uses = conflicts(values, nodes=options.nodes, peer_transfers=not options.no_peer_transfers)
    said = {str(problem) for problem in problems}
    problems += [conflict for conflict in uses if str(conflict) not in said]
    engines: Iterable[Engine] = ENGINES if options.engine is None else (options.engine,)
    if options.json:
        _write_json(
            {
                "file": options.file,
                "valid": not problems,
                "parameters": values,
                "problems": [{"error": type(problem).__name__, "message": str(problem)} for problem in problems],
                "no_effect": {
                    engine: [name for name in values if not PARAMETERS[name].on(engine).support.acts]
                    for engine in engines
                },
            }
        )
        return INVALID if problems else FINE
    table = Table(box=None, header_style="bold", pad_edge=False)
    for column in ("name", "value", "default", *engines):
        table.add_column(column)
    for name, value in values.items():
        parameter = PARAMETERS[name]
        standings = [_support(parameter.on(engine), note=options.engine is not None) for engine in engines]
        table.add_row(name, parameter.shown(value), parameter.shown(parameter.default), *standings)
    console = _console()
    if values:
        console.print(table)
    for problem in problems:
        console.print(Text.assemble(("error: ", "bold red"), str(problem)), soft_wrap=True)
    if not problems:
        console.print(Text(f"{options.file}: valid ({len(values)} parameters)", style="green"), soft_wrap=True)
    return INVALID if problems else FINE


def _sweep(options: argparse.Namespace) -> int:
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
        _show_sweep(results)
    if results.failed:
        sys.stderr.write(f"{len(results.failed)} runs failed; the first of them ended with:\n")
        sys.stderr.write(f"{results.failed[0].output}\n")
    if options.figure:
        sweep.draw_figure(results, options.figure, options.quantity)
    verdict = results.verdict(options.quantity, confidence=options.confidence, seed=options.seed)
    if options.json:
        _write_json(_sweep_as_json(results, verdict, options.quantity))
    else:
        console = _console()
        for line in _verdict_in_words(results, verdict):
            console.print(line, soft_wrap=True)
    return INVALID if results.failed else FINE


def _show_sweep(results: Results) -> None:
    from taskvine_tune import sweep

    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column("setting")
    for quantity in _QUANTITIES:
        table.add_column(quantity.replace("_", " "), justify="right")
    table.add_column("failed", justify="right")
    for setting, middle, failed in sweep.summary(results):
        cells = ("" if value is None else f"{value:.4g}" for value in middle.values())
        table.add_row(sweep.label(setting, results.settings), *cells, str(failed) if failed else "")
    _console().print(table)


def _verdict_in_words(results: Results, verdict: Verdict[TuneParameters]) -> Iterable[Text]:
    from taskvine_tune.sweep import label

    named = verdict.renamed(lambda setting: label(setting, results.settings))
    yield Text(str(named), style="bold green" if verdict.certain else "bold")
    # "0.8 (0.7 to 0.9) times" for times, which cannot be 0; "-20 (-30 to -10) against" for counts, which can be 0.
    sign, what = ("", "times") if verdict.measure == "ratio" else ("+", "against")
    for each in named.comparisons:
        estimate, low, high = (
            f"{value:{sign}.4g}" for value in (each.interval.estimate, each.interval.low, each.interval.high)
        )
        apart = "" if each.distinct else ": cannot be told apart"
        yield Text(f"  {estimate} ({low} to {high}) {what} {each.rival}{apart}")


def _sweep_as_json(results: Results, verdict: Verdict[TuneParameters], quantity: str) -> dict[str, Any]:
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
                    "estimate": each.interval.estimate,
                    "low": each.interval.low,
                    "high": each.interval.high,
                    "confidence": each.interval.confidence,
                    "distinct": each.distinct,
                }
                for each in verdict.comparisons
            ],
        },
    }


def _simulate(options: argparse.Namespace) -> int:
    results = simulated.run(options)
    if options.json:
        _write_json(simulated.as_json(results))
    else:
        console = _console()
        console.print(simulated.table(results))
        for line in simulated.remarks(results):
            console.print(line, soft_wrap=True)
    return INVALID if any(outcome.failed for outcomes in results.outcomes for outcome in outcomes) else FINE


# ---- Output


def as_json(parameter: Parameter) -> dict[str, Any]:
    """Return what ``--json`` shows of a parameter.

    Parameters
    ----------
    parameter
        Its declaration.

    Returns
    -------
    dict
        Values that JSON can represent. ``minimum`` and ``maximum`` are None if there is none.
    """
    return {
        "name": parameter.name,
        "aliases": list(parameter.aliases),
        "type": type(parameter).__name__.lower(),
        "default": parameter.default,
        "minimum": parameter.minimum,
        "maximum": parameter.maximum,
        "open_bounds": parameter.open_bounds,
        "also": list(parameter.also),
        "unit": parameter.unit,
        "effect": parameter.effect,
        "meanings": [{"value": value, "meaning": meaning} for value, meaning in parameter.meanings],
        "since": parameter.since,
        "live": parameter.live,
        "engines": {
            engine: {"support": parameter.on(engine).support.value, "note": parameter.on(engine).note}
            for engine in ENGINES
        },
    }


def _write_json(value: object) -> int:
    json.dump(value, sys.stdout, indent=2, ensure_ascii=False)
    sys.stdout.write("\n")
    return FINE


def _console() -> Console:
    plain = not sys.stdout.isatty() and "COLUMNS" not in os.environ
    return Console(markup=False, emoji=False, highlight=False, width=_WIDE if plain else None)


def _support(standing: Standing, *, note: bool = False) -> Text:
    text = str(standing) if note else standing.support.value
    return Text(text, style=_STYLES[standing.support])
