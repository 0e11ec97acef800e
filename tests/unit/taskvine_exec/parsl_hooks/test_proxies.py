"""Which code counts as code that only passes values on."""

from __future__ import annotations

from typing import Any

import pytest

from taskvine_exec.parsl_hooks import proxies
from taskvine_exec.parsl_hooks.switches import PROXIES
from tests.unit.taskvine_exec.parsl_hooks.conftest import Switch


class Shown:
    """An object whose class depends on the code that asks for it."""

    @property
    def __class__(self) -> Any:
        return Shown if proxies.only_passes_on() else int

    @__class__.setter
    def __class__(self, value: Any) -> None:
        raise TypeError


def asked_in(module: str, value: Any) -> bool:
    """Whether a value is an int for code of this module."""
    names: dict[str, Any] = {"__name__": module}
    exec("def ask(value): return isinstance(value, int)", names)
    return bool(names["ask"](value))


@pytest.mark.parametrize("module", ["parsl.dataflow.dflow", "cloudpickle", "concurrent.futures", "taskvine_exec.x"])
def test_passing_code_sees_the_proxy(module: str, switch: Switch) -> None:
    on = switch(PROXIES)
    assert asked_in(module, Shown()) is not on


@pytest.mark.parametrize("module", ["__main__", "parslish", "numpy.core"])
def test_other_code_sees_the_value(module: str, switch: Switch) -> None:
    switch(PROXIES)
    assert asked_in(module, Shown())


def test_modules_in_between_are_skipped(switch: Switch) -> None:
    on = switch(PROXIES)
    between: dict[str, Any] = {"__name__": "functools"}
    exec("def look(value): return value.__class__", between)
    caller: dict[str, Any] = {"__name__": "parsl.utils", "look": between["look"]}
    exec("def ask(value): return look(value)", caller)
    assert caller["ask"](Shown()) is (Shown if on else int)
