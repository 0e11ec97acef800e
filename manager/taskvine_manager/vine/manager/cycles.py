"""When TaskVine runs: if it has something to do, if a connection has data, and from time to time."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from taskvine_manager.engine_api import Watch
from taskvine_manager.vine.manager import events
from taskvine_manager.vine.manager.shell import Shell
from taskvine_manager.vine.manager.workers import Workers

HOUSEKEEPING = 1.0
"""Seconds between two times that TaskVine looks after its connections."""
REPLICATION = 0.05
"""The same, while temp files are new and may be waiting for replication."""
NEW = 2.0
"""Seconds for which a temp file is new."""


class Cycles:
    """Runs TaskVine's cycles; ``due`` is whether it has something to do, and ``waiting`` whether tasks may want a node.

    Parameters
    ----------
    shell : Shell
        TaskVine, its parcels, and the core.
    workers : Workers
        The workers, which may have joined or left in a cycle.
    ended : callable
        Takes a TaskVine task that has ended.
    watch, unwatch : callable
        Register and unregister a file descriptor with the manager's loop.
    """

    def __init__(
        self, shell: Shell, workers: Workers, ended: Callable[[Any], None], watch: Watch, unwatch: Callable[[int], None]
    ) -> None:
        self._vine, self._traffic, self._handle = shell.vine, shell.traffic, shell.handle
        self._workload, self._workers, self._ended = shell.core.workload, workers, ended
        self._watch, self._unwatch = watch, unwatch
        self._watched: set[tuple[int, int]] = set()
        self._heard = False
        self._housekept = 0.0
        self._temps_new = 0.0
        self.due = True
        self.waiting = False

    def place(self) -> None:
        """Send the parcels that nodes can take, directly or by TaskVine, which is due then."""
        self.waiting = False
        self._handle(events.Cycle())

    def run(self) -> None:
        """Make TaskVine send and receive what is pending."""
        self.due = False
        heard, self._heard = self._heard, False
        task = self._vine.turn()
        self.see_placed()
        if task is not None:
            # Report its outcome first. After that, more tasks may have ended, or nodes may take more.
            self._ended(task)
            self.due = self._traffic.is_out or self._workload.queued > 0
        elif heard:
            self._workers.look_soon()  # a connection may have ended

    def see_placed(self) -> None:
        """Tell the core which parcels TaskVine has sent, and where."""
        if placed := self._traffic.placed():
            self._handle(events.Placed(placed))

    def housekeep(self) -> None:
        """Make TaskVine look after its connections."""
        self._housekept = time.monotonic()
        for task in self._vine.housekeeping():
            self._ended(task)
        self._workers.look_soon()

    def wait(self, now: float) -> float:
        """Return the seconds until TaskVine should look after its connections; 0 if that is due."""
        interval = REPLICATION if now - self._temps_new < NEW else HOUSEKEEPING
        return max(0.0, self._housekept + interval - now)

    def made_temp(self) -> None:
        """Note that there is a new temp file, which TaskVine may have to replicate."""
        self._temps_new = time.monotonic()

    # --- TaskVine's connections ---

    def watch_connections(self) -> None:
        """Watch the present connections, and no others."""
        sockets = self._vine.sockets()
        for descriptor, _ in self._watched - sockets:
            self._unwatch(descriptor)
        for descriptor, _ in sockets - self._watched:
            self._watch(descriptor, self.hear if self._watched else self._knock)
        self._watched = sockets

    def hear(self) -> None:
        """Note that a connection has data."""
        self.due = self._heard = True

    def _knock(self) -> None:
        """Accept a worker that wants to connect."""
        self.housekeep()
        self.watch_connections()
        self._workers.look_soon(at_once=True)
        self.due = True

    def close(self) -> None:
        """Watch no connections any more."""
        for descriptor, _ in self._watched:
            self._unwatch(descriptor)
        self._watched = set()
