"""Tuning parameters of executors that run, or are about to start."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from parsl.errors import ConfigurationError
from parsl.providers import LocalProvider

from taskvine_exec import TaskVineExecutor, TaskVineManagerConfig
from taskvine_tune import TuneParameters
from tests.conftest import eventually

Make = Callable[..., TaskVineExecutor]


def numbers(count: int) -> list[int]:
    return list(range(count))


def write(path: str, outputs: Any = ()) -> None:
    with open(outputs[0].filepath, "w") as file:
        file.write(path)


def most_replicas(executor: TaskVineExecutor) -> int:
    return max(len(nodes) for nodes in executor.stats()["replicas"].values())


def test_running_executor_is_tuned(make_executor: Make, engine: str, tmp_path: Path) -> None:
    from parsl.data_provider.files import File

    executor = make_executor(cores=1, provider=LocalProvider(init_blocks=2, min_blocks=2, max_blocks=2))
    assert executor.wait_for_nodes(2, 30)
    executor.submit(write, {}, "x", outputs=[File("taskvinetemp:///x")]).result(30)
    assert most_replicas(executor) == 1
    path = tmp_path / "tuning.yaml"
    TuneParameters({"temp-replica-count": 2}).dump(path)
    executor.tune(path)
    if engine == "taskvine":  # from now on, new files are replicated
        executor.submit(write, {}, "y", outputs=[File("taskvinetemp:///y")]).result(30)
    eventually(lambda: most_replicas(executor) == 2)


def test_fixed_parameters_of_a_running_executor_are_refused(make_executor: Make) -> None:
    executor = make_executor()
    for parameters, says in (
        ({"temp_replica_cuont": 2}, "did you mean 'temp-replica-count'"),
        ({"temp_replica_count": 0}, "must be at least 1"),
        ({"temp_replica_count": 2}, "1 node at most"),
        ({"executor.library-slots": 2}, "cannot be changed while the executor runs"),
    ):
        with pytest.raises(ConfigurationError, match=says):
            executor.tune(parameters)
    executor.tune({})
    executor.tune(TuneParameters({"immediate-recovery": True}))
    # The values in force count, whenever they were set; refused values do not.
    executor.tune({"max-workers": 2})
    with pytest.raises(ConfigurationError, match="wait-for-workers=3 and max-workers=2 are in conflict"):
        executor.tune({"wait-for-workers": 3})
    executor.tune({"max-workers": 4})
    assert executor.submit(numbers, {}, 2).result(30) == [0, 1]


@pytest.mark.parametrize("form", ["setting", "config"])
def test_file_sets_library_slots(make_executor: Make, tmp_path: Path, form: str) -> None:
    path = tmp_path / "tuning.toml"
    path.write_text("[executor]\nlibrary-slots = 1\n")
    if form == "setting":
        executor = make_executor(tune_parameters=path, cores=2)
    else:
        executor = make_executor(manager_config=TaskVineManagerConfig(tune_parameters=str(path)), cores=2)
    # Two slots would run the two tasks in two processes at a time; with one slot, one process runs all of them.
    pids = {future.result(30) for future in [executor.submit(os.getpid, {}) for _ in range(20)]}
    assert len(pids) == 1
