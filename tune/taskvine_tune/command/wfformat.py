"""The command ``wfformat``: writes a recorded run as an instance of WfFormat."""

from __future__ import annotations

import argparse
import sys

from taskvine_tune.command.terminal import FINE, write_json
from taskvine_tune.errors import BadRecord
from taskvine_tune.wfformat.runs import WRITTEN, as_instance, returned

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of the command."""
    parser.description = (
        f"Write a recorded run as an instance of WfFormat {WRITTEN}, the JSON format of WfCommons, to standard output."
    )
    parser.add_argument("record", metavar="RECORD", help="the record.msgpack of a run, in its executor's log directory")
    parser.add_argument("--name", default="run", help="the name of the workflow (%(default)s)")


def run(options: argparse.Namespace) -> int:
    """Write the instance, and say on standard error how many tasks it lacks."""
    from taskvine_manager.record import read_record

    if not options.name:
        raise BadRecord("its name must not be empty")
    try:
        record = read_record(options.record)
    except (OSError, ValueError) as error:
        raise BadRecord(f"it cannot be read: {error}") from error
    write_json(as_instance(record, options.name))
    total = len(record.submitted)
    if missing := total - len(returned(record)):
        sys.stderr.write(f"taskvine-tune: {missing} of {total} tasks did not return, and are left out\n")
    return FINE
