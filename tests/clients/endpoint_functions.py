"""Functions that users of an endpoint send to it, as a script of theirs defines them."""

from __future__ import annotations

from typing import Any


def power(base: int, exponent: int) -> int:
    """Return a power."""
    return base**exponent


def fail() -> None:
    """Raise an exception."""
    raise ValueError("as asked")


def large() -> bytes:
    """Return more than fits into a message."""
    return bytes(3_000_000)


def from_context() -> Any:
    """Return what the context of the library has set up."""
    from taskvine_exec import load_variable_from_library

    return load_variable_from_library("number")


def die(marks: str, times: int) -> int:
    """Kill the process that runs the first calls; return how many calls came before this one."""
    import os
    import signal

    begun = len(os.listdir(marks))
    open(os.path.join(marks, str(begun)), "w").close()
    if begun < times:
        os.kill(os.getpid(), signal.SIGKILL)
    return begun
