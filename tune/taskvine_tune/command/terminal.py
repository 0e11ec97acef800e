"""What all commands share: exit codes, types of arguments, tables and JSON."""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
from typing import TYPE_CHECKING

# Imported late: help texts need no rich, which takes most of the time of a command.
if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

__all__ = ["FINE", "INVALID", "console", "count", "in_bytes", "make_table", "positive", "share", "write_json"]

#: Exit codes. For an invalid command line, argparse uses 2.
FINE, INVALID = 0, 1

#: Columns of output that is not a terminal, unless COLUMNS is set.
_WIDE = 160


def count(text: str) -> int:
    """Read a whole number of at least 1."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 1")
    return int(text)


def share(text: str) -> float:
    """Read a number between 0 and 1."""
    number = positive(text)
    if number >= 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not between 0 and 1")
    return number


def positive(text: str) -> float:
    """Read a finite number above 0."""
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not 0 < number < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0")
    return number


def make_table(*columns: str, title: str | None = None) -> Table:
    """Return a table with these columns, as all commands show them."""
    from rich.table import Table

    return Table(*columns, box=None, header_style="bold", pad_edge=False, title=title, title_justify="left")


def in_bytes(size: float) -> str:
    """Return a number of bytes with a unit that leaves at most three digits before the point."""
    for unit, factor in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size >= factor:
            return f"{size / factor:.3g} {unit}"
    return f"{size:.3g} B"


def write_json(value: object) -> None:
    """Write a value as JSON."""
    json.dump(value, sys.stdout, indent=2, ensure_ascii=False)
    sys.stdout.write("\n")


def console() -> Console:
    """Return a console for plain text, wide if its output is not a terminal."""
    from rich.console import Console

    plain = not sys.stdout.isatty() and "COLUMNS" not in os.environ
    return Console(markup=False, emoji=False, highlight=False, width=_WIDE if plain else None)
