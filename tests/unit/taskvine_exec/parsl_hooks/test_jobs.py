"""The job tables of Parsl's providers."""

from __future__ import annotations

from typing import Any

import pytest
from parsl.jobs.states import JobState, JobStatus
from parsl.launchers import SingleNodeLauncher
from parsl.providers import LocalProvider

from taskvine_exec.parsl_hooks import jobs
from taskvine_exec.parsl_hooks.switches import JOBS
from tests.unit.taskvine_exec.parsl_hooks.conftest import Switch


@pytest.fixture
def provider(tmp_path: Any) -> LocalProvider:
    """A provider that believes that a job has ended."""
    made = LocalProvider(launcher=SingleNodeLauncher())
    made.resources["7"] = {"status": JobStatus(JobState.FAILED), "remote_pid": None}
    return made


def test_provider_asks_again(provider: LocalProvider, switch: Switch) -> None:
    on = switch(JOBS)
    known = provider.resources["7"]["status"]
    status = jobs.ask_again(provider, "7", JobState.RUNNING, known)
    assert status.state == (JobState.RUNNING if on else JobState.FAILED)
    assert provider.resources["7"]["status"] is status
    assert provider.resources["7"]["status"].terminal is not on


def test_entry_of_a_job_is_found(provider: LocalProvider) -> None:
    assert jobs.entry(provider, "7")["status"].state == JobState.FAILED
    assert jobs.entry(provider, "8") == {}
    assert jobs.entry(object(), "7") == {}
