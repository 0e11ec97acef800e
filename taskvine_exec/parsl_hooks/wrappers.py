"""Functions inside Parsl's wrappers.

Parsl wraps the function of each app (``wrap_error``), and wraps it anew for every task that has a walltime, is
monitored or stages files inside the task. This module recognises the wrappers by their code objects, and reads the
wrapped function and the wrapper's parameters from their closures.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from types import CodeType, FunctionType
from typing import Any

from parsl.app.errors import wrap_error
from parsl.app.python import timeout
from parsl.data_provider.files import File
from parsl.data_provider.ftp import in_task_transfer_wrapper as ftp_wrapper
from parsl.data_provider.http import in_task_transfer_wrapper as http_wrapper
from parsl.monitoring.remote import monitor_wrapper

from taskvine_exec.parsl_hooks.switches import WRAPPERS

_PLAIN = frozenset({int, float, bool, str, bytes, type(None), complex})


def _wrappers(maker: Any, variable: str) -> dict[CodeType, str]:
    """Return the code of the wrapper that a function makes, with the variable that holds the wrapped function.

    The result is empty if another version of Parsl makes the wrapper differently. The wrapper is then serialized like
    any other function.
    """
    code = getattr(maker, "__wrapped__", maker).__code__
    made = [const for const in code.co_consts if isinstance(const, CodeType)]
    return {each: variable for each in made if each.co_name in ("wrapper", "wrapped") and variable in each.co_freevars}


_WRAP_ERROR = _wrappers(wrap_error, "func")
_KNOWN: dict[CodeType, str] = {
    **_WRAP_ERROR,
    **_wrappers(timeout, "f"),
    **_wrappers(monitor_wrapper, "f"),
    **_wrappers(http_wrapper, "func"),
    **_wrappers(ftp_wrapper, "func"),
}


def without_wrap_error(function: Callable[..., Any]) -> Callable[..., Any]:
    """Unwrap a function from Parsl's outermost ``wrap_error``. Slots report exceptions themselves, with traceback."""
    while WRAPPERS.on and type(function) is FunctionType and function.__code__ in _WRAP_ERROR:
        code = function.__code__
        function = function.__closure__[code.co_freevars.index(_WRAP_ERROR[code])].cell_contents  # type: ignore[index]
    return function


def _variables(function: FunctionType) -> dict[str, Any]:
    cells = (cell.cell_contents for cell in function.__closure__ or ())
    return dict(zip(function.__code__.co_freevars, cells, strict=True))


def see_through(function: Any) -> tuple[Any, Hashable]:
    """Return the function inside known wrappers, and a key of these wrappers; None if they have no key."""
    layers: list[Hashable] = []
    while WRAPPERS.on and type(function) is FunctionType and function.__code__ in _KNOWN:
        variables = _variables(function)
        inner = variables.pop(_KNOWN[function.__code__])
        try:
            layer = (function.__code__, *((name, _telling(value)) for name, value in sorted(variables.items())))
        except TypeError:
            return function, None
        layers.append(layer)
        function = inner
    return function, tuple(layers)


def _telling(value: Any) -> Hashable:
    """Return a key for the value of a wrapper's variable.

    Raises
    ------
    TypeError
        If the value is not hashable, and so may change.
    """
    if isinstance(value, File):
        return value.url, value.local_path
    hash(value)
    return (type(value), value) if type(value) in _PLAIN else _Same(value)


class _Same:
    """An object as a key. It equals only itself."""

    def __init__(self, value: Any) -> None:
        self._value = value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and self._value is other._value

    def __hash__(self) -> int:
        return id(self._value)
