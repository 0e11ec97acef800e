"""Limits: those that a call sets for its process end with it, and memory that modules need is not counted against
calls.
"""

from __future__ import annotations

import ctypes
import os
import resource
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from taskvine_exec import TaskVineExecutor
from taskvine_exec.errors import ExceptionNotSerializable, MemoryExceeded, ResultNotSerializable

Make = Callable[..., TaskVineExecutor]
SECONDS = 60  # far more than any test here takes, only so that none hangs
MEGABYTE = 2**20
LIMITS = ["RLIMIT_AS", "RLIMIT_CORE", "RLIMIT_CPU", "RLIMIT_DATA", "RLIMIT_FSIZE", "RLIMIT_NOFILE", "RLIMIT_STACK"]


def limits() -> tuple[int, list[tuple[int, int]]]:
    return os.getpid(), [resource.getrlimit(getattr(resource, name)) for name in LIMITS]


def lower(name: str, value: int, size: int = 0, pause: float = 0.0) -> bytes:
    """Lower a soft limit."""
    time.sleep(pause)
    number = getattr(resource, name)
    resource.setrlimit(number, (value, resource.getrlimit(number)[1]))
    return bytes(size)


def lower_for_good(name: str, value: int, size: int = 0) -> bytes:
    """Lower a hard limit, and drop the privilege to raise it again, if this process has it."""
    libc = ctypes.CDLL(None, use_errno=True)
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)
    data = (ctypes.c_uint32 * 6)()
    assert libc.capget(header, data) == 0
    for index in (0, 1):  # effective and permitted privileges
        data[index] &= ~(1 << 24)  # CAP_SYS_RESOURCE
    assert libc.capset(header, data) == 0
    number = getattr(resource, name)
    soft = resource.getrlimit(number)[0]
    resource.setrlimit(number, (value if soft < 0 else min(soft, value), value))
    return bytes(size)


# --- limits that a call sets ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", LIMITS)
def test_soft_limit_ends_with_its_call(make_executor: Make, name: str) -> None:
    executor = make_executor(cores=1)
    before = executor.submit(limits, {}).result(SECONDS)
    pause = 0.001 if name == "RLIMIT_CORE" else 0.0  # it fails no other call: the slot trusts very short calls
    value = {"RLIMIT_AS": 2**40, "RLIMIT_DATA": 2**40, "RLIMIT_CPU": 10**6, "RLIMIT_STACK": 2**22}.get(name, 100)

    def lower_and_fail() -> None:
        lower(name, value, pause=pause)
        raise ValueError(name)

    assert executor.submit(lower, {}, name, value, pause=pause).result(SECONDS) == b""
    assert executor.submit(limits, {}).result(SECONDS) == before, "in the same process, too"
    assert isinstance(executor.submit(lower_and_fail, {}).exception(SECONDS), ValueError)
    assert executor.submit(limits, {}).result(SECONDS) == before


def test_limit_of_a_call_does_not_apply_to_its_large_result(make_executor: Make, mode: str) -> None:
    executor = make_executor(function_exec_mode=mode, cores=1)
    for _ in range(2):
        assert executor.submit(lower, {}, "RLIMIT_FSIZE", 1000, MEGABYTE).result(SECONDS) == bytes(MEGABYTE)
        assert executor.submit(bytes, {}, MEGABYTE).result(SECONDS) == bytes(MEGABYTE)


def test_hard_limit_ends_with_its_call(make_executor: Make, mode: str) -> None:
    executor = make_executor(function_exec_mode=mode, cores=1)
    before = executor.submit(limits, {}).result(SECONDS)[1]
    assert executor.submit(lower_for_good, {}, "RLIMIT_NOFILE", 200).result(SECONDS) == b""
    assert executor.submit(limits, {}).result(SECONDS)[1] == before


def test_hard_limits_fail_no_calls_behind_them(make_executor: Make) -> None:
    executor = make_executor(cores=1)
    for future in [executor.submit(lower, {}, "RLIMIT_NOFILE", 300) for _ in range(50)]:
        future.result(SECONDS)  # from now on the calls are known to be short, so several wait in one slot
    functions = [lower_for_good if number % 2 else lower for number in range(30)]
    futures = [executor.submit(function, {}, "RLIMIT_NOFILE", 300) for function in functions]
    assert [future.result(SECONDS) for future in futures] == [b""] * 30


def test_result_above_a_hard_limit_is_reported(make_executor: Make, mode: str) -> None:
    executor = make_executor(function_exec_mode=mode, cores=1)
    error = executor.submit(lower_for_good, {}, "RLIMIT_FSIZE", 10_000, MEGABYTE).exception(SECONDS)
    assert isinstance(error, ResultNotSerializable)
    assert "the task lowered RLIMIT_FSIZE" in str(error)
    assert executor.submit(bytes, {}, MEGABYTE).result(SECONDS) == bytes(MEGABYTE)


def test_exception_above_a_hard_limit_is_reported(make_executor: Make, mode: str) -> None:
    def lower_and_fail() -> None:
        lower_for_good("RLIMIT_FSIZE", 10_000)
        raise ValueError("x" * MEGABYTE)

    executor = make_executor(function_exec_mode=mode, cores=1)
    error = executor.submit(lower_and_fail, {}).exception(SECONDS)
    assert isinstance(error, ExceptionNotSerializable)
    assert "the task lowered RLIMIT_FSIZE" in str(error)


# --- memory limits --------------------------------------------------------------------------------------------------


@pytest.fixture
def large_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[float], Callable[..., Any]]:
    """A function of a module that holds 150 MB and imports slowly; the module records each import."""

    def write(seconds: float) -> Callable[..., Any]:
        (tmp_path / "large_module.py").write_text(
            f"import os, time\nopen({str(tmp_path / 'imports')!r}, 'a').write(f'{{os.getpid()}} ')\n"
            f"DATA = bytearray(b'x') * (150 * 2**20)\ntime.sleep({seconds})\n"
            "def function(seconds=0.0): time.sleep(seconds); return os.getpid()\n"
        )
        module = ModuleType("large_module")
        exec("def function(): pass", module.__dict__)
        monkeypatch.setitem(sys.modules, "large_module", module)
        monkeypatch.syspath_prepend(str(tmp_path))
        function: Callable[..., Any] = module.function
        return function

    return write


def test_memory_limit_below_the_modules_is_refused(
    make_executor: Make, large_module: Callable[[float], Callable[..., Any]], tmp_path: Path
) -> None:
    function = large_module(0.3)
    executor = make_executor()
    small, large = {"memory": 100}, {"memory": 400}
    futures = [executor.submit(function, small, 0.3) for _ in range(60)]
    for future in futures:
        error = future.exception(SECONDS)
        assert isinstance(error, MemoryExceeded)
        assert error.limit_mb == 100
        assert 150 < error.slot_mb < 250
        assert f"100 MB is below the {error.slot_mb:.1f} MB" in str(error)
    assert len((tmp_path / "imports").read_text().split()) <= 2, "once for each slot"
    assert executor.submit(function, large, 0.3).result(SECONDS)
    assert isinstance(executor.submit(function, small).exception(SECONDS), MemoryExceeded)
    assert executor.submit(function, {}).result(SECONDS)
    assert executor.submit(os.getpid, small).result(SECONDS), "other functions are not concerned"


def test_memory_limit_below_the_slots_context_is_refused(make_executor: Make, tmp_path: Path) -> None:
    log = tmp_path / "log"

    def build() -> dict[str, Any]:
        with open(log, "a") as file:
            file.write("x")
        return {"table": bytearray(b"x") * (150 * MEGABYTE)}

    executor = make_executor(library_config={"context": build, "context_scope": "slot"})
    for error in [future.exception(SECONDS) for future in [executor.submit(abs, {"memory": 100}, 1) for _ in range(9)]]:
        assert isinstance(error, MemoryExceeded)
        assert error.slot_mb > 150
    assert len(log.read_text()) <= 2
    assert executor.submit(abs, {"memory": 400}, -1).result(SECONDS) == 1


def test_memory_shared_with_the_library_does_not_count(
    make_executor: Make, large_module: Callable[[float], Callable[..., Any]]
) -> None:
    function = large_module(0.0)
    executor = make_executor(library_config={"import_modules": ["large_module"]})
    assert executor.submit(function, {"memory": 100}, 0.3).result(SECONDS)


def test_imports_in_a_call_count_for_it(
    make_executor: Make, large_module: Callable[[float], Callable[..., Any]], tmp_path: Path
) -> None:
    large_module(1000.0)

    def call() -> None:
        __import__("large_module")

    error = make_executor().submit(call, {"memory": 100}).exception(SECONDS)
    assert isinstance(error, MemoryExceeded)
    assert error.used_mb > 100
    assert len((tmp_path / "imports").read_text().split()) == 1


def test_memory_left_by_calls_does_not_fail_the_next(make_executor: Make, tmp_path: Path) -> None:
    filled = tmp_path / "filled"

    def fill_later() -> int:
        def fill() -> None:
            time.sleep(0.2)  # a slot measures its memory ten times a second
            sys.kept = bytearray(b"x") * (150 * MEGABYTE)  # type: ignore[attr-defined]
            filled.touch()

        threading.Thread(target=fill, daemon=True).start()
        return os.getpid()

    executor = make_executor(cores=1)
    pid = executor.submit(fill_later, {"memory": 100}).result(SECONDS)
    while not filled.exists():
        time.sleep(0.01)
    others = [executor.submit(os.getpid, {"memory": 100}).result(SECONDS) for _ in range(3)]
    assert len(set(others)) == 1
    assert others[0] != pid
