"""A large argument of many tasks is stored once, as it was at the call, as long as a task may need it."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from parsl.data_provider.files import File

from taskvine_exec import TaskVineExecutor
from taskvine_exec.errors import DiskFull, ManagerLost
from tests.conftest import Gate, eventually, first_node
from tests.contract.conftest import cached

Make = Callable[..., TaskVineExecutor]
COUNT = 1 << 19
SIZE = 8 * COUNT
SECONDS = 60


def files(executor: TaskVineExecutor) -> Iterator[os.DirEntry[str]]:
    """Return the bytes that an executor stores on this machine, without spare files in memory."""
    left = [executor.run.places.base, os.environ["TASKVINE_EXEC_MEMORY"]]
    while left:
        try:
            for entry in os.scandir(left.pop()):
                if not entry.is_dir(follow_symlinks=False):
                    yield entry
                elif entry.name != "spares":
                    left.append(entry.path)
        except FileNotFoundError:  # it has just been removed
            pass


def stored(executor: TaskVineExecutor) -> int:
    """Return the bytes of files as large as an argument of these tests, without copies that TaskVine's workers use."""
    found: list[os.stat_result] = []
    runtime: set[int] = set()  # one file with two names
    for entry in files(executor):
        with contextlib.suppress(FileNotFoundError):
            found.append(entry.stat(follow_symlinks=False))
            if entry.name == "runtime.tar" or ("/nodes/" in entry.path and entry.name.startswith("buffer-rnd")):
                runtime.add(found[-1].st_ino)
    return sum(each.st_size for each in found if each.st_size >= SIZE // 2 and each.st_ino not in runtime)


def let_go(executor: TaskVineExecutor) -> bool:
    """Whether no large argument is stored."""
    left = [entry.name for entry in files(executor) if entry.name.startswith(("buffer-", "sharing", "claim-"))]
    left = [name for name in left if not name.startswith("buffer-rnd")]  # TaskVine's own files
    return not left and executor.stats()["arguments_stored"] == 0


def large_files(executor: TaskVineExecutor) -> list[str]:
    """Return the files as large as an argument that a worker has cached."""
    found = []
    for entry in cached(first_node(executor)):
        with contextlib.suppress(FileNotFoundError):
            if entry.stat().st_size >= SIZE:
                found.append(entry.name)
    return found


def held(gate: Gate) -> Callable[..., float]:
    """A task that waits at a gate, and then returns an element of an array."""
    hold = gate.task

    def read(array: Any, index: int) -> float:
        hold(index)
        return float(array[index])

    return read


def test_array_of_many_tasks_is_stored_once(make_executor: Make, mode: str, gate: Gate) -> None:
    executor = make_executor(function_exec_mode=mode)
    array = np.arange(COUNT, dtype=float)
    futures = [executor.submit(held(gate), {}, array, index) for index in range(8)]
    gate.wait(2)
    futures += [executor.submit(held(gate), {}, array.copy(), index) for index in range(8, 10)]
    assert stored(executor) <= 2 * SIZE
    stats = executor.stats()
    assert stats["arguments_stored"] == SIZE
    assert stats["arguments_shared"] == 9 * SIZE
    gate.open()
    assert [future.result(SECONDS) for future in futures] == list(range(10))
    eventually(lambda: let_go(executor))
    assert stored(executor) == 0


def test_changed_array_is_stored_again(make_executor: Make, mode: str, gate: Gate) -> None:
    executor = make_executor(function_exec_mode=mode)
    array = np.zeros(COUNT)
    futures = []
    for index in (0, COUNT // 3, COUNT - 1):
        futures.append(executor.submit(held(gate), {}, array, index))
        array[index] = 1
        futures.append(executor.submit(held(gate), {}, array, index))
    assert executor.stats()["arguments_stored"] == 4 * SIZE
    gate.open()
    assert [future.result(SECONDS) for future in futures] == [0, 1] * 3
    eventually(lambda: let_go(executor))


def test_task_may_write_into_its_argument(make_executor: Make, mode: str) -> None:
    def add(array: Any) -> float:
        array += 1
        return float(array.sum())

    executor = make_executor(function_exec_mode=mode)
    array = np.zeros(COUNT)
    assert [executor.submit(add, {}, array) for _ in range(2)][1].result(SECONDS) == COUNT
    assert {future.result(SECONDS) for future in [executor.submit(add, {}, array) for _ in range(4)]} == {COUNT}
    assert not array.any()


def test_large_bytes_are_stored_once(make_executor: Make, mode: str, gate: Gate) -> None:
    executor = make_executor(function_exec_mode=mode)
    data = bytes(range(256)) * (SIZE // 256)
    futures = [executor.submit(held(gate), {}, data, index=index) for index in range(4)]
    assert executor.stats()["arguments_stored"] == SIZE
    gate.open()
    assert [future.result(SECONDS) for future in futures] == list(range(4))
    eventually(lambda: let_go(executor))


def test_cancelled_and_refused_tasks_release_arguments(make_executor: Make, gate: Gate) -> None:
    executor = make_executor()
    array = np.zeros(COUNT)
    futures = [executor.submit(held(gate), {}, array, index) for index in range(4)]
    futures.append(executor.submit(held(gate), {"cores": 64}, array, 0))
    assert futures[4].exception(SECONDS)
    gate.wait(2)
    executor._pending.fail_all(ManagerLost)  # as the executor does when it gives up
    eventually(lambda: let_go(executor))
    gate.open()
    assert executor.submit(float, {}, 1).result(SECONDS) == 1


def test_argument_is_kept_for_the_retry_of_a_lost_task(make_executor: Make, mode: str, gate: Gate) -> None:
    executor = make_executor(function_exec_mode=mode)
    array = np.arange(COUNT, dtype=float)
    futures = [executor.submit(held(gate), {}, array, index) for index in range(4)]
    gate.wait(2)
    os.kill(first_node(executor)["pid"], signal.SIGKILL)
    array += 1
    gate.wait(4)
    gate.open()
    assert [future.result(SECONDS) for future in futures] == list(range(4))
    eventually(lambda: let_go(executor))


def test_argument_is_kept_as_long_as_results_may_be_recreated(make_executor: Make, mode: str, tmp_path: Path) -> None:
    def write(array: Any, index: int, outputs: list[File]) -> None:
        with open(outputs[0].filepath, "w") as file:
            file.write(str(array[index]))

    executor = make_executor(function_exec_mode=mode)
    array = np.arange(COUNT, dtype=float)
    made = [File(f"taskvinetemp:///made-{index}") for index in range(3)]
    for future in [executor.submit(write, {}, array, index, outputs=[file]) for index, file in enumerate(made)]:
        future.result(SECONDS)
    assert executor.stats()["arguments_stored"] == SIZE
    assert stored(executor) == SIZE
    node = first_node(executor)["pid"]
    os.kill(node, signal.SIGKILL)
    eventually(lambda: node not in [other["pid"] for other in executor.nodes])
    reading = [executor.submit(_read, {}, file) for file in made]
    assert [future.result(SECONDS) for future in reading] == ["0.0", "1.0", "2.0"]
    for file in made[:2]:
        executor.forget(file)
    assert executor.stats()["arguments_stored"] == SIZE
    executor.forget(made[2])
    eventually(lambda: let_go(executor))


def _read(file: File) -> str:
    with open(file.filepath) as opened:
        return opened.read()


def test_full_disk_is_reported(make_executor: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    executor = make_executor()
    write = os.write

    def full(descriptor: int, data: Any) -> int:
        if len(data) > SIZE // 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(descriptor, data)

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        with pytest.raises(DiskFull, match="an argument of 4 MB cannot be stored"):
            executor.submit(len, {}, np.zeros(COUNT))
    assert let_go(executor)
    assert executor.submit(len, {}, np.zeros(COUNT)).result(SECONDS) == COUNT


@pytest.mark.parametrize("engine", ["taskvine"], indirect=True)
def test_other_machines_get_an_array_once(
    make_executor: Make, start_node: Callable[[TaskVineExecutor], Any], mode: str, gate: Gate
) -> None:
    executor = make_executor(worker_launch_method="manual", function_exec_mode=mode)
    start_node(executor)
    arrays = [np.arange(COUNT, dtype=float), np.arange(COUNT, dtype=float) + 1]
    assert executor.submit(float, {}, 1).result(SECONDS) == 1
    before = executor.stats()["inputs_read"]
    order = [0, 0, 1, 1, 0, 0, 1, 1]  # sometimes no running call reads one of them
    futures = [executor.submit(held(gate), {}, arrays[which], index) for index, which in enumerate(order)]
    gate.wait(2)
    assert 1 <= len(large_files(executor)) <= 2
    gate.open()
    assert [future.result(SECONDS) for future in futures] == [index + which for index, which in enumerate(order)]
    assert executor.stats()["inputs_read"] - before < 2.5 * SIZE
    eventually(lambda: let_go(executor))
    eventually(lambda: not large_files(executor))


@pytest.mark.parametrize("engine", ["taskvine"], indirect=True)
def test_other_machines_get_an_array_once_for_a_batch(
    make_executor: Make, start_node: Callable[[TaskVineExecutor], Any]
) -> None:
    def read(array: Any, index: int) -> float:
        return float(array[index])

    executor = make_executor(worker_launch_method="manual")
    start_node(executor)
    array = np.arange(COUNT, dtype=float)
    assert [executor.submit(read, {}, array, index).result(SECONDS) for index in range(4)] == list(range(4))
    before = executor.stats()["inputs_read"]
    futures = [executor.submit(read, {}, array, index) for index in range(100)]
    assert [future.result(SECONDS) for future in futures] == list(range(100))
    assert executor.stats()["inputs_read"] - before < 10 * SIZE  # it may have been removed in between
    eventually(lambda: let_go(executor))
