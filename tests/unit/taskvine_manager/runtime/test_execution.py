"""One task: whatever its function does, it has one of three outcomes."""

from __future__ import annotations

import errno
import os
import pickle
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from parsl.app.errors import AppTimeout, wrap_error

from taskvine_manager.runtime import failure, payload
from taskvine_manager.runtime.execution import call, load_or_explain, no_directory
from taskvine_manager.runtime.functions import Functions
from taskvine_manager.runtime.limits import Limits


def run(spool: Path, function: Callable[..., Any], *args: Any, limit: int = payload.INLINE_LIMIT) -> tuple[int, Any]:
    """Call a function; return the outcome, and its value or the fields of its record."""
    arguments = pickle.dumps((args, {}))
    outcome, body, started, seconds = call(function, arguments, str(spool), Limits(), limit)
    assert started > 0
    assert seconds >= 0
    return outcome, payload.decode(body)


@pytest.mark.parametrize("value", [None, 1, "text", [1, 2], b"x" * payload.INLINE_LIMIT])
def test_function_returns(tmp_path: Path, value: object) -> None:
    assert run(tmp_path, lambda given: given, value) == (failure.RETURNED, value)
    assert len(os.listdir(tmp_path)) == (value == b"x" * payload.INLINE_LIMIT)


def test_limit_of_results_in_messages_can_be_lowered(tmp_path: Path) -> None:
    assert run(tmp_path, lambda: "x" * 100, limit=50) == (failure.RETURNED, "x" * 100)
    assert len(os.listdir(tmp_path)) == 1


def test_function_raises(tmp_path: Path) -> None:
    def fail() -> None:
        raise KeyError("what")

    outcome, record = run(tmp_path, fail)
    assert outcome == failure.RAISED
    assert "KeyError: 'what'" in record["text"]
    assert "/execution.py" not in record["text"], "frames of ours are shown"


def test_exception_in_parsls_wrapper_is_raised(tmp_path: Path) -> None:
    def inner() -> None:
        raise ValueError("no")

    outcome, record = run(tmp_path, wrap_error(inner))
    assert outcome == failure.RAISED
    assert "ValueError: no" in record["text"]
    assert "in inner" in record["text"]


def test_walltime_that_is_over_before_its_timer_has_started(tmp_path: Path) -> None:
    """As Thread.start ends if AppTimeout hits it when the timer's thread runs already."""

    def late() -> None:
        timer = threading.Timer(1000, print)
        starting: dict[threading.Timer, str] = {}
        try:
            raise AppTimeout("2 ms")
        except Exception:
            del starting[timer]
            raise

    outcome, record = run(tmp_path, late)
    assert outcome == failure.RAISED
    assert record["text"].splitlines()[-1] == "parsl.app.errors.AppTimeout: 2 ms"


def test_large_exception_is_in_a_file(tmp_path: Path) -> None:
    def fail() -> None:
        raise ValueError("x" * 2 * payload.INLINE_LIMIT)

    assert run(tmp_path, fail)[0] == failure.RAISED
    assert len(os.listdir(tmp_path)) == 1


@pytest.mark.parametrize(("code", "said"), [(3, "3"), (None, ""), ("bad", "bad")])
def test_function_that_exits_is_lost_and_the_process_goes_on(tmp_path: Path, code: Any, said: str) -> None:
    outcome, record = run(tmp_path, sys.exit, code)
    assert outcome == failure.LOST
    assert (record["kind"], record["exc_type"], record["code"]) == ("exit", "SystemExit", said)


def test_unloadable_arguments_are_reported(tmp_path: Path) -> None:
    outcome, body, _, seconds = call(len, b"not a pickle", str(tmp_path), Limits())
    assert outcome == failure.LOST
    record = payload.decode(body)
    assert (record["kind"], record["subject"]) == ("argument-load", "len")
    assert seconds == 0


def test_unpicklable_result_is_reported(tmp_path: Path) -> None:
    outcome, record = run(tmp_path, lambda: (yield))
    assert outcome == failure.LOST
    assert record["kind"] == "result-dump"
    assert record["reason"].startswith("a generator: ")


@pytest.mark.parametrize(("number", "kind"), [(errno.ENOSPC, "disk-full"), (errno.EIO, "result-dump")])
def test_unwritable_result_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, kind: str) -> None:
    def fail(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(payload, "write_file", fail)
    outcome, record = run(tmp_path, lambda: b"x" * payload.INLINE_LIMIT)
    assert (outcome, record["kind"]) == (failure.LOST, kind)


def test_function_that_cannot_be_loaded_is_explained() -> None:
    functions = Functions()
    functions.add("f", b"not a pickle")
    record = load_or_explain(functions, "f")
    assert isinstance(record, bytes)
    said = pickle.loads(record)
    assert said["kind"] == "function-load"
    assert said["reason"].startswith("UnpicklingError")


def test_unseen_directory_is_named() -> None:
    said = pickle.loads(no_directory(FileNotFoundError(errno.ENOENT, "No such file or directory", "/gone")))
    assert (said["kind"], said["path"]) == ("directory-missing", "/gone")
