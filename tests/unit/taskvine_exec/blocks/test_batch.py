"""The jobs of blocks at their provider: submitted, asked about, and described."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

import pytest
from parsl.jobs.states import JobState, JobStatus
from parsl.providers import CondorProvider, LocalProvider, SlurmProvider

from taskvine_exec.blocks.batch import SHOWN, Batch, jobs_of

RUNNING, PENDING = JobStatus(JobState.RUNNING), JobStatus(JobState.PENDING)


class Provider:
    """A provider of a batch system that numbers its jobs from 1."""

    status_polling_interval = 60

    def __init__(self, **attributes: Any) -> None:
        self.resources: dict[Any, dict[str, Any]] = {}
        self.submitted: list[tuple[str, int, str]] = []
        self.__dict__.update(attributes)

    def submit(self, command: str, tasks_per_node: int, name: str) -> int:
        self.submitted.append((command, tasks_per_node, name))
        self.resources[len(self.submitted)] = {"status": PENDING}
        return len(self.submitted)


class World:
    """The jobs of a provider, and the blocks whose cancellation was requested."""

    def __init__(self, provider: Any) -> None:
        self.provider = provider
        self.jobs = jobs_of(provider)
        self.cancelled: list[str] = []
        self.batch = Batch(provider, self.jobs, "[blocks]", self.cancelled.append)

    def submit(self, block: str) -> Any:
        return self.batch.submit(block, "command", f"parsl.block-{block}")

    def weigh(self, block: str, state: JobState, now: float, message: str = "", code: int | None = None) -> JobState:
        return self.batch.weigh(block, JobStatus(state, message, code), now).state

    def output(self, block: str) -> list[str]:
        job = self.jobs.get(block)
        assert job is not None
        return self.batch.output(job)


@pytest.fixture
def world() -> World:
    return World(Provider())


# --- before jobs ---


@pytest.mark.parametrize(
    ("provider", "trusted"), [(None, True), (LocalProvider(), True), (Provider(), False), (SlurmProvider(), False)]
)
def test_end_of_a_job_of_a_batch_system_is_in_doubt(provider: Any, trusted: bool) -> None:
    assert jobs_of(provider).trusted is trusted


def test_held_jobs_of_a_provider_are_known() -> None:
    assert jobs_of(CondorProvider()).held == {JobState.FAILED}


@pytest.mark.parametrize(
    ("given", "used"),
    [(None, "/scripts"), ("/given", "/given"), ("/with a space", "/scripts"), (Path("/a b"), "/scripts")],
)
def test_submit_scripts_are_where_the_shell_finds_them(given: Any, used: str) -> None:
    provider: Any = Provider(script_dir=given)
    World(provider).batch.prepare("/scripts")
    assert provider.script_dir == used


def test_provider_without_submit_scripts_is_left_as_it_is() -> None:
    provider = Provider()
    World(provider).batch.prepare("/scripts")
    assert not hasattr(provider, "script_dir")


def test_script_of_a_cluster_waits_for_its_nodes() -> None:
    cluster, local = SlurmProvider(worker_init="module load python"), LocalProvider(worker_init="true")
    for provider in (cluster, local):
        World(provider).batch.prepare("/scripts")
    assert cluster.worker_init.split() == ["module", "load", "python", "trap", "wait", "TERM", "INT"]
    assert cluster.worker_init.endswith("\ntrap wait TERM INT")
    assert local.worker_init == "true"


# --- jobs ---


def test_submitted_job_is_known(world: World) -> None:
    assert world.submit("0") == 1
    assert world.provider.submitted == [("command", 1, "parsl.block-0")]
    job = world.jobs.get("0")
    assert job is not None
    assert (job.number, job.open) == (1, True)


def test_block_without_a_job_is_not_known() -> None:
    world = World(Provider(submit=lambda *_: None))
    assert world.submit("0") is None
    assert world.jobs.get("0") is None
    assert world.weigh("0", JobState.FAILED, 0.0) == JobState.FAILED


def test_output_files_are_those_of_the_provider(world: World) -> None:
    world.submit("0")
    assert world.output("0") == []
    world.provider.resources[1] |= {"job_stdout_path": "/out", "job_stderr_path": "/err"}
    assert world.output("0") == ["/out", "/err"]


def test_output_files_are_found_by_the_submit_script(tmp_path: Path) -> None:
    (tmp_path / "parsl.block-0.1.submit").touch()
    world = World(Provider(script_dir=str(tmp_path)))
    world.submit("0")
    assert world.output("0") == [f"{tmp_path}/parsl.block-0.1.submit.{kind}" for kind in ("stdout", "stderr")]


# --- what the provider says ---


def test_end_is_believed_at_the_second_look(world: World) -> None:
    world.submit("0")
    assert world.weigh("0", JobState.RUNNING, 1.0) == JobState.RUNNING
    assert world.weigh("0", JobState.COMPLETED, 10.0) == JobState.PENDING
    assert world.weigh("0", JobState.COMPLETED, 20.0) == JobState.COMPLETED
    assert world.weigh("0", JobState.RUNNING, 30.0) == JobState.COMPLETED, "a job ends once"


def test_same_answer_is_no_news(world: World) -> None:
    world.submit("0")
    job = world.jobs.get("0")
    assert job is not None
    said = world.provider.resources[1]["status"]
    world.batch.weigh("0", said, 1.0)
    assert not job.listed, "it is what the provider said at the submission"
    world.batch.weigh("0", JobStatus(JobState.PENDING), 2.0)
    assert job.listed


def test_held_job_is_cancelled(monkeypatch: pytest.MonkeyPatch) -> None:
    provider = CondorProvider()
    monkeypatch.setattr(provider, "submit", lambda *_: "7")
    world = World(provider)
    provider.resources["7"] = {}
    world.submit("0")
    world.weigh("0", JobState.FAILED, 1.0)
    assert world.cancelled == []
    assert world.weigh("0", JobState.FAILED, 100.0) == JobState.FAILED
    assert world.cancelled == ["0"]


@pytest.mark.parametrize(
    ("line", "state", "asks_again"),
    [
        ("JobState=RUNNING Reason=None ExitCode=0:0", JobState.RUNNING, True),
        ("JobState=FAILED Reason=NonZeroExitCode ExitCode=3:0", JobState.FAILED, False),
        ("", JobState.FAILED, False),
    ],
)
def test_slurms_controller_decides(
    monkeypatch: pytest.MonkeyPatch, line: str, state: JobState, asks_again: bool
) -> None:
    monkeypatch.setattr(SlurmProvider, "execute_wait", lambda *_: (0 if line else 1, line, ""))
    monkeypatch.setattr(SlurmProvider, "submit", lambda *_: "7")
    provider = SlurmProvider()
    ended = JobStatus(JobState.FAILED)
    provider.resources["7"] = {"status": ended}
    world = World(provider)
    world.submit("0")
    assert world.batch.weigh("0", ended, 1.0).state == state
    assert (provider.resources["7"]["status"].state == JobState.PENDING) is asks_again


# --- exit codes that LocalProvider cannot read ---


def local(monkeypatch: pytest.MonkeyPatch) -> World:
    provider = LocalProvider()
    provider.resources[1] = {}
    monkeypatch.setattr(provider, "submit", lambda *_: 1)
    world = World(provider)
    world.submit("0")
    return world


def test_exit_code_that_is_being_written_is_read_again(monkeypatch: pytest.MonkeyPatch) -> None:
    world = local(monkeypatch)
    assert world.weigh("0", JobState.FAILED, 10.0, "Cannot parse exit code: ") == JobState.RUNNING
    assert world.provider.resources[1]["status"].state == JobState.RUNNING, "or it would not look again"
    assert world.weigh("0", JobState.COMPLETED, 10.5, code=0) == JobState.COMPLETED


def test_exit_code_that_is_not_written_in_time_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    world = local(monkeypatch)
    assert world.weigh("0", JobState.FAILED, 10.0, "Cannot parse exit code: ") == JobState.RUNNING
    assert world.weigh("0", JobState.FAILED, 12.0, "Cannot parse exit code: ") == JobState.FAILED


@pytest.mark.parametrize("message", ["", "Cannot parse exit code: 3x", "no such file"])
def test_other_failures_are_believed(monkeypatch: pytest.MonkeyPatch, message: str) -> None:
    assert local(monkeypatch).weigh("0", JobState.FAILED, 10.0, message) == JobState.FAILED


def test_other_providers_are_believed(world: World) -> None:
    world.submit("0")
    assert world.weigh("0", JobState.FAILED, 10.0, "Cannot parse exit code: ") == JobState.FAILED


# --- output files ---


def test_new_output_shows_that_a_job_runs(world: World, tmp_path: Path) -> None:
    world.submit("0")
    (tmp_path / "err").touch()
    world.provider.resources[1] |= {"job_stdout_path": str(tmp_path / "out"), "job_stderr_path": str(tmp_path / "err")}
    os.utime(tmp_path / "err", (0, 0))
    job = world.jobs.get("0")
    assert job is not None
    world.batch.watch_outputs(10.0)
    assert job.stirred is None
    (tmp_path / "out").touch()
    world.batch.watch_outputs(11.0)
    world.batch.watch_outputs(12.0)
    assert job.stirred == 11.0


def test_output_of_jobs_that_have_nodes_is_not_watched(world: World, tmp_path: Path) -> None:
    world.submit("0")
    world.provider.resources[1] |= {"job_stdout_path": str(tmp_path / "out")}
    world.jobs.nodes_are(["0"], 5.0)
    (tmp_path / "out").touch()
    world.batch.watch_outputs(11.0)
    job = world.jobs.get("0")
    assert job is not None
    assert job.stirred is None


def test_output_of_local_jobs_is_not_watched(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    world = local(monkeypatch)
    world.provider.resources[1] |= {"job_stdout_path": str(tmp_path / "out")}
    (tmp_path / "out").touch()
    world.batch.watch_outputs(11.0)
    job = world.jobs.get("0")
    assert job is not None
    assert job.stirred is None


# --- words ---


def test_jobs_that_wait_are_mentioned(world: World, caplog: pytest.LogCaptureFixture) -> None:
    for number in range(SHOWN + 2):
        world.submit(str(number))
    with caplog.at_level(logging.INFO):
        world.batch.mention(list(world.jobs), {"0": PENDING})
    ((_, level, text),) = caplog.record_tuples
    assert level == logging.INFO
    assert text.startswith("[blocks] no node yet after 0 s from block 0 (job 1), 1 (job 2), ")
    assert text.endswith("4 (job 5) and 2 more; state of the first: its provider says PENDING")


def test_job_of_unknown_state_is_mentioned(world: World, caplog: pytest.LogCaptureFixture) -> None:
    world.submit("0")
    with caplog.at_level(logging.INFO):
        world.batch.mention(list(world.jobs), {})
    assert caplog.messages == [
        "[blocks] no node yet after 0 s from block 0 (job 1); state of the first: no state is known"
    ]


def test_job_that_may_wait_forever_is_a_warning(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(SlurmProvider, "execute_wait", lambda *_: (0, "JobState=PENDING Reason=JobHeldUser", ""))
    monkeypatch.setattr(SlurmProvider, "submit", lambda *_: "7")
    world = World(SlurmProvider())
    world.submit("0")
    world.batch.mention(list(world.jobs), {})
    ((_, level, text),) = caplog.record_tuples
    assert level == logging.WARNING
    assert text.endswith(
        "state of the first: Slurm says PENDING, reason JobHeldUser. The job is held; `scontrol release` frees it"
    )


def test_failed_block_is_explained_by_its_output(world: World, tmp_path: Path) -> None:
    world.submit("0")
    (tmp_path / "err").write_text("no such module")
    world.provider.resources[1] |= {"job_stdout_path": str(tmp_path / "out"), "job_stderr_path": str(tmp_path / "err")}
    error = world.batch.failure([("0", JobStatus(JobState.FAILED, "it failed", 3))])
    assert error.reason == "block 0 ended before its node joined: it failed"
    assert (error.exit_code, error.job, error.output) == (3, "1", str(tmp_path / "err"))
    assert "no such module" in error.stderr


def test_several_failed_blocks_are_named_in_order(world: World) -> None:
    ended = JobStatus(JobState.COMPLETED)
    error = world.batch.failure([("2", ended), ("1", ended)])
    assert error.reason == "blocks 1, 2 ended before their nodes joined"
    assert (error.job, error.output, error.stderr) == ("", "", "")


def test_output_that_cannot_be_read_is_left_out(world: World, tmp_path: Path) -> None:
    error = world.batch.failure([("0", JobStatus(JobState.FAILED, stderr_path=str(tmp_path / "missing")))])
    assert error.stderr == ""
    assert error.output == str(tmp_path / "missing")
