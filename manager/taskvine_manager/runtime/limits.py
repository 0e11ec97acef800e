"""The limits of a process that runs tasks: resource limits of the system (``RLIMIT_*``), and its memory limit."""

from __future__ import annotations

import contextlib
import os
import sys
import time

_WAS_IMPORTED = "resource" in sys.modules
import resource  # noqa: E402

if not _WAS_IMPORTED:
    del sys.modules["resource"]  # so that Limits.restore sees whether a user's module imports it

NAMES = {getattr(resource, name): name for name in sorted(dir(resource), reverse=True) if name.startswith("RLIMIT_")}
"""Names of the system's limits, by number."""
SHORT = 0.0001
"""Seconds. After a shorter task, state that tasks rarely change is not checked: it would cost a noticeable part of the
task's time."""
_INTERVAL = 0.1
"""Seconds between measurements of the memory of a slot that has run tasks."""


class Limits:
    """The resource limits of this process, to be restored after each task."""

    def __init__(self) -> None:
        self._numbers = tuple(NAMES)
        self._found = list(map(resource.getrlimit, self._numbers))
        self.lowered: list[str] = []
        """Names of the hard limits that a task has lowered and that this process may not raise again."""

    def restore(self, seconds: float) -> None:
        """Restore the limits that a task has changed; list those that cannot be restored in :attr:`lowered`.

        Parameters
        ----------
        seconds : float
            Duration of the task. After a task shorter than :data:`SHORT`, limits are checked only if a module that
            sets them is imported. Limits that such a task has set in another way are restored after the next longer
            task.
        """
        if seconds < SHORT and "resource" not in sys.modules and "psutil" not in sys.modules:
            return
        if list(map(resource.getrlimit, self._numbers)) == self._found:
            return
        self.lowered = [
            NAMES[number] for number, found in zip(self._numbers, self._found, strict=True) if not _set(number, found)
        ]


def _set(number: int, wanted: tuple[int, int]) -> bool:
    """Set a limit, or else raise the soft limit as far as the hard one allows; return whether it is as wanted."""
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
    """The memory that a slot may hold when a task starts in it.

    Parameters
    ----------
    limit : float
        Memory limit in MB, the same for all tasks of a slot; 0 for none.
    own : float
        MB that are not counted: pages of the interpreter that the slot has copied since the fork.
    """

    def __init__(self, limit: float, own: float = 0.0) -> None:
        self.limit = limit
        self._own = own
        self.used = False
        """Whether a task has started in this process, so that the memory may be what tasks have left."""
        self._looked = 0.0

    def excess(self, *, look: bool) -> float:
        """Measure the memory of this process; return it in MB if it exceeds the limit, else 0.

        Parameters
        ----------
        look : bool
            Whether to measure in any case. Otherwise, memory is measured at most ten times a second, because that costs
            time that matters for short tasks.
        """
        now = time.monotonic()
        if not self.limit or (not look and self.used and now - self._looked < _INTERVAL):
            return 0.0
        self._looked = now
        amount = held(self.limit)
        return amount if amount > self.limit + self._own else 0.0


def held(limit: float) -> float:
    """Return the memory of this process in MB, as :func:`taskvine_manager.node.memory.enforce` counts it.

    This is the resident size if that is within ``limit``. Otherwise it is the private memory, without pages shared with
    the library. It is 0 if the system does not report memory.
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
