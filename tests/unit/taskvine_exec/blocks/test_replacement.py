"""When another block is launched, and when the executor gives up."""

from __future__ import annotations

from typing import Any

import pytest
from parsl.jobs.states import JobState, JobStatus

from taskvine_exec.blocks.jobs import Jobs
from taskvine_exec.blocks.replacement import ATTEMPTS, RETRY_AT_MOST, RETRY_SECONDS, Decision, Replacement, Step

RUNNING, PENDING = JobStatus(JobState.RUNNING), JobStatus(JobState.PENDING)
ENDED = JobStatus(JobState.COMPLETED, exit_code=1)
KILLED = JobStatus(JobState.FAILED, exit_code=137)
SCALED_IN = JobStatus(JobState.SCALED_IN)
NOW = 1000.0


class Blocks:
    """Blocks with their status; those in ``served`` have had a node."""

    def __init__(self, *status: JobStatus, served: tuple[int, ...] = (), init: int = 1) -> None:
        self.jobs = Jobs(1.0, trusted=True)
        self.status = {str(number): each for number, each in enumerate(status)}
        for block in self.status:
            self.jobs.launched(block, f"job {block}", 0.0)
        self.jobs.nodes_are({str(number) for number in served}, 1.0)
        self.jobs.nodes_are(set(), 2.0)
        self.policy = Replacement(self.jobs, init)

    def decide(self, now: float = NOW, **facts: Any) -> Decision:
        usual = {"has_nodes": False, "has_tasks": True, "is_scaled": True}
        return self.policy.decide(self.status, now, **{**usual, **facts})


@pytest.mark.parametrize("state", [RUNNING, PENDING])
def test_running_block_is_waited_for(state: JobStatus) -> None:
    assert Blocks(ENDED, state).decide() == Decision(Step.WAIT, has_active=True)


def test_first_block_is_launched_for_tasks() -> None:
    assert Blocks().decide().step is Step.WAIT  # Parsl's strategy will launch one
    assert Blocks().decide(is_scaled=False).step is Step.LAUNCH
    assert Blocks().decide(is_scaled=False, has_tasks=False).step is Step.WAIT


def test_used_block_that_dies_is_replaced() -> None:
    decision = Blocks(KILLED, served=(0,)).decide()
    assert decision == Decision(Step.LAUNCH, has_active=False, lost="0")
    assert Blocks(KILLED, served=(0,)).decide(has_tasks=False).step is Step.WAIT


def test_scaled_in_block_is_not_lost() -> None:
    assert Blocks(SCALED_IN).decide().step is Step.WAIT
    assert Blocks(SCALED_IN).decide(is_scaled=False) == Decision(Step.LAUNCH, has_active=False)


def test_first_block_that_fails_is_not_replaced() -> None:
    decision = Blocks(ENDED).decide()
    assert decision == Decision(Step.GIVE_UP, has_active=False, failed=(("0", ENDED),))


def test_failure_of_all_first_blocks_is_final() -> None:
    assert Blocks(ENDED, init=2).decide(now=0.0).step is Step.WAIT
    assert Blocks(ENDED, ENDED, init=2).decide().step is Step.GIVE_UP
    assert [block for block, _ in Blocks(ENDED, ENDED, init=2).decide().failed] == ["1", "0"]


@pytest.mark.parametrize(("status", "served"), [((KILLED,), ()), ((KILLED, ENDED), (0,))])
def test_temporary_failure_is_retried_later(status: tuple[JobStatus, ...], served: tuple[int, ...]) -> None:
    blocks = Blocks(*status, served=served)
    first = blocks.decide(is_scaled=False)
    assert (first.step, first.is_news) == (Step.WAIT, True)
    assert blocks.policy.retry_at == NOW + RETRY_SECONDS
    again = blocks.decide(NOW + RETRY_SECONDS, is_scaled=False)
    assert (again.step, again.is_news) == (Step.LAUNCH, False)


def test_repeated_failures_are_final() -> None:
    assert Blocks(*[KILLED] * (ATTEMPTS - 1)).decide().step is Step.WAIT
    assert Blocks(*[KILLED] * ATTEMPTS).decide().step is Step.GIVE_UP
    assert Blocks(*[KILLED] * ATTEMPTS).decide(has_nodes=True).step is Step.WAIT


def test_pauses_grow_up_to_a_limit() -> None:
    pauses = []
    for count in (1, 2, 3, 20):
        blocks = Blocks(*[KILLED] * count)
        blocks.decide()
        pauses.append(blocks.policy.retry_at - NOW)
    assert pauses == [RETRY_SECONDS, 2 * RETRY_SECONDS, 4 * RETRY_SECONDS, RETRY_AT_MOST]


def test_failure_beside_a_running_block_is_reported_once() -> None:
    blocks = Blocks(RUNNING, ENDED)
    assert [blocks.decide().is_news for _ in range(2)] == [True, False]


def test_blocks_are_ordered_by_number() -> None:
    blocks = Blocks(*[KILLED] * 9, RUNNING, ENDED)
    assert blocks.decide().failed == (("10", ENDED),)
