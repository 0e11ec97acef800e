"""``python -m taskvine_exec.insight.report RUN -o report.html``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from taskvine_exec.insight.report import write


def main(arguments: Sequence[str] | None = None) -> int:
    """Write a report; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m taskvine_exec.insight.report", description=write.__doc__)
    parser.add_argument("run", metavar="RUN", help="a run directory, an executor's log directory in it, or its record")
    parser.add_argument("-o", "--output", default="report.html", help="file to write (default: %(default)s)")
    given = parser.parse_args(arguments)
    try:
        write(given.run, given.output)
    except (ModuleNotFoundError, OSError, ValueError) as error:
        print(f"taskvine-exec report: {error}", file=sys.stderr)  # noqa: T201
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
