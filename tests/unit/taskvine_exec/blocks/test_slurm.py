"""Answers of Slurm's controller, in the words of Slurm 22.05."""

from __future__ import annotations

from typing import Any

import pytest
from parsl.jobs.states import JobState, JobStatus
from parsl.providers import LocalProvider, SlurmProvider

from taskvine_exec.blocks import slurm

LINE = (
    "JobId=7 JobName=parsl.tv.block-0 UserId=root(0) Priority=4294901759 Account=root QOS=normal JobState={} Reason={} "
    "Dependency=(null) Requeue=1 Restarts=0 BatchFlag=1 Reboot=0 ExitCode={} RunTime=00:00:00 Partition=compute "
)


@pytest.mark.parametrize(
    ("state", "reason", "code", "status", "exit_code"),
    [
        ("PENDING", "Resources", "0:0", JobState.PENDING, None),
        ("RUNNING", "None", "0:0", JobState.RUNNING, None),
        ("COMPLETING", "None", "0:0", JobState.RUNNING, None),
        ("SUSPENDED", "None", "0:0", JobState.PENDING, None),
        ("COMPLETED", "None", "0:0", JobState.COMPLETED, 0),
        ("FAILED", "NonZeroExitCode", "3:0", JobState.FAILED, 3),
        ("CANCELLED", "None", "0:15", JobState.CANCELLED, None),
        ("TIMEOUT", "TimeLimit", "0:15", JobState.TIMEOUT, None),
        ("NODE_FAIL", "NodeDown", "0:0", JobState.FAILED, None),
    ],
)
def test_states_are_read(state: str, reason: str, code: str, status: JobState, exit_code: int | None) -> None:
    detail = slurm.parse(LINE.format(state, reason, code))
    assert detail is not None
    told = detail.status(JobStatus(JobState.COMPLETED, stdout_path="out", stderr_path="err"))
    assert (told.state, told.exit_code) == (status, exit_code)
    assert ("reason" in str(detail)) == (reason != "None")
    if told.terminal:
        assert (told.stdout_path, told.stderr_path) == ("out", "err")


@pytest.mark.parametrize(
    ("state", "reason", "cure"),
    [
        ("PENDING", "Resources", ""),
        ("PENDING", "Priority", ""),
        ("PENDING", "None", ""),
        ("PENDING", "AssocGrpCPUMinutesLimit", "limit of its account"),
        ("PENDING", "InvalidAccount", "account may not be used"),
        ("PENDING", "QOSMaxJobsPerUserLimit", "quality of service"),
        ("PENDING", "PartitionTimeLimit", "more than its partition has"),
        ("PENDING", "JobHeldUser", "held"),
        ("RUNNING", "AssocGrpCPUMinutesLimit", ""),
    ],
)
def test_reasons_that_may_pass_are_recognised(state: str, reason: str, cure: str) -> None:
    detail = slurm.parse(LINE.format(state, reason, "0:0"))
    assert detail is not None
    assert (cure in detail.cure) if cure else detail.cure == ""


def test_unknown_job_has_no_state() -> None:
    assert slurm.parse("") is None
    assert slurm.parse("slurm_load_jobs error: Invalid job id specified\n") is None


@pytest.mark.parametrize(
    ("answer", "clusters", "found"),
    [((0, LINE.format("FAILED", "None", "1:0"), ""), "other", True), ((1, "", "Invalid job id"), None, False)],
)
def test_controller_is_asked(
    answer: tuple[int, str, str], clusters: str | None, found: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def execute_wait(_: Any, command: str, timeout: float | None = None) -> tuple[int, str, str]:
        asked.append(command)
        return answer

    monkeypatch.setattr(SlurmProvider, "execute_wait", execute_wait)
    provider = SlurmProvider(clusters=clusters)
    assert (slurm.ask(provider, "7") is not None) == found
    option = f" --clusters={clusters}" if clusters else ""
    assert asked[-1] == f"scontrol{option} --oneliner show job 7"


def test_failing_command_is_no_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    def execute_wait(*_: Any) -> None:
        raise TimeoutError

    provider = SlurmProvider()
    monkeypatch.setattr(SlurmProvider, "execute_wait", execute_wait)
    assert slurm.ask(provider, "7") is None


def test_other_providers_are_not_asked() -> None:
    assert slurm.ask(LocalProvider(), "7") is None
    assert slurm.ask(None, "7") is None
