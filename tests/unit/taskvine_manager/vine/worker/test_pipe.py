"""The worker's pipe protocol, as its two ends see it."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taskvine_manager.vine.worker import pipe

CALLS = [(1, "-", "/w/func.1"), (22, "gAWV=", "/w/a b".replace(" ", "_")), (333, "x" * 5000, "/w/func.333")]


def as_worker(task: int, command: str, sandbox: str) -> bytes:
    return pipe.frame(f"{task} {command} {sandbox} {sandbox}/.taskvine.stdout")


@given(st.lists(st.integers(1, 400)))
def test_calls_may_be_cut_anywhere(cuts: list[int]) -> None:
    data = b"".join(as_worker(*call) for call in CALLS)
    reader = pipe.CallReader()
    read = []
    for cut in cuts:
        read += list(reader.feed(data[:cut]))
        data = data[cut:]
    read += list(reader.feed(data))
    assert [tuple(call) for call in read] == [(*call, f"{call[2]}/.taskvine.stdout") for call in CALLS]


def test_path_of_a_sandbox_ends_at_its_first_space() -> None:
    # The protocol has no quoting: that is why nodes' directories have no spaces in them.
    (call,) = pipe.CallReader().feed(as_worker(1, "-", "/with space"))
    assert call.sandbox == "/with"


def test_invalid_frames_are_refused() -> None:
    with pytest.raises(ValueError, match="invalid literal"):
        list(pipe.CallReader().feed(b"hello\n"))


def test_greeting_contains_what_the_worker_expects() -> None:
    length, body = pipe.greeting("lib", 7).split(b"\n", 1)
    assert int(length) == len(body)
    assert json.loads(body) == {"name": "lib", "taskid": 7, "exec_mode": "fork"}


def test_end_of_a_call_is_encoded() -> None:
    assert pipe.ended(12, 0) == b"4\n12 0"
