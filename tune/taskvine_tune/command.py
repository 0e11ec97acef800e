"""The command ``taskvine-tune``: shows parameters, checks files of them, and tries them out."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterable, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from taskvine_tune import formats
from taskvine_tune.errors import TuningError
from taskvine_tune.parameters import ENGINES, PARAMETERS, TASKVINE_VERSION, Engine, Parameter, Standing, Support, find
from taskvine_tune.tuning import conflicts, examine

__all__ = ["FINE", "INVALID", "as_json", "main"]

#: Exit codes. That of a command line which makes no sense is argparse's, 2.
FINE, INVALID = 0, 1

#: Columns where the output is no terminal, and nobody has said in COLUMNS how many there are.
_WIDE = 160

#: Columns below which the effects of parameters would be squeezed to a word a line.
_NARROW = 120

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
        What stands behind its name; None for those of this process.

    Returns
    -------
    int
        The exit code: 0, or 1 where a name, a file or a measurement is not valid.

    Raises
    ------
    SystemExit
        With code 2 if the command line makes no sense, with 0 after ``--help``.
    """
    options = _parser().parse_args(arguments)
    try:
        code: int = options.run(options)
        sys.stdout.flush()
    except TuningError as error:
        sys.stderr.write(f"taskvine-tune: {error}\n")
        return INVALID
    except BrokenPipeError:  # as of `taskvine-tune list | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return INVALID
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="taskvine-tune",
        description=f"Tuning parameters of TaskVine {TASKVINE_VERSION} and of TaskVineExecutor.",
        epilog="Exit codes: 0 fine, 1 a name, a file or a measurement is not valid, 2 the command line makes no sense.",
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    command = _command(commands, "list", "show the parameters", _list)
    command.add_argument("part", nargs="?", default="", metavar="PART", help="only those with this in their names")
    command.add_argument("--engine", choices=ENGINES, help="only those that this engine acts on")

    command = _command(commands, "explain", "show all that is known about a parameter", _explain)
    command.add_argument("name", metavar="NAME", help="its name or an alias, with dashes or underscores")

    command = _command(commands, "check", "check a file of parameters", _check)
    command.add_argument("file", metavar="FILE", help=f"a file that ends with {', '.join(formats.ENDINGS)}")
    command.add_argument("--engine", choices=ENGINES, help="also say what this engine will not act on")
    command.add_argument("--nodes", type=_count, metavar="N", help="how many nodes there will be at most")
    command.add_argument("--no-peer-transfers", action="store_true", help="nodes do not send files to each other")
    return parser


def _command(commands: Any, name: str, does: str, run: Any) -> argparse.ArgumentParser:
    command: argparse.ArgumentParser = commands.add_parser(name, help=does, description=does.capitalize() + ".")
    command.add_argument("--json", action="store_true", help="write JSON instead of tables")
    command.set_defaults(run=run)
    return command


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 1")
    return int(text)


# ---- The commands


def _list(options: argparse.Namespace) -> int:
    part = options.part.replace("_", "-").lower()
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
        table.add_row(each.name, _with_unit(each), each.bounds, *engines, *effect)
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
    yield "type", parameter.kind.value
    yield "default", _with_unit(parameter)
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
        table.add_row(name, _shown(value, parameter.unit), _with_unit(parameter), *standings)
    console = _console()
    if values:
        console.print(table)
    for problem in problems:
        console.print(Text.assemble(("error: ", "bold red"), str(problem)), soft_wrap=True)
    if not problems:
        console.print(Text(f"{options.file}: {len(values)} parameters, all valid", style="green"), soft_wrap=True)
    return INVALID if problems else FINE


# ---- Output


def as_json(parameter: Parameter) -> dict[str, Any]:
    """What ``--json`` shows of a parameter.

    Parameters
    ----------
    parameter
        Its declaration.

    Returns
    -------
    dict
        Of what JSON knows. ``minimum`` and ``maximum`` are None where there is none.
    """
    return {
        "name": parameter.name,
        "aliases": list(parameter.aliases),
        "type": parameter.kind.name.lower(),
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


def _with_unit(parameter: Parameter) -> str:
    return _shown(parameter.default, parameter.unit)


def _shown(value: object, unit: str) -> str:
    text = str(value).lower() if isinstance(value, bool) else f"{value:.10g}"
    return f"{text} {unit}".rstrip()
