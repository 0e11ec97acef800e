"""Whether to launch another block, or to give up: pure logic, without provider, threads or clock."""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from parsl.jobs.states import TERMINAL_STATES, JobState, JobStatus

from taskvine_exec.blocks.jobs import Jobs

ATTEMPTS = 3
"""Consecutive blocks that may fail before the executor gives up, if another block may work: a block has served before,
or the failed block was killed. A block that ends by itself before any has served would fail again."""
RETRY_SECONDS, RETRY_AT_MOST = 2.0, 300.0
"""Pause before another block is launched after a failure, and its limit. It doubles with each failure in a row."""


class Step(enum.Enum):
    """What to do about the blocks."""

    WAIT = "nothing now"
    LAUNCH = "launch another block"
    GIVE_UP = "fail all tasks"


@dataclass(frozen=True)
class Decision:
    """A step, and its reason.

    Parameters
    ----------
    step : Step
        What to do.
    has_active : bool
        Whether any block has not ended.
    failed : tuple of pairs
        The youngest blocks that ended without having served, the youngest first, each with its status.
    is_news : bool
        Whether the youngest of these has just failed and the log should mention it.
    lost : str or None
        The block that the next one replaces, if it died.
    """

    step: Step
    has_active: bool
    failed: tuple[tuple[str, JobStatus], ...] = ()
    is_news: bool = False
    lost: str | None = None


class Replacement:
    """The policy of one executor.

    Parameters
    ----------
    jobs : Jobs
        The jobs of the blocks.
    init_blocks : int
        Number of blocks at the start.
    """

    def __init__(self, jobs: Jobs, init_blocks: int) -> None:
        self._jobs = jobs
        self._init_blocks = init_blocks
        self._last_failed = ""
        self.retry_at = 0.0
        """Time before which no block is launched, because blocks have failed."""

    def decide(
        self, status: Mapping[str, JobStatus], now: float, *, has_nodes: bool, has_tasks: bool, is_scaled: bool
    ) -> Decision:
        """Decide what to do.

        Parameters
        ----------
        status : mapping
            Status of each block.
        now : float
            Time in seconds.
        has_nodes : bool
            Whether any node is there.
        has_tasks : bool
            Whether a task could run.
        is_scaled : bool
            Whether Parsl's strategy launches blocks for tasks.
        """
        blocks = sorted(status.items(), key=lambda item: int(item[0]))
        active = any(state.state not in TERMINAL_STATES for _, state in blocks)
        failed: list[tuple[str, JobStatus]] = []
        while blocks and self._has_failed(*blocks[-1]):
            failed.append(blocks.pop())
        may_work = self._may_work(failed)
        is_news = bool(failed) and failed[0][0] != self._last_failed
        if is_news:
            self._last_failed = failed[0][0]
            self.retry_at = now + min(RETRY_AT_MOST, RETRY_SECONDS * 2 ** (len(failed) - 1))
            is_news = active or may_work
        step, lost = Step.WAIT, None
        if not active:
            enough = max(1, self._init_blocks, ATTEMPTS if may_work else 0)
            if len(failed) >= enough and not has_nodes:
                step = Step.GIVE_UP
            elif has_tasks and (not failed or now >= self.retry_at):
                if blocks and blocks[-1][1].state != JobState.SCALED_IN:
                    lost = blocks[-1][0]
                if lost is not None or not is_scaled:
                    step = Step.LAUNCH
        return Decision(step, active, tuple(failed), is_news, lost)

    def _has_failed(self, block: str, state: JobStatus) -> bool:
        """Tell whether a block has ended without having had a node."""
        job = self._jobs.get(block)
        has_served = job is not None and job.served
        return not has_served and state.state in TERMINAL_STATES and state.state != JobState.SCALED_IN

    def _may_work(self, failed: Sequence[tuple[str, JobStatus]]) -> bool:
        """Tell whether another block may work although the last one failed."""
        if any(job.served for job in self._jobs):
            return True
        job = self._jobs.get(failed[0][0]) if failed else None
        return job is not None and not job.stuck and was_killed(failed[0][1])


def was_killed(status: JobStatus) -> bool:
    """Tell whether a job that has ended may have been killed.

    A shell exits with 128 plus the signal's number. A job that failed without an exit code was ended by its batch
    system, or together with its shell.
    """
    code = status.exit_code
    if code is None:
        return status.state in (JobState.FAILED, JobState.CANCELLED)
    return code < 0 or code > 128
