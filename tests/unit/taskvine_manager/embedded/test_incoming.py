"""Whatever a node sends, the engine goes on with the other nodes."""

from __future__ import annotations

import contextlib
import math
import tempfile
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, given, settings

from taskvine_manager.embedded import incoming
from taskvine_manager.runtime import failure
from taskvine_manager.wire import messages
from taskvine_manager.wire.messages import FileUse, Invocation
from tests.unit.taskvine_manager.embedded.shell import PROFILE, Shell, completion

HELLO_FAULTS: list[dict[str, Any]] = [
    {"cores": math.nan},
    {"cores": math.inf},
    {"cores": 0.0},
    {"cores": -1.0},
    {"memory": -5.0},
    {"memory": math.nan},
    {"disk": "much"},
    {"gpus": -1},
    {"gpus": 0.5},
    {"slots": "2"},
    {"name": ".."},
    {"name": "a/b"},
    {"name": 5},
    {"pid": -1},
    {"directory": "/"},
    {"directory": "/tmp"},
    {"block": None},
]


@pytest.mark.parametrize("fields", HELLO_FAULTS, ids=str)
def test_node_with_a_wrong_description_is_dropped(shell: Shell, fields: dict[str, Any]) -> None:
    node = shell.node()
    node.say("hello", node.info("1", **fields))
    assert node.is_dropped
    assert not shell.outlet.there


def test_second_hello_is_refused(shell: Shell) -> None:
    first, second = shell.node(), shell.node()
    first.say("hello", first.info("1"))
    second.say("hello", second.info("1"))
    assert second.is_dropped
    assert not first.is_dropped
    assert [node["name"] for node in shell.outlet.there] == ["1"]


def test_message_before_hello_is_refused(shell: Shell) -> None:
    node = shell.node()
    node.say("done", [])
    assert node.is_dropped


VALID: list[tuple[Any, ...]] = [
    ("done", [completion(1)]),
    ("done", [completion(1)._replace(made=(("file", 3, 5),), left=("f", "left.txt"))]),
    ("returned", (1, 2)),
    ("cached", "file", 3, None, 5, 0.1, False, "bad"),
    ("cached", "file", 0, "it is gone", 0, 0.1, True, "good"),
    ("input", "/home/input", 3, "name-644", (1, 2, 3)),
    ("crowded", 1, 10),
    ("libraries", ("model", "other")),
    ("steps", (("library", "", "ended", -9, "it was killed"), ("slot", "3", "started", None, ""))),
    ("radio", [b"said"]),
    ("idle",),
    ("pong",),
    ("notice", "it is slow"),
    ("leaving",),
]
JUNK = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**63), 2**64 - 1),
    st.floats(),
    st.text(max_size=5),
    st.binary(max_size=5),
    st.lists(st.integers(0, 5), max_size=3),
    st.dictionaries(st.text(max_size=2), st.integers(0, 5), max_size=2),
)


@st.composite
def mutated(draw: st.DrawFn) -> tuple[Any, ...]:
    """A valid message with one other value somewhere, or with another length."""
    message = draw(st.sampled_from(VALID))

    def change(value: Any, depth: int) -> Any:
        if isinstance(value, (tuple, list)) and value and depth and draw(st.booleans()):
            place = draw(st.integers(0, len(value) - 1))
            return [*value[:place], change(value[place], depth - 1), *value[place + 1 :]]
        return draw(JUNK)

    kind = draw(st.integers(0, 9))
    if kind == 0:
        return (*message, draw(JUNK))
    if kind == 1 and len(message) > 1:
        return message[:-1]
    if kind == 2 or len(message) == 1:
        return message
    place = draw(st.integers(1, len(message) - 1))
    return (*message[:place], change(message[place], 3), *message[place + 1 :])


@pytest.mark.parametrize("message", VALID, ids=str)
def test_valid_messages_are_accepted(message: tuple[Any, ...]) -> None:
    kind, *rest = messages.decode(messages.encode(*message))
    incoming.check(kind, tuple(rest))


def test_there_is_a_valid_message_for_each_tag() -> None:
    assert {kind for kind, *_ in VALID} == set(incoming.FORMS)


@pytest.mark.parametrize("message", VALID, ids=str)
def test_engine_handles_all_messages(shell: Shell, message: tuple[Any, ...]) -> None:
    node = shell.node()
    node.say("hello", node.info("bad"))
    node.say(*message)
    assert not node.is_dropped


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(mutated(), min_size=1, max_size=8))
def test_no_message_ends_the_run(said: list[tuple[Any, ...]]) -> None:
    with tempfile.TemporaryDirectory(dir="/tmp") as base, contextlib.closing(Shell(base)) as shell:
        bad, good = shell.node(), shell.node()
        bad.say("hello", bad.info("bad"))
        calls = [
            Invocation(1, 0, b"", (), (FileUse("temp", "file", "file"),)),
            Invocation(2, 0, b"", (), (FileUse("value", "", "result"),)),
            Invocation(3, 0, b""),
            Invocation(4, 0, b"", (FileUse("temp", "file", "file"),)),
        ]
        shell.engine.submit([("key", b"function")], [PROFILE], calls)
        shell.turn()
        for message in said:
            bad.say(*message)
        bad.channel.close()
        good.say("hello", good.info("good"))
        while good.work():
            pass
        ended = {each.number: each.outcome for each in shell.outlet.ended}
        assert len(ended) == len(shell.outlet.ended), "one has ended twice"
        assert {1, 2, 3} <= set(ended) <= {1, 2, 3, 4}
        # The user's process cancels the fourth task if the first one, which makes its input, has failed.
        assert ended[1] != failure.RETURNED or 4 in ended
