"""Results of other calls among the arguments of a call."""

from __future__ import annotations

import errno
import pickle
from pathlib import Path
from typing import Any

import pytest

from taskvine_manager.runtime import execution, failure, limits, payload, values

LARGE = payload.INLINE_LIMIT + 1


class Reference:
    """Pickles as an edge does."""

    def __init__(self, number: str) -> None:
        self.number = number

    def __reduce__(self) -> tuple[Any, ...]:
        return values.fetch, (self.number,)


def call(arguments: Any, spool: Path) -> tuple[int, dict[str, Any]]:
    outcome, body, _, _ = execution.call(lambda *args: None, pickle.dumps((arguments, {})), str(spool), limits.Limits())
    return outcome, pickle.loads(body) if isinstance(body, bytes) else {}


@pytest.mark.parametrize("damage", ["missing", "cut short"])
def test_result_with_a_lost_file_is_named(tmp_path: Path, damage: str) -> None:
    path = payload.encode(b"x" * LARGE, str(tmp_path), pickle.dumps)
    assert isinstance(path, str)
    if damage == "missing":
        payload.discard(path)
    else:
        Path(path).write_bytes(Path(path).read_bytes()[:100])
    values.provide({"result-3": path})
    outcome, record = call((Reference("result-3"),), tmp_path)
    assert outcome == failure.LOST
    assert (record["kind"], record["name"]) == ("file-lost", "result-3")


def test_temporarily_unreadable_result_is_not_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: Any) -> Any:
        raise OSError(errno.EMFILE, "Too many open files")

    values.provide({"result-3": "somewhere"})
    monkeypatch.setattr(payload, "read", lambda given: payload.Frames(given) if isinstance(given, bytes) else refuse(0))
    outcome, record = call((Reference("result-3"),), tmp_path)
    assert outcome == failure.LOST
    assert record["kind"] == "argument-load"
    assert "Too many open files" in record["reason"]


class Unreadable:
    """Raises the exception of a lost file from its own code."""

    def __reduce__(self) -> tuple[Any, ...]:
        return _raise, (FileNotFoundError(errno.ENOENT, "no such file", "the user's"),)


def _raise(error: Exception) -> None:
    raise error


def test_exception_of_the_users_class_is_not_a_loss(tmp_path: Path) -> None:
    path = payload.encode([Unreadable(), b"x" * LARGE], str(tmp_path), pickle.dumps)
    values.provide({"result-3": path})
    outcome, record = call((Reference("result-3"),), tmp_path)
    assert outcome == failure.LOST
    assert record["kind"] == "argument-load"


def identities(*arguments: Any) -> list[bool]:
    first, *others = arguments
    return [each is first for each in others]


def test_value_is_one_object_per_call(tmp_path: Path) -> None:
    kept: list[Any] = []
    small, large = pickle.dumps([1]), payload.encode([b"x" * LARGE], str(tmp_path), pickle.dumps)
    values.provide({"small": small, "large": large})

    def keep(*arguments: Any) -> list[bool]:
        kept.append(arguments)
        return identities(*arguments)

    for number in ("small", "large"):
        arguments = pickle.dumps(((Reference(number), Reference(number)), {}))
        for _ in range(2):
            outcome, body, _, _ = execution.call(keep, arguments, str(tmp_path), limits.Limits())
            assert outcome == failure.RETURNED
            assert pickle.loads(body) == [True]  # type: ignore[arg-type]
        assert kept[-1][0] is not kept[-2][0]
    assert not values._loaded, "the process keeps arguments of calls that are over"


def test_copy_among_the_arguments_is_one_object() -> None:
    encoded = pickle.dumps([1])

    class Copy:
        def __reduce__(self) -> tuple[Any, ...]:
            return values.copy, ("result-1", encoded)

    arguments = pickle.dumps((Copy(), {"k": Copy()}))
    first, rest = values.decode(arguments)
    assert first is rest["k"]
    assert values.decode(arguments)[0] is not first
