"""Errors of a single tuning parameter: its name, its type, its bounds.

:mod:`taskvine_tune.errors` draws the whole hierarchy.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

__all__ = ["OutOfRange", "TuningError", "UnknownParameter", "WrongType"]

_SHOWN = 60


def _brief(value: object) -> str:
    text = repr(value)
    return text if len(text) <= _SHOWN else text[: _SHOWN - 3] + "..."


class TuningError(ValueError):
    """Base of every exception of this package, and of those of :mod:`taskvine_tune.errors`."""

    def __post_init__(self) -> None:
        # Dataclass constructors bypass BaseException.__init__; without this, repr() and loggers would show no message.
        self.args = (str(self),)

    def __reduce__(self) -> tuple[Any, ...]:
        # BaseException would call the class with `args`, which hold the message and not the fields.
        return _rebuild, (type(self), self.args), self.__dict__


def _rebuild(cls: type[TuningError], args: tuple[Any, ...]) -> TuningError:
    error = cls.__new__(cls)
    error.args = args
    return error


@dataclass(eq=False, repr=False)
class UnknownParameter(TuningError):
    """No parameter has this name.

    Parameters
    ----------
    name
        What was given.
    nearest
        The names that are most like it, best first; none if nothing is.
    """

    name: object
    nearest: tuple[str, ...] = ()

    def __str__(self) -> str:
        if self.nearest:
            hint = f"did you mean {' or '.join(map(repr, self.nearest))}?"
        else:
            hint = "`taskvine-tune list` shows those that exist"
        return f"unknown tuning parameter {_brief(self.name)}: {hint}"


@dataclass(eq=False, repr=False)
class WrongType(TuningError):
    """The value is not of the parameter's type.

    Parameters
    ----------
    name
        The parameter.
    value
        What was given.
    expected
        What it must be, in words.
    """

    name: str
    value: object
    expected: str

    def __str__(self) -> str:
        return f"{self.name}={_brief(self.value)} is not valid: must be {self.expected}"


@dataclass(eq=False, repr=False)
class OutOfRange(TuningError):
    """The value is outside of the parameter's bounds. It is never moved inside them.

    Parameters
    ----------
    name
        The parameter.
    value
        What was given.
    bounds
        What is allowed, in words.
    unit
        The parameter's unit, if it has one.
    """

    name: str
    value: float
    bounds: str
    unit: str = ""

    def __str__(self) -> str:
        unit = f" {self.unit}" if self.unit else ""
        return f"{self.name}={self.value!r}{unit} is out of range: must be {self.bounds}"
