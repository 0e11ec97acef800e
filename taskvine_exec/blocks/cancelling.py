"""The end of jobs: cancelled while the executor runs, and at its shutdown.

The watcher's thread cancels blocks that have drained. The thread that shuts the executor down ends the rest, after the
watcher has stopped. Each call of the provider holds its lock; no wait does.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from parsl.jobs.states import TERMINAL_STATES

from taskvine_exec.blocks.batch import SHOWN
from taskvine_exec.blocks.jobs import Job, Jobs
from taskvine_manager.node.leftovers import LEFT

logger = logging.getLogger(__name__)

_LEAVE_SECONDS, _CANCELLED_SECONDS = 10.0, 5.0
"""Time limits at shutdown for nodes of a batch system to clean up, before and after their jobs are cancelled."""


@dataclass(eq=False, repr=False)
class Canceller:
    """Ends the jobs of one executor.

    Parameters
    ----------
    provider : ExecutionProvider
        The provider.
    lock : threading.RLock
        Held during calls of the provider.
    jobs : Jobs
        Known state of its jobs.
    output : callable
        Returns the paths of a job's output files.
    prefix : str
        Start of log messages.
    """

    provider: Any
    lock: threading.RLock
    jobs: Jobs
    output: Callable[[Job], list[str]]
    prefix: str

    def cancel(self, blocks: list[str]) -> None:
        """Cancel the jobs of blocks that have not ended."""
        jobs = [job for job in map(self.jobs.get, blocks) if job is not None and job.open]
        if self.jobs.trusted and jobs:
            # A job's number is a process id, which may belong to another process by now: ask again.
            try:
                with self.lock:
                    states = self.provider.status([job.number for job in jobs])
            except Exception as error:  # its files may have been removed with the run's private directory
                logger.warning("%s blocks %s are not cancelled: %s", self.prefix, blocks, error)
                return
            jobs = [job for job, state in zip(jobs, states, strict=True) if state.state not in TERMINAL_STATES]
        self._cancel(jobs)

    def end_all(self, serving: set[str], last_place: Callable[[str], str | None]) -> None:
        """Cancel all jobs that were submitted and not seen to end.

        Jobs without a node are cancelled at once. Those in ``serving`` (blocks with nodes, which have been told to end)
        first get time to clean up. ``last_place`` describes where the last node of a block was.
        """
        if self.jobs.trusted:
            self.cancel([job.block for job in self.jobs])
            return
        remaining = [job for job in self.jobs if job.open]
        self._cancel([job for job in remaining if job.block not in serving])
        remaining = [job for job in remaining if job.block in serving]
        self._await_leave(remaining, _LEAVE_SECONDS)
        self._cancel(remaining)
        for job in self._await_leave(remaining, _CANCELLED_SECONDS)[:SHOWN]:
            logger.warning(
                "%s block %s (job %s) has not reported that it cleaned up. %s may remain until your next node on that "
                "machine removes it",
                self.prefix,
                job.block,
                job.number,
                last_place(job.block) or "The directory of its node",
            )

    def _await_leave(self, jobs: Sequence[Job], seconds: float) -> list[Job]:
        """Wait until jobs have cleaned up, for this many seconds at most; return those that have not."""
        deadline = time.monotonic() + seconds
        while (dirty := [job for job in jobs if not self._has_left(job)]) and time.monotonic() < deadline:
            time.sleep(0.1)  # a shared file system sends no events
        return dirty

    def _has_left(self, job: Job) -> bool:
        """Tell whether all nodes of a job have reported that they cleaned up.

        True without output files: these nodes are machines or pods, whose files disappear with them.
        """
        paths = self.output(job)
        nodes = getattr(self.provider, "nodes_per_block", 1)
        return not paths or _text(paths[0]).count(LEFT) >= nodes

    def _cancel(self, jobs: Sequence[Job]) -> None:
        if not jobs:
            return
        self._ask_to_cancel(jobs)
        # Most batch systems give one answer for all jobs, and refuse if one of them has just ended.
        refused = self._not_ended([job for job in jobs if not job.cancelled])
        if len(jobs) > 1:
            for job in refused:
                self._ask_to_cancel([job])
        names = [f"{job.block} (job {job.number})" for job in refused if not job.cancelled]
        if names:
            logger.warning("%s these blocks could not be cancelled: %s", self.prefix, ", ".join(names))

    def _ask_to_cancel(self, jobs: Sequence[Job]) -> None:
        try:
            with self.lock:
                done = self.provider.cancel([job.number for job in jobs])
            for job, accepted in zip(jobs, done, strict=True):
                job.cancelled = bool(accepted)
        except Exception as error:
            names = ", ".join(job.block for job in jobs)
            logger.warning("%s blocks %s could not be cancelled: %s", self.prefix, names, error)

    def _not_ended(self, jobs: list[Job]) -> list[Job]:
        """Return the jobs that have not ended, as far as the provider says."""
        if not jobs:
            return jobs
        try:
            with self.lock:
                states = self.provider.status([job.number for job in jobs])
        except Exception as error:
            logger.debug("%s the provider cannot report the state of its jobs: %s", self.prefix, error)
            return jobs
        remain = []
        for job, state in zip(jobs, states, strict=True):
            if state.state in TERMINAL_STATES and state.state not in self.jobs.held:
                job.stuck = False
            else:
                remain.append(job)
        return remain


def _text(path: str) -> str:
    with contextlib.suppress(OSError), open(path, encoding="utf-8", errors="replace") as file:
        return file.read()
    return ""
