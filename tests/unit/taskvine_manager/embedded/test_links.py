"""Nodes that join and leave, as the engine's shell sees them."""

from __future__ import annotations

from tests.conftest import eventually
from tests.unit.taskvine_manager.embedded.shell import Shell


def test_number_of_nodes_is_limited(shell: Shell) -> None:
    shell.engine.tune({"max-workers": 1})
    first = shell.join("1")
    shell.join("2")
    assert shell.names() == ["1"]
    first.channel.close()
    shell.turn()
    assert shell.names() == ["2"]
    shell.join("3")
    shell.engine.tune({"max-workers": 0})
    assert shell.names() == ["2", "3"]


def test_nodes_get_their_parameters(shell: Shell) -> None:
    first = shell.join("1")
    shell.engine.tune({"executor.batch": 3, "max-workers": 5})
    second = shell.join("2")
    assert first.told() == second.told() == [("tune", {"executor.batch": 3})]


def test_drained_block_is_reported(shell: Shell) -> None:
    shell.engine.tune({"max-workers": 2})
    staying, leaving = shell.join("1", block="a"), shell.join("2", block="b")
    waiting = shell.join("3", block="b")
    shell.engine.drain("b")
    assert leaving.told() == [("drain",), ("exit",)]
    assert waiting.told() == [("exit",)]
    for node in (leaving, waiting):
        node.channel.close()
    shell.turn()
    assert shell.outlet.said == [("drained", "b")]
    assert shell.join("4", block="b").told() == [("exit",)], "it came too late"
    assert staying.told() == []
    assert shell.names() == ["1"]


def test_idle_nodes_leave(shell: Shell) -> None:
    node = shell.join("1")
    node.say("idle")
    assert node.told() == [("drain",), ("exit",)]


def test_silent_node_is_asked_and_then_dropped(shell: Shell) -> None:
    shell.engine.tune({"keepalive-interval": 0.2, "keepalive-timeout": 0.2})
    node = shell.join("1")
    stranger = shell.node()

    def look() -> bool:
        shell.turn()
        return stranger.is_dropped

    eventually(look)
    assert ("ping",) in node.told()


def test_all_nodes_are_told_to_end(shell: Shell) -> None:
    node = shell.join("1")
    assert not shell.engine.stopped
    shell.engine.stop()
    late = shell.node()
    assert node.told() == late.told() == [("exit",)]
    for each in (node, late):
        each.channel.close()
    shell.turn()
    assert shell.engine.stopped
