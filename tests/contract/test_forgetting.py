"""A function is kept on every process as long as a task may need it, and no longer."""

from __future__ import annotations

import gc
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
from parsl.providers import LocalProvider

from taskvine_exec import TaskVineExecutor
from tests.conftest import Gate, eventually, our_processes

Make = Callable[..., TaskVineExecutor]


class Traced:
    """Part of a function. It leaves a file when a process that has loaded it frees it."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Loaded, (self.path,)


class Loaded:
    """Create the file."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __del__(self) -> None:
        with open(self.path, "w"):
            pass


def closure(number: int, size: int, traced: object = None) -> Callable[[], tuple[int, int]]:
    """Make a function that differs from all others, with ``size`` bytes of data."""
    data = os.urandom(size)
    return lambda: (number, len(data), traced)[:2]


def files(executor: TaskVineExecutor) -> set[str]:
    """Return the large files in the directories of a run."""
    found = set()
    for directory, _, names in os.walk(executor.run.places.base, followlinks=True):
        for name in names:
            path = os.path.join(directory, name)
            if "log" not in path and os.path.isfile(path) and os.path.getsize(path) > 30_000:
                found.add(path)
    return found


def test_collected_functions_are_forgotten_everywhere(make_executor: Make, tmp_path: Path) -> None:
    executor = make_executor()
    assert executor.submit(int, {}).result(60) == 0
    before = files(executor)
    for size in (10, 10_000, 100_000):
        functions = [closure(number, size, Traced(f"{tmp_path}/{size}-{number}")) for number in range(20)]
        futures = [executor.submit(function, {}) for function in functions]
        assert [future.result(60) for future in futures] == [(number, size) for number in range(20)]
        del functions, futures
        gc.collect()
        eventually(lambda size=size: all(os.path.exists(f"{tmp_path}/{size}-{number}") for number in range(20)))
    eventually(lambda: files(executor) <= before)
    assert executor._submitter.functions.count <= 1
    assert executor.submit(int, {}).result(60) == 0


def test_exception_kept_by_a_module_keeps_no_function(
    make_executor: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = "try:\n    import not_there\nexcept ImportError as error:\n    REASON = error\nclass Part: pass"
    (tmp_path / "with_a_reason.py").write_text(source)
    monkeypatch.syspath_prepend(str(tmp_path))
    import with_a_reason  # type: ignore[import-not-found]

    executor = make_executor()
    part = with_a_reason.Part()
    function = closure(0, 10, [part, Traced(f"{tmp_path}/gone")])
    assert executor.submit(function, {}).result(60) == (0, 10)
    del function
    gc.collect()
    eventually(lambda: os.path.exists(f"{tmp_path}/gone"))


def test_tasks_of_collected_functions_run(make_executor: Make, mode: str) -> None:
    executor = make_executor(function_exec_mode=mode)
    count = 300 if mode == "L2" else 8
    futures = [executor.submit(closure(number, 5_000 * (number % 9)), {}) for number in range(count)]
    assert [future.result(60)[0] for future in futures] == list(range(count))


def test_equal_function_runs_after_the_first_was_collected(make_executor: Make, tmp_path: Path) -> None:
    executor = make_executor()
    for size in (10, 100_000):
        data = os.urandom(size)
        for turn in range(3):
            path = f"{tmp_path}/{size}"
            function = eval("lambda: (len(data), traced)[0]", {"data": data, "traced": Traced(path)})
            assert executor.submit(function, {}).result(60) == size, turn
            del function
            eventually(lambda path=path: os.path.exists(path))
            os.unlink(path)


def test_running_call_keeps_its_function(make_executor: Make, gate: Gate) -> None:
    executor = make_executor(library_config={"num_slots": 2})
    first = executor.submit(gate.task, {}, "first")
    gate.wait(1)
    gc.collect()
    others = [executor.submit(closure(number, 1000), {}) for number in range(20)]
    assert [other.result(60) for other in others] == [(number, 1000) for number in range(20)]
    gate.open()
    assert first.result(60)[0] == "first"


def test_cancelled_call_releases_its_function(make_executor: Make, gate: Gate, tmp_path: Path) -> None:
    executor = make_executor(library_config={"num_slots": 1})
    running = executor.submit(gate.task, {}, "first")
    gate.wait(1)
    before = files(executor)
    waiting = executor.submit(closure(1, 100_000), {})
    eventually(lambda: files(executor) > before)
    executor._pending.fail(waiting.parsl_executor_task_id, RuntimeError("not wanted any more"))
    eventually(lambda: files(executor) <= before)
    gate.open()
    assert running.result(60)[0] == "first"


def test_lost_result_of_a_collected_function_is_recreated(make_executor: Make) -> None:
    pytest.importorskip("proxystore")
    executor = make_executor(results="reference", provider=LocalProvider(init_blocks=2, max_blocks=2), cores=1)
    assert executor.wait_for_nodes(2, 60)
    data = os.urandom(100_000)
    function = eval("lambda: data * 3", {"data": data})
    proxy = executor.submit(function, {}).result(60)
    del function
    gc.collect()
    assert executor._submitter.functions.count == 0
    ((_, (holder, *_)),) = executor.stats()["replicas"].items()
    node = next(node for node in executor.nodes if node["name"] == holder)
    os.kill(node["pid"], signal.SIGKILL)
    eventually(lambda: not os.path.exists(node["directory"]))
    assert proxy == data * 3
    before = files(executor)
    del proxy
    gc.collect()
    eventually(lambda: files(executor) < before)


def test_memory_of_functions_is_freed(make_executor: Make, nothing_left: str) -> None:
    executor = make_executor()
    count, size = 1000, 25_000

    def run() -> None:
        functions = [closure(number, size) for number in range(count)]
        futures = [executor.submit(function, {}) for function in functions]
        assert [future.result(120) for future in futures] == [(number, size) for number in range(count)]

    def memory() -> dict[int, int]:
        gc.collect()
        found = {}
        for process in (psutil.Process(), *our_processes(nothing_left)):
            try:
                found[process.pid] = process.memory_full_info().uss
            except psutil.Error:
                continue
        return found

    wait = [executor.submit(lambda: __import__("time").sleep(0.2), {}) for _ in range(4)]
    assert [future.result(60) for future in wait] == [None] * 4  # all slots have been forked
    before = memory()
    run()

    def grown() -> dict[int, int]:
        after = memory()
        return {pid: after[pid] - before[pid] for pid in before.keys() & after.keys()}

    # The memory of the tasks themselves remains: it is a tenth of that of their functions.
    eventually(lambda: max(grown().values()) < count * size / 2, 10.0)
