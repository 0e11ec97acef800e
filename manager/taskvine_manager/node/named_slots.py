"""The function slots of a named library, which starts when a call first needs it, and ends when its place is needed."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from typing import Any

from taskvine_manager.node import accelerators
from taskvine_manager.node.calls import Call, Need
from taskvine_manager.node.places import Place
from taskvine_manager.node.slot_process import SlotProcess
from taskvine_manager.node.slots import IDLE_EXIT_SECONDS, Slots
from taskvine_manager.runtime import keeper

LOOK_AT_END = 0.010
"""Seconds between checks of a library that is ending."""


class NamedSlots(Slots):
    """Function slots under a named library.

    Parameters
    ----------
    place : Place
        What the library takes of its node.
    *args, **kwargs
        As for :class:`~taskvine_manager.node.slots.Slots`, whose shared resources are the place.
    """

    def __init__(self, place: Place, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.place = place
        self.used = time.monotonic()
        """When it last had a task."""
        self._ending: float | None = None
        self._exiting: dict[int, int | None] = {}  # slots that were told to end, with their keepers
        self._keepers: set[int] = set()  # of a library that has ended: its place is free when they have ended

    # --- start ---

    def start(self, environment: Mapping[str, str] | None = None) -> None:
        """Start the library if its place is free, without waiting for it."""
        if not self.is_ending and self.place.take_place():
            seen = accelerators.variables(self._config["gpu_kind"], self.place.seen, os.environ)
            super().start({**seen, **(environment or {})})

    def start_waiting(self) -> None:
        """Start the library if tasks wait for it, and its place is free."""
        if self._pool.pending and self._library.channel is None:
            self.start()

    def add(self, call: Call) -> None:
        """Queue a task, as for all slots."""
        self.used = time.monotonic()
        super().add(call)

    def pump(self) -> None:
        """Hand pending tasks to slots, unless the library is ending."""
        if not self.is_ending:
            super().pump()

    def _free_or_end(self, slot: SlotProcess) -> None:
        self.used = time.monotonic()
        super()._free_or_end(slot)

    # --- state ---

    @property
    def is_running(self) -> bool:
        """Whether the library has its place and is not ending."""
        return self.place.is_taken and not self.is_ending

    @property
    def is_ending(self) -> bool:
        """Whether the library ends, or has ended but some of its processes have not."""
        return self._ending is not None

    @property
    def is_idle(self) -> bool:
        """Whether the library runs, and has no task."""
        is_busy = self._pool.pending or any(slot.is_busy for slot in self._pool.slots.values())
        return self.is_running and not is_busy

    @property
    def want(self) -> tuple[int, Need] | None:
        """Number of the first pending task, and what the node must have for it; None if nothing is missing there."""
        if not self._pool.pending:
            return None
        call = self._pool.pending[0]
        if self.is_running:
            return call.invocation.number, self.place.of_node(call.need)._replace(cores=0.0)
        return call.invocation.number, self.place.need

    # --- end ---

    def end(self) -> None:
        """End the idle library: first its slots, which may run exit handlers, then its own process."""
        self._ending = time.monotonic()
        for slot in list(self._pool.slots.values()):
            self._end_idle(slot)
        self.look(self._ending)

    def _end_idle(self, slot: SlotProcess) -> None:
        self._exiting[slot.number] = slot.pid
        super()._end_idle(slot)

    def _slot_gone(self, number: int, status: int) -> None:
        self._exiting.pop(number, None)
        super()._slot_gone(number, status)

    def _library_gone(self) -> None:
        keepers = [*self._exiting.values(), *(slot.pid for slot in self._pool.slots.values())]
        self._keepers = {pid for pid in keepers if pid is not None}
        self._exiting.clear()
        super()._library_gone()
        if self._library.channel is None:  # else it was started again for pending tasks
            self._ending = self._ending or time.monotonic()

    @property
    def wait(self) -> float | None:
        """Seconds until :meth:`look` should be called; None if it need not be."""
        return LOOK_AT_END if self.is_ending else None

    def look(self, now: float) -> None:
        """Go on with the end of a library, if it is ending."""
        if self._ending is None:
            return
        if self._library.channel is not None:
            if not self._exiting or now - self._ending > IDLE_EXIT_SECONDS:
                self._library.kill(None)
            return
        self._keepers = set(filter(keeper.is_keeper, self._keepers))
        if not self._keepers:
            self._ending = None
            self.place.leave()
            self.start_waiting()
