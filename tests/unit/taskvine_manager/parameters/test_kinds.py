"""Values of each kind of parameter: which are accepted, and in which type."""

from __future__ import annotations

from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

from taskvine_manager.parameters import Flag, Parameter, Real, Whole, find, shown
from taskvine_manager.parameters.errors import OutOfRange, WrongType


@pytest.mark.parametrize(
    ("name", "value", "read"),
    [
        ("prefer-dispatch", 1, True),
        ("prefer-dispatch", 0.0, False),
        ("prefer-dispatch", np.bool_(True), True),
        ("prefer-dispatch", np.int8(0), False),
        ("max-retrievals", 2.0, 2),
        ("max-retrievals", np.int64(2), 2),
        ("max-retrievals", np.float32(2), 2),
        ("max-retrievals", Fraction(4, 2), 2),
        ("sandbox-grow-factor", 2, 2.0),
        ("sandbox-grow-factor", np.float32(1.5), 1.5),
        ("sandbox-grow-factor", Fraction(3, 2), 1.5),
    ],
)
def test_numbers_of_any_kind_become_the_declared_type(name: str, value: Any, read: Any) -> None:
    found = find(name).read(value)
    assert found == read
    assert type(found) is type(read)


@pytest.mark.parametrize("value", [Decimal(2), "2", b"2", [2], None, 2j, np.array([2])])
@pytest.mark.parametrize("name", ["prefer-dispatch", "max-retrievals", "sandbox-grow-factor"])
def test_only_numbers_are_accepted(name: str, value: Any) -> None:
    with pytest.raises(WrongType, match=name):
        find(name).read(value)


@pytest.mark.parametrize(
    ("parameter", "bounds"),
    [
        (Flag("f", False, "F."), "true or false"),
        (Whole("w", 3, "W."), "at least 0"),
        (Whole("w", 3, "W.", minimum=1), "at least 1"),
        (Whole("w", 3, "W.", minimum=1, maximum=9, also=(0.0,)), "0 or 1 to 9"),
        (Real("r", 0.5, "R.", maximum=1), "0 to 1"),
        (Real("r", 0.5, "R.", maximum=1, open_bounds=True), "above 0 and below 1"),
        (Real("r", 0.5, "R.", open_bounds=True), "above 0"),
    ],
)
def test_bounds_in_words(parameter: Parameter, bounds: str) -> None:
    assert parameter.bounds == bounds


def test_bound_of_the_type_is_named_only_when_exceeded() -> None:
    with pytest.raises(OutOfRange, match="must be at least 1, and at most 2147483647"):
        Whole("w", 3, "W.", minimum=1).read(2**31)


def test_a_value_among_others_or_the_default() -> None:
    parameter = Real("r", 0.5, "R.", unit="s")
    assert parameter.of({"r": 2}) == 2
    assert parameter.of({"other": 2}) == 0.5


def test_values_in_words() -> None:
    assert Real("r", 0.5, "R.", unit="s").shown(2.0) == "2 s"
    assert Flag("f", False, "F.").shown(True) == "true"
    assert shown(1234567.5, digits=6) == "1.23457e+06"
