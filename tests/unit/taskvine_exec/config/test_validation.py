"""Every field has a rule, and an error names the field, its value and the allowed values."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import pytest
from parsl.errors import ConfigurationError
from parsl.executors.taskvine import TaskVineFactoryConfig as ParslFactoryConfig
from parsl.executors.taskvine import TaskVineManagerConfig as ParslManagerConfig

from taskvine_exec.config import (
    LIBRARY_KEYS,
    TaskVineFactoryConfig,
    TaskVineManagerConfig,
    own_factory_config,
    own_manager_config,
    validate,
    with_overrides,
)
from taskvine_tune import TuneParameters
from tests.unit.taskvine_exec.config.derived import embedded


def validated(**fields: Any) -> None:
    validate(*with_overrides(TaskVineManagerConfig(), TaskVineFactoryConfig(), fields))


FIELDS = [
    each.name
    for cls in (TaskVineManagerConfig, TaskVineFactoryConfig)
    for each in dataclasses.fields(cls)
    if not each.name.startswith("_")
]


@pytest.mark.parametrize("name", FIELDS)
def test_every_field_has_a_rule(name: str) -> None:
    with pytest.raises(ConfigurationError, match=rf"Config\.{name}=.* is not valid: must be "):
        validated(**{name: object()})


@pytest.mark.parametrize("key", LIBRARY_KEYS)
def test_every_key_of_the_library_has_a_rule(key: str) -> None:
    with pytest.raises(ConfigurationError, match=rf"library_config\['{key}'\]=.* is not valid: must be "):
        validated(library_config={key: object()})


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
    ({"library_config": {"gpus": 1.5}}, r"library_config\['gpus'\]=1\.5"),
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
def test_bad_values_are_refused(settings: dict[str, Any], says: str) -> None:
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
def test_good_values_are_accepted(settings: dict[str, Any]) -> None:
    validated(**settings)


def test_error_names_a_parsl_class_too() -> None:
    with pytest.raises(ConfigurationError, match="port=-1"):
        validate(own_manager_config(ParslManagerConfig(port=-1)), own_factory_config(ParslFactoryConfig()))


@pytest.mark.parametrize(
    ("libraries", "says"),
    [
        (["resnet"], r"libraries=\['resnet'\] is not valid: must be a dict, or None"),
        ({"": {}}, r"a name in libraries='' .*which begins with a letter or digit"),
        ({"../up": {}}, r"a name in libraries='\.\./up'"),
        ({3: {}}, r"a name in libraries=3"),
        ({"x" * 101: {}}, r"at most 100 letters"),
        ({"resnet": len}, r"libraries\['resnet'\]=.*must be a dict"),
        ({"one": {}, "two": {"slots": 2}}, r"libraries\['two'\] has the unknown key 'slots': did you mean 'num_slots'"),
        ({"resnet": {"gpus": 1.5}}, r"libraries\['resnet'\]\['gpus'\]=1\.5"),
        ({"resnet": {"context_scope": "slot"}}, r"libraries\['resnet'\] has context_scope, but no context"),
        (
            {"resnet": {"gpus": 2}},
            r"libraries\['resnet'\]\['gpus'\]=2 .*at most the 1 that a node has",
        ),
    ],
)
def test_bad_libraries_are_named(libraries: Any, says: str) -> None:
    with pytest.raises(ConfigurationError, match=says):
        embedded(gpus=1, libraries=libraries)
