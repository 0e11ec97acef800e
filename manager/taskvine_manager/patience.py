"""How long processes may be silent or stopped before they count as lost; pure, without clock or processes.

The observer may itself have been stopped, by a batch system that suspends jobs or with its whole virtual machine. Time
therefore counts only if the checks happen about when they were planned.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import Enum

from taskvine_manager.node_parameters import KEEPALIVE_INTERVAL, KEEPALIVE_TIMEOUT

INTERVAL, TIMEOUT = 30.0, 60.0
"""Defaults of the tuning parameters ``keepalive-interval`` and ``keepalive-timeout``, in seconds."""
_LATE = 1.0
"""Seconds by which a check may be late."""


class Verdict(Enum):
    """What to do about a silent process."""

    WAIT = "wait"
    ASK = "ask"
    LOST = "lost"


class Limits:
    """How long silence may last. Changes take effect for every holder of this object.

    Parameters
    ----------
    interval : float
        Seconds of silence after which a process is asked for an answer; 0 for never.
    timeout : float
        Seconds that the answer may take.
    """

    def __init__(self, interval: float = INTERVAL, timeout: float = TIMEOUT) -> None:
        self.interval = interval
        self.timeout = timeout

    def tune(self, parameters: Mapping[str, float]) -> None:
        """Apply tuning parameters."""
        self.interval = parameters.get(KEEPALIVE_INTERVAL, self.interval)
        self.timeout = parameters.get(KEEPALIVE_TIMEOUT, self.timeout)

    @property
    def pause(self) -> float:
        """Seconds between two checks."""
        return max(0.05, min(self.interval, self.timeout) / 4)


class Silence:
    """The silence of another process.

    Parameters
    ----------
    limits : Limits
        How long the silence may last.
    """

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._looked: float | None = None
        self._silent = 0.0
        self._asked: float | None = None

    def heard(self) -> None:
        """Record that the process sent something."""
        self._silent, self._asked = 0.0, None

    def look(self, now: float) -> Verdict:
        """Decide what to do now; call this every :attr:`Limits.pause` seconds.

        Parameters
        ----------
        now : float
            Time of a monotonic clock, in seconds.
        """
        elapsed = 0.0 if self._looked is None else now - self._looked
        self._looked = now
        if not self._limits.interval or elapsed > self._limits.pause + _LATE:
            return Verdict.WAIT
        self._silent += elapsed
        if self._asked is None:
            if self._silent < self._limits.interval:
                return Verdict.WAIT
            self._asked = self._silent
            return Verdict.ASK
        return Verdict.LOST if self._silent >= self._asked + self._limits.timeout else Verdict.WAIT


class Stopped:
    """Processes that are stopped, for example by SIGSTOP.

    Parameters
    ----------
    limits : Limits
        Its ``timeout`` says how long a process may be stopped.
    """

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._looked = 0.0
        self._seconds: dict[int, float] = {}

    def due(self, now: float) -> bool:
        """Whether a check is due."""
        return bool(self._limits.interval) and now >= self._looked + self._limits.pause

    def look(self, stopped: Iterable[int], now: float) -> set[int]:
        """Record the processes that are stopped now; return those that have been stopped for too long."""
        elapsed, self._looked = now - self._looked, now
        counts = elapsed <= self._limits.pause + _LATE
        self._seconds = {
            pid: self._seconds.get(pid, 0.0) + (elapsed if counts and pid in self._seconds else 0.0) for pid in stopped
        }
        return {pid for pid, seconds in self._seconds.items() if seconds >= self._limits.timeout}
