"""How long tasks run, as learned from those that have ended."""

from __future__ import annotations

import math

from taskvine_manager.run_times import LARGE_RESULT, RunTimes
from taskvine_manager.scheduling.nodes import AHEAD, Node
from taskvine_manager.scheduling.tasks import Shape, Task
from taskvine_manager.scheduling.tuning import Tuning

_STORED_PER_SECOND = 4e9
"""Assumed speed at which slots write results to memory, in bytes per second."""
_READERS_AHEAD = 5
"""Readers of large results are sent ahead up to this many times the run time of other tasks."""


class Estimates:
    """Expected run times by category, which include the time to write the results."""

    def __init__(self, tuning: Tuning) -> None:
        self._tuning = tuning
        self._seconds = RunTimes()
        self._small: dict[str, int] = {}
        """Number of small results since the last large one, by category, unless there are many."""

    def learn(self, category: str, seconds: float, stored: int) -> None:
        """Take account of a task that ran for some seconds, and whose results are ``stored`` bytes."""
        self._seconds.learn(category, seconds + stored / _STORED_PER_SECOND)
        if stored >= LARGE_RESULT:
            self._small[category] = 0
        elif category in self._small:
            self._small[category] += 1
            if self._small[category] >= AHEAD:
                del self._small[category]

    def depth(self, task: Task) -> float:
        """Return how many tasks like this one a node may hold for each that fits at once.

        After a large result, only one may wait for each that runs; after further small results, as many as these. More
        large results would be made before the consumers of the first ones, which are sent later, and fill memory.
        """
        if task.suspect:
            return 1
        tuning = self._tuning
        seconds = self._seconds.get(task.profile.category)
        if seconds is None or seconds >= tuning.prefetch:
            return tuning.resource_submit_multiplier
        # Powers of two keep the number of depths small: each has its own list of candidates.
        small = self._small.get(task.profile.category, AHEAD)
        most = min(float(AHEAD), 2.0 ** ((small + 2).bit_length() - 1))
        ahead = min(most, 2.0 ** math.ceil(math.log2(tuning.prefetch / max(seconds, 1e-6))))
        return max(ahead, tuning.resource_submit_multiplier)

    def depth_of_reader(self, task: Task) -> float:
        """Return this number for a task that reads large results or files.

        Without a task that waits on the node, a slot is idle after each task until the next one comes. At most one
        waits for each that runs: more would make large results long before they are needed, and would wait where their
        inputs are while other nodes are idle.
        """
        if task.suspect:
            return 1
        seconds = self._seconds.get(task.profile.category, math.inf)
        is_sent_ahead = seconds < _READERS_AHEAD * self._tuning.prefetch
        return max(2.0 if is_sent_ahead else 1.0, self._tuning.resource_submit_multiplier)

    def wait(self, node: Node, shape: Shape) -> float:
        """Return the expected seconds until a busy node can take a task of a shape; infinite if they are unknown."""
        known = [self._seconds.get(task.profile.category, math.inf) for task in node.assigned.values()]
        at_once = node.capacity(shape, others=False)
        if not known or not at_once:
            return math.inf
        return sum(known) / len(known) / 2 * max(1, len(known) - at_once + 1)
