"""Promises of Parsl to its users that this executor keeps."""

from __future__ import annotations

import functools
import inspect
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import parsl
import pytest
from parsl.app.errors import AppTimeout, BashExitFailure
from parsl.concurrent import ParslPoolExecutor
from parsl.config import Config
from parsl.dataflow import memoization
from parsl.dataflow.dflow import DataFlowKernel
from parsl.dataflow.errors import DependencyError
from parsl.executors import ThreadPoolExecutor
from parsl.usage_tracking.api import get_parsl_usage
from parsl.utils import RepresentationMixin

from taskvine_exec import TaskVineExecutor, TaskVineManagerConfig
from taskvine_exec.errors import TaskLost
from tests.conftest import Gate

Load = Callable[..., DataFlowKernel]


def make(label: str = "tv", **settings: Any) -> TaskVineExecutor:
    return TaskVineExecutor(label=label, cores=2, **settings)


@pytest.fixture(params=["L1", "L2"])
def mode(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_python_apps(load: Load, mode: str) -> None:
    load([make(function_exec_mode=mode)])

    @parsl.python_app
    def add(x: int, y: int = 1) -> int:
        return x + y

    assert add(add(1), y=add(2)).result() == 5


def test_exceptions_travel(load: Load) -> None:
    load()

    @parsl.python_app
    def fail(*_: Any) -> None:
        raise KeyError("mine")

    first = fail()
    second = fail(first)
    assert isinstance(first.exception(), KeyError)
    error = second.exception()
    assert isinstance(error, DependencyError)
    assert isinstance(error.dependent_exceptions_tids[0][0], KeyError)


def test_bash_apps(load: Load, mode: str, tmp_path: Path) -> None:
    load([make(function_exec_mode=mode)])

    @parsl.bash_app
    def say(word: str, stdout: str = "", stderr: str = "") -> str:
        return f"echo {word}; echo {word} >&2"

    @parsl.bash_app
    def leave(status: int) -> str:
        return f"exit {status}"

    out, err = str(tmp_path / "out"), str(tmp_path / "err")
    assert say("hello", stdout=out, stderr=err).result() == 0
    assert Path(out).read_text() == "hello\n"
    assert Path(err).read_text().endswith("\nhello\n")  # Parsl writes the command line before
    error = leave(3).exception()
    assert isinstance(error, BashExitFailure)
    assert error.exitcode == 3


def test_auto_logname_is_used(load: Load, mode: str) -> None:
    load([make(function_exec_mode=mode)], initialize_logging=True)

    @parsl.bash_app
    def say(stdout: Any = parsl.AUTO_LOGNAME, stderr: Any = parsl.AUTO_LOGNAME) -> str:
        return "echo out; echo err >&2"

    @parsl.python_app
    def speak(stdout: Any = parsl.AUTO_LOGNAME) -> None:
        print("python")

    futures = [say(), say()]
    for future in futures:
        assert future.result() == 0
        assert Path(future.stdout).read_text() == "out\n"
        assert Path(future.stderr).read_text().endswith("\nerr\n")
    assert futures[0].stdout != futures[1].stdout
    assert speak().result() is None


def test_join_apps(load: Load) -> None:
    load()

    @parsl.python_app
    def square(x: int) -> int:
        return x * x

    @parsl.python_app
    def add(inputs: Any = ()) -> int:
        return sum(inputs)

    @parsl.join_app
    def squares(count: int) -> Any:
        return add(inputs=[square(number) for number in range(count)])

    @parsl.join_app
    def several(count: int) -> Any:
        return [square(number) for number in range(count)]

    assert squares(4).result() == 14
    assert several(4).result() == [0, 1, 4, 9]


def test_walltime(load: Load, mode: str) -> None:
    load([make(function_exec_mode=mode)])

    @parsl.python_app
    def spin(seconds: float, walltime: float = 0) -> float:
        import time

        end = time.monotonic() + seconds
        while time.monotonic() < end:
            pass
        return seconds

    assert spin(0.0, walltime=60).result() == 0.0
    assert isinstance(spin(60.0, walltime=0.2).exception(), AppTimeout)
    assert spin(0.0, walltime=60).result() == 0.0

    @parsl.bash_app
    def sleep(walltime: float = 0.2) -> str:
        return "sleep 60"

    assert isinstance(sleep().exception(), AppTimeout)


def test_retries(load: Load, tmp_path: Path) -> None:
    load(retries=2)

    @parsl.python_app
    def third_time(directory: str) -> int:
        import os

        os.mkdir(os.path.join(directory, str(count := len(os.listdir(directory)))))
        if count < 2:
            raise RuntimeError(count)
        return count

    @parsl.python_app
    def die(directory: str) -> int:
        import os

        os.mkdir(os.path.join(directory, str(count := len(os.listdir(directory)))))
        if count < 1:
            os._exit(1)
        return count

    for app, tries in ((third_time, 3), (die, 2)):
        directory = tmp_path / app.__name__
        directory.mkdir()
        assert app(str(directory)).result() == tries - 1


def test_exhausted_retries_fail_the_task(load: Load) -> None:
    load(retries=1)

    @parsl.python_app
    def die() -> None:
        import os

        os._exit(7)

    error = die().exception()
    assert isinstance(error, TaskLost)
    assert "7" in str(error)


def test_memoization(load: Load, tmp_path: Path) -> None:
    load()

    @parsl.python_app(cache=True)
    def once(directory: str, x: int) -> int:
        import os
        import uuid

        os.mkdir(os.path.join(directory, uuid.uuid4().hex))
        return x

    assert [once(str(tmp_path), 1).result() for _ in range(3)] == [1, 1, 1]
    count = len(list(tmp_path.iterdir()))
    assert once(str(tmp_path), 2).result() == 2
    assert len(list(tmp_path.iterdir())) == count + 1


def checkpointing(**settings: Any) -> dict[str, Any]:
    """Arguments of Config: a newer parsl's memoizer has some that Config used to have."""
    if "memoizer" not in inspect.signature(Config).parameters:
        return settings
    return {"memoizer": memoization.BasicMemoizer(**settings)}


def test_checkpoints(load: Load, tmp_path: Path) -> None:
    marks = tmp_path / "marks"
    marks.mkdir()

    def app() -> Any:
        @parsl.python_app(cache=True)
        def once(directory: str, x: int) -> int:
            import os
            import uuid

            os.mkdir(os.path.join(directory, uuid.uuid4().hex))
            return x * 2

        return once

    dfk = load(**checkpointing(checkpoint_mode="task_exit"))
    assert [app()(str(marks), x).result() for x in range(3)] == [0, 2, 4]
    checkpoint = os.path.join(dfk.run_dir, "checkpoint")
    dfk.cleanup()
    assert len(list(marks.iterdir())) == 3
    load(**checkpointing(checkpoint_files=[checkpoint]))
    assert [app()(str(marks), x).result() for x in range(4)] == [0, 2, 4, 6]
    assert len(list(marks.iterdir())) == 4


def test_usage_tracking() -> None:
    config = Config(executors=[make(), ThreadPoolExecutor(label="threads")], usage_tracking=3)
    assert get_parsl_usage(config.executors[0])[0] == "taskvine_exec.executor.TaskVineExecutor"
    components = get_parsl_usage(config)
    assert "taskvine_exec.executor.TaskVineExecutor" in components
    assert "parsl.providers.local.local.LocalProvider" in components


def test_usage_tracking_when_started(load: Load) -> None:
    executor = make()
    load([executor])
    assert "taskvine_exec.executor.TaskVineExecutor" in get_parsl_usage(parsl.dfk().config)


def test_parsl_pool_executor_works(run_dir: str) -> None:
    config = Config(executors=[make()], strategy="none", run_dir=run_dir, initialize_logging=False)
    with ParslPoolExecutor(config) as pool:
        assert list(pool.map(lambda x, y: x * y, range(100), range(100))) == [x * x for x in range(100)]
        assert pool.submit(divmod, 7, 2).result() == (3, 1)
        assert isinstance(pool.submit(divmod, 7, 0).exception(), ZeroDivisionError)


def test_several_executors_pass_results(load: Load) -> None:
    load([make("first"), make("second"), ThreadPoolExecutor(label="threads")])

    def me(*_: Any) -> tuple[int, str]:
        import os

        return os.getpid(), os.environ.get("TASKVINE_EXEC_RUN", "")

    first, second, threads = (parsl.python_app(me, executors=[label]) for label in ("first", "second", "threads"))
    places = [app().result() for app in (first, second, threads)]
    assert places[2] == (os.getpid(), "")
    assert len({run for _, run in places}) == 3
    assert second(threads(first())).result()[1] == places[1][1]  # results pass from one executor to the other


def test_any_callable_may_be_an_app(load: Load, mode: str) -> None:
    load([make(function_exec_mode=mode)])

    class Scale:
        def __init__(self, factor: int) -> None:
            self.factor = factor
            self.__name__ = "scale"

        def __call__(self, x: int) -> int:
            return self.factor * x

        def method(self, x: int) -> int:
            return -self.factor * x

    def power(x: int, y: int) -> int:
        return int(x**y)

    part = functools.partial(power, 2)
    part.__name__ = "part"  # type: ignore[attr-defined]
    apps = [parsl.python_app(item) for item in (Scale(2), Scale(3), part, Scale(4).method, lambda x: x, abs)]
    assert [app(5).result() for app in apps] == [10, 15, 32, -20, 5, 5]


def test_function_without_source_is_an_app(load: Load) -> None:
    load()
    names: dict[str, Any] = {}
    exec("def twice(x):\n    return again(x)\ndef again(x):\n    return 2 * x", names)
    assert parsl.python_app(names["twice"])(21).result() == 42


def test_repr(monkeypatch: pytest.MonkeyPatch, run_dir: str) -> None:
    monkeypatch.setattr(RepresentationMixin, "_validate_repr", True)
    secret = "hunter2"
    manager = TaskVineManagerConfig(env_vars={"DB_PASSWORD": secret}, init_command=f"export API_TOKEN={secret}")
    executor = make(manager_config=manager)
    config = Config(executors=[executor], run_dir=run_dir)
    assert "TaskVineExecutor(" in repr(config)
    assert secret not in repr(config)
    assert secret not in repr(executor)
    parsl.load(config)
    assert secret not in repr(config)
    parsl.dfk().cleanup()
    for log in Path(run_dir).rglob("*.log"):
        assert secret not in log.read_text()


# --- what is sent ---


def sent_functions(executor: TaskVineExecutor) -> list[str]:
    """Note the names of the functions that are sent from now on."""
    sent: list[str] = []
    link = executor.run.link
    define = link.define

    def defines(functions: list[tuple[str, Any]], profiles: list[Any]) -> None:
        sent.extend(key for key, _ in functions)
        define(functions, profiles)

    link.define = defines  # type: ignore[method-assign]
    return sent


@pytest.mark.parametrize("walltime", [None, 60])
def test_functions_are_sent_once(load: Load, walltime: float | None) -> None:
    """Parsl wraps a function with a walltime again for each call."""
    executor = make()
    load([executor])
    sent = sent_functions(executor)

    @parsl.python_app
    def same(x: int, walltime: float | None = None) -> int:
        return x

    futures = [same(number, walltime=walltime) for number in range(1000)]
    assert [future.result() for future in futures] == list(range(1000))
    assert len(sent) == 1


def test_tasks_of_other_executors_do_not_count(load: Load, gate: Gate) -> None:
    """Tasks of one executor ask for no blocks of another."""
    first, second = make("first"), make("second")
    load([first, second])
    future = parsl.python_app(gate.task, executors=["first"])()
    gate.wait(1)
    assert (first.outstanding(), second.outstanding()) == (1, 0)
    gate.open()
    future.result()
