"""Workers, and which of them should leave."""

from __future__ import annotations

from typing import Any

from taskvine_manager.vine.manager.config import VineConfig
from taskvine_manager.vine.manager.events import Dismiss, Drained, Instruction
from taskvine_manager.vine.manager.fleet import Fleet, VineNode
from taskvine_manager.vine.manager.tasks import Need
from taskvine_manager.vine.worker.worker import MARK
from tests.unit.taskvine_manager.node.test_config import config as node_config


class Harbour:
    """A fleet, its instructions, and the nodes that have files that no other node has."""

    def __init__(self, *, slots: int | None = None, **settings: Any) -> None:
        self.said: list[Instruction] = []
        self.precious: set[str] = set()
        self.rescues: list[tuple[str, list[str]]] = []
        self.busy: set[str] = set()
        nodes = node_config(slots=slots)
        self.fleet = Fleet(
            self.said.append, VineConfig(nodes=nodes, python="", log="", **{"idle_timeout": 10.0, **settings})
        )

    def rescue(self, node: VineNode, others: list[VineNode]) -> bool:
        if node.name in self.precious:
            self.rescues.append((node.name, [other.name for other in others]))
        return node.name in self.precious

    def join(self, name: str, now: float = 0.0, **has: Any) -> VineNode:
        said = {"arch": MARK + name, "cores_total": 2, "memory_total": 4000, "disk_total": 9000, **has}
        return self.fleet.join(f"h:{name}", said, now)

    def drain(self) -> None:
        self.fleet.drain(lambda node: node.name in self.busy, self.rescue)

    def retire(self, now: float) -> None:
        busy: set[str | None] = {f"h:{name}" for name in self.busy}
        self.fleet.dismiss_idle(now, busy, lambda name: self.precious & {name}, self.rescue)


def test_name_contains_block_and_process() -> None:
    node = Harbour().join("b7-123")
    assert (node.ours, node.info.block, node.info.pid, node.slots) == (True, "7", 123, 2)
    stranger = VineNode("h:9", {"arch": "x86_64", "ncpus": 4}, None, 0.0)
    assert (stranger.ours, stranger.name, stranger.info.block, stranger.greeted) == (False, "h:9", "", True)


def test_names_outlive_nodes() -> None:
    harbour = Harbour()
    harbour.join("b0-1")
    harbour.fleet.leave("h:b0-1")
    assert harbour.fleet.name("h:b0-1") == "b0-1"
    assert harbour.fleet.name(None) == harbour.fleet.name("h:other") == ""


def test_without_nodes_any_request_may_be_met() -> None:
    harbour = Harbour()
    assert harbour.fleet.could(Need(99.0))
    harbour.join("b0-1")
    assert not harbour.fleet.could(Need(99.0))
    assert harbour.fleet.largest()["cores"] == 2.0


def test_block_drains_when_its_nodes_are_idle() -> None:
    harbour = Harbour()
    harbour.join("b0-1")
    harbour.join("b1-2")
    harbour.busy = {"b0-1"}
    harbour.fleet.give_up("0")
    harbour.drain()
    assert harbour.said == []
    assert [room.key for room in harbour.fleet.rooms] == ["b1-2"]
    harbour.busy = set()
    harbour.drain()
    assert harbour.said == [Drained("0")]
    assert not harbour.fleet.draining
    assert harbour.join("b0-3").draining  # it came too late


def test_last_node_with_data_works_on_until_another_joins() -> None:
    harbour = Harbour()
    harbour.join("b0-1")
    harbour.precious = {"b0-1"}
    harbour.fleet.give_up("0")
    harbour.drain()
    assert harbour.said == []
    assert [room.key for room in harbour.fleet.rooms] == ["b0-1"]
    harbour.join("b1-2")
    harbour.drain()
    assert harbour.rescues[-1] == ("b0-1", ["b1-2"])
    assert [room.key for room in harbour.fleet.rooms] == ["b1-2"]
    harbour.precious = set()
    harbour.drain()
    assert harbour.said == [Drained("0")]


def test_idle_nodes_leave_except_the_minimum_and_the_last_data() -> None:
    harbour = Harbour(min_nodes=1)
    for number in range(3):
        harbour.join(f"n-{number}", now=0.0)
    harbour.busy = {"n-0"}
    harbour.retire(10.0)
    assert harbour.said == []
    harbour.retire(10.1)
    assert harbour.said == [Dismiss(1), Dismiss(2)]
    harbour = Harbour()
    harbour.join("n-5")
    harbour.precious = {"n-5"}
    harbour.retire(99.0)
    assert harbour.said == []
    harbour.precious = set()
    harbour.retire(99.0)
    assert harbour.said == [Dismiss(5)]


def test_no_node_is_idle_for_too_long_without_a_timeout() -> None:
    harbour = Harbour(idle_timeout=0.0)
    harbour.join("n-5")
    harbour.retire(1e9)
    assert harbour.said == []
