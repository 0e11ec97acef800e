"""Kinds of allowed values, each with its description for messages."""

from __future__ import annotations

import math
import numbers
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

from parsl.errors import ConfigurationError

from taskvine_exec.config.redaction import redacted
from taskvine_exec.submission.resources import brief


@dataclass(frozen=True)
class Rule:
    """The allowed values of a field, as text and as a test."""

    allowed: str
    accepts: Callable[[Any], bool]

    def check(self, name: str, value: object) -> None:
        """Raise ConfigurationError, with the field's name, if a value is not allowed."""
        if not self.accepts(value):
            refuse(name, value, self.allowed)


def refuse(name: str, value: object, allowed: str) -> NoReturn:
    """Raise ConfigurationError for the value of a field. The message says which values are allowed."""
    shown = brief(redacted(name.rsplit(".", 1)[-1], value))
    raise ConfigurationError(f"{name}={shown} is not valid: must be {allowed}")


def is_whole(value: object) -> bool:
    """Tell whether a value is an integer, of any type but bool."""
    return isinstance(value, numbers.Integral) and not isinstance(value, bool)


def is_path(value: object) -> bool:
    """Tell whether a value is a path: not empty, and not of bytes."""
    return isinstance(value, (str, os.PathLike)) and isinstance(os.fspath(value), str) and os.fspath(value) != ""


def _is_amount(value: object) -> bool:
    try:
        number = isinstance(value, numbers.Real) and not isinstance(value, bool)
        return number and math.isfinite(value) and value >= 0  # type: ignore[arg-type,operator]
    except OverflowError:  # an int too large for a float
        return False


def whole(low: int, high: int | None = None) -> Rule:
    """Allow the integers of a range."""
    span = f"of at least {low}" if high is None else f"from {low} to {high}"
    most = math.inf if high is None else high
    return Rule(f"a whole number {span}", lambda value: is_whole(value) and low <= value <= most)


def one_of(*values: str) -> Rule:
    """Allow some strings only."""
    return Rule("one of " + ", ".join(map(repr, values)), lambda value: isinstance(value, str) and value in values)


def or_none(rule: Rule) -> Rule:
    """Allow None too."""
    return Rule(f"{rule.allowed}, or None", lambda value: value is None or rule.accepts(value))


AMOUNT = Rule("a number of at least 0", _is_amount)
POSITIVE = Rule("a number above 0", lambda value: _is_amount(value) and value > 0)
FLAG = Rule("True or False", lambda value: isinstance(value, bool))
PATH = Rule("a path", is_path)
TEXT = Rule("a string", lambda value: isinstance(value, str))
NAME = Rule("a non-empty string", lambda value: isinstance(value, str) and value != "")
DICT = Rule("a dict", lambda value: isinstance(value, Mapping))
NAMES = Rule(
    "a list of non-empty strings", lambda value: isinstance(value, (list, tuple)) and all(map(NAME.accepts, value))
)
