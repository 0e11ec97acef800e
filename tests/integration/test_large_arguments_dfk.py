"""A large array that many apps get is stored once: one of the user's, or the result of another app."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import parsl
import pytest
from parsl.dataflow.dflow import DataFlowKernel

from taskvine_exec import DAG_RESOLVER, TaskVineExecutor
from tests.conftest import eventually
from tests.engines import ENGINES

COUNT = 1 << 18
SIZE = 8 * COUNT
HEADS = 4096  # more than the header of a file
TASKS = 10
Load = Callable[..., DataFlowKernel]


@parsl.python_app
def make(count: int) -> Any:
    import numpy as np

    return np.arange(count, dtype=float)


@parsl.python_app
def read(array: Any, index: int, gate: str) -> float:
    import os
    import time

    while not os.path.exists(gate):
        time.sleep(0.01)
    return float(array[index])


@pytest.fixture(params=ENGINES)
def engine(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=["values", "dag"])
def executor(request: pytest.FixtureRequest, engine: str, load: Load) -> TaskVineExecutor:
    """Load an executor under a DFK, which waits for values or makes edges."""
    executor = TaskVineExecutor(label="tv", engine=engine, cores=2)
    dag = {"dependency_resolver": DAG_RESOLVER} if request.param == "dag" else {}
    load([executor], **dag)
    return executor


def stored(executor: TaskVineExecutor) -> int:
    """Return the bytes of large files that an executor stores here, without copies that TaskVine's workers use."""
    found: list[tuple[int, int]] = []
    runtime: set[int] = set()  # one file with two names
    for top in (executor.run.places.base, os.environ["TASKVINE_EXEC_MEMORY"]):
        for folder, _, names in os.walk(top):
            for name in names if "spares" not in folder else ():
                path = os.path.join(folder, name)
                if not os.path.islink(path) and os.path.exists(path):
                    status = os.stat(path)
                    found.append((status.st_size, status.st_ino))
                    if name == "runtime.tar" or ("nodes" in folder and name.startswith("buffer-rnd")):
                        runtime.add(status.st_ino)
    return sum(size for size, inode in found if size >= SIZE // 2 and inode not in runtime)


def test_users_array_is_stored_once(executor: TaskVineExecutor, tmp_path: Path) -> None:
    """With the resolver, other apps may read the results of apps, whose tasks may run again for that."""
    gate = tmp_path / "open"
    array = np.arange(COUNT, dtype=float)
    futures = [read(array, index, str(gate)) for index in range(TASKS)]
    eventually(lambda: executor.stats()["arguments_shared"] == (TASKS - 1) * SIZE)  # the DFK has launched all of them
    array[0] = -1
    futures.append(read(array, 0, str(gate)))
    eventually(lambda: executor.stats()["arguments_stored"] == 2 * SIZE)
    assert stored(executor) <= 3 * SIZE + HEADS
    gate.touch()
    assert [future.result(60) for future in futures] == [*range(TASKS), -1]
    eventually(lambda: executor.stats()["arguments_stored"] == 0)


def test_result_of_an_app_is_stored_once(executor: TaskVineExecutor, tmp_path: Path) -> None:
    gate = tmp_path / "open"
    array = make(COUNT)
    futures = [read(array, index, str(gate)) for index in range(TASKS)]
    array.result(60)
    if parsl.dfk().dependency_resolver is not DAG_RESOLVER:  # otherwise it stays where it was made
        eventually(lambda: executor.stats()["arguments_shared"] == (TASKS - 1) * SIZE)
    eventually(lambda: stored(executor) <= 2 * SIZE + HEADS)  # TaskVine copies a result before it removes the original
    gate.touch()
    assert [future.result(60) for future in futures] == list(range(TASKS))
    eventually(lambda: executor.stats()["arguments_stored"] == 0)
