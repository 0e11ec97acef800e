"""The function that tasks run. Workers import this module by name, so it imports little."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Sequence

_HEADER = struct.Struct("<qqq")  # step, point, value
SMALLEST = _HEADER.size
"""Bytes of the smallest result."""
_PRIME = (1 << 61) - 1


class WrongInput(Exception):
    """A task got a result other than the one that it must read."""


def spin(rounds: int) -> None:
    """Compute for a time that grows with ``rounds``: arithmetic in C, without the lock of the interpreter."""
    if rounds:
        hashlib.pbkdf2_hmac("sha256", b"task", b"bench", rounds)


def mixed(step: int, point: int, values: Sequence[int]) -> int:
    """Return a task's value, which depends on the values of all its inputs and on their order."""
    value = step * 1_000_003 + point + 1
    for other in values:
        value = (value * 31 + other) % _PRIME
    return value


def packed(step: int, point: int, value: int, size: int) -> bytes:
    """Return a task's result: its place and value, repeated until it has ``size`` bytes."""
    header = _HEADER.pack(step, point, value)
    return (header * -(-size // len(header)))[:size]


def unpacked(result: bytes, step: int, point: int, size: int) -> int:
    """Return the value in a result; raise WrongInput unless all of it is what the task at this place returns."""
    if len(result) != size:
        raise WrongInput(f"the result of task {point} in step {step} has {len(result)} bytes, not {size}")
    found_step, found_point, value = _HEADER.unpack_from(result)
    if (found_step, found_point) != (step, point) or result != packed(step, point, value, size):
        raise WrongInput(f"instead of the result of task {point} in step {step}, task {found_point} in {found_step}")
    return int(value)


def run(step: int, point: int, rounds: int, size: int, expected: tuple[int, ...], *read: bytes) -> bytes:
    """Run a task: check its inputs, compute, and return a result of ``size`` bytes.

    Parameters
    ----------
    step, point : int
        The task's place.
    rounds : int
        See :func:`spin`.
    size : int
        Bytes of the result, at least :data:`SMALLEST`.
    expected : tuple of int
        Points of the step before whose results the task reads.
    *read : bytes
        These results, in the same order. They are not called ``inputs``, a special name of Parsl's.
    """
    if len(read) != len(expected):
        raise WrongInput(f"task {point} in step {step} got {len(read)} inputs, not {len(expected)}")
    values = [unpacked(data, step - 1, at, size) for data, at in zip(read, expected, strict=True)]
    spin(rounds)
    return packed(step, point, mixed(step, point, values), size)
