"""Deliberate losses of nodes, to test how a workflow copes with them: when a node is killed, and which one.

The module is pure: it is told the time, and returns the node to kill. Only time with work counts, so that the same seed
kills nodes at the same moments of the work, however long a program is idle before it or in between.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence

from taskvine_manager.parameters.own import LOSS_INTERVAL, LOSS_SEED
from taskvine_manager.parameters.taskvine import ENFORCE_WORKER_EVICTION_INTERVAL


class Losses:
    """A Poisson process: gaps between losses are exponential, with the mean ``executor.loss-interval``."""

    def __init__(self) -> None:
        self._interval = 0.0
        self._seed = 0
        self._random = random.Random(0)
        self._left = 0.0
        self._last = 0.0
        self._counts = False

    def tune(self, parameters: Mapping[str, float]) -> None:
        """Apply tuning parameters; if they have changed, restart the random sequence."""
        names = (ENFORCE_WORKER_EVICTION_INTERVAL.name, LOSS_INTERVAL.name)
        intervals = [parameters[name] for name in names if name in parameters]
        interval = float(max(intervals, default=self._interval))  # at most one of them is more than 0
        seed = int(parameters.get(LOSS_SEED.name, self._seed))
        if (interval, seed) != (self._interval, self._seed):
            self._interval, self._seed = interval, seed
            self._random = random.Random(seed)
            self._draw()

    def _draw(self) -> None:
        self._left = self._random.expovariate(1.0 / self._interval) if self._interval else 0.0

    def strike(self, now: float, nodes: Sequence[str], *, busy: bool) -> str | None:
        """Return the node to kill now, if a loss is due.

        Parameters
        ----------
        now : float
            Seconds, by any clock that does not go back.
        nodes : sequence of str
            All nodes, in the order in which they joined.
        busy : bool
            Whether there is work from now on.

        Returns
        -------
        str or None
            One of the nodes; None if no loss is due, or if there are no nodes.
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
        """Seconds from the last :meth:`strike` until the next loss; None if there is no work, or losses are off."""
        return max(0.0, self._left) if self._counts else None
