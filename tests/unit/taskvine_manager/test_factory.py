"""The number of nodes that should exist, and how the factory starts them."""

from __future__ import annotations

import math
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import given

from taskvine_manager import factory
from taskvine_manager.engine_api import NodesFail
from taskvine_manager.factory import NodeFactory, wanted

counts = st.integers(0, 50)


@st.composite
def bounds(draw: st.DrawFn) -> tuple[int, int]:
    minimum = draw(counts)
    return minimum, draw(st.integers(max(1, minimum), 60))


@given(running=counts, demand=st.floats(0, 1e6), per_node=st.floats(0, 200), limits=bounds())
def test_number_of_nodes_is_within_bounds(
    running: int, demand: float, per_node: float, limits: tuple[int, int]
) -> None:
    minimum, maximum = limits
    count = wanted(running=running, demand=demand, per_node=per_node, minimum=minimum, maximum=maximum)
    assert count >= running, "nodes leave by themselves"
    assert count <= max(running, maximum)
    assert count >= minimum
    if running < count > minimum:
        assert (count - 1) * max(per_node, 1.0) < demand, "one fewer would have done"
    if count < maximum:
        assert count * max(per_node, 1.0) >= demand or math.isclose(count * max(per_node, 1.0), demand)


@given(running=counts, demand=st.floats(0, 1e6), more=st.floats(0, 1e6), limits=bounds())
def test_more_work_never_means_fewer_nodes(running: int, demand: float, more: float, limits: tuple[int, int]) -> None:
    def count(of: float) -> int:
        return wanted(running=running, demand=of, per_node=4, minimum=limits[0], maximum=limits[1])

    assert count(demand + more) >= count(demand)


@pytest.mark.parametrize(
    ("running", "demand", "per_node", "expected"),
    [
        (0, 0, 4, 1),
        (0, 1, 4, 1),
        (1, 4, 4, 1),
        (1, 5, 4, 2),
        (1, 1000, 4, 3),
        (3, 0, 4, 3),
        (4, 1000, 4, 4),
        (0, 2, 0.5, 2),
    ],
)
def test_number_of_nodes_follows_from_the_work(running: int, demand: float, per_node: float, expected: int) -> None:
    assert wanted(running=running, demand=demand, per_node=per_node, minimum=1, maximum=3) == expected


class FakeProcess:
    """A process that ends when a test says so."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.returncode: int | None = None

    def poll(self) -> int | None:
        return self.returncode

    def kill(self) -> None:
        self.returncode = -9

    def wait(self) -> int:
        assert self.returncode is not None
        return self.returncode


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[FakeProcess]:
    processes: list[FakeProcess] = []

    def start(command: list[str], **_: Any) -> FakeProcess:
        assert command == ["node"]
        processes.append(FakeProcess(100 + len(processes)))
        return processes[-1]

    monkeypatch.setattr(factory.subprocess, "Popen", start)
    return processes


def test_nodes_are_started_with_the_work(started: list[FakeProcess]) -> None:
    nodes = NodeFactory(("node",), 1, 3)
    nodes.adjust(set(), 0, 1.0)
    assert len(started) == 1
    nodes.adjust({100}, 5, 2.0)
    assert len(started) == 3
    nodes.adjust({100, 101, 102}, 50, 2.0)
    assert len(started) == 3


def test_number_of_nodes_may_be_limited_for_a_time(started: list[FakeProcess]) -> None:
    nodes = NodeFactory(("node",), 2, 4)
    nodes.adjust(set(), 50, 1.0, 1)
    assert len(started) == 1
    nodes.adjust({100}, 50, 1.0, 3)
    assert len(started) == 3
    nodes.adjust({100, 101, 102}, 50, 1.0, 9)
    assert len(started) == 4


def test_ended_node_is_replaced(started: list[FakeProcess]) -> None:
    nodes = NodeFactory(("node",), 1, 1)
    for round_ in range(20):
        nodes.adjust(set(), 0, 1.0)
        assert len(started) == round_ + 1
        nodes.adjust({started[-1].pid}, 0, 1.0)
        started[-1].returncode = round_ % 2


def test_too_many_nodes_that_never_join_are_an_error(started: list[FakeProcess]) -> None:
    nodes = NodeFactory(("node",), 1, 1)
    for _ in range(NodeFactory.FAILURES):
        nodes.adjust(set(), 0, 1.0)
        started[-1].returncode = 1
    with pytest.raises(NodesFail):
        nodes.adjust(set(), 0, 1.0)
    assert len(started) == NodeFactory.FAILURES


def test_node_that_joins_resets_the_count(started: list[FakeProcess]) -> None:
    nodes = NodeFactory(("node",), 1, 1)
    for _ in range(3):
        for _ in range(NodeFactory.FAILURES - 1):
            nodes.adjust(set(), 0, 1.0)
            started[-1].returncode = 1
        nodes.adjust(set(), 0, 1.0)
        nodes.adjust({started[-1].pid}, 0, 1.0)
        started[-1].returncode = 0


def test_all_nodes_end_with_the_factory(started: list[FakeProcess]) -> None:
    nodes = NodeFactory(("node",), 3, 3)
    nodes.adjust(set(), 0, 1.0)
    nodes.kill()
    nodes.kill()
    assert [process.returncode for process in started] == [-9, -9, -9]
