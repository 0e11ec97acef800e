"""Steps in the lives of a node's processes and contexts, which the manager adds to the record of the run."""

from __future__ import annotations

from typing import NamedTuple

STARTED, READY, ENDED = "started", "ready", "ended"
MOST_STEPS = 1000
"""Maximum number of steps that are kept until they are sent."""


class Step(NamedTuple):
    """A step: the fields of :class:`taskvine_manager.record.events.Process` after the node."""

    kind: str
    name: str
    step: str
    status: int | None = None
    reason: str = ""


class Steps:
    """The steps that were not sent yet.

    Parameters
    ----------
    wanted : bool
        Whether the run is recorded in detail; otherwise steps are not kept.
    """

    def __init__(self, *, wanted: bool) -> None:
        self._wanted = wanted
        self._steps: list[Step] = []

    def add(self, kind: str, name: str, step: str, status: int | None = None, reason: str = "") -> None:
        """Keep a step, unless too many were not sent yet."""
        if self._wanted and len(self._steps) < MOST_STEPS:
            self._steps.append(Step(kind, name, step, status, reason))

    def first(self, count: int = MOST_STEPS) -> tuple[Step, ...]:
        """Return the first steps, which stay until :meth:`sent`."""
        return tuple(self._steps[:count])

    def sent(self, count: int) -> None:
        """Remove the first steps."""
        del self._steps[:count]
