"""Settings of the engines, derived from the configuration."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from parsl.errors import ConfigurationError

from taskvine_exec.config import (
    EmbeddedSettings,
    LibrarySettings,
    TaskVineFactoryConfig,
    TaskVineManagerConfig,
    embedded_settings,
)
from taskvine_tune import TuneParameters
from tests.unit.taskvine_exec.config.derived import embedded, local_provider, vine


def test_defaults_for_the_embedded_engine() -> None:
    assert embedded() == EmbeddedSettings(function_exec_mode="L2", worker_launch_method="factory", most_nodes=1)


def test_all_fields_are_passed_on(tmp_path: Path) -> None:
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


def test_zero_in_the_library_means_unset() -> None:
    settings = embedded(library_config={"num_slots": 0, "cores": 0, "memory": 0, "disk": 0, "gpus": 0})
    assert (settings.slots, settings.library_cores, settings.library_memory, settings.library_disk) == (None,) * 4


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


@pytest.mark.parametrize("mode", ["l1", "", None, 1])
def test_bad_modes_are_refused(mode: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"function_exec_mode=.*'serverless'"):
        embedded(mode=mode)


@pytest.mark.parametrize("launch", ["Factory", None, 1])
def test_bad_launch_methods_are_refused(launch: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"worker_launch_method=.*'provider', 'factory', 'manual'"):
        embedded(launch=launch)


@pytest.mark.parametrize("limit", [0, 1000, 65_536])
def test_inline_limit_is_taken(limit: int) -> None:
    assert embedded(limit=limit).inline_limit == limit


@pytest.mark.parametrize("limit", [-1, 65_537, 1e3, True, None])
def test_inline_limit_above_a_packet_is_refused(limit: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"inline_limit=.* must be a whole number from 0 to 65536"):
        embedded(limit=limit)


def test_number_of_awaited_workers_must_be_possible() -> None:
    with pytest.raises(ConfigurationError, match=r"wait_for_workers=2 .*max_workers, which is 1"):
        embedded(wait_for_workers=2)
    assert embedded(wait_for_workers=2, launch="provider", provider=local_provider()).wait_for_workers == 2


# ---- TaskVine


def test_python_env_is_for_vine_factory(tmp_path: Path) -> None:
    pack = tmp_path / "env.tar.gz"
    pack.touch()
    assert vine(batch_type="slurm", python_env=str(pack)).python_env == str(pack)
    with pytest.raises(ConfigurationError, match=r"python_env=.*file that exists"):
        vine(batch_type="slurm", python_env="/no/such/env")
    with pytest.raises(ConfigurationError, match=r"python_env=.*env_pack"):
        vine(python_env=str(pack))


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"project_password_file": "/nowhere"}, "project_password_file='/nowhere'"),
        ({"min_workers": 3}, "min_workers=3"),
    ],
)
def test_invalid_combinations_with_taskvine_are_refused(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        vine(launch="provider", **fields)


def test_settings_of_named_libraries_arrive() -> None:
    given = {"num_slots": 3, "cores": 2, "memory": 100, "disk": 200, "import_modules": [os.path], "start_timeout": 5}
    context = {"context": len, "context_args": ["abc"], "context_kwargs": {"a": 1}, "context_scope": "slot"}
    settings = embedded(libraries={"all": {**given, **context}, "none": {}}, library_config={"num_slots": 7})
    assert settings.libraries == {
        "all": LibrarySettings(
            slots=3,
            cores=2.0,
            memory=100.0,
            disk=200.0,
            import_modules=(os.path.__name__,),
            context=len,
            context_args=("abc",),
            context_kwargs={"a": 1},
            context_scope="slot",
            start_timeout=5.0,
        ),
        "none": LibrarySettings(),
    }
    assert settings.slots == 7


@pytest.mark.parametrize(
    ("given", "slots", "scope"),
    [
        ({"gpus": 2}, 2, "slot"),
        ({"gpus": 2, "num_slots": 1}, 1, "slot"),
        ({"gpus": 1, "context_scope": "library"}, 1, "library"),
        ({"gpus": 0}, None, "library"),
    ],
)
def test_library_with_gpus_has_a_slot_for_each_and_contexts_there(
    given: dict[str, Any], slots: int | None, scope: str
) -> None:
    library = embedded(libraries={"model": {"context": len, **given}}).libraries["model"]
    assert (library.slots, library.context_scope) == (slots, scope)
