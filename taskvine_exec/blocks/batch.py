"""The jobs of blocks at their provider: submitted, asked about, and described.

The strategy's thread and the watcher's thread call these methods while they hold the lock of the provider.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from parsl.jobs.states import JobState, JobStatus
from parsl.providers import LocalProvider
from parsl.providers.base import ExecutionProvider
from parsl.providers.cluster_provider import ClusterProvider

from taskvine_exec.blocks import providers, slurm
from taskvine_exec.blocks.jobs import Job, Jobs
from taskvine_exec.errors import WorkerLaunchFailed
from taskvine_exec.parsl_hooks.jobs import ask_again, entry

logger = logging.getLogger(__name__)

_LOOK_SECONDS = 0.5
"""Seconds between two looks at blocks without a node, for LocalProvider, which only reads files."""
_OUTPUTS = 32
"""Largest number of jobs whose output files are watched."""
_UNREADABLE = re.compile(r"Cannot parse exit code:\s*")
_WRITTEN_SECONDS = 1.0
"""Time limit for a job of LocalProvider to write its exit code into the file that it has emptied."""
_LINGER = "\ntrap wait TERM INT"
"""Makes the script of a job wait for its nodes to clean up. A batch system sends SIGTERM to a job that it ends, and
kills the rest of the job as soon as the script has ended."""
SHOWN = 5
"""Largest number of blocks that a log message names."""


def jobs_of(provider: ExecutionProvider | None) -> Jobs:
    """Make the record of a provider's jobs."""
    local = provider is None or isinstance(provider, LocalProvider)
    return Jobs(
        _LOOK_SECONDS if local or provider is None else float(provider.status_polling_interval),
        trusted=local or not hasattr(provider, "resources"),
        suspended=providers.suspended(provider),
        stuck=providers.stuck(provider),
    )


class Batch:
    """The jobs of one executor's blocks at their provider.

    Parameters
    ----------
    provider : ExecutionProvider
        The executor's own copy of the provider, which is changed.
    jobs : Jobs
        Known state of its jobs.
    prefix : str
        Start of log messages.
    cancel : callable
        Has a block cancelled soon.
    """

    def __init__(self, provider: Any, jobs: Jobs, prefix: str, cancel: Callable[[str], None]) -> None:
        self._provider = provider
        self._jobs = jobs
        self._prefix = prefix
        self._cancel = cancel
        self._heard: dict[str, Any] = {}  # the provider's last answer, by block: the same object is no news
        self._written: dict[str, tuple[str, ...]] = {}  # paths of output, by block
        self._outputs: dict[str, tuple[int, ...]] = {}  # state of these files, by block
        self._unreadable: dict[str, float] = {}  # since when the exit code is unreadable, by block

    def prepare(self, scripts: str) -> None:
        """Set up the provider's submit scripts; they go to ``scripts`` if it has no directory that it can use."""
        provider = self._provider
        if hasattr(provider, "script_dir"):
            given = provider.script_dir
            if given is None or not providers.survives_shell(str(given)):
                provider.script_dir = scripts
        if isinstance(self._provider, ClusterProvider) and isinstance(getattr(provider, "worker_init", None), str):
            provider.worker_init += _LINGER

    def submit(self, block: str, command: str, name: str) -> Any:
        """Submit the job of a block; return its number, or None if the provider launched no job."""
        job = self._provider.submit(command, 1, name)
        if not job:
            return None
        self._jobs.launched(block, job, time.monotonic())
        self._heard[block] = entry(self._provider, job).get("status")
        self._written[block] = providers.output_paths(self._provider, name)
        return job

    def weigh(self, block: str, said: JobStatus, now: float) -> JobStatus:
        """Decide the status of a block from the provider's report."""
        job = self._jobs.get(block)
        if job is None:
            return said
        known = job.end is not None
        said = self._not_yet(job, said, now)
        answered = self._jobs.trusted or said is not self._heard.get(block)
        verdict = self._jobs.judge(block, said, now, answered=answered)
        self._heard[block] = said
        if job.stuck and job.open:
            self._cancel(block)  # or it might run beside its replacement
        if known or self._jobs.trusted or not said.terminal:
            return verdict
        if detail := slurm.ask(self._provider, job.number):
            verdict = self._jobs.settle(block, detail.status(said))
        if not verdict.terminal:
            self._heard[block] = ask_again(self._provider, job.number, JobState.PENDING, said)
        return verdict

    def _not_yet(self, job: Job, said: JobStatus, now: float) -> JobStatus:
        """Make LocalProvider read an exit code again: while a job writes it, the provider takes it for a failure."""
        is_unreadable = said.state == JobState.FAILED and _UNREADABLE.fullmatch(said.message or "") is not None
        if not is_unreadable or not isinstance(self._provider, LocalProvider):
            return said
        if now > self._unreadable.setdefault(job.block, now) + _WRITTEN_SECONDS:
            return said
        return ask_again(self._provider, job.number, JobState.RUNNING, said)

    def watch_outputs(self, now: float) -> None:
        """Look for new output of jobs without a node: it shows a start or an error without asking the batch system."""
        if self._jobs.trusted:
            return
        for job in self._jobs.missing()[:_OUTPUTS]:
            there = tuple(_state_of(path) for path in self.output(job))
            if self._outputs.setdefault(job.block, tuple(0 for _ in there)) != there:
                self._outputs[job.block] = there
                self._jobs.stirs(job.block, now)

    def output(self, job: Job) -> list[str]:
        """Return the files of a job's standard output and standard error; an empty list if they are not known."""
        known = entry(self._provider, job.number)
        paths = (known.get("job_stdout_path"), known.get("job_stderr_path"))
        return [path for path in paths if isinstance(path, str)] or list(self._written.get(job.block, ()))

    def mention(self, jobs: Sequence[Job], status: Mapping[str, JobStatus]) -> str:
        """Log that jobs have waited for long, with the state of the first; return what was said of that state."""
        waited = time.monotonic() - min(job.submitted for job in jobs)
        detail = slurm.ask(self._provider, jobs[0].number)
        known = status.get(jobs[0].block)
        state = str(detail) if detail else f"its provider says {known.state.name}" if known else "no state is known"
        level = logging.INFO
        if detail and detail.cure:
            level, state = logging.WARNING, f"{state}. {detail.cure}"
        what = ", ".join(f"{job.block} (job {job.number})" for job in jobs[:SHOWN])
        what += f" and {len(jobs) - SHOWN} more" if len(jobs) > SHOWN else ""
        text = "%s no node yet after %.0f s from block %s; state of the first: %s"
        logger.log(level, text, self._prefix, waited, what, state)
        return state

    def failure(self, failed: Sequence[tuple[str, JobStatus]]) -> WorkerLaunchFailed:
        """Make the error of blocks that ended before their nodes joined, the youngest first."""
        block, last = failed[0]
        names = ", ".join(block for block, _ in reversed(failed))
        what = f"block {names} ended" if len(failed) == 1 else f"blocks {names} ended"
        reason = f"{what} before its node joined" if len(failed) == 1 else f"{what} before their nodes joined"
        job = self._jobs.get(block)
        output = self.output(job) if job is not None else []
        if last.stderr_path is None and output:
            last = JobStatus(last.state, last.message, last.exit_code, stdout_path=output[0], stderr_path=output[-1])
        return WorkerLaunchFailed(
            reason=f"{reason}: {last.message}" if last.message else reason,
            exit_code=last.exit_code,
            stderr=_summary(last),
            job="" if job is None else str(job.number),
            output=last.stderr_path or "",
        )


def _state_of(path: str) -> int:
    """Return a number that changes when the file is written to; 0 if the file does not exist."""
    with contextlib.suppress(OSError):
        return os.stat(path).st_mtime_ns
    return 0


def _summary(status: JobStatus) -> str:
    with contextlib.suppress(OSError, ValueError):
        return status.stderr_summary or ""
    return ""
