"""inline_limit: which values travel inside messages, for each executor."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from parsl.errors import ConfigurationError

from taskvine_exec import TaskVineExecutor, submitter
from taskvine_exec.results import completions
from taskvine_manager.runtime import payload
from taskvine_manager.wire.messages import Invocation

Make = Callable[..., TaskVineExecutor]


def echo(value: Any) -> Any:
    return value


@pytest.fixture
def travelled(monkeypatch: pytest.MonkeyPatch) -> list[type]:
    """How each result came to the user's process: as bytes, or as the path of a file."""
    kinds: list[type] = []
    settle = completions.settle

    def spy(future: Any, completion: Any, *rest: Any) -> None:
        kinds.append(type(completion.body))
        settle(future, completion, *rest)

    monkeypatch.setattr(completions, "settle", spy)
    return kinds


def test_two_executors_may_have_different_limits(
    make_executor: Make, mode: str, travelled: list[type], monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[type] = []
    make_invocation = submitter.Invocation

    def spy(number: int, profile: int, arguments: payload.Payload, *rest: Any) -> Invocation:
        sent.append(type(arguments))
        return make_invocation(number, profile, arguments, *rest)

    monkeypatch.setattr(submitter, "Invocation", spy)
    small = make_executor(inline_limit=100, function_exec_mode=mode)
    large = make_executor(inline_limit=60_000, function_exec_mode=mode)
    before = payload.INLINE_LIMIT
    for executor, size, expected in (
        (small, 50, bytes),
        (small, 200, str),
        (small, 50_000, str),
        (large, 50_000, bytes),
        (large, 70_000, str),
    ):
        future = executor.submit(echo, {}, "x" * size)
        assert sent.pop() is expected
        assert future.result(30) == "x" * size
        assert travelled.pop() is expected
    assert before == payload.INLINE_LIMIT


@pytest.mark.parametrize("limit", [0, payload.LARGEST_INLINE_LIMIT])
def test_limit_may_have_its_extreme_values(make_executor: Make, mode: str, limit: int) -> None:
    executor = make_executor(inline_limit=limit, function_exec_mode=mode)
    sizes = [0, 1, limit - 100, limit + 1, 200_000] * 4
    futures = [executor.submit(echo, {}, bytes(max(0, size))) for size in sizes]
    assert [len(future.result(30)) for future in futures] == [max(0, size) for size in sizes]

    def large_closure(value: bytes, data: bytes = bytes(30_000)) -> int:
        return len(value) + len(data)

    # The packets of the function and of the call are in one socket's buffer.
    assert executor.submit(large_closure, {}, bytes(max(0, limit - 100))).result(30) >= 30_000


def test_failure_is_reported_with_any_limit(make_executor: Make, mode: str) -> None:
    executor = make_executor(inline_limit=0, function_exec_mode=mode)

    def fail() -> None:
        raise ValueError("on purpose")

    assert str(executor.submit(fail, {}).exception(30)) == "on purpose"


@pytest.mark.parametrize("limit", [-1, payload.LARGEST_INLINE_LIMIT + 1])
def test_limit_above_a_packet_is_refused(limit: int) -> None:
    with pytest.raises(ConfigurationError, match="inline_limit"):
        TaskVineExecutor(inline_limit=limit)
