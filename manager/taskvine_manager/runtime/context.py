"""The context of a library: variables that its setup function returns, for the functions that run in its slots."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from taskvine_manager.runtime import failure, payload

_variables: dict[str, Any] = {}


def load_variable_from_library(name: str) -> Any:
    """Return a variable of the library's context.

    It has the name and the use of ``ndcctools.taskvine.utils.load_variable_from_library``: the context's setup function
    returns a dict, and functions of the library read its entries by name.

    Parameters
    ----------
    name : str
        A key of the dict that the setup function returned.

    Raises
    ------
    KeyError
        If the library has no context, or its context has no such variable.
    """
    try:
        return _variables[name]
    except KeyError:
        known = ", ".join(sorted(_variables)) or "none: this library has no context"
        raise KeyError(f"no variable {name!r} in the library's context (there are: {known})") from None


def build_or_explain(encoded: payload.Payload, library: str | None = None) -> bytes | None:
    """Run a context's setup function and keep the variables that it returns.

    Parameters
    ----------
    encoded : bytes or str
        The encoded ``(setup, args, kwargs)``.
    library : str or None
        Name of the library, None for the default one.

    Returns
    -------
    bytes or None
        None, or a failure record that says why the setup failed.
    """
    try:
        _build(*payload.decode(encoded))
    except BaseException as error:  # the user's code runs here and may call sys.exit
        of = "" if library is None else f" of the library {library!r}"
        reason = f"the context{of} cannot be built: {failure.describe(error)}"
        return failure.lost("context", reason, remote_traceback=failure.text(error, (__file__,)))
    return None


def _build(setup: Callable[..., Mapping[str, Any]], args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    made = setup(*args, **kwargs)
    if not isinstance(made, Mapping):
        raise TypeError(f"a context's setup function returns a dict of variables, not {type(made).__name__}")
    _variables.update(made)
