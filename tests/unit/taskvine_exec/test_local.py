"""local_config: where each argument goes, and tuning from the environment."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from parsl.errors import ConfigurationError
from parsl.executors import ThreadPoolExecutor

from taskvine_exec import DAG_RESOLVER, TaskVineExecutor, TaskVineManagerConfig, local_config
from taskvine_exec import local as local_module
from taskvine_tune import TuneParameters


@pytest.fixture(autouse=True)
def _untuned(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("TASKVINE_TUNE", raising=False)
    monkeypatch.chdir(tmp_path)


def tuned(**overrides: Any) -> dict[str, float]:
    (executor,) = local_config(**overrides).executors
    assert isinstance(executor, TaskVineExecutor)
    return executor.settings.tune_parameters


def test_defaults() -> None:
    config = local_config()
    (executor,) = config.executors
    assert isinstance(executor, TaskVineExecutor)
    assert config.dependency_resolver is DAG_RESOLVER
    assert (config.strategy, config.run_dir, config.retries) == ("none", "runinfo", 0)


def test_each_argument_reaches_its_object() -> None:
    threads = ThreadPoolExecutor(label="threads")
    config = local_config(
        label="mine", cores=3, retries=2, strategy="simple", run_dir=Path("~/runs"), executors=[threads]
    )
    executor, other = config.executors
    assert isinstance(executor, TaskVineExecutor)
    assert (executor.label, executor.factory_config.cores) == ("mine", 3)
    assert other is threads
    assert (config.retries, config.strategy, config.run_dir) == (2, "simple", os.path.expanduser("~/runs"))


def test_unknown_argument_is_refused_with_the_nearest() -> None:
    with pytest.raises(TypeError, match="max_retries"):
        local_config(max_retrys=1)


def test_logs_go_elsewhere_if_the_directory_is_not_writable(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(local_module.os, "access", lambda *_: False)  # root may write anywhere
    monkeypatch.setattr(local_module.tempfile, "tempdir", str(tmp_path))
    run_dir = Path(local_config().run_dir)
    assert run_dir.parent.parent == tmp_path
    assert run_dir.parent.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize(
    "given",
    [
        {"tune_parameters": {"worker_source_max_transfers": 1, "immediate-recovery": 1}},
        {"tune_parameters": TuneParameters({"worker_source_max_transfers": 1, "immediate-recovery": 1})},
        {
            "manager_config": TaskVineManagerConfig(
                tune_parameters={"worker-source-max-transfers": 1, "immediate-recovery": 1}
            )
        },
    ],
)
def test_environment_takes_precedence_over_the_script(monkeypatch: pytest.MonkeyPatch, given: dict[str, Any]) -> None:
    assert tuned(**given) == {"worker-source-max-transfers": 1, "immediate-recovery": 1}
    monkeypatch.setenv("TASKVINE_TUNE", '{"worker-source-max-transfers": 2, "file_source_max_transfers": 5}')
    environment = {"worker-source-max-transfers": 2, "file-source-max-transfers": 5}
    assert tuned(**given) == {**environment, "immediate-recovery": 1}
    assert tuned() == environment


def test_empty_variable_is_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TASKVINE_TUNE", " ")
    assert tuned() == {}


@pytest.mark.parametrize("text", ["{", "[1]", "2", '{"temp-replica-count": "2"}', '{"temp-replica-count": NaN}'])
def test_only_objects_of_numbers_are_accepted(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("TASKVINE_TUNE", text)
    with pytest.raises(ConfigurationError, match=r"TASKVINE_TUNE|temp-replica-count"):
        local_config()


def test_configs_share_nothing() -> None:
    given = {"temp-replica-count": 1}
    first, second = local_config(tune_parameters=given), local_config(tune_parameters=given)
    assert first.executors[0] is not second.executors[0]
    assert given == {"temp-replica-count": 1}
