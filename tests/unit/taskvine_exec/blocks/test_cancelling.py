"""Jobs that are cancelled, after their nodes have cleaned up."""

from __future__ import annotations

import logging
import threading
from pathlib import Path

import pytest
from parsl.jobs.states import JobState, JobStatus

from taskvine_exec.blocks import cancelling
from taskvine_exec.blocks.cancelling import Canceller
from taskvine_exec.blocks.jobs import Jobs
from taskvine_manager.node.leftovers import LEFT


class Batch:
    """A provider of three jobs. It refuses a request that contains a job of ``refused``."""

    def __init__(self, directory: Path, *, trusted: bool = False) -> None:
        self.directory = directory
        self.states = dict.fromkeys("012", JobState.RUNNING)
        self.refused: set[str] = set()
        self.asked: list[list[str]] = []
        self.broken = False
        self.jobs = Jobs(1.0, trusted=trusted)
        for block in self.states:
            self.jobs.launched(block, block, 0.0)
        self.canceller = Canceller(
            self, threading.RLock(), self.jobs, lambda job: [str(directory / job.number)], "[blocks]"
        )

    def status(self, jobs: list[str]) -> list[JobStatus]:
        if self.broken:
            raise OSError("squeue timed out")
        return [JobStatus(self.states[job]) for job in jobs]

    def cancel(self, jobs: list[str]) -> list[bool]:
        self.asked.append(jobs)
        return [not self.refused.intersection(jobs)] * len(jobs)

    def clean_up(self, job: str) -> None:
        (self.directory / job).write_text(f"{LEFT}\n")


@pytest.fixture
def batch(tmp_path: Path) -> Batch:
    return Batch(tmp_path)


def test_all_jobs_are_cancelled_with_one_request(batch: Batch) -> None:
    batch.canceller.cancel(["0", "2", "7"])
    assert batch.asked == [["0", "2"]]
    batch.canceller.cancel(["0", "2"])
    assert len(batch.asked) == 1
    assert [job.block for job in batch.jobs if job.open] == ["1"]


def test_jobs_are_cancelled_one_by_one_if_one_has_just_ended(batch: Batch, caplog: pytest.LogCaptureFixture) -> None:
    batch.refused, batch.states["1"] = {"1"}, JobState.FAILED
    batch.canceller.cancel(["0", "1", "2"])
    assert batch.asked == [["0", "1", "2"], ["0"], ["2"]]
    assert not caplog.text


def test_jobs_that_cannot_be_cancelled_are_named(batch: Batch, caplog: pytest.LogCaptureFixture) -> None:
    batch.refused = {"1"}
    with caplog.at_level(logging.WARNING):
        batch.canceller.cancel(["0", "1"])
    assert "these blocks could not be cancelled: 1 (job 1)" in caplog.text


def test_ended_process_is_not_killed(tmp_path: Path) -> None:
    """Another process may have the same number by now."""
    batch = Batch(tmp_path, trusted=True)
    batch.states["0"] = JobState.COMPLETED
    batch.canceller.end_all(set(), lambda block: None)
    assert batch.asked == [["1", "2"]]


def test_processes_of_unknown_state_are_not_killed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    batch = Batch(tmp_path, trusted=True)
    batch.broken = True
    with caplog.at_level(logging.WARNING):
        batch.canceller.end_all(set(), lambda block: None)
    assert not batch.asked
    assert "blocks ['0', '1', '2'] are not cancelled: squeue timed out" in caplog.text


def test_nodes_clean_up_before_their_jobs_are_cancelled(
    batch: Batch, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(cancelling, "_CANCELLED_SECONDS", 0.0)
    monkeypatch.setattr(cancelling, "_LEAVE_SECONDS", 0.0)
    batch.clean_up("1")
    with caplog.at_level(logging.WARNING):
        batch.canceller.end_all({"1", "2"}, {"2": "/tmp/n (node n)"}.get)
    assert batch.asked == [["0"], ["1", "2"]]
    assert "block 2 (job 2) has not reported that it cleaned up. /tmp/n (node n) may remain" in caplog.text
    assert "block 1" not in caplog.text
