"""What TaskVine says of a task that brought no answer of ours, as failure records.

TaskVine's result names alone do not tell a user what happened, and none of them means that a function raised: where
there is an :class:`~taskvine_manager.vine.parcels.Answer`, that counts, whatever TaskVine says. The table is for the
rest, and it is complete: a test holds it against the constants of ``ndcctools``.
"""

from __future__ import annotations

import enum
from typing import NamedTuple

from taskvine_manager.runtime import failure


class Fault(enum.Enum):
    """Who is to blame, which decides what follows."""

    NONE = "nobody"
    SYSTEM = "the system: the calls are tried again, so often"
    TASK = "the task: its calls have failed"


class Verdict(NamedTuple):
    """What a result means: who is to blame, the kind of our record, and words for it."""

    fault: Fault
    kind: str
    words: str


FORSAKEN = "forsaken"
"""The result of a task that its worker gave up before it ran."""
VERDICTS: dict[str, Verdict] = {
    "success": Verdict(Fault.SYSTEM, "node-lost", "it ended without an answer"),
    "unknown": Verdict(Fault.SYSTEM, "node-lost", "TaskVine does not know how it ended"),
    "signal": Verdict(Fault.SYSTEM, "node-lost", "its process was killed by a signal"),
    FORSAKEN: Verdict(Fault.SYSTEM, "node-lost", "its worker gave it up"),
    "max retries": Verdict(Fault.SYSTEM, "node-lost", "its workers were lost"),
    "library exit": Verdict(Fault.SYSTEM, "library", "the library of its worker ended"),
    "missing library": Verdict(Fault.SYSTEM, "library", "TaskVine has given its library up"),
    "output missing": Verdict(Fault.SYSTEM, "node-lost", "its answer is not there"),
    "output transfer error": Verdict(Fault.SYSTEM, "node-lost", "its answer could not be brought home"),
    "stdout missing": Verdict(Fault.SYSTEM, "node-lost", "its worker was lost as it ended"),
    "fixed location missing": Verdict(Fault.SYSTEM, "node-lost", "no worker has a file that it was to be run beside"),
    "cancelled": Verdict(Fault.NONE, "cancelled", "it was cancelled"),
    "input missing": Verdict(Fault.TASK, "file-missing", "an input file is not there"),
    "resource exhaustion": Verdict(Fault.TASK, "memory", "it used more than its worker has"),
    "sandbox exhaustion": Verdict(Fault.TASK, "disk-full", "its sandbox grew beyond its worker's disk"),
    "max end time": Verdict(Fault.TASK, "node-lost", "its time was over before it began"),
    "max wall time": Verdict(Fault.TASK, "node-lost", "it ran for longer than it may"),
    "monitor error": Verdict(Fault.TASK, "node-lost", "TaskVine's resource monitor failed"),
}
"""By the names that ``Task.result`` gives."""


def verdict(result: str) -> Verdict:
    """What a result means; one that this table has not heard of is taken for a fault of the system."""
    return VERDICTS.get(result, Verdict(Fault.SYSTEM, "node-lost", f"TaskVine says {result!r}"))


def record(result: str, tries: int) -> bytes:
    """Failure record of a call whose TaskVine task ended so, at its last try."""
    said = verdict(result)
    again = f", at the {tries}. try" if tries > 1 else ""
    return failure.lost(said.kind, f"{said.words}{again} (TaskVine: {result})")
