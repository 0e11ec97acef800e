"""Results of other calls, for the arguments of the call at hand."""

from __future__ import annotations

from typing import Any

from taskvine_manager.runtime import payload

_encoded: dict[str, payload.Payload] = {}


def provide(values: dict[str, payload.Payload]) -> None:
    """Say where the values are that the arguments about to be decoded refer to."""
    global _encoded
    _encoded = values


def fetch(number: str) -> Any:
    """Decode a value; what refers to it was pickled as this call.

    Raises
    ------
    KeyError
        If the call was not given it.
    """
    return payload.decode(_encoded[number])
