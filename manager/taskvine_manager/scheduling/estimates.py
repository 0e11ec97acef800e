"""How long tasks run, as learned from those that have ended."""

from __future__ import annotations

import math

from taskvine_manager.run_times import RunTimes
from taskvine_manager.scheduling.nodes import AHEAD, Node
from taskvine_manager.scheduling.tasks import Shape, Task
from taskvine_manager.scheduling.tuning import Tuning


class Estimates:
    """Expected run times by category."""

    def __init__(self, tuning: Tuning) -> None:
        self._tuning = tuning
        self._seconds = RunTimes()
        self.learn = self._seconds.learn
        """Take account of the run time of a task."""

    def depth(self, task: Task) -> float:
        """Return how many tasks like this one a node may hold for each that fits at once."""
        if task.suspect:
            return 1
        tuning = self._tuning
        seconds = self._seconds.get(task.profile.category)
        if seconds is None or seconds >= tuning.prefetch:
            return tuning.resource_submit_multiplier
        # Powers of two keep the number of depths small: each has its own list of candidates.
        ahead = min(float(AHEAD), 2.0 ** math.ceil(math.log2(tuning.prefetch / max(seconds, 1e-6))))
        return max(ahead, tuning.resource_submit_multiplier)

    def wait(self, node: Node, shape: Shape) -> float:
        """Return the expected seconds until a busy node can take a task of a shape; infinite if they are unknown."""
        known = [self._seconds.get(task.profile.category, math.inf) for task in node.assigned.values()]
        at_once = node.capacity(shape, others=False)
        if not known or not at_once:
            return math.inf
        return sum(known) / len(known) / 2 * max(1, len(known) - at_once + 1)
