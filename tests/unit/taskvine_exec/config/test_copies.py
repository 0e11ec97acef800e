"""Configurations are copied, Parsl's too, and the user's objects stay unchanged."""

from __future__ import annotations

import copy
import dataclasses
from typing import Any

import pytest
from parsl.errors import ConfigurationError
from parsl.executors.taskvine import TaskVineFactoryConfig as ParslFactoryConfig
from parsl.executors.taskvine import TaskVineManagerConfig as ParslManagerConfig

from taskvine_exec.config import (
    TaskVineFactoryConfig,
    TaskVineManagerConfig,
    embedded_settings,
    own_factory_config,
    own_manager_config,
    with_overrides,
)
from taskvine_tune import TuneParameters
from tests.unit.taskvine_exec.config.derived import embedded


@pytest.mark.parametrize(
    ("ours", "own"), [(TaskVineManagerConfig, own_manager_config), (TaskVineFactoryConfig, own_factory_config)]
)
def test_defaults_are_valid_and_fresh(ours: Any, own: Any) -> None:
    assert own(None) == ours()
    assert own(None) is not own(None)


@pytest.mark.parametrize("cls", [TaskVineManagerConfig, ParslManagerConfig])
def test_manager_configs_are_copied_and_not_changed(cls: Any) -> None:
    context_kwargs = {"depth": [1]}
    given = cls(
        port=9123,
        env_vars={"A": "1"},
        extra_pkgs=["x"],
        library_config={"num_slots": 2, "context": len, "context_args": ([],), "context_kwargs": context_kwargs},
        tune_parameters={"temp_replica_count": 2},
    )
    before = copy.deepcopy(given)
    own = own_manager_config(given)
    assert type(own) is TaskVineManagerConfig
    assert dataclasses.asdict(own) == dataclasses.asdict(given)

    own.env_vars["B"] = "2"  # type: ignore[index]
    own.extra_pkgs.append("y")  # type: ignore[union-attr]
    own.library_config["cores"] = 1  # type: ignore[index]
    own.library_config["context_kwargs"]["more"] = 1  # type: ignore[index]
    own.tune_parameters.clear()  # type: ignore[union-attr]
    own.project_name = "mine"
    changed, _ = with_overrides(own, TaskVineFactoryConfig(), {"port": 1})
    embedded_settings(
        own_manager_config(given), TaskVineFactoryConfig(), function_exec_mode="L1", worker_launch_method="manual"
    )
    assert given == before
    assert changed.port == 1
    assert own.port == 9123

    # Arguments of the user's own function are not copied: they may be large, or impossible to copy.
    own = own_manager_config(given)
    assert own.library_config is not None
    assert own.library_config["context_kwargs"]["depth"] is context_kwargs["depth"]


@pytest.mark.parametrize("cls", [TaskVineFactoryConfig, ParslFactoryConfig])
def test_factory_configs_are_copied_and_not_changed(cls: Any) -> None:
    given = cls(cores=4, max_workers=3)
    given._project_name = "set at a start before"
    before = copy.deepcopy(given)
    own = own_factory_config(given)
    assert type(own) is TaskVineFactoryConfig
    assert dataclasses.asdict(own) == dataclasses.asdict(given)
    with_overrides(TaskVineManagerConfig(), own, {"cores": 8})
    own.cores = 2
    assert given == before


def test_subclass_keeps_its_class() -> None:
    class Site(TaskVineManagerConfig):
        pass

    assert type(own_manager_config(Site())) is Site


def test_unknown_field_of_a_later_parsl_is_refused_if_set() -> None:
    later = dataclasses.make_dataclass(
        "TaskVineManagerConfig",
        [("novelty", Any, None), ("novelties", Any, dataclasses.field(default_factory=list))],
        bases=(ParslManagerConfig,),
    )
    assert own_manager_config(later(port=7)).port == 7
    with pytest.raises(ConfigurationError, match=r"TaskVineManagerConfig\.novelty is set"):
        own_manager_config(later(novelty=3))
    with pytest.raises(ConfigurationError, match="novelties"):
        own_manager_config(later(novelties=[3]))


def test_earlier_parsl_may_lack_fields() -> None:
    earlier = dataclasses.make_dataclass("TaskVineFactoryConfig", [("cores", Any, None)])
    assert own_factory_config(earlier(cores=3)) == TaskVineFactoryConfig(cores=3)


@pytest.mark.parametrize(
    "bad", [3, "config", {}, {"port": 1}, TaskVineFactoryConfig(), ParslFactoryConfig(), TaskVineManagerConfig]
)
def test_other_objects_are_no_manager_config(bad: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"manager_config is .*None or an instance of TaskVineManagerConfig"):
        own_manager_config(bad)


@pytest.mark.parametrize("bad", [0, TaskVineManagerConfig(), ParslManagerConfig(), ParslFactoryConfig])
def test_other_objects_are_no_factory_config(bad: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"factory_config is .*None or an instance of TaskVineFactoryConfig"):
        own_factory_config(bad)


def test_numpy_integers_become_pythons() -> None:
    numpy = pytest.importorskip("numpy")
    settings = embedded(max_retries=numpy.int64(3), cores=numpy.int16(4), library_config={"num_slots": numpy.int64(2)})
    assert [type(value) for value in (settings.max_retries, settings.node_cores, settings.slots)] == [int, int, int]


def test_tune_parameters_object_is_kept() -> None:
    tune = TuneParameters({"immediate-recovery": True})
    assert own_manager_config(TaskVineManagerConfig(tune_parameters=tune)).tune_parameters is tune


def test_overrides_reach_the_right_config() -> None:
    manager, factory = with_overrides(
        TaskVineManagerConfig(max_retries=2), TaskVineFactoryConfig(disk=5), {"init_command": "true &&", "cores": 3}
    )
    assert (manager.max_retries, manager.init_command) == (2, "true &&")
    assert (factory.disk, factory.cores) == (5, 3)


def test_overrides_do_not_keep_the_users_containers() -> None:
    env_vars = {"A": "1"}
    manager, _ = with_overrides(TaskVineManagerConfig(), TaskVineFactoryConfig(), {"env_vars": env_vars})
    assert manager.env_vars == env_vars
    assert manager.env_vars is not env_vars


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("max_worker", "'max_workers'"),
        ("initcommand", "'init_command'"),
        ("enviroment_pack", "unknown setting 'enviroment_pack'"),
        ("num_slots", "is a key of library_config"),
        ("zzz", "known are address"),
        ("_project_name", "unknown setting"),
        ("_project_password_file", "unknown setting"),
    ],
)
def test_unknown_settings_are_refused(name: str, says: str) -> None:
    with pytest.raises(TypeError, match=says):
        with_overrides(TaskVineManagerConfig(), TaskVineFactoryConfig(), {name: 1})
