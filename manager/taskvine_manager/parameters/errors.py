"""Errors of a single tuning parameter: its name, type or bounds.

:mod:`taskvine_tune.errors` shows the whole hierarchy.
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
    """Base of all exceptions of this module and of :mod:`taskvine_tune.errors`."""

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
        The name that was given.
    nearest
        The most similar names, best first; empty if none is similar.
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
        The name of the parameter.
    value
        The value that was given.
    expected
        The expected type, in words.
    """

    name: str
    value: object
    expected: str

    def __str__(self) -> str:
        return f"{self.name}={_brief(self.value)} is not valid: must be {self.expected}"


@dataclass(eq=False, repr=False)
class OutOfRange(TuningError):
    """The value is out of the parameter's bounds; it is never moved into them.

    Parameters
    ----------
    name
        The name of the parameter.
    value
        The value that was given.
    bounds
        The valid values, in words.
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
