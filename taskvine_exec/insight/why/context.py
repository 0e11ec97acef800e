"""What all explanations look up: a state, the time, and indices that are built when they are first needed."""

from __future__ import annotations

import functools
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from taskvine_exec.insight.state import State, Task
from taskvine_manager.record import events
from taskvine_manager.wire.messages import Profile

_NOBODY = Profile(-1, "", "", "", None, None, None, None, 0.0, "")
FEWEST = 5
"""Fewest measured tasks of a category that say how long its tasks take."""


class Measured(NamedTuple):
    """Run times of the tasks of a category that returned: their number, and two quantiles in seconds."""

    tasks: int
    median: float
    most: float


class Context:
    """A state with its indices.

    Parameters
    ----------
    state : State
        The state of the run.
    now : float or None
        The present time, in seconds since the epoch; None for the time of the record's last entry.
    is_live : bool or None
        Whether the manager still runs; None if that is unknown.
    """

    def __init__(self, state: State, now: float | None, is_live: bool | None) -> None:
        self.state = state
        self.now = state.now if now is None else max(now, state.now)
        self.is_live = is_live
        self._reasons: dict[tuple[int, bool], tuple[float, events.Waiting] | None] = {}

    def profile(self, task: Task) -> Profile:
        """Return the profile of a task; an empty one if the record lacks it."""
        return self.state.profiles.get(task.profile, _NOBODY)

    def name(self, task: Task) -> str:
        """Return what texts call a task."""
        name = self.profile(task).name
        number = task.number if task.origin is None else task.origin
        return f"task {number} ({name})" if name else f"task {number}"

    def since(self, time: float) -> float:
        """Return the seconds since a time."""
        return max(0.0, self.now - time)

    @functools.cached_property
    def makers(self) -> Mapping[str, Sequence[Task]]:
        """The tasks that make each file, those that recreate it last. The state forgets this of files that are gone."""
        found: dict[str, list[Task]] = defaultdict(list)
        for task in self.state.tasks.values():
            for use in task.outputs:
                if use.kind != "local":
                    found[use.source].append(task)
        return found

    def maker(self, file: str) -> Task | None:
        """Return the task that makes a file: one that has not ended, or the last one."""
        tasks = self.makers.get(file, ())
        return next((task for task in reversed(tasks) if not task.outcome), tasks[-1] if tasks else None)

    @functools.cached_property
    def measured(self) -> Mapping[str, Measured]:
        """Run times by category, of those with enough tasks that returned."""
        times: dict[str, list[float]] = defaultdict(list)
        for task in self.state.tasks.values():
            if task.outcome == "returned" and task.started:
                times[self.state.category(task)].append(task.seconds)
        found: dict[str, Measured] = {}
        for category, seconds in times.items():
            if (count := len(seconds)) >= FEWEST:
                seconds.sort()
                found[category] = Measured(count, seconds[count // 2], seconds[min(count - 1, int(count * 0.95))])
        return found

    @functools.cached_property
    def ready(self) -> Sequence[Task]:
        """Tasks that could run, in the order in which they are placed."""
        waiting = [task for task in self.state.tasks.values() if not task.outcome and task.state == "ready"]
        return sorted(waiting, key=self.rank)

    def rank(self, task: Task) -> tuple[float, int]:
        """Return the place of a task in the queue: higher priorities and earlier tasks come first."""
        return (-self.profile(task).priority, task.number)

    def failure(self, task: Task) -> events.Failure | None:
        """Return how a task failed, with the text of an earlier task if that was the same."""
        failure = task.failure
        if failure is None or failure.same is None:
            return failure
        first = self.state.tasks.get(failure.same)
        return failure if first is None or first.failure is None else failure._replace(text=first.failure.text)

    def reason(self, task: Task) -> tuple[float, events.Waiting] | None:
        """Return the newest reason that holds for a task that could run, with its time."""
        key = (task.profile, bool(task.attempts))
        if key not in self._reasons:
            shape = _shape(self.profile(task))
            known = [
                said
                for number, said in self.state.reasons.items()
                if (profile := self.state.profiles.get(number)) is not None and _shape(profile) == shape
                if said[1].why != "suspect" or task.attempts
            ]
            self._reasons[key] = max(known, key=lambda said: said[0], default=None)
        said = self._reasons[key]
        if task.waiting is not None and (said is None or task.waiting_since >= said[0]):
            return (task.waiting_since, task.waiting)
        return said


def _shape(profile: Profile) -> tuple[object, ...]:
    """Return what decides on which nodes tasks fit."""
    return (
        profile.mode,
        profile.cores,
        profile.memory,
        profile.disk,
        profile.gpus,
        profile.gpu_memory,
        profile.library,
    )
