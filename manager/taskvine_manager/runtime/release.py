"""Memory that goes back to the system after much has been freed.

The C library keeps freed memory for later. That of thousands of small functions lies between other things, where it
stays part of the process unless it is asked for.
"""

from __future__ import annotations

import contextlib
import ctypes
import time

ENOUGH = 1 << 20
"""Freed bytes that are worth some milliseconds of looking for them."""
QUIET = 0.2
"""Seconds without more, after which that is done."""


class Memory:
    """Counts what a process has freed, and gives it back when no more comes."""

    def __init__(self) -> None:
        self._freed = 0
        self._since = 0.0

    def freed(self, size: int) -> None:
        """So many bytes are free; callable from anywhere."""
        self._freed += size
        self._since = time.monotonic()

    @property
    def wait(self) -> float | None:
        """Seconds until :meth:`tidy` is due; None if there is not enough to be worth it."""
        return max(0.0, self._since + QUIET - time.monotonic()) if self._freed >= ENOUGH else None

    def tidy(self) -> None:
        """Give memory back, if that is due."""
        if self.wait == 0.0:
            self._freed = 0
            trim()


def trim() -> None:
    """Give free memory back to the system, where the C library can."""
    with contextlib.suppress(AttributeError, OSError):
        ctypes.CDLL(None).malloc_trim(0)
