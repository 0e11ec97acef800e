"""Neither reprs nor messages show possible passwords."""

from __future__ import annotations

from typing import Any

import pytest
from parsl.errors import ConfigurationError

from taskvine_exec.config import TaskVineFactoryConfig, TaskVineManagerConfig, own_libraries, with_overrides
from tests.unit.taskvine_exec.config.derived import embedded

SECRET = "hunter2"


@pytest.mark.parametrize(
    "settings",
    [
        {"env_vars": {"AWS_SECRET_ACCESS_KEY": SECRET, "PLAIN": SECRET}},
        {"init_command": f"export API_TOKEN={SECRET} &&"},
        {"init_command": f"login --password '{SECRET}' &&"},
        {"init_command": f"curl https://me:{SECRET}@example.org | sh &&"},
        {"worker_options": f"--password={SECRET}"},
        {"batch_options": f"--passphrase {SECRET}"},
        {"library_config": {"context": len, "context_args": (SECRET,), "context_kwargs": {"key": SECRET}}},
    ],
)
def test_repr_hides_possible_secrets(settings: dict[str, Any]) -> None:
    configs: list[object] = [*with_overrides(TaskVineManagerConfig(), TaskVineFactoryConfig(), settings)]
    if not settings.keys() & {"worker_options", "batch_options"}:
        configs.append(embedded(**settings))
    for config in configs:
        assert SECRET not in repr(config)
        assert SECRET not in str(config)
    assert "***" in repr(configs)


@pytest.mark.parametrize(
    "settings",
    [
        {"env_vars": {"TOKEN": [SECRET]}},
        {"env_vars": [("TOKEN", SECRET)]},
        {"env_vars": f"TOKEN={SECRET}"},
        {"library_config": {"context": len, "context_args": SECRET}},
        {"library_config": {"context": len, "context_kwargs": {1: SECRET}}},
        {"worker_options": f"--password={SECRET}"},
        {"batch_options": f"--password={SECRET}"},
    ],
)
def test_errors_hide_possible_secrets(settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError) as caught:
        embedded(**settings)
    assert SECRET not in str(caught.value)


def test_repr_shows_other_fields() -> None:
    shown = repr(TaskVineManagerConfig(project_password_file="/home/me/pw", max_retries=None))
    assert shown.startswith("TaskVineManagerConfig(port=0, ")
    assert "project_password_file='/home/me/pw'" in shown
    assert "max_retries=None" in shown
    assert "_project" not in repr(TaskVineFactoryConfig())


def test_repr_of_libraries_hides_what_may_be_secret() -> None:
    given = {"model": {"context": len, "context_args": (SECRET,), "context_kwargs": {"key": SECRET}}}
    own = own_libraries(given)
    for shown in (repr(own), repr(embedded(libraries=own))):
        assert SECRET not in shown
        assert "***" in shown
    assert own == given
