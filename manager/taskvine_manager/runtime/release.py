"""Return of freed memory to the system.

The C library keeps freed memory for later use. The memory of thousands of small functions lies between other objects,
where it stays part of the process until it is trimmed explicitly.
"""

from __future__ import annotations

import contextlib
import ctypes
import time

ENOUGH = 1 << 20
"""Number of freed bytes from which a trim is worth some milliseconds."""
QUIET = 0.2
"""Seconds without further frees after which memory is trimmed."""


class Memory:
    """Counts the bytes that a process has freed, and trims its memory when no more are freed."""

    def __init__(self) -> None:
        self._freed = 0
        self._since = 0.0

    def freed(self, size: int) -> None:
        """Count ``size`` freed bytes. Can be called from anywhere."""
        self._freed += size
        self._since = time.monotonic()

    @property
    def wait(self) -> float | None:
        """Seconds until :meth:`tidy` is due; None if too little was freed."""
        return max(0.0, self._since + QUIET - time.monotonic()) if self._freed >= ENOUGH else None

    def tidy(self) -> None:
        """Trim memory if that is due."""
        if self.wait == 0.0:
            self._freed = 0
            trim()


def trim() -> None:
    """Return free memory to the system, if the C library supports that."""
    with contextlib.suppress(AttributeError, OSError):
        ctypes.CDLL(None).malloc_trim(0)
