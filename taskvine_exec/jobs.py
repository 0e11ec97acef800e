"""What is known of the jobs of blocks: pure, without provider, threads or clock.

Parsl's providers call a job COMPLETED that the batch system does not list. A new job may not be listed yet, and a list
may come back short. So a job has ended only if that was *seen*: by an exit code, by a state that providers do not give
to unlisted jobs, or by the same answer at two looks.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from parsl.jobs.states import JobState, JobStatus

FIRST_LOOK = 10.0
"""Seconds after a submission at which a batch system is asked for the first time, if no node has joined by then."""
CLOSER_LOOKS = (3.0, 8.0, 20.0)
"""Seconds after a job has stirred at which it is looked at, if no node has joined. Stirring: it wrote output, or its
node left."""
SECOND_LOOK = 5.0
"""Seconds between an answer that is in doubt and the next look."""
BETWEEN_LOOKS = 2.0
"""Least seconds between two looks at a batch system."""
UNLISTED = 60.0
"""Seconds after its submission in which a job that was never listed may still come to be listed."""
SILENCE = 60.0
"""Seconds after which a doubt is taken for an end if the batch system no longer answers."""
FORGOTTEN = 300.0
"""Seconds after a node has left at which its job is given up if the batch system says nothing of it."""
MENTIONS = (10.0, 60.0, 300.0, 1800.0)
"""Seconds after a submission at which a job without a node is mentioned in the log; from then on each 1,800 s."""

_MADE_UP = (JobState.COMPLETED,)
"""States that providers give to jobs that their batch system does not list."""


@dataclass
class Job:
    """One block's job. Times are in seconds, of a monotonic clock.

    Parameters
    ----------
    block : str
        Number of the block.
    number : Any
        Number of the job in the batch system.
    submitted : float
        When it was submitted.
    listed : bool
        Whether the batch system has listed it as one that has not ended.
    served : bool
        Whether its node has ever joined.
    end : JobStatus or None
        How it ended, once that was seen.
    doubted : float or None
        Since when it is said to have ended, if that is in doubt.
    stirred : float or None
        Since when it is taken to run without a node.
    looks : int
        Looks at it since it stirred.
    mentions : int
        Times it was mentioned in the log.
    cancelled : bool
        Whether the batch system has accepted its cancellation.
    stuck : bool
        Whether it counts as ended though the batch system may still have it.
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
        """Whether it may still be in the batch system."""
        return (self.end is None or self.stuck) and not self.cancelled

    @property
    def awaited(self) -> bool:
        """Whether it is to have a node."""
        return self.end is None and not self.cancelled


class Jobs:
    """The jobs of one executor.

    Parameters
    ----------
    interval : float
        Seconds between two looks at the provider while a node is missing.
    trusted : bool
        Whether the provider knows each job's end from the job itself, and asking it costs nothing.
    suspended : collection of JobState
        States by which the provider means a job that is suspended, though they read as ends.
    stuck : mapping from JobState to str
        States by which the provider means a job that its batch system has, which may run later or never, and what to
        tell the user of them. Such a job counts as ended if it is in that state at two looks.
    """

    def __init__(
        self,
        interval: float,
        *,
        trusted: bool,
        suspended: Collection[JobState] = (),
        stuck: Mapping[JobState, str] = MappingProxyType({}),
    ) -> None:
        self.trusted = trusted
        self._suspended = frozenset(suspended)
        self._stuck = dict(stuck)
        self._interval = interval
        self._jobs: dict[str, Job] = {}
        self._here: frozenset[str] = frozenset()
        self._looked = float("-inf")

    def __iter__(self) -> Iterator[Job]:
        return iter(list(self._jobs.values()))

    @property
    def held(self) -> frozenset[JobState]:
        """States that read as ends, though the batch system has the job."""
        return self._suspended | frozenset(self._stuck)

    def get(self, block: str) -> Job | None:
        """The job of a block; None if none was submitted."""
        return self._jobs.get(block)

    # --- what happens ---

    def launched(self, block: str, number: Any, now: float) -> None:
        """A job was submitted."""
        self._jobs[block] = Job(block, number, now)

    def nodes_are(self, blocks: Collection[str], now: float) -> None:
        """These blocks have nodes now: whatever a provider says, they have not ended."""
        before, self._here = self._here, frozenset(blocks)
        for block in self._here - before:
            if (job := self._jobs.get(block)) is not None:
                job.served, job.end, job.doubted, job.stirred, job.stuck = True, None, None, None, False
        for block in before - self._here:
            self.stirs(block, now)

    def stirs(self, block: str, now: float) -> None:
        """A job runs, or has just ended: look at it more closely until its node joins."""
        job = self._jobs.get(block)
        if job is not None and job.awaited and block not in self._here and job.stirred is None:
            job.stirred, job.looks = now, 0

    def looked(self, now: float) -> None:
        """The provider is asked about all jobs."""
        self._looked = now
        for job in self._jobs.values():
            if job.stirred is not None:
                job.looks += 1

    def judge(self, block: str, said: JobStatus, now: float, *, answered: bool = True) -> JobStatus:
        """Decide what a provider's word is worth.

        Parameters
        ----------
        block : str
            Number of a block.
        said : JobStatus
            The provider's word.
        now : float
            Time, in seconds.
        answered : bool
            Whether the provider has heard of the job from its batch system at this look.

        Returns
        -------
        JobStatus
            What counts.
        """
        job = self._jobs.get(block)
        if job is None:
            return said
        if job.end is not None:
            return job.end  # the provider may forget it: Slurm's calls each job COMPLETED that it no longer asks for
        if block in self._here and not job.cancelled:
            return said if said.state == JobState.RUNNING else JobStatus(JobState.RUNNING)
        if said.state in self._suspended and not job.cancelled:
            said = JobStatus(JobState.RUNNING if job.served else JobState.PENDING)
        if not said.terminal:
            return self._alive(job, said, now, answered=answered)
        stuck = said.state in self._stuck and not job.cancelled
        job.listed = job.listed or stuck
        in_doubt = stuck or said.state in _MADE_UP
        if self.trusted or said.exit_code is not None or not in_doubt or self._is_sure(job, now):
            message = said.message or self._stuck[said.state] if stuck else said.message
            job.end = JobStatus(said.state, message, said.exit_code, said.stdout_path, said.stderr_path)
            job.stuck = stuck
            return job.end
        job.doubted = now if job.doubted is None else job.doubted
        return JobStatus(JobState.RUNNING if job.served else JobState.PENDING)

    def _alive(self, job: Job, said: JobStatus, now: float, *, answered: bool) -> JobStatus:
        if answered:
            job.listed, job.doubted = True, None
            if said.state == JobState.PENDING:
                job.stirred = None  # it was requeued: what it wrote is of the run before
        elif job.doubted is not None and now >= job.doubted + SILENCE:
            job.end = JobStatus(JobState.COMPLETED, "the batch system no longer lists the job")
            return job.end
        elif job.served and job.stirred is not None and now >= job.stirred + FORGOTTEN:
            job.end = JobStatus(JobState.COMPLETED, "its node has left, and the batch system says nothing of the job")
            job.stuck = True
            return job.end
        if said.state == JobState.UNKNOWN:  # Parsl's strategy would count it for nothing, and launch another
            return JobStatus(JobState.RUNNING if job.served else JobState.PENDING)
        return said

    def _is_sure(self, job: Job, now: float) -> bool:
        known = self._is_known(job) or now >= job.submitted + UNLISTED
        return known and job.doubted is not None and now >= job.doubted + SECOND_LOOK - 1.0

    @staticmethod
    def _is_known(job: Job) -> bool:
        """Whether the batch system must have listed the job: it has run."""
        return job.listed or job.served or job.stirred is not None

    def settle(self, block: str, told: JobStatus) -> JobStatus:
        """Take the word of somebody who knows for certain how a job is."""
        job = self._jobs[block]
        job.doubted, job.stuck = None, False
        if told.terminal and block not in self._here:
            job.end = told
            return told
        job.end, job.listed = None, True
        return JobStatus(JobState.RUNNING) if told.terminal else told

    # --- what is to be done ---

    def missing(self) -> list[Job]:
        """Jobs that are to have a node and have none."""
        return [job for job in self if job.awaited and job.block not in self._here]

    def next_look(self) -> float | None:
        """When to ask the provider; None while nothing is to be learnt from it."""
        missing = self.missing()
        if not missing:
            return None
        if self.trusted:
            return self._looked + self._interval
        times = []
        for job in missing:
            if job.stirred is not None and job.looks < len(CLOSER_LOOKS):
                times.append(job.stirred + CLOSER_LOOKS[job.looks])
            if job.doubted is not None:
                times.append(
                    max(job.doubted if self._is_known(job) else job.submitted + UNLISTED, self._looked) + SECOND_LOOK
                )
            if self._looked < job.submitted and not job.served:
                times.append(job.submitted + min(FIRST_LOOK, self._interval))
            else:
                times.append(max(self._looked, job.stirred or job.submitted) + self._interval)
        return max(min(times), self._looked + BETWEEN_LOOKS)

    def to_mention(self, now: float) -> list[Job]:
        """Jobs that the user should hear of now, because they have waited long. They count as mentioned."""
        due = [job for job in self.missing() if now >= self._mention_at(job)]
        for job in due:
            job.mentions += 1
            while now >= self._mention_at(job):
                job.mentions += 1
        return due

    def next_mention(self) -> float | None:
        """When :meth:`to_mention` has something to say."""
        return min(map(self._mention_at, self.missing()), default=None)

    @staticmethod
    def _mention_at(job: Job) -> float:
        beyond = max(0, job.mentions - len(MENTIONS) + 1)
        return job.submitted + MENTIONS[min(job.mentions, len(MENTIONS) - 1)] + beyond * MENTIONS[-1]
