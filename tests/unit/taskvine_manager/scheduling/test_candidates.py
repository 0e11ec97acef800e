"""Candidates: the cost of a decision does not grow with the number of nodes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from taskvine_manager.runtime import failure
from taskvine_manager.scheduling import nodes, replication, transfers
from taskvine_manager.scheduling.events import Completed, Submitted
from taskvine_manager.scheduling.tasks import Shape
from taskvine_manager.wire.messages import Completion
from tests.unit.taskvine_manager.scheduling.world import (
    Instructions,
    World,
    local,
    ran,
    runs,
)


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of nodes that were looked at: for free resources, or as target or source of a transfer."""
    seen: list[str] = []
    capacity, choices, source = nodes.Node.capacity, replication.Replication._choices, transfers.Transfers.source

    def room(self: nodes.Node, shape: Shape, *, others: bool) -> int:
        seen.append(self.info.name)
        return capacity(self, shape, others=others)

    def chosen(self: replication.Replication) -> Iterator[nodes.Node]:
        for node in choices(self):
            seen.append(node.info.name)
            yield node

    def held(self: transfers.Transfers, file: Any) -> Any:
        seen.extend(list(file.holders)[: nodes.LOOKED_AT])
        return source(self, file)

    monkeypatch.setattr(nodes.Node, "capacity", room)
    monkeypatch.setattr(replication.Replication, "_choices", chosen)
    monkeypatch.setattr(transfers.Transfers, "source", held)
    return seen


def busy_cluster(count: int, free: int = 3) -> World:
    """Make many nodes of one core, some of them free."""
    world = World()
    world.replicate(2)
    for number in range(count):
        world.join(f"n{number:04}", cores=1)
    world.call(count=count - free)
    return world


def decide(world: World, looks: list[str], submit: Any) -> int:
    """Return the highest cost of several similar decisions."""
    costs = []
    for _ in range(6):
        looks.clear()
        told: Instructions = submit(world)
        number = ran(told)[0]
        costs.append(len(looks))
        world.works(number)
    return max(costs[2:])


def plain(world: World) -> Instructions:
    return world.call()


def reads_users_file(world: World) -> Instructions:
    told = world.call(inputs=(local("/x"),))
    for name in runs(told):
        world.brought(name, "/x")
    return told


def makes_file(world: World) -> Instructions:
    return world.call(makes=[f"f{len(world.invocations)}"])


@pytest.mark.parametrize("free", [3, 40])
@pytest.mark.parametrize("submit", [plain, reads_users_file, makes_file], ids=lambda each: each.__name__)
def test_cost_of_a_decision_does_not_depend_on_nodes(submit: Any, free: int, looks: list[str]) -> None:
    few = decide(busy_cluster(50, free), looks, submit)
    many = decide(busy_cluster(500, free * 10), looks, submit)
    assert many <= few + nodes.LOOKED_AT
    assert many <= 8 * nodes.LOOKED_AT


def test_file_on_all_nodes_costs_its_readers_no_more(looks: list[str]) -> None:
    costs = []
    for count in (40, 400):
        world = busy_cluster(count)
        world.handle(Submitted((), [world.invocation(makes=["file"])]))
        maker = max(world.invocations)
        world.works(maker)
        stamp = (("file", 100, 1),)
        for name in list(world.core.nodes):
            world.handle(Completed(name, [Completion(-99, failure.RETURNED, b"", name, 1.0, 1.0, 1.0, stamp)]))
        assert len(world.core.stats()["replicas"]["file"]) == count
        looks.clear()
        assert ran(world.call(needs=["file"]))
        costs.append(len(looks))
    assert costs[1] <= costs[0] + nodes.LOOKED_AT


def test_completion_looks_at_no_other_nodes(looks: list[str]) -> None:
    costs = []
    for count in (50, 500):
        world = busy_cluster(count)
        world.call(count=3 + 20)  # all nodes are busy now, and some calls wait
        world.done(0)
        looks.clear()
        assert len(ran(world.done(1))) == 1
        costs.append(len(looks))
    assert costs[1] <= costs[0] + 2


def test_waiting_calls_of_two_kinds_look_at_few_nodes(looks: list[str]) -> None:
    costs = []
    for count in (50, 500):
        world = busy_cluster(count)
        world.call(count=23)
        world.call(count=20, memory=1.0)
        world.done(0)
        looks.clear()
        assert len(ran(world.done(1))) == 1
        costs.append(len(looks))
    assert costs[1] <= costs[0] + 2 * nodes.LOOKED_AT
