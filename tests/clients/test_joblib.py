"""Calls of joblib.Parallel on the executor: results, arguments, errors, numbers of jobs, and what joblib may ask."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import numpy as np
import parsl
import pytest
from parsl.errors import ConfigurationError

from taskvine_exec import TaskVineExecutor, local_config

joblib = pytest.importorskip("joblib")

from taskvine_exec.clients.joblib import TaskVineBackend  # noqa: E402


@pytest.fixture
def executor(engine: str, run_dir: str) -> Iterator[TaskVineExecutor]:
    """The executor of a loaded Config, with one node of two slots, as joblib's backend."""
    config = local_config(engine=engine, cores=2, run_dir=run_dir, label="here")
    with parsl.load(config) as kernel, joblib.parallel_config(backend="taskvine"):
        found = kernel.executors["here"]
        assert isinstance(found, TaskVineExecutor)
        yield found


def where(x: int, y: int = 0) -> tuple[int, int]:
    return x + y, os.getpid()


def broken(x: int) -> int:
    raise ValueError(f"as asked: {x}")


def total(array: Any, index: int) -> float:
    return float(array.sum() + index)


def test_calls_run_on_nodes(executor: TaskVineExecutor) -> None:
    found = joblib.Parallel()(joblib.delayed(where)(x, y=1) for x in range(200))
    assert [value for value, _ in found] == list(range(1, 201))
    assert os.getpid() not in {pid for _, pid in found}


def test_arrays(executor: TaskVineExecutor) -> None:
    array = np.ones(500_000)
    found = joblib.Parallel()(joblib.delayed(total)(array, index) for index in range(8))
    assert found == [500_000.0 + index for index in range(8)]


def test_results_as_they_come(executor: TaskVineExecutor) -> None:
    found = joblib.Parallel(return_as="generator")(joblib.delayed(where)(x) for x in range(20))
    assert [value for value, _ in found] == list(range(20))


def test_an_exception_reaches_the_caller(executor: TaskVineExecutor) -> None:
    with pytest.raises(ValueError, match="as asked: "):
        joblib.Parallel()(joblib.delayed(broken)(x) for x in range(50))
    assert joblib.Parallel()([joblib.delayed(where)(1)])[0][0] == 1


def nested(x: int) -> list[int]:
    return [value for value, _ in joblib.Parallel(n_jobs=2)(joblib.delayed(where)(x, y) for y in range(3))]


def test_calls_within_calls(executor: TaskVineExecutor) -> None:
    assert joblib.Parallel()(joblib.delayed(nested)(x) for x in (10, 20)) == [[10, 11, 12], [20, 21, 22]]


def test_numbers_of_jobs(executor: TaskVineExecutor) -> None:
    joblib.Parallel()([joblib.delayed(where)(1)])  # the node is there
    assert joblib.effective_n_jobs(-1) == 2
    assert joblib.effective_n_jobs(7) == 7
    with pytest.raises(ValueError, match="n_jobs == 0"):
        joblib.effective_n_jobs(0)
    (found,) = joblib.Parallel(n_jobs=1)([joblib.delayed(where)(1)])
    assert found == (1, os.getpid()), "joblib runs a single job in the program"


def test_an_executor_without_a_config(engine: str) -> None:
    with TaskVineExecutor(engine=engine, cores=1) as executor:
        executor.start()
        with joblib.parallel_config(backend="taskvine", executor=executor, resources={"function_exec_mode": "L1"}):
            found = joblib.Parallel(batch_size=1)(joblib.delayed(where)(x) for x in range(3))
    assert len({pid for _, pid in found}) == 3, "each task has a process of its own"


def test_no_executor() -> None:
    with pytest.raises(ConfigurationError, match=r"that could run calls of joblib: .* executor=\.\.\."):
        TaskVineBackend().effective_n_jobs(-1)
