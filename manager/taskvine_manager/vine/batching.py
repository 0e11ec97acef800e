"""How many short calls make one TaskVine task, and how many TaskVine tasks there are at a time.

TaskVine spends about half a millisecond on a task, whatever is in it, and slows down with the tasks that it knows. So
calls that are known to be short travel together, as many as are worth some tens of milliseconds, and only a few tasks
for each node are given to TaskVine at a time; the rest waits here, in order of priority. A lone call is never held
back: what is there is sent when there is room for it.

Pure: no clocks, no I/O.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

TARGET = 0.040
"""Seconds of work, for each slot of a node, that one TaskVine task is to be worth."""
SHORT = 0.010
"""Calls that are known to take no more seconds than this may travel with others."""
OVERHEAD = 0.00012
"""Seconds that a call costs its slot beyond the function's own time."""
MOST = 1024
"""Calls in one TaskVine task, at most."""
AHEAD = 2
"""TaskVine tasks of short calls that a node is given: one at work, the others on their way."""


class Batchable(Protocol):
    """What the backlog needs to know of a call."""

    @property
    def priority(self) -> float: ...
    @property
    def sequence(self) -> int: ...
    @property
    def category(self) -> str: ...
    @property
    def cores(self) -> float: ...
    @property
    def alone(self) -> bool:
        """Whether it may not travel with others: it has files, is an L1 task, or may have killed its node."""
        ...


class Estimates:
    """Run times of categories, learned from calls that returned."""

    def __init__(self) -> None:
        self._seconds: dict[str, float] = {}
        self._bytes: dict[str, int] = {}

    def learn(self, category: str, seconds: float, size: int) -> None:
        """Take a call that ran for so long and whose result has so many bytes into account.

        A longer run counts for more than a shorter one: to believe a long call short costs those that travel with it
        more than the reverse.
        """
        known = self._seconds.get(category, seconds)
        self._seconds[category] = known + (0.5 if seconds > known else 0.1) * (seconds - known)
        self._bytes[category] = max(size, self._bytes.get(category, 0))

    def seconds(self, category: str) -> float | None:
        """Expected run time, or None."""
        return self._seconds.get(category)

    def largest(self, category: str) -> int | None:
        """Size in bytes of the largest result so far, or None."""
        return self._bytes.get(category)


@dataclass
class Window:
    """Room for TaskVine tasks.

    ``cores`` and ``slots`` are what all nodes have, ``busy`` the cores that calls alone in their task take, ``batches``
    the tasks of several calls that are under way.
    """

    nodes: int
    cores: float
    slots: int
    busy: float = 0.0
    batches: int = 0

    @property
    def slots_per_node(self) -> float:
        """Calls that a node runs at once, on average."""
        return self.slots / max(1, self.nodes)

    @property
    def room(self) -> int:
        """Tasks of several calls that may be added."""
        return max(0, AHEAD * self.nodes - self.batches)


def cost(cores: float, seconds: float | None) -> float:
    """Cores that a call alone in its task is counted with: less if it will be over before the next one is there."""
    return cores if seconds is None else cores * min(1.0, max(0.25, seconds / (2 * SHORT)))


def size(seconds: float, waiting: int, window: Window) -> int:
    """How many calls of a kind to put into one task.

    Parameters
    ----------
    seconds : float
        Expected run time of one.
    waiting : int
        Calls that wait, of any kind.
    window : Window
        The room there is.

    Returns
    -------
    int
        What fills every slot of a node for :data:`TARGET` seconds, but no more than an even share of what waits among
        the tasks that there is room for.
    """
    full = TARGET * window.slots_per_node / (seconds + OVERHEAD)
    share = math.ceil(waiting / max(1, window.room))
    return max(1, min(int(full), share, MOST))


class Backlog:
    """Calls that could run, in order of priority and arrival.

    Parameters
    ----------
    estimates : Estimates
        Of their categories.
    is_gone : callable
        Whether a call has been cancelled since it was pushed.
    enabled : bool
        Whether calls travel together at all.
    """

    def __init__(self, estimates: Estimates, is_gone: Callable[[Any], bool], *, enabled: bool = True) -> None:
        self._estimates = estimates
        self._is_gone = is_gone
        self._enabled = enabled
        self._heap: list[tuple[float, int, Any]] = []

    def __len__(self) -> int:
        return len(self._heap)

    def push(self, call: Batchable) -> None:
        """Add a call."""
        heapq.heappush(self._heap, (-call.priority, call.sequence, call))

    def _head(self) -> Any | None:
        while self._heap and self._is_gone(self._heap[0][2]):
            heapq.heappop(self._heap)
        return self._heap[0][2] if self._heap else None

    def take(self, window: Window) -> list[list[Any]]:
        """Take the calls that there is room for, as the tasks that they are to make; the window is updated."""
        tasks: list[list[Any]] = []
        while (head := self._head()) is not None:
            seconds = self._estimates.seconds(head.category)
            if self._is_short(head, seconds):
                if not window.room:
                    break
                tasks.append(self._batch(head.priority, window))
                window.batches += 1
            else:
                taken = cost(head.cores, seconds)
                if window.busy and window.busy + taken > window.cores + 1e-9:
                    break
                window.busy += taken
                tasks.append([heapq.heappop(self._heap)[2]])
        return tasks

    def _is_short(self, call: Batchable, seconds: float | None) -> bool:
        return self._enabled and not call.alone and seconds is not None and seconds <= SHORT

    def _batch(self, priority: float, window: Window) -> list[Any]:
        """Take short calls of one priority from the head on."""
        calls: list[Any] = []
        waiting = len(self._heap)
        filled = 0.0
        while (head := self._head()) is not None and head.priority == priority:
            seconds = self._estimates.seconds(head.category)
            if seconds is None or not self._is_short(head, seconds):
                break
            filled += 1.0 / size(seconds, waiting, window)
            if calls and filled > 1.0 + 1e-9:
                break
            calls.append(heapq.heappop(self._heap)[2])
        return calls
