"""Why tasks that could run are not sent to TaskVine, for the record of the run.

The shell asks about once a second. Only the first task of each kind is looked at: the others wait behind it.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Hashable, Iterator

from taskvine_manager.record.events import Event, Waiting
from taskvine_manager.vine.manager.batching import Room
from taskvine_manager.vine.manager.fleet import Fleet
from taskvine_manager.vine.manager.tasks import State, Task
from taskvine_manager.vine.manager.workload import Workload

MOST_LACKING = 4
"""Maximum number of nodes of which one reason says what they lack."""


class Reasons:
    """What the record says of waiting tasks so far.

    Parameters
    ----------
    workload : Workload
        The tasks.
    fleet : Fleet
        The nodes.
    has_suspect : callable
        Whether a task whose node was lost is being retried.
    details : list or None
        Takes events for the record; None if there are to be none.
    """

    def __init__(
        self, workload: Workload, fleet: Fleet, has_suspect: Callable[[], bool], details: list[Event] | None
    ) -> None:
        self._workload, self._fleet, self._has_suspect, self._details = workload, fleet, has_suspect, details
        self._said: dict[Hashable, Waiting] = {}

    @property
    def are_due(self) -> bool:
        """Whether tasks wait, and the record shall say why."""
        return self._details is not None and bool(self._workload.queued or self._workload.unfit)

    def look(self, awaited: int) -> None:
        """Record the reasons that have changed; no task is sent before ``awaited`` nodes have joined."""
        said: dict[Hashable, Waiting] = {}
        for key, task, count in self._heads():
            reason = said[key] = self._of(task, count, awaited)
            before = self._said.get(key)
            if (before is None or before[1:4] != reason[1:4]) and self._details is not None:
                self._details.append(reason)
        self._said = said

    def _heads(self) -> Iterator[tuple[Hashable, Task, int]]:
        """Yield the first task of each kind, and how many there are."""
        yield from self._workload.backlog.heads()
        for kind, state in ((self._workload.suspects, State.READY), (self._workload.unfit, State.UNFIT)):
            alive = [task for task in kind if task.state is state]
            if alive:
                yield state, alive[0], len(alive)

    def _of(self, task: Task, count: int, awaited: int) -> Waiting:
        number, rooms, joined = task.invocation.number, self._fleet.rooms, self._fleet.joined
        if task.state is State.UNFIT:
            return Waiting(number, "too-large", "", self._lacking(rooms, task, empty=True), count)
        if not rooms:
            return Waiting(number, "no-node", alike=count)
        if joined < awaited and not self._workload.done:
            return Waiting(number, "few-nodes", f"{joined} of {awaited}", alike=count)
        if task.suspect and self._has_suspect():
            return Waiting(number, "suspect", alike=count)
        return Waiting(number, "full", "", self._lacking(rooms, task, empty=False), count)

    def _lacking(self, rooms: list[Room], task: Task, *, empty: bool) -> tuple[tuple[str, str], ...]:
        few = itertools.islice(rooms, MOST_LACKING)
        return tuple((room.key, room.scarce(task.need, empty=empty)) for room in few)
