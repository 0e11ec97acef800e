"""Nodes that have joined."""

from __future__ import annotations

import threading
from typing import Any

from taskvine_exec.blocks.nodes import Nodes


def node(name: str, block: str) -> dict[str, Any]:
    return {"name": name, "block": block, "directory": f"/tmp/{name}"}


def test_nodes_come_and_go() -> None:
    nodes = Nodes()
    assert not nodes.now()
    nodes.become([node("a", "0"), node("b", "1")])
    assert nodes.blocks() == {"0", "1"}
    nodes.become([node("c", "1")])
    assert [each["name"] for each in nodes.now()] == ["c"]
    assert nodes.last_place("0") == "/tmp/a (node a)"
    assert nodes.last_place("1") == "/tmp/c (node c)"
    assert nodes.last_place("2") is None


def test_number_of_nodes_can_be_waited_for() -> None:
    nodes = Nodes()
    assert nodes.wait(0, 0)
    assert not nodes.wait(1, 0.01)
    thread = threading.Timer(0.05, nodes.become, [[node("a", "0")]])
    thread.start()
    assert nodes.wait(1, 30)
    thread.join()
