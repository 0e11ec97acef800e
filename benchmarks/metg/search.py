"""Efficiency, and the smallest duration of tasks that reaches one (pure)."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple


class Probe(NamedTuple):
    """An efficiency, measured with tasks of a duration in seconds."""

    duration: float
    efficiency: float


class Found(NamedTuple):
    """Outcome of a search.

    Parameters
    ----------
    metg : float or None
        The smallest duration found that reaches the efficiency, in seconds; None if none does.
    at_limit : bool
        Whether even the shortest duration that may be tried reaches it, so that the true value is smaller.
    probes : tuple of Probe
        All measurements, in their order.
    """

    metg: float | None
    at_limit: bool
    probes: tuple[Probe, ...]


def efficiency(*, useful: float, wall: float, cores: int) -> float:
    """Return the share of the cores' time that was useful work.

    Parameters
    ----------
    useful : float
        Seconds that all tasks together need on a free core.
    wall : float
        Seconds from the first submission to the last result.
    cores : int
        Number of cores.
    """
    return useful / (wall * cores)


def smallest(
    measure: Callable[[float], float],
    *,
    target: float = 0.5,
    start: float = 1e-3,
    least: float = 1e-5,
    most: float = 4.0,
    within: float = 1.1,
) -> Found:
    """Find the smallest duration with which the efficiency reaches a target, by bisection.

    The search goes up or down from ``start`` until one duration reaches the target and a shorter one does not. It then
    halves the interval between their logarithms.

    Parameters
    ----------
    measure : callable
        Returns the efficiency with tasks of a duration.
    target : float
        The efficiency to reach.
    start : float
        First duration to try, in seconds.
    least, most : float
        Shortest and longest duration to try.
    within : float
        Greatest quotient of the durations on both sides of the result, above one.
    """
    probes: list[Probe] = []

    def reached(duration: float) -> bool:
        probes.append(Probe(duration, measure(duration)))
        return probes[-1].efficiency >= target

    below = above = None  # the longest that does not reach the target, the shortest that does
    duration = min(max(start, least), most)
    while below is None or above is None:
        if reached(duration):
            above = duration
            if duration <= least:
                return Found(duration, True, tuple(probes))
            duration = max(least, duration / _step(probes[-1], target))
        else:
            below = duration
            if duration >= most:
                return Found(above, False, tuple(probes))
            duration = min(most, duration * _step(probes[-1], target))
    while above / below > within:
        middle = math.sqrt(below * above)
        if reached(middle):
            above = middle
        else:
            below = middle
    return Found(above, False, tuple(probes))


def _step(probe: Probe, target: float) -> float:
    """Return the factor to the next duration: between 1.5 and 16, so that a constant cost of a task is just passed.

    With a constant cost, (1 - efficiency) / efficiency is that cost divided by the duration.
    """
    share = min(max(probe.efficiency, 1e-3), 1 - 1e-3)
    cost = (1 - share) / share * target / (1 - target)
    return min(max(1.2 * (cost if cost > 1 else 1 / cost), 1.5), 16.0)
