"""Apps run as they were at the call, under the DFK too: with its wrappers, and with DAG_RESOLVER."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import parsl
import pytest
from parsl.dataflow.dflow import DataFlowKernel

from taskvine_exec import DAG_RESOLVER, TaskVineExecutor
from tests.changes import CHANGES, Program
from tests.engines import on_both

Load = Callable[..., DataFlowKernel]

resolvers = pytest.mark.parametrize("resolver", [None, DAG_RESOLVER], ids=["waits", "DAG_RESOLVER"])


@on_both
@resolvers
def test_next_call_of_an_app_sees_every_change(load: Load, engine: str, resolver: Any) -> None:
    load([TaskVineExecutor(label="tv", engine=engine, cores=2)], dependency_resolver=resolver)
    programs = {name: Program(change) for name, change in CHANGES.items() if hasattr(Program(change).f, "__name__")}

    @parsl.python_app
    def text(value: Any) -> str:
        return repr(value)

    functions = {name: program.f for name, program in programs.items()}
    apps = {name: parsl.python_app(function) for name, function in functions.items()}
    for turn in range(2):
        futures = {name: text(app()) for name, app in apps.items()}
        expected = {name: repr(function()) for name, function in functions.items()}
        assert {name: future.result() for name, future in futures.items()} == expected
        if not turn:
            for program in programs.values():
                program.run_on()


@on_both
def test_app_with_a_walltime_sees_changes(load: Load, engine: str) -> None:
    load([TaskVineExecutor(label="tv", engine=engine, cores=2)])
    variables: dict[str, Any] = {"__name__": "__main__"}
    exec("def f(walltime=30): return S", variables)
    app = parsl.python_app(variables["f"])
    for number in range(3):
        variables["S"] = number
        assert app().result() == number


@on_both
def test_exception_of_an_app_with_a_walltime_is_not_an_argument(load: Load, engine: str, tmp_path: Path) -> None:
    load([TaskVineExecutor(label="tv", engine=engine, cores=1)], dependency_resolver=DAG_RESOLVER, retries=1)

    @parsl.python_app
    def fails_at_first(path: str, walltime: int = 30) -> int:
        import os

        if os.path.exists(path):
            return 7
        open(path, "w").close()
        raise ValueError("no")

    consumer = parsl.python_app(repr)(fails_at_first(str(tmp_path / "begun")))
    assert consumer.result(60) == "7"


@on_both
def test_bash_app_sees_changes(load: Load, engine: str) -> None:
    load([TaskVineExecutor(label="tv", engine=engine, cores=2)])
    variables: dict[str, Any] = {"__name__": "__main__"}
    exec("def f(): return f'exit {S}'", variables)
    app = parsl.bash_app(variables["f"])
    for number in (3, 4):
        variables["S"] = number
        assert app().exception().exitcode == number


@on_both
@resolvers
def test_equal_callables_are_different_apps(load: Load, engine: str, resolver: Any) -> None:
    load([TaskVineExecutor(label="tv", engine=engine, cores=2)], dependency_resolver=resolver)

    class Model:
        __name__ = "model"

        def __init__(self, weight: int) -> None:
            self.weight = weight

        def __eq__(self, other: object) -> bool:
            return isinstance(other, Model)

        def __hash__(self) -> int:
            return 1

        def __call__(self, x: int) -> int:
            return self.weight * x

    apps = [parsl.python_app(Model(number)) for number in range(4)]
    assert [app(app(2)).result() for app in apps] == [0, 2, 8, 18]


@functools.lru_cache
def cached(x: int) -> int:
    return x + 1


@functools.singledispatch
def dispatched(x: Any) -> Any:
    return None


@dispatched.register
def _(x: int) -> int:
    return x + 1


@resolvers
@pytest.mark.parametrize("function", [cached, dispatched], ids=["lru_cache", "singledispatch"])
def test_objects_of_functools_may_be_apps(load: Load, resolver: Any, function: Any) -> None:
    load(dependency_resolver=resolver)
    variables: dict[str, Any] = {"__name__": "__main__"}
    exec(
        "import functools\n@functools.lru_cache\ndef cached(x): return x + 1\n"
        "@functools.singledispatch\ndef dispatched(x): return None\n"
        "@dispatched.register\ndef _(x: int): return x + 1\n",
        variables,
    )
    for each in (function, variables[function.__name__]):
        app = parsl.python_app(each)
        assert app(app(1)).result() == 3
