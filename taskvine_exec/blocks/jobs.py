"""State of the jobs of blocks: pure logic, without provider, threads or clock.

Parsl's providers call a job COMPLETED if the batch system does not list it. But a new job may not be listed yet, and a
list may be incomplete. Here, a job has ended only if that was *seen*: an exit code, a state that providers do not give
to unlisted jobs, or the same answer at two looks.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from parsl.jobs.states import JobState, JobStatus

FIRST_LOOK = 10.0
"""Seconds from a job's submission to the first look at the batch system, if no node has joined by then."""
CLOSER_LOOKS = (3.0, 8.0, 20.0)
"""Seconds after a job stirred at which to look at it, if no node has joined. A job stirs when it writes output or its
node leaves."""
SECOND_LOOK = 5.0
"""Seconds between a doubtful answer and the next look."""
BETWEEN_LOOKS = 2.0
"""Least seconds between two looks at a batch system."""
UNLISTED = 60.0
"""Seconds after submission during which a batch system may not list a new job yet."""
SILENCE = 60.0
"""Seconds after which a doubtful job counts as ended if the batch system no longer answers."""
FORGOTTEN = 300.0
"""Seconds after its node left at which a job is given up if the batch system does not report on it."""
MENTIONS = (10.0, 60.0, 300.0, 1800.0)
"""Seconds after submission at which the log mentions a job without a node; after the last one, every 1,800 s."""

_MADE_UP = (JobState.COMPLETED,)
"""States that providers report for jobs that their batch system does not list."""


@dataclass
class Job:
    """The job of one block. Times are in seconds of a monotonic clock.

    Parameters
    ----------
    block : str
        Number of the block.
    number : Any
        Number of the job in the batch system.
    submitted : float
        Time of its submission.
    listed : bool
        Whether the batch system has ever listed it as not ended.
    served : bool
        Whether its node has ever joined.
    end : JobStatus or None
        Its final status, once the end was seen.
    doubted : float or None
        Time since which the provider reports an end that is in doubt.
    stirred : float or None
        Time since which it seems to run without a node.
    looks : int
        Number of looks since it stirred.
    mentions : int
        Number of times that the log mentioned it.
    cancelled : bool
        Whether the batch system has accepted its cancellation.
    stuck : bool
        Whether it counts as ended although the batch system may still have it.
    """

    block: str
    number: Any
    submitted: float
    listed: bool = False
    served: bool = False
    end: JobStatus | None = None
    doubted: float | None = None
    stirred: float | None = None
    looks: int = 0
    mentions: int = 0
    cancelled: bool = False
    stuck: bool = False

    @property
    def open(self) -> bool:
        """Whether the job may still be in the batch system."""
        return (self.end is None or self.stuck) and not self.cancelled

    @property
    def awaited(self) -> bool:
        """Whether the job should have a node."""
        return self.end is None and not self.cancelled


@dataclass(eq=False, repr=False)
class Jobs:
    """The jobs of one executor.

    Parameters
    ----------
    interval : float
        Seconds between two looks at the provider while a node is missing.
    trusted : bool
        Whether the provider knows the end of each job for certain and answers at no cost.
    suspended : collection of JobState
        Final states that the provider reports for suspended jobs.
    stuck : mapping from JobState to str
        Final states that the provider reports for jobs that are held and may run later or never, with a message for the
        user. A job counts as ended if it is in one of these states at two looks.
    """

    interval: float
    trusted: bool = field(kw_only=True)
    suspended: Collection[JobState] = ()
    stuck: Mapping[JobState, str] = field(default_factory=dict)
    _jobs: dict[str, Job] = field(default_factory=dict, init=False)
    _here: frozenset[str] = field(default=frozenset(), init=False)
    _looked: float = field(default=float("-inf"), init=False)

    def __iter__(self) -> Iterator[Job]:
        return iter(list(self._jobs.values()))

    @property
    def held(self) -> frozenset[JobState]:
        """Final states that the provider also reports for jobs that have not ended."""
        return frozenset([*self.suspended, *self.stuck])

    def get(self, block: str) -> Job | None:
        """Return the job of a block, or None if none was submitted."""
        return self._jobs.get(block)

    # --- events ---

    def launched(self, block: str, number: Any, now: float) -> None:
        """Record that a job was submitted."""
        self._jobs[block] = Job(block, number, now)

    def nodes_are(self, blocks: Collection[str], now: float) -> None:
        """Record the blocks that have nodes now. They have not ended, whatever the provider reports."""
        before, self._here = self._here, frozenset(blocks)
        for block in self._here - before:
            if (job := self._jobs.get(block)) is not None:
                job.served, job.end, job.doubted, job.stirred, job.stuck = True, None, None, None, False
        for block in before - self._here:
            self.stirs(block, now)

    def stirs(self, block: str, now: float) -> None:
        """Record that a job runs or has just ended. It gets closer looks until its node joins."""
        job = self._jobs.get(block)
        if job is not None and job.awaited and block not in self._here and job.stirred is None:
            job.stirred, job.looks = now, 0

    def looked(self, now: float) -> None:
        """Record that the provider is asked about all jobs."""
        self._looked = now
        for job in self._jobs.values():
            if job.stirred is not None:
                job.looks += 1

    def judge(self, block: str, said: JobStatus, now: float, *, answered: bool = True) -> JobStatus:
        """Decide the status of a block from the provider's report.

        Parameters
        ----------
        block : str
            Number of the block.
        said : JobStatus
            The status that the provider reports.
        now : float
            Time in seconds.
        answered : bool
            Whether the batch system reported on the job at this look.

        Returns
        -------
        JobStatus
            The status that counts.
        """
        job = self._jobs.get(block)
        if job is None:
            return said
        if job.end is not None:
            return job.end  # Parsl's Slurm provider stops asking about ended jobs and calls them COMPLETED
        if block in self._here and not job.cancelled:
            return said if said.state == JobState.RUNNING else JobStatus(JobState.RUNNING)
        if said.state in self.suspended and not job.cancelled:
            said = JobStatus(JobState.RUNNING if job.served else JobState.PENDING)
        if not said.terminal:
            return self._alive(job, said, now, answered=answered)
        stuck = said.state in self.stuck and not job.cancelled
        job.listed = job.listed or stuck
        in_doubt = stuck or said.state in _MADE_UP
        if self.trusted or said.exit_code is not None or not in_doubt or self._is_sure(job, now):
            message = said.message or self.stuck[said.state] if stuck else said.message
            job.end = JobStatus(said.state, message, said.exit_code, said.stdout_path, said.stderr_path)
            job.stuck = stuck
            return job.end
        job.doubted = now if job.doubted is None else job.doubted
        return JobStatus(JobState.RUNNING if job.served else JobState.PENDING)

    def _alive(self, job: Job, said: JobStatus, now: float, *, answered: bool) -> JobStatus:
        if answered:
            job.listed, job.doubted = True, None
            if said.state == JobState.PENDING:
                job.stirred = None  # it was requeued: its output is from the run before
        elif job.doubted is not None and now >= job.doubted + SILENCE:
            job.end = JobStatus(JobState.COMPLETED, "the batch system no longer lists the job")
            return job.end
        elif job.served and job.stirred is not None and now >= job.stirred + FORGOTTEN:
            job.end = JobStatus(JobState.COMPLETED, "its node left, and the batch system does not report on the job")
            job.stuck = True
            return job.end
        if said.state == JobState.UNKNOWN:  # Parsl's strategy would not count it, and launch another
            return JobStatus(JobState.RUNNING if job.served else JobState.PENDING)
        return said

    def _is_sure(self, job: Job, now: float) -> bool:
        known = self._is_known(job) or now >= job.submitted + UNLISTED
        return known and job.doubted is not None and now >= job.doubted + SECOND_LOOK - 1.0

    @staticmethod
    def _is_known(job: Job) -> bool:
        """Tell whether the batch system has certainly had the job: it was listed, or has run."""
        return job.listed or job.served or job.stirred is not None

    def settle(self, block: str, told: JobStatus) -> JobStatus:
        """Record a status that is certain, and return the status that counts."""
        job = self._jobs[block]
        job.doubted, job.stuck = None, False
        if told.terminal and block not in self._here:
            job.end = told
            return told
        job.end, job.listed = None, True
        return JobStatus(JobState.RUNNING) if told.terminal else told

    # --- next steps ---

    def missing(self) -> list[Job]:
        """Return the jobs that should have a node and have none."""
        return [job for job in self if job.awaited and job.block not in self._here]

    def next_look(self) -> float | None:
        """Return the time at which to ask the provider next; None while no node is missing."""
        missing = self.missing()
        if not missing:
            return None
        if self.trusted:
            return self._looked + self.interval
        times = []
        for job in missing:
            if job.stirred is not None and job.looks < len(CLOSER_LOOKS):
                times.append(job.stirred + CLOSER_LOOKS[job.looks])
            if job.doubted is not None:
                since = job.doubted if self._is_known(job) else job.submitted + UNLISTED
                times.append(max(since, self._looked) + SECOND_LOOK)
            if self._looked < job.submitted and not job.served:
                times.append(job.submitted + min(FIRST_LOOK, self.interval))
            else:
                times.append(max(self._looked, job.stirred or job.submitted) + self.interval)
        return max(min(times), self._looked + BETWEEN_LOOKS)

    def to_mention(self, now: float) -> list[Job]:
        """Return the jobs that have waited long and that the log should mention now. They count as mentioned."""
        due = [job for job in self.missing() if now >= self._mention_at(job)]
        for job in due:
            while now >= self._mention_at(job):
                job.mentions += 1
        return due

    def next_mention(self) -> float | None:
        """Return the time at which :meth:`to_mention` next returns a job; None if no node is missing."""
        return min(map(self._mention_at, self.missing()), default=None)

    @staticmethod
    def _mention_at(job: Job) -> float:
        beyond = max(0, job.mentions - len(MENTIONS) + 1)
        return job.submitted + MENTIONS[min(job.mentions, len(MENTIONS) - 1)] + beyond * MENTIONS[-1]
