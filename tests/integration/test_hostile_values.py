"""Values whose methods raise exceptions that would end a thread: every future resolves, with a clear error."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import parsl
import pytest
from parsl.dataflow.dflow import DataFlowKernel
from parsl.dataflow.errors import DependencyError
from parsl.executors import ThreadPoolExecutor

from taskvine_exec import DAG_RESOLVER, TaskVineExecutor
from taskvine_exec.errors import (
    ArgumentNotSerializable,
    ExceptionNotSerializable,
    FunctionNotSerializable,
    ResultNotSerializable,
    TaskExited,
)
from tests.contract.conftest import engine  # noqa: F401  (fixtures)

SECONDS = 60
Load = Callable[..., DataFlowKernel]


class Leaves:
    """Raises the given exception from its methods."""

    def __init__(self, kind: type[BaseException], method: str) -> None:
        self.kind = kind
        self.method = method
        self.weight = b""

    def __reduce__(self) -> Any:
        if self.method == "__reduce__":
            raise self.kind("from __reduce__")
        return _loaded, (self.kind, self.method, self.weight)


def _loaded(kind: type[BaseException], method: str, weight: bytes) -> Leaves:
    if method == "load":
        raise kind("from loading")
    made = Leaves(kind, method)
    made.weight = weight
    return made


class CannotSay(Exception):
    def __repr__(self) -> str:
        raise self.args[0]("speechless")

    __str__ = __repr__


class BecomesAnExit(Exception):
    def __reduce__(self) -> Any:
        return SystemExit, ("left",)


KINDS = [SystemExit, KeyboardInterrupt, GeneratorExit]


@pytest.fixture(params=[None, DAG_RESOLVER], ids=["plain", "dag"])
def kernel(request: pytest.FixtureRequest, load: Load, engine: str) -> DataFlowKernel:  # noqa: F811
    executors = [TaskVineExecutor(label="tv", engine=engine, cores=2), ThreadPoolExecutor(label="threads")]  # type: ignore[arg-type]
    return load(executors, dependency_resolver=request.param)


@pytest.mark.parametrize("kind", KINDS)
def test_pickling_that_exits_is_reported(kernel: DataFlowKernel, kind: type[BaseException]) -> None:
    value = Leaves(kind, "__reduce__")

    def take(*_: object) -> None: ...

    app = parsl.python_app(take, executors=["tv"])
    held = parsl.python_app(lambda: value, executors=["tv"])
    refused = app(value)
    assert isinstance(app(refused).exception(SECONDS), DependencyError)
    error = refused.exception(SECONDS)
    assert isinstance(error, ArgumentNotSerializable)
    assert kind.__name__ in str(error)
    assert isinstance(app([{"key": value}]).exception(SECONDS), ArgumentNotSerializable)
    assert isinstance(held().exception(SECONDS), FunctionNotSerializable)
    assert app(1).exception(SECONDS) is None


@pytest.mark.parametrize("kind", [ValueError, *KINDS])
def test_exceptions_without_a_readable_message(kernel: DataFlowKernel, kind: type[BaseException]) -> None:
    def fail(*_: object) -> None:
        raise CannotSay(kind)

    app = parsl.python_app(fail, executors=["tv"])
    failed = app()
    after = app(failed)
    error = failed.exception(SECONDS)
    assert isinstance(error, ExceptionNotSerializable)
    assert f"its __repr__ raises {kind.__name__}" in str(error)
    assert "in fail" in error.remote_traceback
    assert isinstance(error.__cause__, CannotSay)
    assert isinstance(after.exception(SECONDS), DependencyError)


def test_exception_that_unpickles_as_an_exit_is_described(kernel: DataFlowKernel) -> None:
    def fail() -> None:
        raise BecomesAnExit

    error = parsl.python_app(fail, executors=["tv"])().exception(SECONDS)
    assert isinstance(error, ExceptionNotSerializable)
    assert "SystemExit" in str(error)


def test_exit_with_an_unreadable_code_is_reported(kernel: DataFlowKernel) -> None:
    def leave() -> None:
        raise SystemExit(CannotSay(KeyboardInterrupt))

    error = parsl.python_app(leave, executors=["tv"])().exception(SECONDS)
    assert isinstance(error, TaskExited)
    assert "KeyboardInterrupt" in error.code


@pytest.mark.parametrize("size", [0, 5_000_000], ids=["small", "large"])
def test_loading_that_exits_is_reported(kernel: DataFlowKernel, size: int) -> None:
    def make(size: int) -> Leaves:
        made = Leaves(SystemExit, "load")
        made.weight = bytes(size)
        return made

    def take(value: object) -> None: ...

    made = parsl.python_app(make, executors=["tv"])(size)
    elsewhere = parsl.python_app(take, executors=["threads"])(made)
    assert elsewhere.exception(SECONDS) is not None
    errors: list[BaseException] = []

    def ask() -> None:
        try:
            made.result(SECONDS)
        except BaseException as error:
            errors.append(error)

    asking = threading.Thread(target=ask)
    asking.start()
    asking.join(SECONDS)
    assert [type(error) for error in errors] == [ResultNotSerializable]
    assert "SystemExit" in str(errors[0])


def test_interruption_of_the_main_thread_is_raised(engine: str, run_dir: str) -> None:  # noqa: F811
    """In the main thread, a signal handler may have raised it."""
    executor = TaskVineExecutor(engine=engine, cores=1)  # type: ignore[arg-type]
    executor.run_dir = run_dir
    executor.start()
    try:
        with pytest.raises(KeyboardInterrupt):
            executor.submit(len, {}, Leaves(KeyboardInterrupt, "__reduce__"))
        assert executor.submit(len, {}, "abc").result(SECONDS) == 3
    finally:
        executor.shutdown()
