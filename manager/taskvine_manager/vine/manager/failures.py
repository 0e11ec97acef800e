"""Failure records of TaskVine tasks that ended without an answer of a supervisor.

TaskVine's result names alone do not tell a user what happened, and none of them means that a function raised. If there
is an :class:`~taskvine_manager.vine.parcels.Answer`, only the answer counts. This table covers the other cases, and a
test checks that it has all result constants of ``ndcctools``.
"""

from __future__ import annotations

import enum
from typing import NamedTuple

from taskvine_manager.runtime import failure


class Fault(enum.Enum):
    """Cause of a failure, which decides what follows."""

    NONE = "nobody"
    SYSTEM = "the system: the tasks are retried, up to a limit"
    TASK = "the TaskVine task: its tasks have failed"


class Verdict(NamedTuple):
    """Meaning of a result: the cause, the kind of the failure record, and words for it."""

    fault: Fault
    kind: str
    words: str


FORSAKEN = "forsaken"
"""Result of a TaskVine task that its worker gave up before it ran."""
VERDICTS: dict[str, Verdict] = {
    "success": Verdict(Fault.SYSTEM, "node-lost", "it ended without an answer"),
    "unknown": Verdict(Fault.SYSTEM, "node-lost", "TaskVine does not know how it ended"),
    "signal": Verdict(Fault.SYSTEM, "node-lost", "its process was killed by a signal"),
    FORSAKEN: Verdict(Fault.SYSTEM, "node-lost", "its worker gave it up"),
    "max retries": Verdict(Fault.SYSTEM, "node-lost", "its workers were lost"),
    "library exit": Verdict(Fault.SYSTEM, "library", "the library of its worker ended"),
    "missing library": Verdict(Fault.SYSTEM, "library", "TaskVine has given up its library"),
    "output missing": Verdict(Fault.SYSTEM, "node-lost", "its answer is not there"),
    "output transfer error": Verdict(Fault.SYSTEM, "node-lost", "its answer could not be transferred"),
    "stdout missing": Verdict(Fault.SYSTEM, "node-lost", "its worker was lost as it ended"),
    "fixed location missing": Verdict(Fault.SYSTEM, "node-lost", "no worker has the file that it had to run next to"),
    "cancelled": Verdict(Fault.NONE, "cancelled", "it was cancelled"),
    "input missing": Verdict(Fault.TASK, "file-missing", "an input file is not there"),
    "resource exhaustion": Verdict(Fault.TASK, "memory", "it used more than its worker has"),
    "sandbox exhaustion": Verdict(Fault.TASK, "disk-full", "its sandbox grew beyond its worker's disk"),
    "max end time": Verdict(Fault.TASK, "node-lost", "its end time passed before it started"),
    "max wall time": Verdict(Fault.TASK, "node-lost", "it exceeded its maximum run time"),
    "monitor error": Verdict(Fault.TASK, "node-lost", "TaskVine's resource monitor failed"),
}
"""Meanings of results, by the names that ``Task.result`` gives."""


def verdict(result: str) -> Verdict:
    """Return the meaning of a result; a result missing from the table counts as a fault of the system."""
    return VERDICTS.get(result, Verdict(Fault.SYSTEM, "node-lost", f"TaskVine says {result!r}"))


def record(result: str, tries: int) -> bytes:
    """Return the failure record of a task whose TaskVine task ended with a result at attempt number ``tries``."""
    said = verdict(result)
    again = f", at the {tries}. try" if tries > 1 else ""
    return failure.lost(said.kind, f"{said.words}{again} (TaskVine: {result})")
