"""The simulated nodes that exist at a time: losses and replacements."""

from __future__ import annotations

from typing import Any

import pytest

from taskvine_manager.scheduling.events import Event, NodeJoined, NodeLeft
from taskvine_tune.simulation.fleet import Fleet
from taskvine_tune.simulation.model import Cluster
from taskvine_tune.simulation.network import Clock, Network


class Around:
    """An environment in which no task runs."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.clock = Clock()
        self.network = Network(self.clock)
        self.most_calls = 64
        self.events: list[Event] = []

    def say(self, event: Event) -> None:
        self.events.append(event)


def fleet_of(cluster: Cluster, loss_rate: float = 0.0, seed: int = 0) -> tuple[Fleet, Any, list[float]]:
    around: Any = Around(cluster)
    times: list[float] = []
    fleet = Fleet(cluster.nodes, loss_rate, None, seed, around, lambda: times.append(around.clock.now))
    fleet.start()
    return fleet, around, times


def test_nodes_join_after_their_startup() -> None:
    fleet, around, _ = fleet_of(Cluster(3, 2, startup=4.0))
    assert fleet.get("n0") is None
    while around.clock.step():
        pass
    assert [event.info.name for event in around.events if isinstance(event, NodeJoined)] == ["n0", "n1", "n2"]
    assert around.clock.now == 4.0
    around.clock.after(1.5, lambda: None)
    around.clock.step()
    assert fleet.slot_seconds == pytest.approx(3 * 2 * 1.5)


def test_lost_nodes_are_replaced_by_others() -> None:
    fleet, around, times = fleet_of(Cluster(2, startup=1.0), loss_rate=0.1)
    while fleet.losses < 3 and around.clock.step():
        pass
    assert len(times) == 3
    assert sum(isinstance(event, NodeLeft) for event in around.events) == 3
    for _ in range(2):
        around.clock.step()
    joined = [event.info.name for event in around.events if isinstance(event, NodeJoined)]
    assert len(set(joined)) == len(joined) > 3


def test_lost_nodes_are_gone_without_replacement() -> None:
    fleet, around, times = fleet_of(Cluster(4, replace=False), loss_rate=0.1)
    while around.clock.step():
        pass
    assert fleet.losses == len(times) == 4
    assert all(fleet.get(f"n{number}") is None for number in range(4))
    assert fleet.slot_seconds == pytest.approx(sum(times))
