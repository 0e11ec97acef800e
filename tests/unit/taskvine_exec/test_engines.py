"""The choice of the engine, and the errors if one is missing."""

from __future__ import annotations

import shlex
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from parsl.errors import ConfigurationError, OptionalModuleMissing
from parsl.providers import LocalProvider, SlurmProvider

from taskvine_exec import TaskVineExecutor, config, engines, launch, passwords
from taskvine_exec.errors import RunDirNotWritable, WorkerLaunchFailed


def there(monkeypatch: pytest.MonkeyPatch, *, module: bool, worker: bool) -> None:
    monkeypatch.setattr(engines, "module_is_there", lambda: module)
    monkeypatch.setattr(engines, "worker_is_there", lambda name: worker)
    monkeypatch.setattr(engines, "import_problem", lambda: None)


@pytest.fixture
def fake_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Install a TaskVine whose module the test chooses."""

    def install(text: str) -> None:
        package = tmp_path / "ndcctools"
        (package / "taskvine").mkdir(parents=True)
        (package / "__init__.py").touch()
        (package / "taskvine" / "__init__.py").write_text(text)
        monkeypatch.syspath_prepend(str(tmp_path))
        monkeypatch.setattr(engines, "module_is_there", lambda: True)
        monkeypatch.setattr(engines, "worker_is_there", lambda name: True)
        engines.import_problem.cache_clear()

    return install


@pytest.mark.parametrize(
    ("text", "engine", "word"),
    [
        ("", "taskvine", "were found"),
        ("raise ImportError('libvine.so: cannot open')", "embedded", "libvine.so: cannot open"),
        ("import os; os.abort()", "embedded", "status -6"),
    ],
)
def test_auto_chooses_an_importable_engine(
    fake_module: Callable[[str], None], caplog: pytest.LogCaptureFixture, text: str, engine: str, word: str
) -> None:
    fake_module(text)
    chosen, reason = engines.choose("auto", "vine_worker")
    engines.import_problem.cache_clear()
    assert chosen == engine
    assert word in reason
    assert ("cannot be imported" in caplog.text) == (engine == "embedded")


@pytest.mark.parametrize(
    ("module", "worker", "expected", "word"),
    [
        (True, True, "taskvine", "were found"),
        (True, False, "embedded", "vine_worker is not on PATH"),
        (False, True, "embedded", "ndcctools is not installed"),
        (False, False, "embedded", "conda install"),
    ],
)
def test_auto_chooses_an_installed_engine(
    monkeypatch: pytest.MonkeyPatch, module: bool, worker: bool, expected: str, word: str
) -> None:
    there(monkeypatch, module=module, worker=worker)
    engine, reason = engines.choose("auto", "vine_worker")
    assert engine == expected
    assert word in reason
    assert engines.choose("embedded", "vine_worker")[0] == "embedded"


def test_missing_module_is_an_error_at_construction(monkeypatch: pytest.MonkeyPatch) -> None:
    there(monkeypatch, module=False, worker=True)
    with pytest.raises(OptionalModuleMissing, match="conda install -c conda-forge ndcctools"):
        TaskVineExecutor(engine="taskvine")


def test_missing_worker_is_an_error_at_construction(monkeypatch: pytest.MonkeyPatch) -> None:
    there(monkeypatch, module=True, worker=False)
    with pytest.raises(ConfigurationError, match="my_worker, which is not on PATH: conda install"):
        TaskVineExecutor(engine="taskvine", worker_executable="my_worker")


def settings(provider: Any = None, method: str = "provider", **fields: Any) -> config.VineSettings:
    manager, factory = config.with_overrides(config.TaskVineManagerConfig(), config.TaskVineFactoryConfig(), fields)
    return config.vine_settings(
        manager, factory, function_exec_mode="serverless", worker_launch_method=method, provider=provider
    )


def test_poncho_environment_is_for_vine_factory(tmp_path: Path) -> None:
    pack = tmp_path / "env.tar.gz"
    pack.touch()
    made = settings(None, "factory", batch_type="slurm", python_env=str(pack))
    assert f"--poncho-env={pack}" in launch.factory_command(places(tmp_path), made, "/scratch")


def places(tmp_path: Path) -> launch.Places:
    (tmp_path / "vine.address").write_text("9999")
    return launch.Places(str(tmp_path), str(tmp_path), str(tmp_path / "record.msgpack"))


def test_command_of_a_worker(tmp_path: Path) -> None:
    made = settings(LocalProvider(), cores=3, memory=500, worker_options="--debug all", address="head.example.org")
    command = launch.vine_command(places(tmp_path), made, lambda: None, time.monotonic() + 10)
    text = shlex.join(command)
    assert command[-2:] == ["head.example.org", "9999"]
    assert "--cores 3 --memory 500" in text
    assert "--debug all" in text
    assert f"--password {tmp_path}/vine.password" in text


@pytest.mark.parametrize(
    ("status", "words"),
    [(1, "exited with status 1"), (-9, "was killed by signal 9"), (None, "has not said where it listens")],
)
def test_command_needs_a_manager(tmp_path: Path, status: int | None, words: str) -> None:
    """A factory that has ended is not waited for; a silent one is, for a limited time."""
    there = places(tmp_path)
    (tmp_path / "vine.address").unlink()
    Path(there.manager_output).write_text("its last words\n")
    deadline = time.monotonic() + (100 if status is not None else 0.1)
    with pytest.raises(WorkerLaunchFailed, match=words) as caught:
        launch.vine_command(there, settings(LocalProvider()), lambda: status, deadline)
    assert "its last words" in caught.value.stderr


def test_command_of_the_factory(tmp_path: Path) -> None:
    made = settings(None, "factory", batch_type="slurm", max_workers=9, cores=4, batch_options="-p x", worker_timeout=7)
    command = launch.factory_command(places(tmp_path), made, "/scratch")
    expected = {"--batch-type=slurm", "--max-workers=9", "--cores=4", "--batch-options=-p x", "--timeout=7"}
    assert expected <= set(command)
    assert {"--scratch-dir=/scratch", "--wrapper=sh ./taskvine-worker", "--catalog=127.0.0.1:1"} <= set(command)
    assert f"--password={passwords.default_path()}" in command
    script = (tmp_path / "taskvine-worker").read_text()
    assert f"'{sys.executable}' '{launch.PROGRAM}' worker --executable" in script
    subprocess.run(["sh", "-n", tmp_path / "taskvine-worker"], check=True)


def test_catalog_server_is_for_named_projects(tmp_path: Path) -> None:
    made = settings(None, "factory", batch_type="slurm", project_name="p")
    assert not [word for word in launch.factory_command(places(tmp_path), made, "/s") if word.startswith("--catalog")]


@pytest.mark.parametrize("path", ["/a b", "/it's"])
def test_paths_unsupported_by_vine_factory_are_refused(tmp_path: Path, path: str) -> None:
    made = settings(None, "factory", batch_type="slurm")
    with pytest.raises(ConfigurationError, match="Give another scratch_dir"):
        launch.factory_command(places(tmp_path), made, path)


def test_scratch_of_the_factory_is_visible_to_nodes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base, log, given = tmp_path / "base", tmp_path / "log", tmp_path / "given"
    monkeypatch.chdir(tmp_path)

    def scratch(log: Path, **fields: Any) -> Path:
        made = settings(None, "factory", batch_type="slurm", **fields)
        found = Path(launch.factory_scratch(launch.Places(str(base), str(log), ""), made))
        assert found.stat().st_mode & 0o777 == 0o700  # it will contain the password
        return found

    assert scratch(log).parent == log
    assert scratch(base / "log").parent == tmp_path  # no place for logs was chosen
    assert scratch(log, scratch_dir=str(given)).parent == given
    given.rename(tmp_path / "other")
    given.touch()
    with pytest.raises(RunDirNotWritable, match="given"):
        scratch(log, scratch_dir=str(given))


def test_manager_is_given_time_to_cancel_jobs() -> None:
    assert launch.leaving_seconds(settings(None, "factory", batch_type="slurm")) > 6
    assert launch.leaving_seconds(settings(None, "factory")) == 0
    assert launch.leaving_seconds(settings(SlurmProvider())) == 0


@pytest.mark.parametrize(
    ("fields", "method", "found"),
    [
        ({"address": "head"}, "provider", "head"),
        ({}, "provider", "198.51.100.7"),
        ({}, "manual", "localhost"),
        ({"batch_type": "slurm"}, "factory", "198.51.100.7"),
        ({}, "factory", "localhost"),
    ],
)
def test_address_of_the_manager(
    monkeypatch: pytest.MonkeyPatch, fields: dict[str, Any], method: str, found: str
) -> None:
    monkeypatch.setattr(launch.addresses, "of_this_machine", lambda: "198.51.100.7")
    made = settings(SlurmProvider() if method == "provider" else None, method, **fields)
    assert launch.address_for_workers(made) == found


@pytest.mark.parametrize(
    ("provider", "address", "here"),
    [
        (LocalProvider(), None, True),
        (LocalProvider(), "127.0.0.2", True),
        (LocalProvider(), "head.example.org", False),  # the address at which workers connect
        (SlurmProvider(), "localhost", False),
    ],
)
def test_local_runs_are_recognised(provider: Any, address: str | None, here: bool) -> None:
    assert launch.stays_here(settings(provider, address=address)) is here


def test_localhost_may_be_an_address_of_another_protocol(monkeypatch: pytest.MonkeyPatch) -> None:
    assert launch.stays_here(settings(LocalProvider()))
    monkeypatch.setenv("CCTOOLS_IP_MODE", "AUTO")
    assert not launch.stays_here(settings(LocalProvider()))
