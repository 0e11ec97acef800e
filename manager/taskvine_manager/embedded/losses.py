"""Nodes that are killed on purpose, to try out how a workflow bears losses: when, and which.

Pure: it is told the time, and says whom it hits. Only time in which there is work counts, so that the same seed hits at
the same moments of the work, however long a program takes before it or in between.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence

INTERVAL = "executor.loss-interval"
SEED = "executor.loss-seed"
NATIVE = "enforce-worker-eviction-interval"
"""TaskVine's own name for the first; whole seconds."""


class Losses:
    """A Poisson process: gaps between losses are exponential, with the mean that ``executor.loss-interval`` says."""

    def __init__(self) -> None:
        self._interval = 0.0
        self._seed = 0
        self._random = random.Random(0)
        self._left = 0.0
        self._last = 0.0
        self._counts = False

    def tune(self, parameters: Mapping[str, float]) -> None:
        """Take tuning parameters; other ones than before begin anew."""
        intervals = [parameters[name] for name in (NATIVE, INTERVAL) if name in parameters]
        interval = float(max(intervals, default=self._interval))  # one of them at most is more than 0
        seed = int(parameters.get(SEED, self._seed))
        if (interval, seed) != (self._interval, self._seed):
            self._interval, self._seed = interval, seed
            self._random = random.Random(seed)
            self._draw()

    def _draw(self) -> None:
        self._left = self._random.expovariate(1.0 / self._interval) if self._interval else 0.0

    def strike(self, now: float, nodes: Sequence[str], *, busy: bool) -> str | None:
        """Say which node is to be killed now, if one is.

        Parameters
        ----------
        now : float
            Seconds, by any clock that does not go back.
        nodes : sequence of str
            The nodes there are, in the order in which they came.
        busy : bool
            Whether there is work from now on.

        Returns
        -------
        str or None
            One of the nodes. A loss that falls when there are none hits nobody.
        """
        if self._counts:
            self._left -= now - self._last
        self._last = now
        self._counts = busy and self._interval > 0
        if not self._counts or self._left > 0:
            return None
        self._draw()
        which = self._random.random()
        return nodes[int(which * len(nodes))] if nodes else None

    @property
    def wait(self) -> float | None:
        """Seconds until the next loss, counted from the last :meth:`strike`; None if nothing makes it come."""
        return max(0.0, self._left) if self._counts else None
