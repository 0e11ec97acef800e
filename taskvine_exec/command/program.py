"""The command line of ``taskvine-exec``, and its exit code."""

from __future__ import annotations

import argparse
import io
import os
import sys
from collections.abc import Callable, Sequence

from taskvine_exec.command import export, logs, status, why
from taskvine_exec.command.runs import Problem
from taskvine_tune.command.terminal import INVALID

__all__ = ["COMMANDS", "main"]

#: What each command does, the function that declares its options, and the one that runs it.
COMMANDS: dict[str, tuple[str, Callable[[argparse.ArgumentParser], None], Callable[[argparse.Namespace], int]]] = {
    "status": ("show tasks, nodes, blocks, transfers and losses of a run", status.add_arguments, status.run),
    "why": ("explain why a task waits, failed or ran where it did", why.add_arguments, why.run),
    "replay": ("show the state of a run at a moment", status.add_replay_arguments, status.replay),
    "report": ("write a page about a run, without network", export.add_report_arguments, export.report),
    "trace": ("write a run as a trace for Perfetto or chrome://tracing", export.add_trace_arguments, export.trace),
    "dot": ("write the graph of tasks and files for Graphviz", export.add_graph_arguments, export.dot),
    "graphml": ("write the graph of tasks and files as GraphML", export.add_graph_arguments, export.graphml),
    "logs": ("show the logs of a run, a node or a task", logs.add_arguments, logs.run),
}

_INTERRUPTED = 130
"""Exit code after Ctrl-C, as shells have it."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command.

    Parameters
    ----------
    arguments
        The words after its name; None for those of this process.

    Returns
    -------
    int
        The exit code: 0, or 1 if there is no such run or task, or a file cannot be read or written.

    Raises
    ------
    SystemExit
        With code 2 if the command line is not valid, with 0 after ``--help``.
    """
    options = _parser().parse_args(arguments)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # names of files need not be text
    try:
        code: int = options.run(options)
        sys.stdout.flush()
    except BrokenPipeError:  # for example, `taskvine-exec logs | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return INVALID
    except (Problem, OSError, ValueError) as error:  # a ValueError: the record is damaged
        sys.stderr.write(f"taskvine-exec: {error}\n")
        return INVALID
    except KeyboardInterrupt:
        return _INTERRUPTED
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="taskvine-exec",
        description="What happens in a run, and why. A run can be read while it goes on, when it is over, and after "
        "its manager was killed.",
        epilog="RUN is a Parsl run directory (runinfo/000), an executor's log directory in it, or a record. Without "
        "it, the newest run under ./runinfo is meant. "
        "Exit codes: 0 success; 1 no such run or task, or a file that cannot be used; 2 invalid command line.",
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for name, (does, add_arguments, run) in COMMANDS.items():
        command = commands.add_parser(name, help=does, description=does.capitalize() + ".")
        command.set_defaults(run=run)
        add_arguments(command)
    return parser
