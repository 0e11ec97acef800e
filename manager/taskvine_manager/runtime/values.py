"""Results of other tasks in the arguments of the current task."""

from __future__ import annotations

from typing import Any

from taskvine_manager.runtime import payload


class Lost(Exception):
    """The file of a value is lost. ``number`` names the value; ``reason`` says what is wrong with its file."""

    def __init__(self, number: str, reason: str) -> None:
        super().__init__(number, reason)
        self.number = number
        self.reason = reason


_encoded: dict[str, payload.Payload] = {}
_loaded: dict[str, Any] = {}
"""Values that the current arguments refer to, as far as they are loaded."""


def provide(values: dict[str, payload.Payload]) -> None:
    """Set the encoded values that the arguments to be decoded next refer to."""
    global _encoded
    _encoded = values


def decode(arguments: payload.Payload) -> Any:
    """Decode the arguments of a task.

    A value that they refer to several times becomes one object, as if it had been pickled with them.

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
        _loaded.clear()  # only the task keeps its arguments


def fetch(number: str) -> Any:
    """Load a value. A reference to it was pickled as a call of this function.

    Raises
    ------
    KeyError
        If the value was not sent with the task.
    Lost
        If the value's file does not exist or is damaged.
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
    """Load a small value that came with the arguments. Its placeholder was pickled as a call of this function."""
    if number not in _loaded:
        _loaded[number] = payload.decode(encoded)
    return _loaded[number]
