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
_loaded: dict[str, Any] = {}
"""Values that the arguments at hand have referred to."""


def provide(values: dict[str, payload.Payload]) -> None:
    """Say where the values are that the arguments about to be decoded refer to."""
    global _encoded
    _encoded = values


def decode(arguments: payload.Payload) -> Any:
    """Decode the arguments of a call.

    A value that they refer to several times is one object, as if it had been pickled with them.

    Raises
    ------
    Lost
        If the file of a value is lost.
    Exception
        Whatever the classes of arguments and values raise.
    """
    try:
        return payload.decode(arguments)
    finally:
        _loaded.clear()  # the call alone keeps its arguments


def fetch(number: str) -> Any:
    """Decode a value; what refers to it was pickled as this call.

    Raises
    ------
    KeyError
        If the call was not given it.
    Lost
        If its file is not there, or is not whole.
    """
    if number in _loaded:
        return _loaded[number]
    try:
        frames = payload.read(_encoded[number])
    except (OSError, payload.Damaged) as error:
        if payload.is_lost(error):
            raise Lost(number, str(error)) from error
        raise
    value = _loaded[number] = frames.load()
    return value


def copy(number: str, encoded: bytes) -> Any:
    """Decode a small value that came with the arguments; what stands for it was pickled as this call."""
    if number not in _loaded:
        _loaded[number] = payload.decode(encoded)
    return _loaded[number]
