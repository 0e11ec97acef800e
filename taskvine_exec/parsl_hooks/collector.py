"""Fewer cyclic garbage collections of old objects while a program calls many apps.

Each call is dozens of objects. Python collects all objects when their number has grown by a quarter, and so visits
these objects several times, although hardly any are garbage. That can take more time than everything else that a call
costs in the user's process. So Python collects only new objects as usual while an executor is busy. The thresholds
of older objects are put back afterwards.

Garbage that has become old would live longer then. Therefore all objects are collected when the process has grown to
twice its size, and every few seconds. Python alone does neither, since it counts objects and not their bytes.
"""

from __future__ import annotations

import gc
import os
import threading
import time
import weakref
from collections.abc import Sized
from typing import Any

from parsl.dataflow.states import States

from taskvine_exec.parsl_hooks.switches import COLLECTOR

MANY = 1000
"""Number of tasks in flight, or begun in a second, that make an executor busy."""
LULL = 1.0
"""Seconds with fewer tasks after which it is not busy."""
THRESHOLD = 10_000
"""The raised threshold: collections of new objects before those that survived one are looked at. Python's own is 10."""
PERIOD = 30.0
"""Most seconds between collections of all objects, unless ``SHARE`` allows fewer."""
SHARE = 0.02
"""Share of the time that collections of all objects may take, unless the process grows."""
GROWTH = 256 << 20
"""Bytes by which the process may always grow before all objects are collected."""
PAUSE = 0.05
"""Seconds between two looks at tasks and at the size of the process."""
_PAGE = os.sysconf("SC_PAGE_SIZE")


class _Collector:
    """The collector of this process.

    The user's settings have priority. No threshold is lowered, automatic collection is never switched on, and
    thresholds that the user sets meanwhile stay.
    """

    def __init__(self) -> None:
        self._busy: set[Pace] = set()
        self._before: tuple[int, ...] | None = None
        self._raised: tuple[int, ...] = ()
        self._collect_at = 0.0
        self._sizes: list[int] = []
        self.reset()

    def reset(self) -> None:
        """Put the threshold back: no executor is busy. A forked child calls this, without its parent's threads."""
        self._lock = threading.RLock()  # a collection may end an executor in a thread that holds the lock
        self._busy.clear()
        self._put_back()

    def begin(self, pace: Pace) -> None:
        with self._lock:
            self._busy.add(pace)
            now = gc.get_threshold()
            if self._before is None and now[0] > 0 and now[1] < THRESHOLD:  # 0: no automatic collection
                self._before, self._raised = now, (now[0], THRESHOLD, *now[2:])
                gc.set_threshold(*self._raised)
                self._plan(0.0)

    def end(self, pace: Pace) -> None:
        with self._lock:
            self._busy.discard(pace)
            if not self._busy:
                self._put_back()

    def _put_back(self) -> None:
        if self._before is not None and gc.get_threshold() == self._raised:
            gc.set_threshold(*self._before)
        self._before = None

    def collect_if_due(self) -> None:
        """Collect all objects if it is time or the process has grown. Called without the lock."""
        if self._before is None or gc.get_threshold() != self._raised or not gc.isenabled():
            return
        now = time.monotonic()
        grown = any(size > 2 * old + GROWTH for size, old in zip(_sizes(), self._sizes, strict=True))
        if grown or now >= self._collect_at:
            gc.collect()
            self._plan(time.monotonic() - now)

    def _plan(self, took: float) -> None:
        self._collect_at = time.monotonic() + max(PERIOD, took / SHARE)
        self._sizes = _sizes()


def _sizes() -> list[int]:
    """Return the bytes of this process in its address space, which has all mapped results, and in memory."""
    with open("/proc/self/statm", "rb") as file:
        return [int(pages) * _PAGE for pages in file.read().split()[:2]]


_collector = _Collector()
os.register_at_fork(after_in_child=_collector.reset)


class Pace:
    """One executor's part: it tells the collector when the executor is busy.

    Parameters
    ----------
    tasks : sized
        The executor's tasks that have not ended.
    """

    def __init__(self, tasks: Sized) -> None:
        self._tasks = tasks
        self._kernel: Any = _no_kernel
        self._is_busy = False
        self._begun = 0
        self._look_at = self._looked = self._until = 0.0

    def count(self, kernel: Any) -> None:
        """Count the tasks of a DFK, too: most wait for its launching thread."""
        self._kernel = weakref.ref(kernel)

    def look(self) -> float | None:
        """Look whether the executor is busy. To be called often, in one thread.

        Returns
        -------
        float or None
            Seconds after which it must be called again, even if nothing happens.
        """
        now = time.monotonic()
        if now >= self._look_at and COLLECTOR.on:
            if self._has_many(now):
                self._until = now + LULL
                if not self._is_busy:
                    self._is_busy = True
                    _collector.begin(self)
            if self._is_busy and now >= self._until:
                self.end()
            if self._is_busy:
                _collector.collect_if_due()
            self._look_at = now + PAUSE
        return LULL if self._is_busy else None

    def _has_many(self, now: float) -> bool:
        kernel = self._kernel()
        counts, begun = getattr(kernel, "task_state_counts", {}), getattr(kernel, "task_count", 0)
        rate = (begun - self._begun) / (now - self._looked)
        self._begun, self._looked = begun, now
        return rate >= MANY or len(self._tasks) + sum(counts.get(state, 0) for state in _WAITING) >= MANY

    def end(self) -> None:
        """Be busy no longer. Any thread may call it."""
        self._is_busy = False
        _collector.end(self)


_WAITING = (States.pending, States.joining)


def _no_kernel() -> None:
    return None
