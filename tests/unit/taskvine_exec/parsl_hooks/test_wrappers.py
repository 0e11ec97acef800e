"""Parsl's wrappers around functions. For the cache of functions see ``submission/test_functions.py``."""

from __future__ import annotations

import functools
from typing import Any

from parsl.app.errors import wrap_error
from parsl.app.python import timeout

from taskvine_exec.parsl_hooks import wrappers
from taskvine_exec.parsl_hooks.switches import WRAPPERS
from tests.unit.taskvine_exec.parsl_hooks.conftest import Switch


def double(x: int) -> int:
    return 2 * x


def test_every_wrapper_of_this_parsl_is_known() -> None:
    assert sorted(wrappers._KNOWN.values()) == ["f", "f", "func", "func", "func"]


def test_unknown_wrapper_is_not_recognised() -> None:
    def made_by_no_wrapper_function(func: Any) -> Any:
        return functools.partial(func)

    assert wrappers._wrappers(made_by_no_wrapper_function, "func") == {}


def test_wrap_error_is_removed(switch: Switch) -> None:
    on = switch(WRAPPERS)
    wrapped = wrap_error(wrap_error(double))
    assert wrappers.without_wrap_error(wrapped) is (double if on else wrapped)
    assert wrappers.without_wrap_error(double) is double


def test_wrappers_with_equal_parameters_are_equal(switch: Switch) -> None:
    on = switch(WRAPPERS)
    once, again, longer = timeout(double, 10.0), timeout(double, 10.0), timeout(double, 20.0)
    inner, layers = wrappers.see_through(once)
    assert inner is (double if on else once)
    assert wrappers.see_through(again) == ((double, layers) if on else (again, ()))
    assert (wrappers.see_through(longer)[1] == layers) is not on
    assert wrappers.see_through(double) == (double, ())
