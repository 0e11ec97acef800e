"""The limits of a process that runs tasks: those that the system sets (``RLIMIT_*``), and its memory."""

from __future__ import annotations

import contextlib
import os
import sys
import time

_WAS_IMPORTED = "resource" in sys.modules
import resource  # noqa: E402

if not _WAS_IMPORTED:
    del sys.modules["resource"]  # a user's module that imports it puts it there again: see Limits.restore

_NAMES = {getattr(resource, name): name for name in sorted(dir(resource), reverse=True) if name.startswith("RLIMIT_")}
SHORT = 0.0001
"""Seconds: what a call rarely changes is not looked at after one that took less, of whose time it would be a part."""
_INTERVAL = 0.1
"""Seconds between looks at the memory of a slot that has run calls."""


class Limits:
    """The resource limits of this process, to be restored after each call."""

    def __init__(self) -> None:
        self._numbers = tuple(_NAMES)
        self._found = list(map(resource.getrlimit, self._numbers))
        self.lowered: list[str] = []
        """Names of the hard limits that a call has lowered and that this process may not raise again."""

    def restore(self, seconds: float) -> None:
        """Undo what a call has changed; what cannot be undone is noted in :attr:`lowered`.

        Parameters
        ----------
        seconds : float
            How long the call took. After a call shorter than :data:`SHORT`, limits are looked at only if a module that
            sets them is imported. Those that such a call has set in another way wait for the next longer call.
        """
        if seconds < SHORT and "resource" not in sys.modules and "psutil" not in sys.modules:
            return
        if list(map(resource.getrlimit, self._numbers)) == self._found:
            return
        self.lowered = [
            _NAMES[number] for number, found in zip(self._numbers, self._found, strict=True) if not _set(number, found)
        ]


def _set(number: int, wanted: tuple[int, int]) -> bool:
    """Set a limit, or else raise the soft one as far as the hard one allows; say whether it is as wanted now."""
    soft, hard = resource.getrlimit(number)
    if (soft, hard) == wanted:
        return True
    try:
        resource.setrlimit(number, wanted)
        return True
    except (ValueError, OSError):
        most = hard if wanted[0] == resource.RLIM_INFINITY else min(wanted[0], hard)
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(number, (most, hard))
        return False


class Room:
    """The memory that a slot may hold when a call begins in it.

    Parameters
    ----------
    limit : float
        Memory limit in MB, the same for all calls of a slot; 0 for none.
    own : float
        MB that are not counted: pages of the interpreter that the slot has copied since it was forked.
    """

    def __init__(self, limit: float, own: float = 0.0) -> None:
        self.limit = limit
        self._own = own
        self.used = False
        """Whether a call has begun in this process: what it holds may be what a call has left."""
        self._looked = 0.0

    def excess(self, *, look: bool) -> float:
        """Measure what this process holds, and return it in MB if it is above the limit, else 0.

        Parameters
        ----------
        look : bool
            Whether to measure in any case. Otherwise, this is done ten times a second: a call that is short pays for
            few of the measurements.
        """
        now = time.monotonic()
        if not self.limit or (not look and self.used and now - self._looked < _INTERVAL):
            return 0.0
        self._looked = now
        amount = held(self.limit)
        return amount if amount > self.limit + self._own else 0.0


def held(limit: float) -> float:
    """Memory in MB that this process holds, as :func:`taskvine_manager.node.memory.enforce` counts it.

    That is its resident size if that is within ``limit``. Otherwise it is what the process shares with no other: the
    library's pages are not counted. It is 0 where the system does not say.
    """
    try:
        with open("/proc/self/statm", "rb") as file:
            resident = int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20
        if resident <= limit:
            return resident
        with open("/proc/self/smaps_rollup", "rb") as file:
            return sum(int(line.split()[1]) for line in file if line.startswith(b"Private_")) / 2**10
    except (OSError, ValueError, IndexError):
        return 0.0
