"""Exceptions come home as what they were, and whatever cannot says so."""

from __future__ import annotations

import pickle
import traceback
from typing import Any

import parsl.app.python  # noqa: F401  (has tblib change how exceptions are pickled, as a function that imports parsl does)
import pytest

from taskvine_manager.runtime import failure

HERE = (__file__,)


class Custom(Exception):
    def __init__(self, message: str, code: int) -> None:
        super().__init__(message, code)
        self.code = code


class ForgetsItsArguments(Exception):
    def __init__(self, first: str, second: str) -> None:
        super().__init__(first)


class HoldsAGenerator(Exception):
    def __init__(self) -> None:
        super().__init__("generated")
        self.generator = (i for i in ())


class PicklesAsSomethingElse(Exception):
    def __reduce__(self) -> Any:
        return str, ("no exception",)


class CannotSay(Exception):
    def __str__(self) -> str:
        raise ValueError("speechless")


def caught(error: BaseException, cause: BaseException | None = None) -> BaseException:
    try:
        raise error from cause
    except BaseException as got:
        return got


def record_of(error: BaseException, own_files: tuple[str, ...] = ()) -> dict[str, Any]:
    record: dict[str, Any] = pickle.loads(failure.raised(error, own_files))
    return record


def names(error: BaseException) -> list[str]:
    return [frame.name for frame in traceback.extract_tb(error.__traceback__)]


@pytest.mark.parametrize(
    "error",
    [
        ValueError("no"),
        KeyError("missing"),
        OSError(28, "No space left", "/f"),
        Custom("so", 3),
        ValueError(),
        Exception(1, [2]),
    ],
    ids=repr,
)
def test_an_exception_comes_home_as_it_was(error: Exception) -> None:
    back = failure.rebuild(record_of(caught(error)))
    assert type(back) is type(error)
    assert back.args == error.args
    assert vars(back) == vars(error)
    assert str(back) == str(error)


def test_its_traceback_comes_too() -> None:
    def inner() -> None:
        raise ValueError("no")

    def outer() -> None:
        inner()

    with pytest.raises(ValueError) as info:
        outer()
    record = record_of(info.value)
    assert names(failure.rebuild(record))[-2:] == ["outer", "inner"]
    assert "in inner" in record["text"]
    assert record["text"].endswith("ValueError: no\n")


def test_it_begins_in_the_users_function() -> None:
    namespace: dict[str, Any] = {}
    exec(compile("def user():\n    helper()\n", "user.py", "exec"), namespace)

    def helper() -> None:
        raise ValueError("no")

    namespace["helper"] = helper
    with pytest.raises(ValueError) as info:
        namespace["user"]()
    # The helper stands in a file of ours too, but below the user's: it is shown.
    record = record_of(info.value, HERE)
    assert names(failure.rebuild(record)) == ["user", "helper"]
    assert __file__ in record["text"]
    assert "test_it_begins" not in record["text"]


def test_with_none_but_our_frames_they_are_shown() -> None:
    assert names(failure.rebuild(record_of(caught(ValueError("no")), HERE))) == ["caught"]


def test_an_exception_that_was_never_raised_has_no_traceback() -> None:
    record = record_of(ValueError("no"))
    assert record["traceback"] is None
    assert failure.rebuild(record).__traceback__ is None


def test_causes_come_too() -> None:
    error = caught(ValueError("top"), caught(KeyError("middle"), caught(OSError("bottom"))))
    back = failure.rebuild(record_of(error))
    assert isinstance(back.__cause__, KeyError)
    assert isinstance(back.__cause__.__cause__, OSError)
    assert names(back.__cause__) == ["caught"]
    assert back.__cause__.__cause__.__cause__ is None


def test_a_cause_that_cannot_be_pickled_is_left_to_the_text() -> None:
    record = record_of(caught(ValueError("top"), caught(HoldsAGenerator())))
    back = failure.rebuild(record)
    assert isinstance(back, ValueError)
    assert back.__cause__ is None
    assert "generated" in record["text"]


def test_causes_that_go_in_a_circle_come_to_an_end() -> None:
    first, second = ValueError("first"), ValueError("second")
    first.__cause__, second.__cause__ = second, first
    back: BaseException | None = failure.rebuild(record_of(first))
    depth = 0
    while back is not None:
        back, depth = back.__cause__, depth + 1
    assert depth == 9


@pytest.mark.parametrize(
    ("error", "why"),
    [
        (ForgetsItsArguments("a", "b"), "missing 1 required positional argument"),
        (HoldsAGenerator(), "cannot pickle"),
        (PicklesAsSomethingElse(), "something else"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_cannot_be_pickled_and_read_back_says_so(error: Exception, why: str) -> None:
    record = record_of(caught(error))
    assert record["kind"] == "exception-dump"
    assert record["subject"] == type(error).__name__
    assert why in record["reason"]
    assert "in caught" in record["remote_traceback"]


def test_what_cannot_say_its_message_comes_home_without() -> None:
    record = record_of(caught(CannotSay()))
    assert "CannotSay" in record["text"]
    assert isinstance(failure.rebuild(record), CannotSay)


def deep(levels: int) -> None:
    if levels:
        deep(levels - 1)
    raise ValueError("deep")


def endless(level: int) -> int:
    return endless(level + 1) + 1


def test_endless_recursion_comes_home_as_what_it_is() -> None:
    with pytest.raises(RecursionError) as info:
        endless(0)
    back = failure.rebuild(record_of(info.value))
    assert isinstance(back, RecursionError)
    assert "endless" in names(back)


def test_of_a_deep_traceback_both_ends_are_kept() -> None:
    with pytest.raises(ValueError) as info:
        deep(500)
    record = record_of(info.value)
    kept = traceback.extract_tb(failure.rebuild(record).__traceback__)
    assert 10 < len(kept) < 200
    assert kept[0].name == "test_of_a_deep_traceback_both_ends_are_kept"
    assert kept[-1].line == 'raise ValueError("deep")'


def test_of_a_long_text_both_ends_are_kept() -> None:
    record = record_of(caught(ValueError("x" * 100_000 + "the end")))
    assert len(record["text"]) < 30_000
    assert record["text"].startswith("Traceback")
    assert record["text"].endswith("the end\n")


def test_a_record_of_what_was_lost_keeps_its_fields() -> None:
    record = pickle.loads(failure.lost("memory", "too much", limit_mb=1.0, used_mb=2.0))
    assert record == {"kind": "memory", "reason": "too much", "limit_mb": 1.0, "used_mb": 2.0}


@pytest.mark.parametrize(
    ("record", "file"),
    [
        (failure.lost("file-lost", "gone", name="f@1"), "f@1"),
        (failure.lost("slot-died", "killed", name="f@1"), None),
        (failure.raised(ValueError("no"), ()), None),
        ("/spool/value-1", None),
    ],
    ids=["lost file", "dead slot", "exception", "path"],
)
def test_a_lost_file_is_known_by_its_record(record: object, file: str | None) -> None:
    assert failure.lost_file(record) == file
