"""Periodic looks at the processes of a node's tasks: how much memory they use, and whether they are stopped."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from taskvine_manager import cleanup, patience
from taskvine_manager.node import memory
from taskvine_manager.node.libraries import Libraries
from taskvine_manager.node.library import Library
from taskvine_manager.node.limits import Kills
from taskvine_manager.node.oneshots import OneShots
from taskvine_manager.node.slots import Slots
from taskvine_manager.runtime import failure, keeper

LOOK_AT_KILLS = 1.0
"""Least seconds between checks of how many processes the system has killed for lack of memory, made when the loop is
awake anyway. They keep an earlier kill from being taken as the reason for a later death."""


class Watchdog:
    """Ends tasks that use more memory than they may, and tasks and libraries that have been stopped for too long.

    Parameters
    ----------
    libraries : sequence of Library
        The parents of the slots.
    slots : Slots or Libraries
        Runs function calls.
    oneshots : OneShots
        Runs L1 tasks.
    kills : Kills
        Detects processes that the system has killed for lack of memory.
    """

    def __init__(
        self, libraries: Sequence[Library], slots: Slots | Libraries, oneshots: OneShots, kills: Kills
    ) -> None:
        self._libraries = libraries
        self._slots = slots
        self._oneshots = oneshots
        self._kills = kills
        self._kills_looked = 0.0
        self._limited: set[int] = set()
        self._memory_looked = 0.0
        self._patience = patience.Limits()
        self._stopped = patience.Stopped(self._patience)

    def tune(self, parameters: Mapping[str, float]) -> None:
        """Apply tuning parameters; this class uses those of keepalives."""
        self._patience.tune(parameters)

    def limit(self, number: int) -> None:
        """Watch the memory of a task that has a limit."""
        self._limited.add(number)

    def release(self, number: int) -> None:
        """Stop watching the memory of a task."""
        self._limited.discard(number)

    def waits(self, *, busy: bool) -> list[float]:
        """Return the seconds until each look that is needed; ``busy`` is whether there are tasks."""
        waits = []
        if self._limited:
            waits.append(memory.INTERVAL)
        if busy and self._patience.interval:
            waits.append(self._patience.pause)
        return waits

    def look(self, now: float) -> None:
        """Make the looks that are due at ``now``, by the monotonic clock."""
        if now - self._kills_looked >= LOOK_AT_KILLS:
            self._kills_looked = now
            self._kills.look(now)
        if self._stopped.due(now):
            self._end_stopped(now)
        if self._limited and now - self._memory_looked >= memory.INTERVAL:
            self._memory_looked = now
            memory.enforce([*self._slots.running(), *self._oneshots.running()])

    def _end_stopped(self, now: float) -> None:
        """Kill tasks and libraries whose processes have been stopped (SIGSTOP) for too long."""
        running = [*self._slots.running(), *self._oneshots.running()]
        # A keeper's first child is the task's process. Processes that the task has started may be stopped.
        parts = {pid: {pid, *keeper.children(pid)[:1]} for pid, _ in running}
        libraries = {library.pid for library in self._libraries}
        lost = self._stopped.look(filter(cleanup.is_stopped, libraries.union(*parts.values())), now)
        why = f"its process had been stopped (SIGSTOP) for {self._patience.timeout:g} s"
        for pid, call in running:
            if lost & parts[pid] and call.kill_record is None:
                call.kill_record = failure.lost("slot-died", f"while it ran {call.profile.name}: {why}")
                keeper.end(pid)
        for library in self._libraries:
            if library.pid in lost:
                library.kill(why)
