"""The kinds of tuning parameters: flags, whole numbers and other numbers, with their bounds and units."""

from __future__ import annotations

import math
import numbers
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass
from typing import ClassVar

from taskvine_manager.parameters.errors import OutOfRange, WrongType
from taskvine_manager.parameters.support import EMULATED, NATIVE, OURS, Engine, Standing

__all__ = ["EXACT", "LARGEST_INT", "NAMESPACE", "Flag", "Parameter", "Real", "Value", "Whole", "shown"]

#: The type of a parameter's value.
Value = bool | int | float

#: The prefix of the executor's own parameters.
NAMESPACE = "executor."

#: The largest C int, the type in which TaskVine keeps most whole numbers.
LARGEST_INT = 2**31 - 1

#: A double holds every whole number up to this one exactly.
EXACT = 2**53


@dataclass(frozen=True)
class Parameter(ABC):
    """The declaration of one tuning parameter.

    Parameters
    ----------
    name
        Its name, with dashes.
    default
        Its value when it is not set. For TaskVine's own parameters, TaskVine's default.
    effect
        What it does, in a sentence or two.
    since
        The first release of cctools whose ``vine_tune`` has it; empty for the executor's own.
    minimum, maximum
        The bounds, in the parameter's unit; None for no bound. By default, numbers are at least 0.
    open_bounds
        Whether the bounds themselves are out of range.
    also
        Valid values out of the bounds, which have a special meaning.
    unit
        Unit of the value; empty for a plain count, factor or flag.
    meanings
        The meanings of special values, as pairs of value and meaning.
    aliases
        TaskVine's other names for the same parameter.
    live
        Whether it can be changed while the executor runs.
    taskvine, embedded
        What each engine does with it; by default, what is declared.
    """

    kind: ClassVar[str]
    """The type of its values, in words."""

    name: str
    default: Value
    effect: str
    since: str = ""
    _: KW_ONLY
    minimum: float | None = None
    maximum: float | None = None
    open_bounds: bool = False
    also: tuple[float, ...] = ()
    unit: str = ""
    meanings: tuple[tuple[float, str], ...] = ()
    aliases: tuple[str, ...] = ()
    live: bool = True
    taskvine: Standing = NATIVE
    embedded: Standing = EMULATED

    def on(self, engine: Engine) -> Standing:
        """Return what an engine does with the parameter."""
        standing = self.taskvine if engine == "taskvine" else self.embedded
        return OURS if self.ours and standing in (NATIVE, EMULATED) else standing

    @property
    def ours(self) -> bool:
        """Whether it is the executor's own parameter, and not TaskVine's."""
        return self.name.startswith(NAMESPACE)

    @property
    def bounds(self) -> str:
        """The valid values in words, such as ``'1 to 10'``."""
        low = shown(self.minimum or 0)
        high = "" if self.maximum is None or self._bound_by_type else shown(self.maximum)
        if self.open_bounds:
            text = " and ".join(f"{word} {bound}" for word, bound in (("above", low), ("below", high)) if bound)
        else:
            text = f"{low} to {high}" if high else f"at least {low}"
        return " or ".join([*map(shown, self.also), text])

    @property
    def _bound_by_type(self) -> bool:
        return self.maximum in (LARGEST_INT, EXACT)

    def shown(self, value: Value) -> str:
        """Return a value of the parameter with its unit."""
        return f"{shown(value)} {self.unit}".rstrip()

    def of(self, values: Mapping[str, Value]) -> Value:
        """Return the parameter's value among values by name; its default if it is not among them."""
        return values.get(self.name, self.default)

    def read(self, value: object) -> Value:
        """Check a value, and return it in the parameter's type.

        Parameters
        ----------
        value
            True, False, 1 or 0 for a flag, otherwise a number. A float without a fraction counts as a whole number,
            because TaskVine takes doubles. Numbers of numpy are accepted, strings are not.

        Returns
        -------
        bool, int or float
            The same value in the type of a :class:`Flag`, :class:`Whole` or :class:`Real`.

        Raises
        ------
        WrongType
            If it is not of that type, not a number, or not finite.
        OutOfRange
            If it is out of the bounds; it is never moved into them.
        """
        number = self._typed(value)
        if not self._within(number):
            limit = f", and at most {self.maximum:.0f}" if self._bound_by_type else ""
            raise OutOfRange(self.name, number, self.bounds + limit, self.unit)
        return number

    @abstractmethod
    def _typed(self, value: object) -> Value:
        """Return a value in the parameter's type, or raise :class:`WrongType`."""

    def _within(self, number: float) -> bool:
        if number in self.also:
            return True
        low = -math.inf if self.minimum is None else self.minimum
        high = math.inf if self.maximum is None else self.maximum
        return low < number < high if self.open_bounds else low <= number <= high


@dataclass(frozen=True)
class Flag(Parameter):
    """A parameter that is true or false."""

    kind: ClassVar[str] = "flag"

    default: bool

    @property
    def bounds(self) -> str:
        """The valid values in words."""
        return "true or false"

    def _typed(self, value: object) -> bool:
        # numpy's booleans are not bools, but compare equal to them.
        if isinstance(value, numbers.Real) or type(value).__name__ in ("bool", "bool_"):
            if value == 0:
                return False
            if value == 1:
                return True
        raise WrongType(self.name, value, "true or false (1 or 0)")


@dataclass(frozen=True)
class Whole(Parameter):
    """A parameter that is a whole number, by default one that fits a C int."""

    kind: ClassVar[str] = "whole number"

    default: int
    _: KW_ONLY
    minimum: float = 0
    maximum: float = LARGEST_INT

    def _typed(self, value: object) -> int:
        if isinstance(value, numbers.Integral) and not isinstance(value, bool):
            return int(value)
        number = _finite(value)
        if number is None or not number.is_integer():
            raise WrongType(self.name, value, "a whole number")
        return int(number)


@dataclass(frozen=True)
class Real(Parameter):
    """A parameter that is any finite number."""

    kind: ClassVar[str] = "number"

    default: float
    _: KW_ONLY
    minimum: float = 0

    def _typed(self, value: object) -> float:
        number = _finite(value)
        if number is None:
            raise WrongType(self.name, value, "a finite number")
        return number


def _finite(value: object) -> float | None:
    """Return a finite number as a float, and None for anything else."""
    # In Python a bool is an int, but True as a number of replicas is a mistake.
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


def shown(value: Value, digits: int = 10) -> str:
    """Return a value as files have it: ``true``, ``false``, or a number with so many digits."""
    return str(value).lower() if isinstance(value, bool) else f"{value:.{digits}g}"
