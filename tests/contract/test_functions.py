"""A function runs as it was in the user's process at the call: with its captures, modules and class."""

from __future__ import annotations

import functools
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from taskvine_exec import TaskVineExecutor
from tests.changes import CHANGES, Program

Make = Callable[..., TaskVineExecutor]


def test_every_change_is_seen_by_the_next_call(make_executor: Make, mode: str) -> None:
    executor = make_executor(function_exec_mode=mode)
    programs = {name: Program(change) for name, change in CHANGES.items()}
    for turn in range(2):
        futures = {name: executor.submit(program.f, {}) for name, program in programs.items()}
        expected = {name: repr(program.f()) for name, program in programs.items()}
        assert {name: repr(future.result(60)) for name, future in futures.items()} == expected
        if not turn:
            for program in programs.values():
                program.run_on()


def test_waiting_calls_keep_their_versions(make_executor: Make) -> None:
    executor = make_executor()
    variables: dict[str, Any] = {"__name__": "__main__"}
    exec("def f(): return S", variables)
    futures = []
    for number in range(50):
        variables["S"] = number
        futures.append(executor.submit(variables["f"], {}))
    assert [future.result(60) for future in futures] == list(range(50))


class Model:
    """Models of one name compare equal, whatever their weight."""

    def __init__(self, weight: int) -> None:
        self.weight = weight

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Model)

    def __hash__(self) -> int:
        return 1

    def __call__(self, x: int) -> int:
        return self.weight * x


def test_equal_callables_stay_different(make_executor: Make, mode: str) -> None:
    executor = make_executor(function_exec_mode=mode)
    models = [Model(number) for number in range(4)]
    futures = [executor.submit(model, {}, 3) for model in models]
    assert [future.result(60) for future in futures] == [0, 3, 6, 9]


def _kinds() -> dict[str, Callable[..., Any]]:
    variables: dict[str, Any] = {"__name__": "__main__"}
    exec(
        "import functools, threading\n"
        "@functools.lru_cache\ndef cached(x): return x + 1\n"
        "@functools.singledispatch\ndef dispatched(x): return 0\n@dispatched.register\ndef _(x: int): return x + 1\n"
        "def add(x, *, y): return x + y\npartial = functools.partial(add, y=1)\n"
        "class C:\n"
        " def __init__(self): self.lock = threading.Lock()\n"
        " @functools.cached_property\n def one(self): return 1\n"
        " def __call__(self, x):\n  with self.lock: return x + self.one\n"
        " @classmethod\n def made(cls, x): return x + 1\n"
        "instance = C()\nmethod = instance.__call__\nclass_method = C.made\n",
        variables,
    )
    names = ("cached", "dispatched", "partial", "instance", "method", "class_method")
    return {name: variables[name] for name in names}


def test_every_kind_of_callable_can_be_called(make_executor: Make, mode: str) -> None:
    executor = make_executor(function_exec_mode=mode)
    futures = {name: executor.submit(function, {}, 2) for name, function in _kinds().items()}
    assert {name: future.result(60) for name, future in futures.items()} == dict.fromkeys(futures, 3)


def test_values_that_only_dill_can_pickle(make_executor: Make) -> None:
    class Node:
        def __init__(self, parent: Any = None) -> None:
            import weakref

            self.lock, self.parent = threading.Lock(), parent and weakref.ref(parent)

    def same(root: Any, node: Any) -> tuple[Any, Any]:
        assert node.parent() is root
        with node.lock:
            return root, node

    root = Node()
    back, node = make_executor().submit(same, {}, root, Node(root)).result(60)
    assert node.parent() is back


def test_a_class_of_the_program_is_not_changed_by_results(make_executor: Make) -> None:
    variables: dict[str, Any] = {"__name__": "__main__"}
    exec("S = 1\nclass C:\n x = 1\n def m(self): return S\ndef f(): return C()", variables)
    executor = make_executor()
    future = executor.submit(variables["f"], {})
    variables["C"].x = 2
    result = future.result(60)
    variables["S"] = 2
    assert isinstance(result, variables["C"])
    assert (result.x, result.m()) == (2, 2)
    assert executor.submit(functools.partial(getattr, variables["C"], "x"), {}).result(60) == 2


# --- where modules are imported from ---------------------------------------------------------------------------------

INSTALLED = "mypy"
"""A package in site-packages that no process of ours imports."""


def origin() -> str:
    import importlib

    return str(importlib.import_module("mypy").__file__)


@pytest.fixture
def beside(tmp_path: Path) -> Path:
    """A directory of the user with a module that hides an installed package."""
    assert INSTALLED not in sys.modules
    (tmp_path / "beside").mkdir()
    (tmp_path / "beside" / f"{INSTALLED}.py").write_text("")
    return tmp_path / "beside"


def test_module_first_on_the_path_is_imported_on_nodes(
    make_executor: Make, mode: str, beside: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(beside))
    executor = make_executor(function_exec_mode=mode)
    assert executor.submit(origin, {}).result(60) == str(beside / f"{INSTALLED}.py")


def test_module_last_on_the_path_hides_none(
    make_executor: Make, mode: str, beside: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "path", [*sys.path, str(beside)])
    executor = make_executor(function_exec_mode=mode)
    assert "site-packages" in executor.submit(origin, {}).result(60)


def test_each_call_has_the_path_of_its_submission(
    make_executor: Make, mode: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def where(name: str) -> str:
        import importlib
        import sys

        sys.modules.pop(name, None)
        return str(importlib.import_module(name).__file__)

    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "of_the_user.py").write_text("")
    executor = make_executor(function_exec_mode=mode, library_config={"num_slots": 1})
    paths = [[str(tmp_path / name), *sys.path] for name in ("one", "two")]
    futures = []
    for turn in range(4):
        monkeypatch.setattr(sys, "path", paths[turn % 2])
        futures.append(executor.submit(where, {}, "of_the_user"))
    expected = [str(tmp_path / name / "of_the_user.py") for name in ("one", "two")] * 2
    assert [future.result(60) for future in futures] == expected


def test_module_imported_before_it_was_hidden_stays(
    make_executor: Make, mode: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = f"hidden_for_{tmp_path.name}"
    for name in ("hidden", "hiding"):
        (tmp_path / name).mkdir()
        (tmp_path / name / f"{module}.py").write_text(f"WHO = {name!r}")
    monkeypatch.setattr(sys, "path", [str(tmp_path / "hidden"), *sys.path])
    __import__(module)
    executor = make_executor(function_exec_mode=mode)
    monkeypatch.setattr(sys, "path", [str(tmp_path / "hiding"), *sys.path])
    assert executor.submit(eval, {}, f"__import__({module!r}).WHO").result(60) == "hidden"
