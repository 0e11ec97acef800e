"""How Parsl's providers read the output of batch systems, and how we read theirs."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from parsl.jobs.states import JobState, JobStatus
from parsl.launchers import SimpleLauncher
from parsl.providers import (
    CondorProvider,
    GridEngineProvider,
    KubernetesProvider,
    LSFProvider,
    PBSProProvider,
    SlurmProvider,
    TorqueProvider,
)

from taskvine_exec.blocks import providers
from taskvine_exec.blocks.jobs import FIRST_LOOK, FORGOTTEN, SECOND_LOOK, Jobs

PENDING, RUNNING, COMPLETED, FAILED = JobState.PENDING, JobState.RUNNING, JobState.COMPLETED, JobState.FAILED
NAME = "parsl.tv.block-0"

QSTAT = """\
job-ID  prior   name       user         state submit/start at     queue                          slots ja-task-ID
-----------------------------------------------------------------------------------------------------------------
     11 0.50000 other      somebody     r     11/27/2026 10:28:46 main.q@n1                          1
"""
QSTAT_JOB = "     12 0.50000 parsl.tv.b user         {:<5} 11/27/2026 10:28:46 {:<30}     1\n"
PBS = """{{"timestamp":1795775560,"pbs_version":"2022.1.5","pbs_server":"pbs1","Jobs":{{"12.pbs1":{{
"Job_Name":"parsl.tv.block-0","job_state":"{}","queue":"workq","server":"pbs1","Exit_status":{}}}}}}}"""
TORQUE = """
Job ID                    Name             User            Time Use S Queue
------------------------- ---------------- --------------- -------- - -----
12.torque1                parsl.tv.block-0 user            00:00:01 {} batch
"""
SUBMITTED = {
    GridEngineProvider: ("qsub", "12"),
    PBSProProvider: ("qsub", "12.pbs1"),
    TorqueProvider: ("qsub", "12.torque1.example.org"),
    LSFProvider: ("bsub", "Job <12> is submitted to default queue <normal>."),
    CondorProvider: ("condor_submit", "Submitting job(s).\n1 job(s) submitted to cluster 12."),
    SlurmProvider: ("sbatch", "Submitted batch job 12"),
}
ASKED = {
    GridEngineProvider: "qstat",
    PBSProProvider: "qstat",
    TorqueProvider: "qstat",
    LSFProvider: "bjobs",
    CondorProvider: "condor_q",
    SlurmProvider: "sacct",
}
SETTINGS: dict[type, dict[str, Any]] = {
    TorqueProvider: {"launcher": SimpleLauncher()},
    LSFProvider: {"launcher": SimpleLauncher()},
}


class Scripts:
    """Commands of a batch system that print the text that a test sets."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def say(self, command: str, output: str, status: int = 0) -> None:
        """Set what a command prints, and its exit status."""
        (self.directory / f"{command}.said").write_text(output)
        script = self.directory / command
        script.write_text(f'#!/bin/sh\necho "$@" >> "$0.asked"\ncat "$0.said"\nexit {status}\n')
        script.chmod(0o755)


@pytest.fixture
def scripts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Scripts:
    directory = tmp_path / "bin"
    directory.mkdir()
    monkeypatch.setenv("PATH", str(directory), prepend=os.pathsep)
    return Scripts(directory)


def submitted(kind: type, scripts: Scripts, tmp_path: Path) -> tuple[Any, Any]:
    """Make a provider with one submitted job; return both."""
    scripts.say("sacct", "")
    scripts.say(*SUBMITTED[kind])
    provider = kind(**SETTINGS.get(kind, {}))
    provider.script_dir = str(tmp_path)
    return provider, provider.submit("true", 1, NAME)


class Looks:
    """Look at one job every five seconds, and judge the answers as the executor does."""

    def __init__(self, provider: Any, job: Any) -> None:
        self.provider, self.job, self.now = provider, job, FIRST_LOOK
        suspended, stuck = providers.suspended(provider), providers.stuck(provider)
        self.jobs = Jobs(60, trusted=False, suspended=suspended, stuck=stuck)
        self.jobs.launched("0", job, 0.0)
        self.heard: JobStatus | None = provider.resources[job]["status"]

    def look(self) -> JobState:
        (said,) = self.provider.status([self.job])
        answered, self.heard = said is not self.heard, said
        self.jobs.looked(self.now)
        verdict: JobStatus = self.jobs.judge("0", said, self.now, answered=answered)
        self.now += SECOND_LOOK
        if said.terminal and not verdict.terminal:  # as the executor does, so that the provider asks again
            self.heard = self.provider.resources[self.job]["status"] = JobStatus(PENDING)
        return verdict.state

    @property
    def open(self) -> bool:
        return any(job.open for job in self.jobs)


CASES = [
    pytest.param(GridEngineProvider, QSTAT_JOB.format("qw", ""), 0, [PENDING, PENDING], True, id="sge-waits"),
    pytest.param(GridEngineProvider, QSTAT_JOB.format("r", "main.q@n1"), 0, [RUNNING], True, id="sge-runs"),
    pytest.param(GridEngineProvider, QSTAT_JOB.format("Eqw", ""), 0, [PENDING, FAILED], True, id="sge-error"),
    pytest.param(GridEngineProvider, QSTAT_JOB.format("Rr", "main.q@n1"), 0, [PENDING] * 2, True, id="sge-restarted"),
    pytest.param(GridEngineProvider, "error: unable to contact qmaster", 1, [PENDING] * 4, True, id="sge-no-answer"),
    pytest.param(PBSProProvider, PBS.format("Q", "null"), 0, [PENDING], True, id="pbs-waits"),
    pytest.param(PBSProProvider, PBS.format("R", "null"), 0, [RUNNING], True, id="pbs-runs"),
    pytest.param(PBSProProvider, PBS.format("S", "null"), 0, [JobState.HELD] * 3, True, id="pbs-suspended"),
    pytest.param(PBSProProvider, "", 35, [PENDING] * 4, True, id="pbs-no-history"),
    pytest.param(TorqueProvider, TORQUE.format("Q"), 0, [PENDING], True, id="torque-waits"),
    pytest.param(TorqueProvider, TORQUE.format("R"), 0, [RUNNING], True, id="torque-runs"),
    pytest.param(LSFProvider, "12 PEND\n", 0, [PENDING], True, id="lsf-waits"),
    pytest.param(LSFProvider, "12 RUN\n", 0, [RUNNING], True, id="lsf-runs"),
    pytest.param(LSFProvider, "12 USUSP\n", 0, [PENDING] * 4, True, id="lsf-suspended-by-user"),
    pytest.param(LSFProvider, "12 SSUSP\n", 0, [PENDING] * 4, True, id="lsf-suspended-by-system"),
    pytest.param(LSFProvider, "12 EXIT\n", 0, [FAILED], False, id="lsf-failed"),
    pytest.param(LSFProvider, "", 255, [PENDING] * 4, True, id="lsf-no-answer"),
    pytest.param(CondorProvider, "12.0 1\n", 0, [PENDING], True, id="condor-waits"),
    pytest.param(CondorProvider, "12.0 2\n", 0, [RUNNING], True, id="condor-runs"),
    pytest.param(CondorProvider, "12.0 5\n", 0, [PENDING, FAILED], True, id="condor-held"),
    pytest.param(CondorProvider, "12.0 3\n", 0, [JobState.CANCELLED], False, id="condor-removed"),
    pytest.param(CondorProvider, "", 0, [PENDING] * 4, True, id="condor-unlisted"),
]


@pytest.mark.parametrize(("kind", "output", "status", "verdicts", "still_open"), CASES)
def test_states_that_count_as_ended(
    scripts: Scripts,
    tmp_path: Path,
    kind: type,
    output: str,
    status: int,
    verdicts: list[JobState],
    still_open: bool,
) -> None:
    looks = Looks(*submitted(kind, scripts, tmp_path))
    scripts.say(ASKED[kind], (QSTAT if kind is GridEngineProvider and not status else "") + output, status)
    assert [looks.look() for _ in verdicts] == verdicts
    assert looks.open == still_open


@pytest.mark.parametrize(
    ("kind", "runs", "gone"),
    [
        (GridEngineProvider, QSTAT + QSTAT_JOB.format("r", "main.q@n1"), (QSTAT, 0)),
        (GridEngineProvider, QSTAT + QSTAT_JOB.format("r", "main.q@n1"), (QSTAT + QSTAT_JOB.format("dr", "n1"), 0)),
        (PBSProProvider, PBS.format("R", "null"), (PBS.format("F", "271"), 0)),
        (TorqueProvider, TORQUE.format("R"), ("", 153)),
        (LSFProvider, "12 RUN\n", ("12 DONE\n", 0)),
        (CondorProvider, "12.0 2\n", ("12.0 4\n", 0)),
    ],
    ids=["sge", "sge-is-deleted", "pbs", "torque", "lsf", "condor"],
)
def test_end_needs_two_looks(scripts: Scripts, tmp_path: Path, kind: type, runs: str, gone: tuple[str, int]) -> None:
    looks = Looks(*submitted(kind, scripts, tmp_path))
    scripts.say(ASKED[kind], runs)
    assert looks.look() == RUNNING
    scripts.say(ASKED[kind], *gone)
    assert [looks.look(), looks.look()] == [PENDING, COMPLETED]
    assert not looks.open


def test_job_on_its_way_to_its_node_has_not_failed(scripts: Scripts, tmp_path: Path) -> None:
    looks = Looks(*submitted(GridEngineProvider, scripts, tmp_path))
    scripts.say("qstat", QSTAT + QSTAT_JOB.format("t", "main.q@n1"))
    assert looks.look() == PENDING
    scripts.say("qstat", QSTAT + QSTAT_JOB.format("r", "main.q@n1"))
    assert [looks.look() for _ in range(3)] == [RUNNING] * 3


def test_deleted_pod_has_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    """The provider repeats its last answer, and raises an exception where it should delete the pod."""

    def read(phase: str | None) -> Callable[..., Any]:
        def pod(**_: str) -> Any:
            if phase is None:
                raise LookupError("404: pods not found")
            return SimpleNamespace(status=SimpleNamespace(phase=phase))

        return pod

    provider = KubernetesProvider.__new__(KubernetesProvider)  # without the client library of Kubernetes
    provider.namespace = "default"
    provider.resources = {"a": {"status": JobStatus(RUNNING), "pod_name": "pod"}}
    provider.kube_client = SimpleNamespace(read_namespaced_pod=read("Running"))
    looks = Looks(provider, "a")
    looks.jobs.nodes_are(["0"], 1)
    assert looks.look() == RUNNING
    looks.jobs.nodes_are([], looks.now)
    provider.kube_client.read_namespaced_pod = read(None)
    assert [looks.look() for _ in range(3)] == [RUNNING] * 3
    looks.now += FORGOTTEN
    assert looks.look() == COMPLETED


@pytest.mark.parametrize("kind", [GridEngineProvider, TorqueProvider, LSFProvider, CondorProvider])
def test_paths_of_output_are_those_in_the_submit_script(scripts: Scripts, tmp_path: Path, kind: type) -> None:
    for other in ("parsl.tv.block-01.9.submit", "parsl.tv.block-0.stdout", "parsl.x.block-0.1.submit"):
        (tmp_path / other).touch()
    provider, _ = submitted(kind, scripts, tmp_path)
    paths = providers.output_paths(provider, NAME)
    assert len(set(paths)) == 2
    (script,) = (path for path in tmp_path.glob("*parsl.tv.block-0.*.submit"))
    assert all(path in script.read_text().split() for path in paths)


def test_no_paths_without_a_script(tmp_path: Path) -> None:
    provider = GridEngineProvider()
    assert providers.output_paths(provider, NAME) == ()
    provider.script_dir = str(tmp_path)
    assert providers.output_paths(provider, NAME) == ()
    assert providers.output_paths(None, NAME) == ()
