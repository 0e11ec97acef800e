"""Configuration: Parsl's own is accepted, what is wrong is named, and nobody's object is changed."""

from __future__ import annotations

import copy
import dataclasses
import logging
import math
import os
import pickle
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from parsl.errors import ConfigurationError
from parsl.executors.taskvine import TaskVineFactoryConfig as ParslFactoryConfig
from parsl.executors.taskvine import TaskVineManagerConfig as ParslManagerConfig
from parsl.providers import CondorProvider, LocalProvider

from taskvine_exec import config as config_module
from taskvine_exec.config import (
    EmbeddedSettings,
    TaskVineFactoryConfig,
    TaskVineManagerConfig,
    VineSettings,
    embedded_settings,
    own_factory_config,
    own_manager_config,
    retuned,
    validate,
    vine_settings,
    with_overrides,
    working_directory,
)
from taskvine_manager.runtime import payload
from taskvine_tune import TuneParameters

PAIRS = [
    (TaskVineManagerConfig, ParslManagerConfig, own_manager_config),
    (TaskVineFactoryConfig, ParslFactoryConfig, own_factory_config),
]


def validated(**settings: Any) -> None:
    validate(*with_overrides(TaskVineManagerConfig(), TaskVineFactoryConfig(), settings))


def embedded(
    *,
    mode: str = "serverless",
    launch: str = "factory",
    provider: Any = None,
    limit: Any = payload.INLINE_LIMIT,
    **settings: Any,
) -> EmbeddedSettings:
    manager, factory = with_overrides(TaskVineManagerConfig(), TaskVineFactoryConfig(), settings)
    return embedded_settings(
        manager,
        factory,
        function_exec_mode=mode,
        worker_launch_method=launch,
        provider=provider,
        inline_limit=limit,
    )


@pytest.mark.parametrize("limit", [0, 1000, 65_536])
def test_inline_limit_is_taken(limit: int) -> None:
    assert embedded(limit=limit).inline_limit == limit


@pytest.mark.parametrize("limit", [-1, 65_537, 1e3, True, None])
def test_inline_limit_that_no_packet_holds_is_refused(limit: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"inline_limit=.* must be a whole number from 0 to 65536"):
        embedded(limit=limit)


#: Parsl does not annotate it.
local_provider: Any = LocalProvider


# ---- Parsl's classes and ours


@pytest.mark.parametrize(("ours", "theirs", "own"), PAIRS)
def test_fields_are_parsls_in_its_order(ours: Any, theirs: Any, own: Any) -> None:
    assert [each.name for each in dataclasses.fields(ours)] == [each.name for each in dataclasses.fields(theirs)]


@pytest.mark.parametrize(("ours", "theirs", "own"), PAIRS)
def test_defaults_are_parsls(ours: Any, theirs: Any, own: Any) -> None:
    # Parsl's port depends on whether ndcctools is installed; ours is always "any free one".
    assert dataclasses.asdict(ours()) == dataclasses.asdict(theirs()) | ({"port": 0} if hasattr(ours, "port") else {})


@pytest.mark.parametrize(("ours", "theirs", "own"), PAIRS)
def test_positional_construction_is_parsls(ours: Any, theirs: Any, own: Any) -> None:
    values = [f"value {number}" for number in range(len(dataclasses.fields(theirs)))]
    assert dataclasses.asdict(ours(*values)) == dataclasses.asdict(theirs(*values))


@pytest.mark.parametrize(("ours", "theirs", "own"), PAIRS)
def test_defaults_are_valid_and_fresh(ours: Any, theirs: Any, own: Any) -> None:
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

    # What users hand to their own function is handed on as it is: it may be large, or not copyable.
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


def test_a_subclass_of_ours_stays_one() -> None:
    class Site(TaskVineManagerConfig):
        pass

    assert type(own_manager_config(Site())) is Site


def test_a_later_parsl_may_know_more_but_nothing_set_there_is_dropped() -> None:
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


def test_an_earlier_parsl_may_know_less() -> None:
    earlier = dataclasses.make_dataclass("TaskVineFactoryConfig", [("cores", Any, None)])
    assert own_factory_config(earlier(cores=3)) == TaskVineFactoryConfig(cores=3)


@pytest.mark.parametrize(
    "bad", [3, "config", {}, {"port": 1}, TaskVineFactoryConfig(), ParslFactoryConfig(), TaskVineManagerConfig]
)
def test_anything_else_is_no_manager_config(bad: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"manager_config is .*None or an instance of TaskVineManagerConfig"):
        own_manager_config(bad)


@pytest.mark.parametrize("bad", [0, TaskVineManagerConfig(), ParslManagerConfig(), ParslFactoryConfig])
def test_anything_else_is_no_factory_config(bad: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"factory_config is .*None or an instance of TaskVineFactoryConfig"):
        own_factory_config(bad)


def test_numpy_integers_become_pythons() -> None:
    numpy = pytest.importorskip("numpy")
    settings = embedded(max_retries=numpy.int64(3), cores=numpy.int16(4), library_config={"num_slots": numpy.int64(2)})
    assert [type(value) for value in (settings.max_retries, settings.node_cores, settings.slots)] == [int, int, int]


def test_import_needs_no_taskvine() -> None:
    code = (
        "import sys, taskvine_exec.config as c; c.own_manager_config(None); c.own_factory_config(None);"
        "print([m for m in sys.modules if m.startswith(('ndcctools.taskvine', 'parsl.executors.taskvine'))])"
    )
    # Only this module is asked about, not all that its package offers.
    code = (
        "import types, sys; sys.path[:] = sys.argv[2:];"
        "p = types.ModuleType('taskvine_exec'); p.__path__ = [sys.argv[1]];"
        + ("sys.modules['taskvine_exec'] = p;" + code)
    )
    package = os.path.dirname(config_module.__file__)
    done = subprocess.run([sys.executable, "-c", code, package, *sys.path], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# ---- Flat settings


def test_overrides_reach_the_class_that_has_the_field() -> None:
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
def test_unknown_settings(name: str, says: str) -> None:
    with pytest.raises(TypeError, match=says):
        with_overrides(TaskVineManagerConfig(), TaskVineFactoryConfig(), {name: 1})


# ---- Validation


def test_every_field_has_a_rule() -> None:
    for cls, rules in (
        (TaskVineManagerConfig, config_module._MANAGER_RULES),
        (TaskVineFactoryConfig, config_module._FACTORY_RULES),
    ):
        assert list(rules) == [each.name for each in dataclasses.fields(cls) if not each.name.startswith("_")]
    assert tuple(config_module._LIBRARY_RULES) == config_module.LIBRARY_KEYS


BAD: list[tuple[dict[str, Any], str]] = [
    ({"port": -1}, r"TaskVineManagerConfig\.port=-1 .* from 0 to 65535"),
    ({"port": 65536}, r"port=65536"),
    ({"port": "9123"}, r"port='9123'"),
    ({"port": True}, r"port=True"),
    ({"port": None}, r"port=None"),
    ({"address": 127}, r"address=127 .*string, or None"),
    ({"address": ""}, r"address=''"),
    ({"project_name": 3}, r"project_name=3"),
    ({"project_password_file": 3}, r"project_password_file=3 .*a path, or None"),
    ({"env_vars": "A=1"}, r"env_vars='\*\*\*' .*a dict, or None"),
    ({"env_vars": {"": "1"}}, r"a name in env_vars=''"),
    ({"env_vars": {"A=B": "1"}}, r"without '='"),
    ({"env_vars": {3: "1"}}, r"a name in env_vars=3"),
    ({"env_vars": {"A": None}}, r"env_vars\['A'\] of type NoneType"),
    ({"env_vars": {"A": ["secret"]}}, r"env_vars\['A'\] of type list"),
    ({"env_vars": {"A": "nul\0"}}, r"env_vars\['A'\] of type str is not valid: must be a string without NUL"),
    ({"init_command": None}, r"init_command=None .*a string"),
    ({"init_command": ["true"]}, r"init_command=\['true'\]"),
    ({"env_pack": 3}, r"env_pack=3"),
    ({"env_pack": ""}, r"env_pack=''"),
    ({"env_pack": b"/env"}, r"env_pack=b'/env'"),
    ({"app_pack": 1}, r"app_pack=1 .*True or False"),
    ({"extra_pkgs": "numpy"}, r"extra_pkgs='numpy' .*a list"),
    ({"extra_pkgs": ["numpy", 3]}, r"extra_pkgs=\['numpy', 3\]"),
    ({"max_retries": -1}, r"max_retries=-1 .*at least 0, or None"),
    ({"max_retries": 1.5}, r"max_retries=1\.5"),
    ({"max_retries": False}, r"max_retries=False"),
    ({"library_config": ["num_slots"]}, r"library_config=\['num_slots'\] .*a dict"),
    ({"library_config": {"slots": 2}}, r"'slots'.*did you mean 'num_slots'"),
    ({"library_config": {"function_slots": 2}}, r"'function_slots'.*did you mean 'num_slots'"),
    ({"library_config": {"core": 2}}, r"'core'.*'cores'"),
    ({"library_config": {"memory (MBs)": 2}}, r"did you mean 'memory'"),
    ({"library_config": {"contxt": len}}, r"'context'"),
    ({"library_config": {3: 2}}, r"unknown key 3"),
    ({"library_config": {"num_slots": -1}}, r"library_config\['num_slots'\]=-1"),
    ({"library_config": {"num_slots": 1.5}}, r"library_config\['num_slots'\]=1\.5"),
    ({"library_config": {"cores": "all"}}, r"library_config\['cores'\]='all'"),
    ({"library_config": {"cores": True}}, r"library_config\['cores'\]=True"),
    ({"library_config": {"memory": float("nan")}}, r"library_config\['memory'\]=nan"),
    ({"library_config": {"disk": -1}}, r"library_config\['disk'\]=-1"),
    ({"library_config": {"gpus": 0.5}}, r"library_config\['gpus'\]=0\.5"),
    ({"library_config": {"import_modules": "numpy"}}, r"import_modules'\]='numpy' .*a list of modules"),
    ({"library_config": {"import_modules": ["numpy, scipy"]}}, r"import_modules'\].*a list of modules"),
    ({"library_config": {"import_modules": [".relative"]}}, r"import_modules'\].*their full names"),
    ({"library_config": {"import_modules": ["__main__"]}}, r"import_modules'\].*without __main__"),
    ({"library_config": {"import_modules": [len]}}, r"import_modules'\].*a list of modules"),
    ({"library_config": {"hoisting_modules": []}}, r"did you mean 'import_modules'"),
    ({"library_config": {"context": "setup"}}, r"library_config\['context'\]='setup' .*callable"),
    ({"library_config": {"context": len, "context_args": "ab"}}, r"library_config\['context_args'\]"),
    ({"library_config": {"context": len, "context_kwargs": {1: 2}}}, r"context_kwargs.*string keys"),
    ({"library_config": {"context": len, "context_scope": "node"}}, r"'node' .*'library', 'slot'"),
    ({"library_config": {"context_args": (1,), "context_scope": "slot"}}, r"context_args and context_scope, but no"),
    ({"shared_fs": "yes"}, r"shared_fs='yes'"),
    ({"autolabel": None}, r"autolabel=None"),
    ({"autolabel_algorithm": "max-throughput"}, r"'max-throughput' .*'max-xput', 'bucketing', 'max'"),
    ({"autolabel_algorithm": ["max"]}, r"autolabel_algorithm"),
    ({"autolabel_window": 0}, r"autolabel_window=0"),
    ({"autocategory": 0}, r"autocategory=0"),
    ({"enable_peer_transfers": "no"}, r"enable_peer_transfers"),
    ({"wait_for_workers": -2}, r"wait_for_workers=-2"),
    ({"tune_parameters": [("a", 1)]}, r"tune_parameters=\[\('a', 1\)\]"),
    ({"tune_parameters": ""}, r"tune_parameters='' .*a dict, a TuneParameters, or the path"),
    ({"tune_parameters": "tuning.ini"}, r"tune_parameters: tuning\.ini .*must end with \.toml"),
    ({"tune_parameters": Path("absent.toml")}, r"tune_parameters: absent\.toml cannot be read"),
    ({"tune_parameters": {"temp-replica-count": "2"}}, r"tune_parameters: temp-replica-count='2' .*a whole number"),
    ({"tune_parameters": {"temp-replica-count": None}}, r"=None"),
    ({"tune_parameters": {"temp-replica-count": float("inf")}}, r"=inf"),
    ({"tune_parameters": {"temp-replica-count": 0}}, r"temp-replica-count=0 is out of range: must be at least 1"),
    ({"tune_parameters": {"": 2}}, r"unknown tuning parameter ''"),
    ({"tune_parameters": {3: 2}}, r"unknown tuning parameter 3"),
    ({"tune_parameters": {"temp-replica-cuont": 2}}, r"'temp-replica-cuont': did you mean 'temp-replica-count'"),
    ({"tune_parameters": {"max-workers": 1, "max_workers": 2}}, r"max-workers is given twice"),
    ({"tune_parameters": {"temp-replica-count": 2}, "enable_peer_transfers": False}, r"enable_peer_transfers=False"),
    ({"vine_log_dir": 3}, r"vine_log_dir=3"),
    ({"factory_timeout": -1}, r"TaskVineFactoryConfig\.factory_timeout=-1"),
    ({"scratch_dir": b""}, r"scratch_dir=b''"),
    ({"min_workers": -1}, r"min_workers=-1"),
    ({"min_workers": 2}, r"min_workers=2 .*at most max_workers, which is 1"),
    ({"max_workers": 1.0}, r"max_workers=1\.0"),
    ({"workers_per_cycle": None}, r"workers_per_cycle=None"),
    ({"worker_options": ["--cores", "4"]}, r"worker_options"),
    ({"worker_executable": None}, r"worker_executable=None"),
    ({"worker_timeout": "5m"}, r"worker_timeout='5m'"),
    ({"cores": -1}, r"cores=-1"),
    ({"cores": 1.5}, r"cores=1\.5"),
    ({"gpus": -1}, r"gpus=-1"),
    ({"memory": "8GB"}, r"memory='8GB'"),
    ({"disk": -1}, r"disk=-1"),
    ({"python_env": 3}, r"python_env=3"),
    ({"batch_type": "Slurm"}, r"batch_type='Slurm' .*'slurm'"),
    ({"batch_type": None}, r"batch_type=None"),
    ({"condor_requirements": 3}, r"condor_requirements=3"),
    ({"batch_options": {"queue": "x"}}, r"batch_options"),
]


@pytest.mark.parametrize(("settings", "says"), BAD)
def test_bad_values(settings: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigurationError, match=says):
        validated(**settings)
    with pytest.raises(ConfigurationError, match=says):
        embedded(**settings)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"port": 65535, "address": "127.0.0.1"},
        {"env_vars": {"A": "x", "B": 3, "C": 0.5, "D": Path("/d")}},
        {"env_pack": Path("/env")},
        {"project_name": "", "worker_options": "", "batch_options": ""},
        {"max_retries": None},
        {"max_retries": 0},
        {"library_config": {}},
        {"library_config": {"num_slots": 1, "cores": None, "memory": None, "disk": None}},
        {"library_config": {"cores": 0.5, "context": len, "context_args": ["ab"], "context_scope": "slot"}},
        {"library_config": {"context": None, "context_args": (), "context_kwargs": {}}},
        {"library_config": {"import_modules": None}},
        {"library_config": {"import_modules": [math, "os.path", "not_here"]}},
        {"autolabel_algorithm": "bucketing", "autolabel_window": 5},
        {"tune_parameters": {"perf-log-interval": 1, "sandbox_grow_factor": 1.5, "prefer-dispatch": True}},
        {"tune_parameters": TuneParameters({"temp-replica-count": 2})},
        {"min_workers": 0, "max_workers": 0},
        {"batch_type": "slurm", "batch_options": "--partition=debug", "python_env": "/env.tar.gz"},
        {"worker_executable": "/opt/vine_worker"},
    ],
)
def test_good_values(settings: dict[str, Any]) -> None:
    validated(**settings)


def test_the_first_error_names_a_parsl_class_too() -> None:
    with pytest.raises(ConfigurationError, match="port=-1"):
        validate(own_manager_config(ParslManagerConfig(port=-1)), own_factory_config(ParslFactoryConfig()))


# ---- Nothing that may be a password is shown


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
def test_repr_hides_what_may_be_secret(settings: dict[str, Any]) -> None:
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
def test_errors_hide_what_may_be_secret(settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError) as caught:
        embedded(**settings)
    assert SECRET not in str(caught.value)


def test_repr_shows_the_rest() -> None:
    shown = repr(TaskVineManagerConfig(project_password_file="/home/me/pw", max_retries=None))
    assert shown.startswith("TaskVineManagerConfig(port=0, ")
    assert "project_password_file='/home/me/pw'" in shown
    assert "max_retries=None" in shown
    assert "_project" not in repr(TaskVineFactoryConfig())


# ---- The embedded engine


def test_defaults_for_the_embedded_engine() -> None:
    assert embedded() == EmbeddedSettings(function_exec_mode="L2", worker_launch_method="factory", most_nodes=1)


def test_settings_are_frozen_keyword_only_and_picklable() -> None:
    settings = embedded(library_config={"context": len})
    assert pickle.loads(pickle.dumps(settings)) == settings
    with pytest.raises(dataclasses.FrozenInstanceError):
        settings.slots = 3  # type: ignore[misc]
    with pytest.raises(TypeError):
        EmbeddedSettings("L1", "manual")  # type: ignore[call-arg]


def test_everything_arrives(tmp_path: Path) -> None:
    manager = TaskVineManagerConfig(
        env_vars={"A": 1, "B": Path("/b")},
        init_command="true &&",
        env_pack=str(tmp_path),
        max_retries=None,
        library_config={
            "num_slots": 3,
            "cores": 2,
            "memory": 100,
            "disk": 200,
            "gpus": 0,
            "import_modules": [os.path, "xml.dom"],
            "context": len,
            "context_args": ["abc"],
            "context_kwargs": {},
            "context_scope": "slot",
        },
        shared_fs=True,
        autocategory=False,
        enable_peer_transfers=False,
        wait_for_workers=2,
        tune_parameters={"ramp-down_heuristic": False, "immediate-recovery": 1, "file_source_max_transfers": 2},
        vine_log_dir="logs",
    )
    factory = TaskVineFactoryConfig(
        factory_timeout=7,
        scratch_dir="scratch",
        min_workers=2,
        max_workers=4,
        workers_per_cycle=0,
        worker_timeout=9,
        cores=8,
        gpus=0,
        memory=1000,
        disk=2000,
    )
    assert embedded_settings(
        manager, factory, function_exec_mode="regular", worker_launch_method="factory"
    ) == EmbeddedSettings(
        function_exec_mode="L1",
        worker_launch_method="factory",
        env_vars={"A": "1", "B": "/b"},
        init_command="true &&",
        env_pack=str(tmp_path),
        max_retries=None,
        slots=3,
        library_cores=2.0,
        library_memory=100.0,
        library_disk=200.0,
        library_gpus=0,
        import_modules=(os.path.__name__, "xml.dom"),
        context=len,
        context_args=("abc",),
        context_kwargs={},
        context_scope="slot",
        shared_fs=True,
        autocategory=False,
        enable_peer_transfers=False,
        wait_for_workers=2,
        tune_parameters={"immediate-recovery": True, "file-source-max-transfers": 2, "ramp-down-heuristic": False},
        tuning=TuneParameters(
            {"immediate-recovery": True, "file-source-max-transfers": 2, "ramp-down-heuristic": False}
        ),
        most_nodes=4,
        min_workers=2,
        max_workers=4,
        workers_per_cycle=0,
        worker_timeout=9,
        factory_timeout=7,
        node_cores=8,
        node_memory=1000,
        node_disk=2000,
        node_gpus=0,
        vine_log_dir=os.path.abspath("logs"),
        scratch_dir=os.path.abspath("scratch"),
    )


def test_zero_in_the_library_is_not_said() -> None:
    settings = embedded(library_config={"num_slots": 0, "cores": 0, "memory": 0, "disk": 0, "gpus": 0})
    assert (settings.slots, settings.library_cores, settings.library_memory, settings.library_disk) == (None,) * 4
    assert settings.library_gpus == 0


@pytest.mark.parametrize("kind", ["file", "directory"])
def test_env_pack_becomes_absolute(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pack = tmp_path / "pack"
    pack.write_bytes(b"") if kind == "file" else pack.mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    for given in ("pack", "./pack", str(pack), pack, "~/pack"):
        assert embedded(env_pack=given).env_pack == str(pack)


def test_env_pack_must_exist() -> None:
    with pytest.raises(ConfigurationError, match=r"env_pack='my-conda-env' .*not looked up by name"):
        embedded(env_pack="my-conda-env")


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (None, {}),
        ("--cores=4", {"node_cores": 4}),
        ("--cores 4 --memory 1000 --disk=2000 --gpus '1'", {"node_cores": 4, "node_memory": 1000, "node_gpus": 1}),
        ("--cores 4 --cores 2", {"node_cores": 2}),
        ("--cores 4 --cores all", {"node_cores": None}),
        ("--cores=0 --gpus=0", {"node_cores": None, "node_gpus": 0}),
        ("--cores=-1 --gpus=-1", {"node_cores": None, "node_gpus": None}),
        ("-t 60", {"worker_timeout": 60}),
        ("-t60", {"worker_timeout": 60}),
        ("-t 5m", {"worker_timeout": 300}),
        ("--timeout=2h", {"worker_timeout": 7200}),
        ("--timeout 1d", {"worker_timeout": 86400}),
    ],
)
def test_worker_options(options: str | None, expected: dict[str, Any]) -> None:
    settings = embedded(worker_options=options)
    assert {name: getattr(settings, name) for name in expected} == expected


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ("--ssl", "embedded engine does not know '--ssl'"),
        ("--cores=2 --feature gpu", "does not know '--feature'"),
        ("-M project", "does not know '-M'"),
        ("--core 4", "does not know '--core'"),
        ("cores=4", "does not know 'cores'"),
        ("cores", "does not know 'cores'"),
        ("4", "does not know '4'"),
        ("--cores", "--cores='' .*whole number"),
        ("--cores=", "--cores='' .*whole number"),
        ("--cores=four", "--cores='four'"),
        ("--memory 8GB", "--memory='8GB'"),
        ("-t", "--timeout=''"),
        ("--timeout=-5", "--timeout='-5'"),
        ("--timeout=5w", "--timeout='5w'"),
        ("--cores='4", "cannot be read: No closing quotation"),
    ],
)
def test_bad_worker_options(options: str, says: str) -> None:
    with pytest.raises(ConfigurationError, match=says):
        embedded(worker_options=options)


def test_node_size_is_looked_for_in_order() -> None:
    provider = local_provider()
    provider.cores_per_node = 2
    provider.mem_per_node = 1.5

    def size(**settings: Any) -> tuple[int | None, float | None]:
        found = embedded(launch="provider", **({"provider": provider} | settings))
        return found.node_cores, found.node_memory

    assert size(worker_options="--cores=4 --memory=100", cores=8, memory=200) == (8, 200)
    assert size(worker_options="--cores=4 --memory=100", cores=0) == (4, 100)
    assert size() == (2, 1536)
    assert size(provider=local_provider()) == (None, None)


@pytest.mark.parametrize(("name", "value"), [("cores_per_node", 0), ("cores_per_node", "2"), ("mem_per_node", 0)])
def test_a_provider_must_make_sense(name: str, value: object) -> None:
    with pytest.raises(ConfigurationError, match=rf"provider\.{name}="):
        embedded(launch="provider", provider=SimpleNamespace(**{name: value}))


def test_a_library_must_fit_its_node() -> None:
    with pytest.raises(ConfigurationError, match=r"library_config\['cores'\]=8 .*at most the 4"):
        embedded(cores=4, library_config={"cores": 8})
    with pytest.raises(ConfigurationError, match=r"library_config\['gpus'\]=1 .*at most the 0"):
        embedded(gpus=0, library_config={"gpus": 1})
    assert embedded(cores=4, library_config={"cores": 4}).library_cores == 4


def test_workers_waited_for_must_be_able_to_come() -> None:
    with pytest.raises(ConfigurationError, match=r"wait_for_workers=2 .*max_workers, which is 1"):
        embedded(wait_for_workers=2)
    assert embedded(wait_for_workers=2, launch="provider", provider=local_provider()).wait_for_workers == 2


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
def test_what_needs_taskvine_is_said(settings: dict[str, Any]) -> None:
    (name,) = settings
    with pytest.raises(ConfigurationError, match=rf"does not support {name}=.*use engine='taskvine'"):
        embedded(**settings)


def test_all_that_needs_taskvine_is_said_at_once() -> None:
    with pytest.raises(ConfigurationError, match="project_name='p', batch_options='-q x', batch_type='condor'"):
        embedded(project_name="p", batch_options="-q x", batch_type="condor")


@pytest.mark.parametrize(("name", "instead"), [("app_pack", "env_pack"), ("autolabel", "each app's specification")])
def test_what_no_engine_does_is_said(name: str, instead: str) -> None:
    with pytest.raises(ConfigurationError, match=rf"{name}=True .*left out: .*{instead}"):
        embedded(**{name: True})


@pytest.mark.parametrize("settings", [{"port": 9123}, {"address": "127.0.0.1"}])
def test_a_port_or_address_is_tolerated(settings: dict[str, Any], caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, logger="taskvine_exec.config"):
        embedded(**settings)
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert next(iter(settings)) in caplog.text


def test_defaults_warn_of_nothing(caplog: pytest.LogCaptureFixture) -> None:
    embedded()
    assert not caplog.records


@pytest.mark.parametrize("mode", ["l1", "", None, 1])
def test_bad_modes(mode: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"function_exec_mode=.*'serverless'"):
        embedded(mode=mode)


@pytest.mark.parametrize("launch", ["Factory", None, 1])
def test_bad_launch_methods(launch: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"worker_launch_method=.*'provider', 'factory', 'manual'"):
        embedded(launch=launch)


@pytest.mark.parametrize("launch", ["provider", "manual", "factory"])
def test_local_providers_are_accepted(launch: str) -> None:
    class Own(LocalProvider):
        pass

    own: Any = Own
    for provider in (None, local_provider(), own(), SimpleNamespace()):
        embedded(launch=launch, provider=provider)


def test_remote_providers_are_refused() -> None:
    class Site(CondorProvider):
        pass

    with pytest.raises(ConfigurationError, match=r"provider=Site .*engine='taskvine'"):
        embedded(launch="provider", provider=Site())
    for name in ("KubernetesProvider", "AWSProvider", "GoogleCloudProvider", "AzureProvider"):
        provider = type("Mine", (type(name, (), {}),), {})()
        with pytest.raises(ConfigurationError, match="provider=Mine starts workers on other machines"):
            embedded(launch="provider", provider=provider)


def test_a_local_provider_of_several_nodes_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="LocalProvider with nodes_per_block=2"):
        embedded(launch="provider", provider=local_provider(nodes_per_block=2))


# ---- Tuning parameters


@pytest.mark.parametrize("ending", ["toml", "yaml", "json"])
def test_tune_parameters_come_from_anywhere(tmp_path: Path, ending: str) -> None:
    given = {"worker_source_max_transfers": 3, "executor.library-slots": 2}
    path = tmp_path / f"tuning.{ending}"
    TuneParameters(given).dump(path)
    expected = {"worker-source-max-transfers": 3, "executor.library-slots": 2}
    for source in (given, TuneParameters(given), path, str(path)):
        settings = embedded(tune_parameters=source)
        assert settings.tune_parameters == expected
        assert settings.slots == 2


def test_library_slots_are_num_slots() -> None:
    tuned = {"executor": {"library_slots": 3}}
    assert embedded(tune_parameters=tuned, library_config={"num_slots": 3}).slots == 3
    assert embedded(tune_parameters=tuned, library_config={"num_slots": 0}).slots == 3
    assert embedded(tune_parameters={"executor.library-slots": 0}).slots is None
    assert embedded(tune_parameters={"executor.library-slots": 0}, library_config={"num_slots": 2}).slots == 2
    with pytest.raises(ConfigurationError, match=r"executor\.library-slots=3 .*num_slots of library_config, 2"):
        embedded(tune_parameters=tuned, library_config={"num_slots": 2})


@pytest.mark.parametrize(
    ("settings", "most"),
    [
        ({"launch": "factory", "max_workers": 2}, 2),
        ({"launch": "provider", "provider": LocalProvider(max_blocks=2)}, 2),
        ({"launch": "manual"}, None),
    ],
)
def test_replicas_need_nodes(settings: dict[str, Any], most: int | None) -> None:
    assert embedded(tune_parameters={"temp-replica-count": 2}, **settings).most_nodes == most
    if most is None:
        assert embedded(tune_parameters={"temp-replica-count": 99}, **settings).tune_parameters
    else:
        with pytest.raises(ConfigurationError, match=r"temp-replica-count=3 and 2 nodes at most are in conflict"):
            embedded(tune_parameters={"temp-replica-count": 3}, **settings)


def test_what_is_not_acted_on_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    embedded(tune_parameters={"hungry_minimum": 3, "immediate-recovery": 1, "executor.batch": 8, "task-groups": 1})
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == 2
    assert said[0].startswith("tuning parameter 'task-groups' has no effect on the embedded engine: short calls")
    assert said[1].startswith("tuning parameter 'hungry-minimum' has no effect on the embedded engine: the manager")


def test_inline_limit_is_one_setting_by_two_names() -> None:
    tuned = {"executor.inline-limit": 1000}
    assert embedded(tune_parameters=tuned).inline_limit == 1000
    assert embedded(tune_parameters=tuned, limit=1000).inline_limit == 1000
    assert embedded(tune_parameters={"executor.inline-limit": 0}).inline_limit == 0
    with pytest.raises(ConfigurationError, match=r"executor\.inline-limit=1000 .*the executor's inline_limit, 2000"):
        embedded(tune_parameters=tuned, limit=2000)


def test_batches_need_batching() -> None:
    def vine(parameters: dict[str, Any], *, batching: bool) -> VineSettings:
        manager, factory = with_overrides(
            TaskVineManagerConfig(), TaskVineFactoryConfig(), {"tune_parameters": parameters}
        )
        return vine_settings(
            manager, factory, function_exec_mode="L2", worker_launch_method="manual", batching=batching
        )

    assert vine({"executor.batch": 8}, batching=True).tune_parameters == {"executor.batch": 8.0}
    settings = vine({"executor.batch": 1}, batching=False)
    assert settings.tune_parameters == {"executor.batch": 1.0}
    for use in (
        lambda: vine({"executor.batch": 8}, batching=False),
        lambda: retuned({"executor.batch": 8}, settings, settings.tuning),
    ):
        with pytest.raises(ConfigurationError, match=r"executor\.batch=8 .*with batching=False"):
            use()
    # Losses are TaskVine's own, in whole seconds.
    for seconds, told in ((0.2, 1.0), (2.6, 3.0), (0, 0.0)):
        given = vine({"executor.loss-interval": seconds, "executor.loss-seed": 3}, batching=True).tune_parameters
        assert given == {"enforce-worker-eviction-interval": told}
    both = {"executor.loss-interval": 0, "enforce-worker-eviction-interval": 4}
    assert vine(both, batching=True).tune_parameters == {"enforce-worker-eviction-interval": 4.0}


def test_retuning_is_checked_against_what_is_in_force(tmp_path: Path) -> None:
    settings = embedded(max_workers=4, tune_parameters={"max-workers": 3, "executor.loss-interval": 5})
    in_force = settings.tuning
    in_force, given = retuned({"temp-replica-count": 3}, settings, in_force)
    assert given == {"temp-replica-count": 3}
    assert in_force == {"temp-replica-count": 3, "max-workers": 3, "executor.loss-interval": 5}
    for source, says in (
        ({"max-workers": 2}, "temp-replica-count=3 and max-workers=2 are in conflict"),
        ({"wait-for-workers": 4}, "wait-for-workers=4 and max-workers=3 are in conflict"),
        ({"max-workers": -1, "temp-replica-count": 5}, "temp-replica-count=5 and 4 nodes at most are in conflict"),
        ({"enforce-worker-eviction-interval": 3}, "they are the same"),
    ):
        with pytest.raises(ConfigurationError, match=says):
            retuned(source, settings, in_force)
    in_force, given = retuned({"temp-replica-count": 1, "max-workers": 2}, settings, in_force)
    assert given == {"temp-replica-count": 1, "max-workers": 2}
    with pytest.raises(ConfigurationError, match="enable_peer_transfers=False"):
        retuned({"temp-replica-count": 2}, embedded(enable_peer_transfers=False, max_workers=4), TuneParameters())


def test_retuning_is_checked_in_the_same_way(tmp_path: Path) -> None:
    settings = embedded(max_workers=2)
    path = tmp_path / "tuning.toml"
    path.write_text("temp-replica-count = 2\n")
    for given in ({"temp_replica_count": 2}, path):
        assert retuned(given, settings, TuneParameters()) == ({"temp-replica-count": 2}, {"temp-replica-count": 2})
    for source, says in (
        ({"temp-replica-count": 3}, "2 nodes at most"),
        ({"temp-replica": 3}, "did you mean 'temp-replica-count'"),
        ({"executor.library-slots": 2}, "cannot be changed while the executor runs"),
        (None, "must be a dict"),
    ):
        with pytest.raises(ConfigurationError, match=says):
            retuned(source, settings, TuneParameters())  # type: ignore[arg-type]


def test_a_tune_parameters_object_is_kept() -> None:
    tune = TuneParameters({"immediate-recovery": True})
    assert own_manager_config(TaskVineManagerConfig(tune_parameters=tune)).tune_parameters is tune


def vine(*, launch: str, provider: Any = None, **settings: Any) -> VineSettings:
    manager, factory = with_overrides(TaskVineManagerConfig(), TaskVineFactoryConfig(), settings)
    return vine_settings(manager, factory, function_exec_mode="L2", worker_launch_method=launch, provider=provider)


@pytest.mark.parametrize(
    ("engine", "settings", "default"),
    [
        ("embedded", {}, "submit"),
        ("embedded", {"shared_fs": True}, "submit"),
        ("taskvine", {"launch": "provider", "provider": LocalProvider()}, "submit"),
        ("taskvine", {"launch": "factory"}, "submit"),
        ("taskvine", {"launch": "factory", "batch_type": "slurm"}, "sandbox"),
        ("taskvine", {"launch": "provider", "provider": CondorProvider()}, "sandbox"),
        ("taskvine", {"launch": "provider", "provider": CondorProvider(), "shared_fs": True}, "submit"),
        ("taskvine", {"launch": "manual"}, "sandbox"),
    ],
)
def test_apps_run_where_the_program_is_if_nodes_see_it(engine: str, settings: dict[str, Any], default: str) -> None:
    made = embedded(**settings) if engine == "embedded" else vine(**settings)
    assert working_directory(None, made) == default
    assert working_directory("submit", made) == "submit"
    assert working_directory("sandbox", made) == "sandbox"
