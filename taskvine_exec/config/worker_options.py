"""The command-line options of ``vine_worker`` that the embedded engine supports too."""

from __future__ import annotations

import argparse
import re
import shlex
from functools import partial

from parsl.errors import ConfigurationError

from taskvine_exec.config.rules import refuse

SIZES = ("cores", "memory", "disk", "gpus")

_SECONDS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}


def parse(text: str | None) -> dict[str, int]:
    """Parse the options of ``vine_worker`` that the embedded engine supports too."""
    try:
        words = shlex.split(text or "")
    except ValueError as error:
        raise ConfigurationError(f"TaskVineFactoryConfig.worker_options cannot be read: {error}") from None
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, argument_default=argparse.SUPPRESS)
    # A missing value is read as an empty one, so that argparse has nothing to complain about: it would end the program.
    for name in SIZES:
        parser.add_argument(f"--{name}", nargs="?", const="", type=partial(_size, name))
    parser.add_argument("-t", "--timeout", nargs="?", const="", type=_seconds)
    options, unknown = parser.parse_known_args(words)
    if unknown:
        known = ", ".join(f"--{name}" for name in (*SIZES, "timeout"))
        raise ConfigurationError(
            f"TaskVineFactoryConfig.worker_options: the embedded engine does not know {unknown[0].split('=')[0]!r}, "
            f"only -t and {known}: use engine='taskvine' for other options"
        )
    return {name: number for name, number in vars(options).items() if number is not None}


def _size(name: str, value: str) -> int | None:
    """Parse a size as ``vine_worker`` does: below 1 (for GPUs, below 0) means all that the machine has."""
    if value == "all":
        return None
    try:
        number = int(value)
    except ValueError:
        refuse(f"TaskVineFactoryConfig.worker_options: --{name}", value, "a whole number or 'all'")
    return number if number >= (0 if name == "gpus" else 1) else None


def _seconds(value: str) -> int:
    match = re.fullmatch(r"(\d+)\s*([smhd]?)", value.strip().lower())
    if match is None:
        allowed = "a whole number of seconds, or one with the unit s, m, h or d"
        refuse("TaskVineFactoryConfig.worker_options: --timeout", value, allowed)
    return int(match[1]) * _SECONDS[match[2]]
