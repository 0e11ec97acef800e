"""The command-line options of ``vine_worker`` that the embedded engine supports too."""

from __future__ import annotations

import re
import shlex

from parsl.errors import ConfigurationError

from taskvine_exec.config.rules import refuse

__all__ = ["SIZES", "parse"]

SIZES = ("cores", "memory", "disk", "gpus")

_LONG_OPTIONS = (*SIZES, "timeout")

_SECONDS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}


def parse(text: str | None) -> dict[str, int]:
    """Parse the options of ``vine_worker`` that the embedded engine supports too."""
    try:
        words = iter(shlex.split(text or ""))
    except ValueError as error:
        raise ConfigurationError(f"TaskVineFactoryConfig.worker_options cannot be read: {error}") from None
    options: dict[str, int] = {}
    for word in words:
        name, value = _option(word)
        if name is None:
            raise ConfigurationError(
                f"TaskVineFactoryConfig.worker_options: the embedded engine does not know {word.split('=')[0]!r}, only "
                f"-t and {', '.join(f'--{known}' for known in _LONG_OPTIONS)}: use engine='taskvine' for other options"
            )
        if value is None:
            value = next(words, "")
        number = _seconds(value) if name == "timeout" else _size(name, value)
        options.pop(name, None)  # the last one wins, even if it unsets a size ('all')
        if number is not None:
            options[name] = number
    return options


def _option(word: str) -> tuple[str | None, str | None]:
    """Split a word of the command line into an option's name and its value, if the word has one."""
    if word.startswith("-t"):
        return "timeout", word[2:] or None
    name, equals, value = word.removeprefix("--").partition("=")
    known = word.startswith("--") and name in _LONG_OPTIONS
    return (name if known else None), (value if equals else None)


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
