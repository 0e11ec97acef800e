"""A node offers the resources that it may use. A kill for lack of memory is reported as such."""

from __future__ import annotations

import os
import shlex
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from parsl.providers import LocalProvider

from taskvine_exec import TaskVineExecutor
from taskvine_exec.errors import MemoryExceeded, ResourcesUnsatisfiable, SlotDied
from taskvine_manager.record import read_record
from tests import control_groups
from tests.conftest import eventually
from tests.contract.conftest import embedded_only

Make = Callable[..., TaskVineExecutor]
SECONDS = 60
MEGABYTES = 400


@pytest.fixture
def group() -> Iterator[Path]:
    """A control group. A test requests it before its executor, so that it is removed after it."""
    group = control_groups.make(MEGABYTES)
    if group is None:
        pytest.skip("this user may make no control groups that limit memory")
    yield group
    eventually(lambda: not (group / "cgroup.procs").read_text())
    group.rmdir()


def limited(group: Path, **more: int) -> LocalProvider:
    return LocalProvider(worker_init=f"echo $$ >{group}/cgroup.procs", **more)


def fill(megabytes: int) -> int:
    return len(bytes(b"x" * (megabytes * 2**20)))


def die() -> None:
    os.kill(os.getpid(), 9)


def test_node_respects_its_control_group(group: Path, make_executor: Make, mode: str) -> None:
    executor = make_executor(function_exec_mode=mode, provider=limited(group), max_retries=0)
    assert executor.submit(fill, {}, 1).result(SECONDS) == 2**20
    assert [node["memory"] for node in executor.nodes] == [MEGABYTES]
    assert isinstance(executor.submit(die, {}).exception(SECONDS), SlotDied)  # no process was killed for lack of memory
    error = executor.submit(fill, {}, 2 * MEGABYTES).exception(SECONDS)
    assert isinstance(error, MemoryExceeded), error
    assert (error.limit_mb, error.group) == (MEGABYTES, str(group))
    assert 0.8 * MEGABYTES < error.used_mb <= MEGABYTES
    assert f"may use {MEGABYTES} MB" in str(error)
    assert str(group) in str(error)
    assert executor.submit(fill, {}, 1).result(SECONDS) == 2**20


def array(number: int) -> object:
    import numpy as np

    return np.full(6_000_000, float(number))  # 48 MB


@embedded_only
def test_results_in_memory_leave_room_in_the_control_group(group: Path, make_executor: Make, mode: str) -> None:
    """The results take more memory than the node may use: the rest goes to disk."""
    executor = make_executor(function_exec_mode=mode, provider=limited(group), max_retries=0)
    held = [executor.submit(array, {}, number).result(SECONDS) for number in range(10)]
    assert [each[0] for each in held] == list(map(float, range(10)))
    assert control_groups.kills(group) == 0


def test_given_size_takes_precedence(group: Path, make_executor: Make) -> None:
    executor = make_executor(provider=limited(group), memory=300, cores=1)
    assert executor.submit(int, {}).result(SECONDS) == 0
    assert [(node["memory"], node["cores"]) for node in executor.nodes] == [(300, 1)]


def test_batch_system_sets_the_size(make_executor: Make) -> None:
    said = "export SLURM_JOB_ID=7 SLURM_MEM_PER_NODE=250 SLURM_CPUS_ON_NODE=1"
    executor = make_executor(provider=LocalProvider(worker_init=said), cores=None)
    assert executor.submit(int, {}).result(SECONDS) == 0
    assert [(node["memory"], node["cores"]) for node in executor.nodes] == [(250, 1)]


@pytest.mark.parametrize("engine", ["taskvine"], indirect=True)
@pytest.mark.parametrize("options", [[], ["--memory", "300", "--cores", "2"]])
def test_worker_without_a_launcher_respects_its_limits(make_executor: Make, tmp_path: Path, options: list[str]) -> None:
    """Of a factory: it takes the whole machine by default. Its supervisor uses less."""
    executor = make_executor(worker_launch_method="manual")
    words = shlex.split(executor.launch_cmd)
    password = words[words.index("--password") + 1]
    command = ["vine_worker", "--password", password, "--workspace", str(tmp_path / "worker"), "--single-shot"]
    said = {"SLURM_JOB_ID": "7", "SLURM_MEM_PER_NODE": "250", "SLURM_CPUS_ON_NODE": "1"}
    environment = {**os.environ, **said}
    worker = subprocess.Popen([*command, *options, *words[-2:]], stdin=-3, stdout=-3, stderr=-3, env=environment)
    try:
        assert executor.submit(int, {"memory": 200}).result(SECONDS) == 0
        error = executor.submit(int, {"memory": 275}).exception(SECONDS)
        if options:
            assert error is None
        else:
            assert isinstance(error, ResourcesUnsatisfiable)
            assert error.largest == {"cores": 1, "memory": 250, "gpus": 0}
    finally:
        executor.shutdown()
        worker.terminate()
        worker.wait(30)


def test_least_running_time_is_kept(make_executor: Make, run_dir: str) -> None:
    executor = make_executor()
    assert executor.submit(int, {"running_time_min": 0.5}).result(SECONDS) == 0
    assert executor.submit(int, {}).result(SECONDS) == 0
    executor.shutdown()
    record = read_record(os.path.join(run_dir, "ex0", "record.msgpack"))
    assert [profile.running_time_min for profile in record.profiles.values()] == [0.5, None]
