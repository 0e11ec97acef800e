"""All libraries of a node: the default one and the named ones, with their slots."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from taskvine_manager.node.calls import Call, Need, Resources
from taskvine_manager.node.named_slots import NamedSlots
from taskvine_manager.node.places import enough
from taskvine_manager.node.slots import Slots

_NOTHING = Need(0.0, 0.0)
First = Callable[[], Call | None]
"""Returns the first task that waits somewhere else on the node."""


class Libraries:
    """Passes function calls to their library, and ends idle libraries whose place is needed.

    It has the methods of :class:`~taskvine_manager.node.slots.Slots`, which mean the same here for all libraries. Nodes
    of executors without named libraries use the default library's slots directly.

    Parameters
    ----------
    default : Slots
        Slots of the default library.
    named : dict
        Slots of the named libraries, by name.
    resources : Resources
        The node's resources.
    first_oneshot : callable
        Returns the first L1 task that waits, if there is one.
    """

    def __init__(
        self, default: Slots, named: Mapping[str, NamedSlots], resources: Resources, first_oneshot: First
    ) -> None:
        self._default = default
        self._named = dict(named)
        self._all: list[Slots] = [default, *named.values()]
        self._resources = resources
        self._firsts = (default.first, first_oneshot)

    # --- tasks ---

    def start(self) -> None:
        """Start the default library. The others start when a call needs them."""
        self._default.start()

    def add(self, call: Call) -> None:
        """Queue a task for its library."""
        library = call.profile.library
        (self._default if library is None else self._named[library.name]).add(call)

    def pump(self) -> None:
        """Hand pending tasks to slots."""
        for slots in self._all:
            slots.pump()

    def rebalance(self) -> bool:
        """Take tasks back from slots that are busy with a long one; return whether any slot has several tasks."""
        crowded = [slots.rebalance() for slots in self._all]
        return any(crowded)

    def hand_back(self) -> list[Call]:
        """Remove all tasks that have not begun, and return them."""
        return [call for slots in self._all for call in slots.hand_back()]

    def surplus(self, categories: set[str]) -> list[Call]:
        """Remove most tasks of some categories that have not begun, and return them."""
        return [call for slots in self._all for call in slots.surplus(categories)]

    def cancel(self, numbers: set[int], record: bytes) -> list[Call]:
        """Cancel tasks: remove and return those not begun; kill the slots of those that run."""
        return [call for slots in self._all for call in slots.cancel(numbers, record)]

    def running(self) -> Iterable[tuple[int, Call]]:
        """Return the process id of each busy slot's keeper, and its task."""
        return [pair for slots in self._all for pair in slots.running()]

    def forget_functions(self, keys: set[str]) -> None:
        """Tell slots to forget functions that no task here needs."""
        for slots in self._all:
            slots.forget_functions(keys)

    # --- libraries ---

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the named libraries that run."""
        return tuple(name for name, slots in self._named.items() if slots.is_running)

    def tune(self, parameters: Mapping[str, float]) -> None:
        """Apply tuning parameters."""
        for slots in self._all:
            slots.tune(parameters)

    @property
    def wait(self) -> float | None:
        """Seconds until :meth:`look` should be called; None if it need not be."""
        return min((wait for slots in self._named.values() if (wait := slots.wait) is not None), default=None)

    def look(self, now: float) -> None:
        """Go on with the end of libraries, and make room for tasks and libraries that wait for memory or gpus."""
        for slots in self._named.values():
            slots.look(now)
        self._make_room()

    def _make_room(self) -> None:
        """Start the libraries that calls wait for, in the order of their first calls; end idle ones for what waits.

        A library that takes memory or gpus does not start while an earlier task waits for some.
        """
        waiting: list[tuple[int, Need, NamedSlots | None]] = []
        for slots in self._named.values():
            if not slots.is_ending and (wanted := slots.want) is not None:
                waiting.append((*wanted, slots))
        for first in self._firsts:
            if (call := first()) is not None:
                waiting.append((call.invocation.number, call.need._replace(cores=0.0), None))
        is_held_back = False
        for _, want, named in sorted(waiting, key=lambda each: each[0]):
            if is_held_back and want != _NOTHING:
                continue
            if not self._resources.fits(want):
                self._end_idle(want)
                is_held_back = True
            elif named is not None:
                named.start_waiting()

    def _end_idle(self, want: Need) -> None:
        coming = [slots.place for slots in self._named.values() if slots.is_ending and slots.place.is_taken]
        idle = sorted((slots for slots in self._named.values() if slots.is_idle), key=lambda slots: slots.used)
        for slots in enough(want, self._resources, coming, ((slots, slots.place) for slots in idle)):
            slots.end()

    def stop(self) -> None:
        """End every slot and library."""
        for slots in self._all:
            slots.stop()
