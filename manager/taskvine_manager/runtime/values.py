"""Results of other calls, for the arguments of the call at hand."""

from __future__ import annotations

from typing import Any

from taskvine_manager.runtime import payload


class Lost(Exception):
    """The file of a value is lost: ``number`` names the value, ``reason`` says what is wrong with its file."""

    def __init__(self, number: str, reason: str) -> None:
        super().__init__(number, reason)
        self.number = number
        self.reason = reason


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
    Lost
        If its file is not there, or is not whole.
    """
    try:
        frames = payload.read(_encoded[number])
    except (OSError, payload.Damaged) as error:
        if payload.is_lost(error):
            raise Lost(number, str(error)) from error
        raise
    return frames.load()
