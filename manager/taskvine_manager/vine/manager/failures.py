"""Failure records of TaskVine tasks that ended without an answer of a supervisor.

TaskVine's result names alone do not tell a user what happened, and none of them means that a function raised. If there
is an :class:`~taskvine_manager.vine.parcels.Answer`, only the answer counts. This table covers the other cases, and a
test checks that it has all result constants of ``ndcctools``.
"""

from __future__ import annotations

from typing import NamedTuple

from taskvine_manager.runtime import failure


class Verdict(NamedTuple):
    """Meaning of a result: the kind of the failure record, and words for it."""

    kind: str
    words: str
    is_retried: bool = True
    """Whether the tasks are retried, up to a limit; otherwise they have failed."""


FORSAKEN = "forsaken"
"""Result of a TaskVine task that its worker gave up before it ran."""
VERDICTS: dict[str, Verdict] = {
    "success": Verdict("node-lost", "it ended without an answer"),
    "unknown": Verdict("node-lost", "TaskVine does not know how it ended"),
    "signal": Verdict("node-lost", "its process was killed by a signal"),
    FORSAKEN: Verdict("node-lost", "its worker gave it up"),
    "max retries": Verdict("node-lost", "its workers were lost"),
    "library exit": Verdict("library", "the library of its worker ended"),
    "missing library": Verdict("library", "TaskVine has given up its library"),
    "output missing": Verdict("node-lost", "its answer is not there"),
    "output transfer error": Verdict("node-lost", "its answer could not be transferred"),
    "stdout missing": Verdict("node-lost", "its worker was lost as it ended"),
    "fixed location missing": Verdict("node-lost", "no worker has the file that it had to run next to"),
    "cancelled": Verdict("cancelled", "it was cancelled"),
    "input missing": Verdict("file-missing", "an input file is not there", is_retried=False),
    "resource exhaustion": Verdict("memory", "it used more than its worker has", is_retried=False),
    "sandbox exhaustion": Verdict("disk-full", "its sandbox grew beyond its worker's disk", is_retried=False),
    "max end time": Verdict("node-lost", "its end time passed before it started", is_retried=False),
    "max wall time": Verdict("node-lost", "it exceeded its maximum run time", is_retried=False),
    "monitor error": Verdict("node-lost", "TaskVine's resource monitor failed", is_retried=False),
}
"""Meanings of results, by the names that ``Task.result`` gives."""


def verdict(result: str) -> Verdict:
    """Return the meaning of a result; a result missing from the table is no fault of the tasks."""
    return VERDICTS.get(result, Verdict("node-lost", f"TaskVine says {result!r}"))


def record(result: str, tries: int) -> bytes:
    """Return the failure record of a task whose TaskVine task ended with a result at attempt number ``tries``."""
    said = verdict(result)
    again = f", at the {tries}. try" if tries > 1 else ""
    return failure.lost(said.kind, f"{said.words}{again} (TaskVine: {result})")
