"""Fields that an engine does not support are refused; those without effect are warned of."""

from __future__ import annotations

import logging
from typing import Any

import pytest
from parsl.errors import ConfigurationError

from tests.unit.taskvine_exec.config.derived import embedded, vine


@pytest.mark.parametrize(
    "settings",
    [
        {"project_name": "p"},
        {"project_password_file": "/pw"},
        {"condor_requirements": "Memory > 1"},
        {"batch_options": "-q x"},
        {"batch_type": "slurm"},
        {"python_env": "/env.tar.gz"},
        {"worker_executable": "/opt/vine_worker"},
    ],
)
def test_field_that_needs_taskvine_is_refused(settings: dict[str, Any]) -> None:
    (name,) = settings
    with pytest.raises(ConfigurationError, match=rf"does not support {name}=.*use engine='taskvine'"):
        embedded(**settings)


def test_all_fields_that_need_taskvine_are_named_at_once() -> None:
    with pytest.raises(ConfigurationError, match="project_name='p', batch_options='-q x', batch_type='condor'"):
        embedded(project_name="p", batch_options="-q x", batch_type="condor")


def test_taskvine_accepts_what_the_embedded_engine_refuses() -> None:
    made = vine(batch_type="condor", condor_requirements="x", project_name="p")
    assert (made.local, made.batch_type, made.condor_requirements) == (False, "condor", "x")
    assert made.project_name == "p"


@pytest.mark.parametrize(("name", "instead"), [("app_pack", "env_pack"), ("autolabel", "each app's specification")])
def test_fields_that_no_engine_supports_are_refused(name: str, instead: str) -> None:
    fields: dict[str, Any] = {name: True}
    for derive in (embedded, vine):
        with pytest.raises(ConfigurationError, match=rf"{name}=True .*left out: .*{instead}"):
            derive(**fields)


@pytest.mark.parametrize("settings", [{"port": 9123}, {"address": "127.0.0.1"}])
def test_port_and_address_are_tolerated(settings: dict[str, Any], caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, logger="taskvine_exec.config"):
        embedded(**settings)
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert next(iter(settings)) in caplog.text


def test_defaults_cause_no_warning(caplog: pytest.LogCaptureFixture) -> None:
    embedded()
    assert not caplog.records
