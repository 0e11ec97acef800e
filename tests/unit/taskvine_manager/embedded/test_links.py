"""Nodes that come and leave, as the engine's shell sees them."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from typing import Any

import pytest

from tests.conftest import eventually
from tests.unit.taskvine_manager.embedded.test_incoming import Node, Shell


@pytest.fixture
def shell() -> Iterator[Shell]:
    with tempfile.TemporaryDirectory(dir="/tmp") as base:
        made = Shell(base)
        yield made
        made.close()


def join(shell: Shell, name: str, **fields: Any) -> Node:
    node = shell.node()
    node.say("hello", node.info(name, **fields))
    return node


def names(shell: Shell) -> list[str]:
    return [node["name"] for node in shell.outlet.there]


def told(node: Node) -> list[tuple[Any, ...]]:
    """What a node has been told since the last time."""
    while node.channel.read():
        pass
    found = []
    while (message := node.channel.next()) is not None:
        found.append(message)
    return found


def test_no_more_nodes_than_there_may_be(shell: Shell) -> None:
    shell.engine.tune({"max-workers": 1})
    first = join(shell, "1")
    join(shell, "2")
    assert names(shell) == ["1"]
    first.channel.close()
    shell.turn()
    assert names(shell) == ["2"]
    join(shell, "3")
    shell.engine.tune({"max-workers": 0})
    assert names(shell) == ["2", "3"]


def test_nodes_are_told_the_parameters_that_they_act_on(shell: Shell) -> None:
    first = join(shell, "1")
    shell.engine.tune({"executor.batch": 3, "max-workers": 5})
    second = join(shell, "2")
    assert told(first) == told(second) == [("tune", {"executor.batch": 3})]


def test_drained_block(shell: Shell) -> None:
    drained: list[str] = []
    shell.outlet.drained = drained.append  # type: ignore[attr-defined]
    shell.engine.tune({"max-workers": 2})
    staying, leaving = join(shell, "1", block="a"), join(shell, "2", block="b")
    waiting = join(shell, "3", block="b")
    shell.engine.drain("b")
    assert told(leaving) == [("drain",), ("exit",)]
    assert told(waiting) == [("exit",)]
    for node in (leaving, waiting):
        node.channel.close()
    shell.turn()
    assert drained == ["b"]
    assert told(join(shell, "4", block="b")) == [("exit",)], "it came too late"
    assert told(staying) == []
    assert names(shell) == ["1"]


def test_idle_nodes_leave(shell: Shell) -> None:
    node = join(shell, "1")
    node.say("idle")
    assert told(node) == [("drain",), ("exit",)]


def test_silent_node_is_asked_and_then_dropped(shell: Shell) -> None:
    shell.engine.tune({"keepalive-interval": 0.2, "keepalive-timeout": 0.2})
    node = join(shell, "1")
    stranger = shell.node()

    def look() -> bool:
        shell.turn()
        return stranger.is_dropped

    eventually(look)
    assert ("ping",) in told(node)


def test_end(shell: Shell) -> None:
    node = join(shell, "1")
    assert not shell.engine.stopped
    shell.engine.stop()
    late = shell.node()
    assert told(node) == told(late) == [("exit",)]
    for each in (node, late):
        each.channel.close()
    shell.turn()
    assert shell.engine.stopped
