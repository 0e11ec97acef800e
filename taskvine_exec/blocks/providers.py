"""Facts about jobs that Parsl's providers do not report, and job states that they use with another meaning.

The providers do not document them. ``docs/explanation/decisions.md`` has a table of the findings from their code.
"""

from __future__ import annotations

import copy
import glob
import os
import shlex

from parsl.jobs.states import JobState
from parsl.providers import CondorProvider, GridEngineProvider, LSFProvider
from parsl.providers.base import ExecutionProvider


def own_copy(provider: ExecutionProvider) -> ExecutionProvider:
    """Copy a provider and its job table, because the DFK and the executor set attributes of providers."""
    own = copy.copy(provider)
    if hasattr(own, "resources"):
        own.resources = dict(own.resources)
    return own


def survives_shell(path: str) -> bool:
    """Whether a path needs no quotes in a shell command. Parsl's providers do not quote paths."""
    return shlex.quote(path) == path


def suspended(provider: ExecutionProvider | None) -> frozenset[JobState]:
    """Return the final states that a provider reports for suspended jobs."""
    # LSFProvider reports a killed job as FAILED, so CANCELLED means suspended.
    return frozenset([JobState.CANCELLED]) if isinstance(provider, LSFProvider) else frozenset()


def stuck(provider: ExecutionProvider | None) -> dict[JobState, str]:
    """Return the final states that a provider reports for held jobs, each with a message for the user.

    Such a job may run later or never.
    """
    if isinstance(provider, GridEngineProvider):  # also, for a short time, a job on its way to a node
        return {JobState.FAILED: "Grid Engine has it in error or suspended: qstat -j says why"}
    if isinstance(provider, CondorProvider):
        return {JobState.FAILED: "HTCondor has it on hold: condor_q -hold says why"}
    return {}


def output_paths(provider: ExecutionProvider | None, name: str) -> tuple[str, ...]:
    """Find the files of a job's standard output and standard error, from the submit script of the provider.

    Parameters
    ----------
    provider : ExecutionProvider or None
        The provider that has submitted the job.
    name : str
        The job's name, as given to the provider.

    Returns
    -------
    tuple of str
        Two paths of files, which may not exist yet. Empty if the provider writes no submit script.
    """
    directory = getattr(provider, "script_dir", None)
    if not isinstance(directory, str):
        return ()
    start, end = os.path.join(glob.escape(os.path.abspath(directory)), ""), f"{glob.escape(name)}.*.submit"
    scripts = glob.glob(start + end) + glob.glob(f"{start}parsl.{end}")  # some providers add a prefix to the name
    if not scripts:
        return ()
    stem = max(scripts, key=os.path.getmtime)
    if isinstance(provider, CondorProvider):
        stem = stem[: -len(".submit")]
    return (f"{stem}.stdout", f"{stem}.stderr")
