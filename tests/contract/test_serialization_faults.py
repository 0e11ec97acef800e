"""Functions, arguments, results and exceptions that cannot be pickled or loaded: each fails only its own task."""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from taskvine_exec import TaskVineExecutor
from taskvine_exec.errors import (
    ArgumentNotLoadable,
    ArgumentNotSerializable,
    ExceptionNotSerializable,
    FunctionNotLoadable,
    FunctionNotSerializable,
    ResultNotSerializable,
    SlotDied,
    TaskExited,
)

Make = Callable[..., TaskVineExecutor]
SECONDS = 60  # far more than any test here takes, only so that none hangs


def echo(value: Any = "well") -> Any:
    return value


# --- what cannot be pickled -----------------------------------------------------------------------------------------


def test_function_that_cannot_be_pickled_is_refused_by_submit(make_executor: Make, mode: str) -> None:
    executor = make_executor(function_exec_mode=mode)
    generator = (i for i in range(3))
    with pytest.raises(FunctionNotSerializable, match="generator"):
        executor.submit(lambda: generator, {})
    assert executor.submit(echo, {}).result(SECONDS) == "well"


@pytest.mark.parametrize("make", [sys._getframe, lambda: (i for i in range(3))], ids=["frame", "generator"])
def test_argument_that_cannot_be_pickled_is_refused_by_submit(
    make_executor: Make, mode: str, make: Callable[[], Any]
) -> None:
    executor = make_executor(function_exec_mode=mode)
    with pytest.raises(ArgumentNotSerializable, match="echo"):
        executor.submit(echo, {}, make())
    with pytest.raises(ArgumentNotSerializable):
        executor.submit(echo, {}, value=[{"deep": make()}])
    assert executor.submit(echo, {}).result(SECONDS) == "well"
    assert executor.outstanding() == 0


class Exits:
    """Calls sys.exit when it is pickled."""

    def __reduce__(self) -> Any:
        sys.exit("pickled")


@pytest.mark.parametrize(
    "make",
    [sys._getframe, lambda: (i for i in range(3)), lambda: ["x" * 2**20, sys._getframe()], Exits],
    ids=["frame", "generator", "large", "exits"],
)
def test_unpicklable_result_is_reported(make_executor: Make, mode: str, make: Callable[[], Any]) -> None:
    executor = make_executor(function_exec_mode=mode)
    error = executor.submit(make, {}).exception(SECONDS)
    assert isinstance(error, ResultNotSerializable)
    assert executor.submit(echo, {}).result(SECONDS) == "well"


class HoldsAGenerator(Exception):
    def __init__(self) -> None:
        super().__init__("the words of it")
        self.generator = (i for i in range(3))


class NeedsTwo(Exception):
    def __init__(self, first: str, second: str) -> None:
        super().__init__(f"the words of it: {first}, {second}")


class TurnsIntoText(Exception):
    def __reduce__(self) -> Any:
        return str, ("the words of it",)


@pytest.mark.parametrize(
    "make",
    [HoldsAGenerator, lambda: NeedsTwo("one", "two"), lambda: TurnsIntoText("the words of it")],
    ids=["no dump", "no load", "no exception"],
)
def test_unpicklable_exception_is_described(make_executor: Make, mode: str, make: Callable[[], Exception]) -> None:
    executor = make_executor(function_exec_mode=mode)

    def fail() -> None:
        raise make()

    error = executor.submit(fail, {}).exception(SECONDS)
    assert isinstance(error, ExceptionNotSerializable)
    assert error.subject == type(make()).__name__
    assert "the words of it" in error.remote_traceback
    assert "in fail" in error.remote_traceback
    assert executor.submit(echo, {}).result(SECONDS) == "well"


def test_exception_of_an_unknown_class_is_described(make_executor: Make, mode: str) -> None:
    def fail() -> None:
        made = ModuleType("only_there")
        exec("class OnlyThere(Exception): pass", made.__dict__)
        sys.modules["only_there"] = made
        raise made.OnlyThere("the words of it")

    error = make_executor(function_exec_mode=mode).submit(fail, {}).exception(SECONDS)
    assert isinstance(error, ExceptionNotSerializable)
    assert error.subject == "OnlyThere"
    assert "the words of it" in error.remote_traceback


class HoldsData(Exception):
    def __init__(self, data: bytes) -> None:
        super().__init__(data)
        self.data = data


def test_large_exception_is_raised(make_executor: Make, mode: str) -> None:
    def fail_at_length() -> None:
        raise ValueError("x" * 2**20)

    def fail_with_data() -> None:
        raise HoldsData(bytes(2**20))

    executor = make_executor(function_exec_mode=mode)
    words, data = executor.submit(fail_at_length, {}), executor.submit(fail_with_data, {})
    assert str(words.exception(SECONDS)) == "x" * 2**20
    error = data.exception(SECONDS)
    assert isinstance(error, HoldsData)
    assert error.data == bytes(2**20)


def test_endless_recursion_is_an_exception(make_executor: Make, mode: str) -> None:
    def down(depth: int) -> int:
        return down(depth + 1) + 1

    error = make_executor(function_exec_mode=mode).submit(down, {}, 0).exception(SECONDS)
    assert isinstance(error, RecursionError)


class Mute(Exception):
    def __str__(self) -> str:
        raise ZeroDivisionError


def test_exception_without_a_message_is_raised(make_executor: Make, mode: str) -> None:
    def fail() -> None:
        raise Mute

    executor = make_executor(function_exec_mode=mode)
    assert isinstance(executor.submit(fail, {}).exception(SECONDS), Mute)
    error = executor.submit(lambda: sys.exit(Mute()), {}).exception(SECONDS)
    assert isinstance(error, TaskExited)
    assert "Mute" in str(error) or "ZeroDivisionError" in str(error)


def test_returned_exception_is_a_result(make_executor: Make, mode: str) -> None:
    result = make_executor(function_exec_mode=mode).submit(lambda: ValueError("no failure"), {}).result(SECONDS)
    assert isinstance(result, ValueError)


# --- what cannot be loaded ------------------------------------------------------------------------------------------


@pytest.fixture
def only_here(tmp_path: Path) -> Iterator[ModuleType]:
    """A module that only the user's process has."""
    source = tmp_path / "hidden" / "only_here.py"
    source.parent.mkdir()
    source.write_text("def function():\n    return 1\n\n\nclass Value:\n    pass\n")
    spec = importlib.util.spec_from_file_location("only_here", source)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["only_here"] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules["only_here"]


def test_function_of_a_module_missing_on_nodes_is_reported(
    make_executor: Make, mode: str, only_here: ModuleType
) -> None:
    executor = make_executor(function_exec_mode=mode, cores=1)
    pid = executor.submit(os.getpid, {}).result(SECONDS)
    for _ in range(2):
        error = executor.submit(only_here.function, {}).exception(SECONDS)
        assert isinstance(error, FunctionNotLoadable)
        assert "only_here" in error.reason
    assert mode == "L1" or executor.submit(os.getpid, {}).result(SECONDS) == pid


def test_argument_of_a_class_missing_on_nodes_is_reported(
    make_executor: Make, mode: str, only_here: ModuleType
) -> None:
    executor = make_executor(function_exec_mode=mode, cores=1)
    pid = executor.submit(os.getpid, {}).result(SECONDS)
    error = executor.submit(echo, {}, only_here.Value()).exception(SECONDS)
    assert isinstance(error, ArgumentNotLoadable)
    assert "only_here" in error.reason
    assert mode == "L1" or executor.submit(os.getpid, {}).result(SECONDS) == pid


@pytest.fixture
def module_on_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], Callable[..., Any]]:
    """Write a module, without importing it here; return its ``function``, which is pickled by reference."""
    monkeypatch.syspath_prepend(str(tmp_path))

    def make(name: str, source: str) -> Callable[..., Any]:
        (tmp_path / f"{name}.py").write_text(f"{source}\ndef function(*args): return '{name}'\n")
        module = ModuleType(name)
        exec("def function(*args): pass", module.__dict__)
        monkeypatch.setitem(sys.modules, name, module)
        function: Callable[..., Any] = module.function
        return function

    return make


def test_module_that_exits_at_import_is_reported(
    make_executor: Make, mode: str, module_on_path: Callable[[str, str], Callable[..., Any]]
) -> None:
    function = module_on_path("leaves_at_import", "import sys; sys.exit('no script')")
    executor = make_executor(function_exec_mode=mode)
    error = executor.submit(function, {}).exception(SECONDS)
    assert isinstance(error, FunctionNotLoadable)
    assert "no script" in str(error)
    assert executor.submit(echo, {}).result(SECONDS) == "well"


def test_module_that_kills_its_process_is_reported(
    make_executor: Make, mode: str, module_on_path: Callable[[str, str], Callable[..., Any]]
) -> None:
    function = module_on_path("kills_at_import", "import os; os._exit(7)")
    executor = make_executor(function_exec_mode=mode)
    futures = [executor.submit(function if number % 4 == 0 else echo, {}, number) for number in range(16)]
    for number, future in enumerate(futures):
        if number % 4:
            assert future.result(SECONDS) == number
        else:
            error = future.exception(SECONDS)
            assert isinstance(error, SlotDied)
            assert error.exit_code == 7


def test_function_may_import_many_modules(
    make_executor: Make, tmp_path: Path, module_on_path: Callable[[str, str], Callable[..., Any]]
) -> None:
    names = [f"module_{number}_{'x' * 220}" for number in range(800)]  # more than fits a packet
    for name in names:
        (tmp_path / f"{name}.py").touch()
    function = module_on_path("imports_many", f"import importlib\nfor name in {names!r}: importlib.import_module(name)")
    executor = make_executor()
    node = executor.wait_for_nodes(1, SECONDS) and executor.nodes
    futures = [executor.submit(function, {}) for _ in range(8)]
    assert [future.result(SECONDS) for future in futures] == ["imports_many"] * 8
    assert executor.nodes == node


def test_slow_import_delays_no_other_function(
    make_executor: Make, tmp_path: Path, module_on_path: Callable[[str, str], Callable[..., Any]]
) -> None:
    gate = tmp_path / "gate"
    wait = f"import os, time\nwhile not os.path.exists({str(gate)!r}): time.sleep(0.005)"
    function = module_on_path("slow_to_import", wait)
    executor = make_executor(cores=4)
    slow = [executor.submit(function, {}) for _ in range(3)]
    assert [executor.submit(echo, {}, number).result(SECONDS) for number in range(8)] == list(range(8))
    assert not any(future.done() for future in slow)
    gate.touch()
    assert [future.result(SECONDS) for future in slow] == ["slow_to_import"] * 3
