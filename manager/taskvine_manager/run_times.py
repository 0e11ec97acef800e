"""How long tasks of a category run, as learned from those that have ended."""

from __future__ import annotations

LARGE_RESULT = 1 << 20
"""Size in bytes from which a task's result is large: nodes do not make many of them ahead of their use."""


class RunTimes(dict[str, float]):
    """Expected run time in seconds, by category."""

    def learn(self, category: str, seconds: float) -> None:
        """Take account of the run time of a task.

        A longer run counts for more than a shorter one: a long task that is believed to be short delays others.
        """
        known = self.get(category, seconds)
        self[category] = known + (0.5 if seconds > known else 0.1) * (seconds - known)
