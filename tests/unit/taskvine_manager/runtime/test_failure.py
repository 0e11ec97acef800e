"""Exceptions come home as they were; parts that cannot are described."""

from __future__ import annotations

import builtins
import pickle
import sys
import traceback
from pathlib import Path
from typing import Any

import parsl.app.python  # noqa: F401  (has tblib change how exceptions are pickled, as a function that imports parsl does)
import pytest
from parsl.app.errors import BashExitFailure

from taskvine_manager.runtime import failure

HERE = (__file__,)
ExceptionGroup: Any = getattr(builtins, "ExceptionGroup", None)


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
def test_exception_comes_home_unchanged(error: Exception) -> None:
    back = failure.rebuild(record_of(caught(error)))
    assert type(back) is type(error)
    assert back.args == error.args
    assert vars(back) == vars(error)
    assert str(back) == str(error)


def test_traceback_comes_home() -> None:
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


def test_traceback_begins_in_the_users_function() -> None:
    namespace: dict[str, Any] = {}
    exec(compile("def user():\n    helper()\n", "user.py", "exec"), namespace)

    def helper() -> None:
        raise ValueError("no")

    namespace["helper"] = helper
    with pytest.raises(ValueError) as info:
        namespace["user"]()
    # The helper is in one of our files, but was called by the user's function, so it is shown.
    record = record_of(info.value, HERE)
    assert names(failure.rebuild(record)) == ["user", "helper"]
    assert __file__ in record["text"]
    assert "test_it_begins" not in record["text"]


def test_only_internal_frames_are_shown() -> None:
    assert names(failure.rebuild(record_of(caught(ValueError("no")), HERE))) == ["caught"]


def test_unraised_exception_has_no_traceback() -> None:
    record = record_of(ValueError("no"))
    assert record["exceptions"][0]["traceback"] is None
    assert failure.rebuild(record).__traceback__ is None


def test_causes_come_home() -> None:
    error = caught(ValueError("top"), caught(KeyError("middle"), caught(OSError("bottom"))))
    back = failure.rebuild(record_of(error))
    assert isinstance(back.__cause__, KeyError)
    assert isinstance(back.__cause__.__cause__, OSError)
    assert names(back.__cause__) == ["caught"]
    assert back.__cause__.__cause__.__cause__ is None


def test_unpicklable_cause_is_only_text() -> None:
    record = record_of(caught(ValueError("top"), caught(HoldsAGenerator())))
    back = failure.rebuild(record)
    assert isinstance(back, ValueError)
    assert back.__cause__ is None
    assert "generated" in record["text"]


def test_circular_causes_stay_circular() -> None:
    first, second = ValueError("first"), ValueError("second")
    first.__cause__, second.__cause__ = second, first
    back = failure.rebuild(record_of(first))
    assert str(back.__cause__) == "second"
    assert back.__cause__ is not None
    assert back.__cause__.__cause__ is back


def test_endless_chain_is_cut() -> None:
    error = ValueError(0)
    for number in range(1, 300):
        error = caught(ValueError(number), error)  # type: ignore[assignment]
    back: BaseException | None = failure.rebuild(record_of(error))
    numbers = []
    while back is not None:
        numbers.append(back.args[0])
        back = back.__cause__
    assert numbers == list(range(299, 199, -1))


def in_context(error: BaseException, context: BaseException) -> BaseException:
    try:
        try:
            raise context
        except type(context):
            raise error  # noqa: B904  (that it was raised while another was handled is what is tested)
    except BaseException as got:
        return got


def test_context_comes_home() -> None:
    back = failure.rebuild(record_of(in_context(ValueError("top"), KeyError("first"))))
    assert back.__cause__ is None
    assert isinstance(back.__context__, KeyError)
    assert names(back.__context__) == ["in_context"]
    assert not back.__suppress_context__
    assert "During handling of the above exception" in "".join(traceback.format_exception(back))


def test_suppressed_context_stays_suppressed() -> None:
    error = in_context(ValueError("top"), KeyError("first"))
    error.__cause__ = None  # as "from None" does
    back = failure.rebuild(record_of(error))
    assert isinstance(back.__context__, KeyError)
    assert back.__suppress_context__
    assert "KeyError" not in "".join(traceback.format_exception(back))


def test_cause_and_context_stay_one_exception() -> None:
    error = in_context(ValueError("top"), KeyError("first"))
    error.__cause__ = error.__context__
    back = failure.rebuild(record_of(error))
    assert back.__cause__ is back.__context__ is not None


def test_unloadable_context_is_left_out() -> None:
    record = record_of(in_context(ValueError("top"), KeyError("first")))
    record["exceptions"][1]["body"] = b"no pickle"
    assert failure.rebuild(record).__context__ is None


@pytest.mark.parametrize("error", [ValueError("no"), Custom("so", 3)], ids=repr)
def test_notes_come_home(error: BaseException) -> None:
    error.__notes__ = ["one", "two"]  # type: ignore[attr-defined]  # what add_note does, from Python 3.11 on
    assert failure.rebuild(record_of(caught(error))).__notes__ == ["one", "two"]  # type: ignore[attr-defined]


class ReducesItself(Exception):
    def __reduce__(self) -> Any:
        return ReducesItself, self.args


def test_notes_with_a_custom_reduce_come_home() -> None:
    error = ReducesItself("a")
    error.__notes__ = ["one"]  # type: ignore[attr-defined]
    assert failure.rebuild(record_of(error)).__notes__ == ["one"]  # type: ignore[attr-defined]


@pytest.mark.skipif(sys.version_info < (3, 11), reason="exception groups came with Python 3.11")
class TestGroups:
    def group(self, *members: BaseException) -> Any:
        return caught(ExceptionGroup("several", list(members)))

    def test_members_keep_frames_notes_causes_and_contexts(self) -> None:
        first = caught(ValueError("one"), caught(KeyError("cause")))
        second = in_context(OSError(2, "two"), KeyError("context"))
        second.__notes__ = ["note"]  # type: ignore[attr-defined]
        back: Any = failure.rebuild(record_of(self.group(first, second)))
        assert back.message == "several"
        assert names(back) == ["caught"]
        one, two = back.exceptions
        assert names(one) == ["caught"]
        assert isinstance(one.__cause__, KeyError)
        assert names(one.__cause__) == ["caught"]
        assert names(two) == ["in_context"]
        assert isinstance(two.__context__, KeyError)
        assert two.__notes__ == ["note"]
        with pytest.raises(ExceptionGroup) as info:
            raise back
        assert info.value.subgroup(ValueError).exceptions == (one,)

    def test_groups_in_groups(self) -> None:
        inner = self.group(caught(ValueError("deep")), caught(KeyError("deeper")))
        back: Any = failure.rebuild(record_of(self.group(caught(OSError("flat")), inner)))
        assert [type(error) for error in back.exceptions[1].exceptions] == [ValueError, KeyError]
        assert names(back.exceptions[1]) == ["caught"]
        assert names(back.exceptions[1].exceptions[1]) == ["caught"]

    def test_member_and_context_stay_one_exception(self) -> None:
        member = caught(ValueError("one"))
        error = self.group(member)
        error.__context__ = member
        back: Any = failure.rebuild(record_of(error))
        assert back.__context__ is back.exceptions[0]
        assert names(back.__context__) == ["caught"]

    def test_member_of_two_groups_stays_one_exception(self) -> None:
        member = caught(ValueError("one"))
        back: Any = failure.rebuild(record_of(self.group(self.group(member), self.group(member))))
        assert [names(inner.exceptions[0]) for inner in back.exceptions] == [["caught"]] * 2

    def test_group_may_be_the_cause(self) -> None:
        back: Any = failure.rebuild(record_of(caught(ValueError("top"), self.group(caught(KeyError("one"))))))
        assert names(back.__cause__.exceptions[0]) == ["caught"]

    def test_unpicklable_member_is_described(self) -> None:
        record = record_of(self.group(caught(ValueError("one")), caught(HoldsAGenerator())))
        assert record["kind"] == "exception-dump"
        assert "one" in record["remote_traceback"]
        assert "generated" in record["remote_traceback"]

    def test_exception_is_not_changed(self) -> None:
        member = caught(ValueError("one"), caught(KeyError("cause")))
        record_of(self.group(member))
        assert names(member) == ["caught"]
        assert isinstance(member.__cause__, KeyError)


class Leaves(Exception):
    def __str__(self) -> str:
        raise SystemExit(3)

    __repr__ = __str__


def test_exception_whose_message_exits_is_described() -> None:
    assert failure.describe(Leaves()) == "Leaves: <its __str__ raised SystemExit>"
    record = record_of(caught(Leaves()))
    assert "Leaves" in record["text"]
    assert isinstance(failure.rebuild(record), Leaves)


@pytest.mark.parametrize(
    ("error", "why"),
    [
        (ForgetsItsArguments("a", "b"), "missing 1 required positional argument"),
        (HoldsAGenerator(), "cannot pickle"),
        (PicklesAsSomethingElse(), "something else"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_unpicklable_exception_is_described(error: Exception, why: str) -> None:
    record = record_of(caught(error))
    assert record["kind"] == "exception-dump"
    assert record["subject"] == type(error).__name__
    assert why in record["reason"]
    assert "in caught" in record["remote_traceback"]


def test_exception_without_a_readable_message_comes_home() -> None:
    record = record_of(caught(CannotSay()))
    assert "CannotSay" in record["text"]
    assert isinstance(failure.rebuild(record), CannotSay)


def deep(levels: int) -> None:
    if levels:
        deep(levels - 1)
    raise ValueError("deep")


def endless(level: int) -> int:
    return endless(level + 1) + 1


def test_endless_recursion_comes_home() -> None:
    with pytest.raises(RecursionError) as info:
        endless(0)
    back = failure.rebuild(record_of(info.value))
    assert isinstance(back, RecursionError)
    assert "endless" in names(back)


def test_deep_traceback_keeps_both_ends() -> None:
    with pytest.raises(ValueError) as info:
        deep(500)
    record = record_of(info.value)
    kept = traceback.extract_tb(failure.rebuild(record).__traceback__)
    assert 10 < len(kept) < 200
    assert kept[0].name == "test_deep_traceback_keeps_both_ends"
    assert kept[-1].line == 'raise ValueError("deep")'


def test_long_text_keeps_both_ends() -> None:
    record = record_of(caught(ValueError("x" * 100_000 + "the end")))
    assert len(record["text"]) < 30_000
    assert record["text"].startswith("Traceback")
    assert record["text"].endswith("the end\n")


@pytest.mark.parametrize(
    ("error", "paths"),
    [
        (FileNotFoundError(2, "No such file", "a/b.txt"), ["a/b.txt"]),
        (FileNotFoundError(2, "No such file", b"a", None, "c"), ["a", "c"]),
        (FileNotFoundError(2, "No such file", "/a"), []),
        (FileNotFoundError(2, "No such file", "there"), []),
        (FileNotFoundError("data.csv not found: 'x y'"), ["data.csv", "not", "found", "x", "y"]),
        (OSError(2, "No such file", 3), []),
        (ValueError("a/b.txt"), []),
    ],
    ids=repr,
)
def test_paths_that_are_missing_are_recorded(
    error: Exception, paths: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "there").touch()
    record = record_of(caught(error))
    assert record["exceptions"][0]["missing"] == paths
    assert record["directory"] == str(tmp_path)


def test_missing_paths_become_a_note() -> None:
    cause = caught(FileNotFoundError(2, "No such file", "a"))
    record = record_of(caught(ValueError("top"), cause))
    back: Any = failure.rebuild(record, lambda paths, directory: f"{paths} in {directory}")
    assert not hasattr(back, "__notes__")
    assert back.__cause__.__notes__ == [f"['a'] in {record['directory']}"]


@pytest.mark.parametrize(
    ("command", "status", "paths"),
    [
        ("./run.sh --fast < data/in", 127, ["./run.sh", "--fast", "data/in"]),
        ("./run.sh | sort > out.txt; here", 1, ["./run.sh", "out.txt"]),
        ("sort", 127, ["sort"]),
        ("sort", 1, []),
    ],
)
def test_words_of_a_failed_command_are_found(
    command: str, status: int, paths: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def remote_side_bash_executor() -> None:
        executable = command  # Parsl's own error has it in a local variable too
        raise BashExitFailure(executable.partition(" ")[0], status)

    monkeypatch.chdir(tmp_path)
    with pytest.raises(BashExitFailure) as info:
        remote_side_bash_executor()
    assert record_of(info.value)["exceptions"][0]["missing"] == paths


def test_record_of_a_lost_task_keeps_its_fields() -> None:
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
def test_lost_file_is_recognised_by_its_record(record: object, file: str | None) -> None:
    assert failure.lost_file(record) == file
