"""The command line of ``taskvine-tune``, and its exit code."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence

from taskvine_manager.parameters import TASKVINE_VERSION
from taskvine_tune.command import parameters, simulate, sweep, wfformat
from taskvine_tune.command.terminal import INVALID
from taskvine_tune.errors import TuningError

__all__ = ["COMMANDS", "main"]

#: What each command does, the function that declares its options, and the one that runs it.
COMMANDS: dict[str, tuple[str, Callable[[argparse.ArgumentParser], None], Callable[[argparse.Namespace], int]]] = {
    "list": ("list the parameters", parameters.add_list_arguments, parameters.list_all),
    "explain": ("describe a parameter", parameters.add_explain_arguments, parameters.explain),
    "check": ("check a file of parameters", parameters.add_check_arguments, parameters.check),
    "sweep": ("run a program with many settings, and find the best one", sweep.add_arguments, sweep.run),
    "simulate": ("simulate a run on other nodes or with other parameters", simulate.add_arguments, simulate.run),
    "wfformat": ("write a run in WfFormat, for WfCommons", wfformat.add_arguments, wfformat.run),
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
    for name, (does, add_arguments, run) in COMMANDS.items():
        command = commands.add_parser(name, help=does, description=does.capitalize() + ".")
        command.add_argument("--json", action="store_true", help="write JSON instead of tables")
        command.set_defaults(run=run)
        add_arguments(command)
    return parser
