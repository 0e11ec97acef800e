"""The commands that show parameters and check files of them: ``list``, ``explain`` and ``check``."""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from dataclasses import fields
from typing import TYPE_CHECKING, Any

from taskvine_manager.parameters import ENGINES, PARAMETERS, Engine, Parameter, Standing, Support, canonical, find
from taskvine_tune import formats
from taskvine_tune.command.terminal import FINE, INVALID, console, count, make_table, write_json
from taskvine_tune.tuning import conflicts, examine

if TYPE_CHECKING:
    from rich.text import Text

__all__ = [
    "add_check_arguments",
    "add_explain_arguments",
    "add_list_arguments",
    "as_json",
    "check",
    "explain",
    "list_all",
]

#: Columns below which the effects of parameters do not fit.
_NARROW = 120

_STYLES = {
    Support.NATIVE: "green",
    Support.EMULATED: "green",
    Support.OURS: "green",
    Support.CLAMPED: "yellow",
    Support.NO_EFFECT: "red",
    Support.IGNORED: "dim",
}


def add_list_arguments(command: argparse.ArgumentParser) -> None:
    """Declare the options of ``list``."""
    command.add_argument("part", nargs="?", default="", metavar="PART", help="only parameters whose names contain this")
    command.add_argument("--engine", choices=ENGINES, help="only parameters that have an effect on this engine")


def add_explain_arguments(command: argparse.ArgumentParser) -> None:
    """Declare the options of ``explain``."""
    command.add_argument("name", metavar="NAME", help="its name or an alias, with dashes or underscores")
    command.formatter_class = argparse.RawDescriptionHelpFormatter
    command.epilog = _parameters_in_lines()


def add_check_arguments(command: argparse.ArgumentParser) -> None:
    """Declare the options of ``check``."""
    command.add_argument("file", metavar="FILE", help=f"a file that ends with {', '.join(formats.ENDINGS)}")
    command.add_argument("--engine", choices=ENGINES, help="show what this engine does with them")
    command.add_argument("--nodes", type=count, metavar="N", help="largest number of nodes")
    command.add_argument("--no-peer-transfers", action="store_true", help="nodes do not send files to each other")


def _parameters_in_lines() -> str:
    """Return names, defaults and bounds, for help texts."""
    rows = [("name", "default", "bounds")]
    rows += [(each.name, each.shown(each.default), each.bounds) for each in PARAMETERS.values()]
    widths = [max(len(row[column]) for row in rows) for column in range(2)]
    return "\n".join(f"  {name:{widths[0]}}  {default:{widths[1]}}  {bounds}" for name, default, bounds in rows)


def list_all(options: argparse.Namespace) -> int:
    """List the parameters, or those whose names contain a part."""
    part = canonical(options.part).lower()
    chosen = [
        each
        for each in PARAMETERS.values()
        if any(part in name for name in (each.name, *each.aliases))
        and (options.engine is None or each.on(options.engine).support.acts)
    ]
    if options.json:
        write_json([as_json(each) for each in chosen])
        return FINE
    table = make_table()
    for column in ("name", "default", "bounds", *ENGINES):
        table.add_column(column, no_wrap=True)
    terminal = console()
    if with_effect := terminal.width >= _NARROW:
        table.add_column("effect", ratio=1)
    for each in chosen:
        engines = [_support(each.on(engine)) for engine in ENGINES]
        effect = [each.effect] if with_effect else []
        table.add_row(each.name, each.shown(each.default), each.bounds, *engines, *effect)
    terminal.print(table)
    return FINE


def explain(options: argparse.Namespace) -> int:
    """Describe a parameter."""
    parameter = find(options.name)
    if options.json:
        write_json(as_json(parameter))
        return FINE
    table = make_table()
    table.show_header = False
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for title, text in _story(parameter):
        table.add_row(title, text)
    console().print(table)
    return FINE


def _story(parameter: Parameter) -> Iterable[tuple[str, str | Text]]:
    from rich.text import Text

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


def check(options: argparse.Namespace) -> int:
    """Check a file of parameters."""
    from rich.text import Text

    values, problems = examine(formats.read(options.file))
    uses = conflicts(values, nodes=options.nodes, peer_transfers=not options.no_peer_transfers)
    said = {str(problem) for problem in problems}
    problems += [conflict for conflict in uses if str(conflict) not in said]
    engines: Iterable[Engine] = ENGINES if options.engine is None else (options.engine,)
    if options.json:
        write_json(
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
    table = make_table("name", "value", "default", *engines)
    for name, value in values.items():
        parameter = PARAMETERS[name]
        standings = [_support(parameter.on(engine), note=options.engine is not None) for engine in engines]
        table.add_row(name, parameter.shown(value), parameter.shown(parameter.default), *standings)
    terminal = console()
    if values:
        terminal.print(table)
    for problem in problems:
        terminal.print(Text.assemble(("error: ", "bold red"), str(problem)), soft_wrap=True)
    if not problems:
        terminal.print(Text(f"{options.file}: valid ({len(values)} parameters)", style="green"), soft_wrap=True)
    return INVALID if problems else FINE


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
    declared = {each.name: getattr(parameter, each.name) for each in fields(parameter) if each.name not in ENGINES}
    return {
        **declared,
        "type": type(parameter).__name__.lower(),
        "meanings": [{"value": value, "meaning": meaning} for value, meaning in parameter.meanings],
        "engines": {
            engine: {"support": parameter.on(engine).support.value, "note": parameter.on(engine).note}
            for engine in ENGINES
        },
    }


def _support(standing: Standing, *, note: bool = False) -> Text:
    from rich.text import Text

    text = str(standing) if note else standing.support.value
    return Text(text, style=_STYLES[standing.support])
