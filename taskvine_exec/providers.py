"""What Parsl's providers leave out about their jobs, and which of their words mean other things than they say.

The providers' documentation does not tell; ``docs/decisions.md`` has a table of what was read in their code.
"""

from __future__ import annotations

import glob
import os

from parsl.jobs.states import JobState
from parsl.providers import CondorProvider, GridEngineProvider, LSFProvider
from parsl.providers.base import ExecutionProvider


def suspended(provider: ExecutionProvider | None) -> frozenset[JobState]:
    """States by which a provider means a job that is suspended, though they read as ends."""
    # A job that was killed is FAILED to this provider.
    return frozenset([JobState.CANCELLED]) if isinstance(provider, LSFProvider) else frozenset()


def stuck(provider: ExecutionProvider | None) -> dict[JobState, str]:
    """States by which a provider means a job that its batch system has, which may run later or never, and what to tell
    the user of such a job."""
    if isinstance(provider, GridEngineProvider):  # also of a job on its way to a node, but not for long
        return {JobState.FAILED: "Grid Engine has it in error or suspended: qstat -j says why"}
    if isinstance(provider, CondorProvider):
        return {JobState.FAILED: "HTCondor has it on hold: condor_q -hold says why"}
    return {}


def output_paths(provider: ExecutionProvider | None, name: str) -> tuple[str, ...]:
    """Where a job's standard output and standard error go, by the submit script that the provider has written.

    Parameters
    ----------
    provider : ExecutionProvider or None
        It has submitted the job.
    name : str
        What was given to it as the job's name.

    Returns
    -------
    tuple of str
        Two paths, of files that may not exist yet; none if the provider writes no such script.
    """
    directory = getattr(provider, "script_dir", None)
    if not isinstance(directory, str):
        return ()
    start, end = os.path.join(glob.escape(os.path.abspath(directory)), ""), f"{glob.escape(name)}.*.submit"
    scripts = glob.glob(start + end) + glob.glob(f"{start}parsl.{end}")  # some providers put a word before the name
    if not scripts:
        return ()
    stem = max(scripts, key=os.path.getmtime)
    if isinstance(provider, CondorProvider):
        stem = stem[: -len(".submit")]
    return (f"{stem}.stdout", f"{stem}.stderr")
