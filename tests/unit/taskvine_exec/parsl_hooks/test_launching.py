"""The launching thread of a DataFlowKernel, alone and in a real one."""

from __future__ import annotations

import logging
import subprocess
import sys
import threading
import weakref
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import parsl
import pytest
from parsl.config import Config
from parsl.dataflow.dflow import DataFlowKernel
from parsl.dataflow.states import States
from parsl.executors.base import ParslExecutor

from taskvine_exec.parsl_hooks import launching
from taskvine_exec.parsl_hooks.launching import Launcher
from taskvine_exec.parsl_hooks.switches import LAUNCHING
from tests.unit.taskvine_exec.parsl_hooks.conftest import Switch


class Executor(ParslExecutor):
    """An executor with the hook, which notes the threads that submit."""

    def __init__(self) -> None:
        super().__init__()
        self.label = "ex"
        self.kernel: Any = None
        self.threads: list[str] = []

    def submit(self, func: Any, resource_specification: dict[str, Any], *args: Any, **kwargs: Any) -> Future[Any]:
        self.threads.append(threading.current_thread().name)
        launching.replace(self.kernel)
        future: Future[Any] = Future()
        future.set_result(func(*args, **kwargs))
        return future

    def shutdown(self) -> None:
        super().shutdown()


@pytest.fixture
def launcher() -> Iterator[Launcher]:
    made = Launcher(ThreadPoolExecutor(max_workers=1))
    yield made
    made.shutdown()


def test_calls_are_made_in_order_after_those_of_the_pool() -> None:
    pool, free, calls = ThreadPoolExecutor(max_workers=1), threading.Event(), []
    pool.submit(free.wait, 60)
    pool.submit(calls.append, "pool")
    launcher = Launcher(pool)
    launcher.start()
    for number in range(100):
        launcher.submit(calls.append, number)
    assert calls == []
    free.set()
    launcher.shutdown()
    assert calls == ["pool", *range(100)]


def test_no_calls_are_taken_after_shutdown(launcher: Launcher) -> None:
    launcher.start()
    launcher.shutdown()
    with pytest.raises(RuntimeError, match="after shutdown"):
        launcher.submit(int)


def test_an_error_is_logged_and_ends_only_its_call(launcher: Launcher, caplog: pytest.LogCaptureFixture) -> None:
    launcher.start()
    done = threading.Event()
    with caplog.at_level(logging.ERROR, launching.__name__):
        launcher.submit(int, "no number")
        launcher.submit(done.set)
        assert done.wait(60)
    assert "no number" in caplog.text


def test_a_call_is_not_kept(launcher: Launcher) -> None:
    class Argument:
        pass

    launcher.start()
    done, argument = threading.Event(), Argument()
    gone = weakref.ref(argument, lambda _: done.set())
    launcher.submit(id, argument)
    del argument
    assert done.wait(60)
    assert gone() is None


def test_a_task_is_queued_when_all_its_dependencies_are_done(launcher: Launcher) -> None:
    launched: list[int] = []
    done = threading.Event()
    dependencies: list[Future[None]] = [Future() for _ in range(4)]
    record: dict[str, Any] = {"id": 7, "depends": dependencies, "status": States.pending}
    launcher.start()
    for future in dependencies:
        future.add_done_callback(lambda _: launcher.submit(lambda task: launched.append(task["id"]), record))
    launcher.submit(lambda task: launched.append(task["id"]), record)
    for number in (3, 0, 2, 1):
        assert launched == []
        dependencies[number].set_result(None)
    launcher.submit(done.set)
    assert done.wait(60)
    assert launched == [7]
    record["status"] = States.launched
    launcher.submit(lambda task: launched.append(task["id"]), record)
    record["status"] = States.pending  # it failed, and is tried again
    launcher.submit(lambda task: launched.append(task["id"]), record)
    launcher.shutdown()
    assert launched == [7, 7]


@pytest.mark.parametrize("order", [1, -1], ids=["first to last", "last to first"])
def test_each_dependency_is_looked_at_a_few_times(launcher: Launcher, order: int) -> None:
    looked = 0

    class Dependency(Future[None]):
        def done(self) -> bool:
            nonlocal looked
            looked += 1
            return super().done()

    dependencies = [Dependency() for _ in range(1000)]
    record = {"id": 7, "depends": dependencies, "status": States.pending}
    for future in dependencies:
        future.add_done_callback(lambda _: launcher.submit(int, record))
    for future in dependencies[::order]:
        future.set_result(None)
    assert looked <= 3 * len(dependencies)
    launcher.start()


def test_tasks_with_many_dependencies_run_in_a_kernel(switch: Switch, tmp_path: Path) -> None:
    """Some dependencies are done before the task is submitted, others after it, in another order."""
    switch(LAUNCHING)
    executor = Executor()
    config = Config([executor], run_dir=str(tmp_path), initialize_logging=False, strategy="none")
    executor.kernel = dfk = DataFlowKernel(config)
    try:
        add = parsl.python_app(lambda *parts: sum(parts), data_flow_kernel=dfk)
        assert add(1, 2).result(60) == 3
        given: list[Future[int]] = [Future() for _ in range(16)]
        for number, future in enumerate(given[:4]):
            future.set_result(number)
        sums = [add(*given[: index + 1]) for index in range(16)]
        for number in reversed(range(4, 16)):
            given[number].set_result(number)
        assert [each.result(60) for each in sums] == [sum(range(index + 1)) for index in range(16)]
    finally:
        dfk.cleanup()


def test_a_kernel_gets_it_once(switch: Switch, tmp_path: Path) -> None:
    on = switch(LAUNCHING)
    executor = Executor()
    config = Config([executor], run_dir=str(tmp_path), initialize_logging=False, strategy="none")
    executor.kernel = dfk = DataFlowKernel(config)
    try:
        app = parsl.python_app(abs, data_flow_kernel=dfk)
        first = app(-1)
        assert first.result(60) == 1
        pool = dfk._task_launch_pool
        assert isinstance(pool, Launcher if on else ThreadPoolExecutor)
        assert [app(app(number)).result(60) for number in range(20)] == list(range(20))
        assert dfk._task_launch_pool is pool
        assert len(set(executor.threads)) == (2 if on else 1)
    finally:
        dfk.cleanup()
    assert not any("Task-Launch" in thread.name for thread in threading.enumerate())


def test_another_pool_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    class Kernel:
        _task_launch_pool: Any = None

    kernel = Kernel()
    for pool in (None, ThreadPoolExecutor(max_workers=2), object()):
        kernel._task_launch_pool = pool
        launching.replace(kernel)
        assert kernel._task_launch_pool is pool
    launching.replace(None)


def test_a_program_may_end_without_shutdown() -> None:
    program = (
        "from concurrent.futures import ThreadPoolExecutor\n"
        "from taskvine_exec.parsl_hooks.launching import Launcher\n"
        "launcher = Launcher(ThreadPoolExecutor(max_workers=1))\n"
        "launcher.start()\n"
        "launcher.submit(print, 'launched')\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60, env={"PYTHONPATH": ":".join(sys.path)})
