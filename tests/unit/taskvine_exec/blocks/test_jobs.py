"""How far a provider's answers about a job are trusted, and when it is asked."""

from __future__ import annotations

import pytest
from parsl.jobs.states import JobState, JobStatus

from taskvine_exec.blocks.jobs import (
    BETWEEN_LOOKS,
    CLOSER_LOOKS,
    FIRST_LOOK,
    FORGOTTEN,
    MENTIONS,
    SECOND_LOOK,
    SILENCE,
    UNLISTED,
    Jobs,
)

INTERVAL = 60.0
PENDING, RUNNING, COMPLETED = (JobStatus(s) for s in (JobState.PENDING, JobState.RUNNING, JobState.COMPLETED))


def launched(blocks: int = 1, *, trusted: bool = False) -> Jobs:
    jobs = Jobs(INTERVAL, trusted=trusted)
    for block in range(blocks):
        jobs.launched(str(block), 100 + block, 0.0)
    return jobs


def look(jobs: Jobs, said: JobStatus, now: float, *, answered: bool = True) -> JobState:
    jobs.looked(now)
    state: JobState = jobs.judge("0", said, now, answered=answered).state
    return state


# --- ends ---


def test_unlisted_new_job_has_not_ended() -> None:
    jobs = launched()
    for now in range(1, int(UNLISTED), 5):
        assert look(jobs, COMPLETED, now) == JobState.PENDING
    assert look(jobs, PENDING, UNLISTED) == JobState.PENDING
    assert [job.number for job in jobs if job.open] == [100]


def test_job_that_is_never_listed_has_ended_after_a_time() -> None:
    jobs = launched()
    assert look(jobs, COMPLETED, 10) == JobState.PENDING
    assert look(jobs, COMPLETED, UNLISTED) == JobState.COMPLETED
    assert not [job for job in jobs if job.open]


def test_listed_job_has_ended_at_the_second_look() -> None:
    jobs = launched()
    assert look(jobs, RUNNING, 10) == JobState.RUNNING
    assert look(jobs, COMPLETED, 20) == JobState.PENDING
    assert look(jobs, COMPLETED, 20 + BETWEEN_LOOKS) == JobState.PENDING
    assert look(jobs, COMPLETED, 20 + SECOND_LOOK) == JobState.COMPLETED


def test_one_incomplete_list_is_ignored() -> None:
    jobs = launched()
    look(jobs, RUNNING, 10)
    look(jobs, COMPLETED, 20)
    assert look(jobs, RUNNING, 25) == JobState.RUNNING
    assert look(jobs, COMPLETED, 90) == JobState.PENDING


@pytest.mark.parametrize(
    "end",
    [
        JobStatus(JobState.FAILED),
        JobStatus(JobState.TIMEOUT),
        JobStatus(JobState.CANCELLED),
        JobStatus(JobState.COMPLETED, exit_code=0),
    ],
)
def test_final_states_count_at_once(end: JobStatus) -> None:
    jobs = launched()
    assert look(jobs, end, 1) == end.state
    assert look(jobs, COMPLETED, 2) == end.state  # Slurm's provider forgets the job
    assert not jobs.missing()


def test_trusted_provider_is_believed_at_once() -> None:
    assert look(launched(trusted=True), COMPLETED, 0.1) == JobState.COMPLETED


def test_missing_answer_is_an_end_after_a_time() -> None:
    jobs = launched()
    look(jobs, RUNNING, 10)
    look(jobs, COMPLETED, 20)
    assert look(jobs, PENDING, 25, answered=False) == JobState.PENDING
    assert look(jobs, PENDING, 20 + SILENCE, answered=False) == JobState.COMPLETED


def test_block_with_a_node_has_not_ended() -> None:
    jobs = launched()
    jobs.nodes_are({"0"}, 1)
    assert look(jobs, COMPLETED, 100) == JobState.RUNNING
    assert look(jobs, JobStatus(JobState.FAILED), 200) == JobState.RUNNING


def test_requeued_job_counts_when_its_node_joins() -> None:
    jobs = launched()
    look(jobs, JobStatus(JobState.FAILED), 1)
    jobs.nodes_are({"0"}, 30)
    assert look(jobs, RUNNING, 31) == JobState.RUNNING
    assert [job.number for job in jobs if job.open] == [100]


def test_controller_settles_a_doubt() -> None:
    jobs = launched()
    look(jobs, COMPLETED, 1)
    assert jobs.settle("0", PENDING).state == JobState.PENDING
    assert jobs.settle("0", JobStatus(JobState.FAILED, exit_code=3)).exit_code == 3
    assert look(jobs, COMPLETED, 2) == JobState.FAILED


def test_unknown_state_counts_as_a_block() -> None:
    jobs = launched()
    assert look(jobs, JobStatus(JobState.UNKNOWN), 1) == JobState.PENDING
    jobs.nodes_are({"0"}, 2)
    jobs.nodes_are(set(), 3)
    assert look(jobs, JobStatus(JobState.UNKNOWN), 4) == JobState.RUNNING


# --- looks ---


def test_waiting_job_is_looked_at_once_soon() -> None:
    jobs = launched(3)
    looks = []
    while (now := jobs.next_look()) is not None and now < 10 * INTERVAL:
        jobs.looked(now)
        looks.append(now)
    assert looks == [FIRST_LOOK + number * INTERVAL for number in range(len(looks))]


def test_no_question_while_all_nodes_exist() -> None:
    jobs = launched(2)
    jobs.nodes_are({"0", "1"}, 1)
    assert jobs.next_look() is None
    jobs.nodes_are({"0"}, 100)
    assert jobs.next_look() == 100 + CLOSER_LOOKS[0]


def test_changed_job_is_looked_at_more_often() -> None:
    jobs = launched()
    look(jobs, RUNNING, 10)
    jobs.stirs("0", 20)
    jobs.stirs("0", 21)
    looks = []
    for _ in range(5):
        now = jobs.next_look()
        assert now is not None
        look(jobs, RUNNING, now)
        looks.append(now)
    closer = [20 + after for after in CLOSER_LOOKS]
    assert looks == [*closer, closer[-1] + INTERVAL, closer[-1] + 2 * INTERVAL]


def test_doubtful_end_is_looked_at_again() -> None:
    jobs = launched()
    look(jobs, RUNNING, 10)
    look(jobs, COMPLETED, 70)
    assert jobs.next_look() == 70 + SECOND_LOOK


def test_looks_have_a_minimum_interval() -> None:
    jobs = launched(2)
    jobs.looked(50)
    jobs.stirs("0", 48)
    jobs.stirs("1", 48.5)
    first = jobs.next_look()
    assert first == 48 + CLOSER_LOOKS[0] + 1
    jobs.looked(first)
    second = jobs.next_look()
    assert second is not None
    assert second >= first + BETWEEN_LOOKS


# --- mentions ---


def test_job_without_a_node_is_mentioned_rarely() -> None:
    jobs = launched()
    times = []
    while (now := jobs.next_mention()) is not None and now < 7200:
        assert [job.block for job in jobs.to_mention(now)] == ["0"]
        assert not jobs.to_mention(now)
        times.append(now)
    assert times == [*MENTIONS, 3600, 5400]
    jobs.nodes_are({"0"}, 7200)
    assert jobs.next_mention() is None


# --- words that mean other things ---

FAILED, CANCELLED = (JobStatus(s) for s in (JobState.FAILED, JobState.CANCELLED))


def test_temporary_state_is_no_end() -> None:
    """A job of Grid Engine on its way to its node is FAILED to the provider."""
    jobs = Jobs(INTERVAL, trusted=False, stuck={JobState.FAILED: "held"})
    jobs.launched("0", 100, 0.0)
    assert look(jobs, FAILED, 10) == JobState.PENDING
    assert jobs.next_look() == 10 + SECOND_LOOK
    assert look(jobs, RUNNING, 10 + SECOND_LOOK) == JobState.RUNNING


def test_stuck_job_is_replaced_and_cancelled_later() -> None:
    jobs = Jobs(INTERVAL, trusted=False, stuck={JobState.FAILED: "held"})
    jobs.launched("0", 100, 0.0)
    look(jobs, FAILED, 10)
    assert look(jobs, FAILED, 10 + SECOND_LOOK) == JobState.FAILED
    assert [job.number for job in jobs if job.open] == [100]
    assert not jobs.missing()
    assert [job.end.message for job in jobs if job.end] == ["held"]
    jobs.nodes_are(["0"], 20)  # it goes on nevertheless
    assert look(jobs, RUNNING, 21) == JobState.RUNNING


def test_suspended_job_has_not_ended() -> None:
    """To the provider, LSF's suspended jobs are CANCELLED, and so are jobs that it has cancelled itself."""
    jobs = Jobs(INTERVAL, trusted=False, suspended=[JobState.CANCELLED])
    jobs.launched("0", 100, 0.0)
    for now in (10, 20, 100, 1000):
        assert look(jobs, CANCELLED, now) == JobState.PENDING
    job = jobs.get("0")
    assert job is not None
    job.cancelled = True
    assert look(jobs, CANCELLED, 1001) == JobState.CANCELLED


def test_job_with_output_need_not_be_listed() -> None:
    jobs = launched()
    jobs.stirs("0", 2)
    assert look(jobs, COMPLETED, 5) == JobState.PENDING
    assert look(jobs, COMPLETED, 5 + SECOND_LOOK) == JobState.COMPLETED


def test_silent_job_is_given_up_after_its_node_has_left() -> None:
    """Kubernetes' provider reports nothing more of a pod that was deleted."""
    jobs = launched()
    jobs.nodes_are(["0"], 10)
    jobs.nodes_are([], 20)
    assert look(jobs, RUNNING, 20 + FORGOTTEN - 1, answered=False) == JobState.RUNNING
    assert look(jobs, RUNNING, 20 + FORGOTTEN, answered=False) == JobState.COMPLETED
    assert [job.number for job in jobs if job.open] == [100]
