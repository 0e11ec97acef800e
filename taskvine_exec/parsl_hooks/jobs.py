"""The tables in which Parsl's providers keep their jobs.

A provider asks its batch system about a job only until the job has ended. It takes an answer for final too early if the
batch system does not list a new job yet, or if a file is still being written. There is no method to ask again.
"""

from __future__ import annotations

from typing import Any

from parsl.jobs.states import JobState, JobStatus

from taskvine_exec.parsl_hooks.switches import JOBS


def entry(provider: Any, job: Any) -> dict[str, Any]:
    """Return a provider's entry for a job; an empty dict if it has none."""
    table: dict[Any, dict[str, Any]] = getattr(provider, "resources", {})
    return table.get(job, {})


def ask_again(provider: Any, job: Any, state: JobState, known: JobStatus) -> JobStatus:
    """Make a provider ask about a job again; return the state that it reports until then, ``known`` if it cannot."""
    if not JOBS.on:
        return known
    status = entry(provider, job)["status"] = JobStatus(state)
    return status
