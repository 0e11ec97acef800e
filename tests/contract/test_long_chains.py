"""Long chains of tasks: the last task fails when the first one does."""

from __future__ import annotations

import itertools
from collections.abc import Callable

from parsl.data_provider.files import File
from parsl.dataflow.errors import DependencyError

from taskvine_exec import TaskVineExecutor
from tests.conftest import Gate

Make = Callable[..., TaskVineExecutor]
LINKS = 3000  # three times Python's recursion limit


def wait_and_raise(directory: str, outputs: object) -> None:
    import os
    import time

    while not os.path.exists(os.path.join(directory, "open")):
        time.sleep(0.01)
    raise ValueError("the root cause")


def copy(file: File, outputs: list[File]) -> None:
    with open(file, "rb") as source, open(outputs[0], "wb") as target:
        target.write(source.read())


def test_failed_task_fails_a_long_chain_of_temp_files(make_executor: Make, mode: str, gate: Gate) -> None:
    executor = make_executor(function_exec_mode=mode)
    files = [File(f"taskvinetemp:///f{number}") for number in range(LINKS + 1)]
    head = executor.submit(wait_and_raise, {}, str(gate.directory), outputs=files[:1])
    links = [executor.submit(copy, {}, file, outputs=[after]) for file, after in itertools.pairwise(files)]
    assert not head.done()
    gate.open()
    for link in (links[-1], links[0], links[LINKS // 2]):
        error = link.exception(60)
        assert isinstance(error, DependencyError)
        assert error.__cause__ is head.exception()
        assert str(error).count("task 0") == 1
    assert all(link.done() for link in links)
    assert executor.submit(abs, {}, -1).result(60) == 1
