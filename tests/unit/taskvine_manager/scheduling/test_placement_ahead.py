"""Placement: short tasks that are sent ahead to the node that produces their inputs."""

from __future__ import annotations

from typing import Any

import pytest

from taskvine_manager.run_times import LARGE_RESULT
from taskvine_manager.runtime import failure
from taskvine_manager.scheduling.events import Kill, Returned, Run
from taskvine_manager.scheduling.nodes import AHEAD
from taskvine_manager.wire.messages import L1, Invocation
from tests.unit.taskvine_manager.scheduling.world import (
    World,
    only,
    ran,
    records,
    runs,
    temp,
    value,
)

SHORT: dict[str, Any] = {"category": "short"}


def follower(world: World, *names: str, makes: str | None = None, **fields: Any) -> Invocation:
    outputs = (value(makes),) if makes else ()
    return world.invocation(inputs=tuple(value(name) for name in names), outputs=outputs, **{**SHORT, **fields})


def short_world(cores: float = 1.0, count: int = 1) -> World:
    """Nodes, and calls that are known to be short."""
    world = World()
    for number in range(count):
        world.join(f"n{number}", cores=cores)
    world.call(**SHORT)
    world.done(0, seconds=0.001)
    return world


def test_short_calls_are_sent_behind_their_producers() -> None:
    world = short_world()
    told = world.submit(
        follower(world, makes="v1"), follower(world, "v1", makes="v2"), follower(world, "v1", "v2", makes="v3")
    )
    assert runs(told) == {"n0": [1, 2, 3]}
    (run,) = only(Run, told)
    assert (run.values, run.sources) == ({}, {})
    assert world.core.waiting == 0
    assert not only(Run, world.done(1, body=b"one", seconds=0.001))


def test_short_calls_follow_an_earlier_producer() -> None:
    world = short_world()
    world.submit(follower(world, makes="v1"))
    assert runs(world.submit(follower(world, "v1"))) == {"n0": [2]}


def test_calls_of_unknown_length_do_not_follow() -> None:
    world = short_world()
    told = world.submit(follower(world, makes="v1"), follower(world, "v1", category="unknown"))
    assert ran(told) == [1]
    assert world.core.waiting == 1


@pytest.mark.parametrize("fields", [{"needs": ["file"]}, {"makes_file": True}, {"mode": L1}])
def test_l1_tasks_and_calls_with_files_do_not_follow(fields: dict[str, Any]) -> None:
    world = short_world()
    world.make("file")
    first = follower(world, makes="v1")
    if fields.get("makes_file"):
        second = world.invocation(inputs=(value("v1"),), outputs=(temp("new"),), **SHORT)
    elif "needs" in fields:
        second = world.invocation(inputs=(value("v1"), temp("file")), **SHORT)
    else:
        second = follower(world, "v1", mode=L1)
    assert ran(world.submit(first, second)) == [first.number]


def test_calls_whose_inputs_are_made_on_two_nodes_do_not_follow() -> None:
    world = short_world(count=2)
    world.submit(follower(world, makes="v1"), follower(world, makes="v2"))
    assert world.nodes[1] != world.nodes[2]
    assert not ran(world.submit(follower(world, "v1", "v2")))


def test_calls_follow_where_their_other_input_is() -> None:
    world = short_world(count=2)
    world.submit(follower(world, makes="v1"))
    world.done(1, made=[("v1", 100)], body="elsewhere", seconds=0.001)
    home = world.nodes[1]
    world.submit(follower(world, "v1", makes="v2"))
    assert world.nodes[2] == home
    assert runs(world.submit(follower(world, "v1", "v2"))) == {home: [3]}


def test_small_inputs_are_sent_with_followers() -> None:
    world = short_world()
    world.submit(follower(world, makes="v1"))
    world.done(1, body=b"one", seconds=0.001)
    told = world.submit(follower(world, makes="v2"), follower(world, "v1", "v2"))
    (run,) = only(Run, told)
    assert [task.invocation.number for task in run.tasks] == [2, 3]
    assert run.values == {"v1": b"one"}


def test_number_of_followers_is_limited() -> None:
    world = short_world()
    chain = [follower(world, makes="v0")] + [follower(world, f"v{step}", makes=f"v{step + 1}") for step in range(100)]
    first = ran(world.submit(*chain))
    assert first == list(range(1, len(first) + 1))
    assert 1 < len(first) <= 33
    rest = ran(world.done(1, body=b"x", seconds=0.001))
    assert rest == [len(first) + 1]


def test_long_chain_runs_in_order() -> None:
    world = short_world(count=3, cores=2)
    chain = [follower(world, makes="v0")] + [follower(world, f"v{step}", makes=f"v{step + 1}") for step in range(300)]
    world.submit(*chain)
    ended = []
    while any(node.assigned for node in world.core.nodes.values()):
        number = min(number for node in world.core.nodes.values() for number in node.assigned)
        ended.append(number)
        world.done(number, body=b"x", seconds=0.001)
    assert ended == [invocation.number for invocation in chain]
    world.forget(*world.names())
    assert world.is_clean()


def test_followers_come_back_when_their_producer_fails() -> None:
    """The node gives them back; they wait for the task that makes their input, which is retried."""
    world = short_world()
    world.submit(follower(world, makes="v1"), follower(world, "v1"))
    world.done(1, outcome=failure.RAISED)
    world.handle(Returned("n0", (2,)))
    assert world.core.waiting == 1
    retry = follower(world, makes="v1")
    assert ran(world.submit(retry)) == [2, retry.number]  # behind it, again
    assert world.core.waiting == 0


def test_returned_follower_with_its_input_is_ready() -> None:
    world = short_world()
    world.submit(follower(world, makes="v1"), follower(world, "v1"))
    told = world.done(1, body=b"one", seconds=0.001)
    told = world.handle(Returned("n0", (2,)))
    (run,) = only(Run, told)
    assert run.values == {"v1": b"one"}


def test_followers_of_a_lost_node_follow_on_the_next() -> None:
    world = short_world(count=2)
    world.submit(follower(world, makes="v1"), follower(world, "v1", makes="v2"), follower(world, "v2"))
    home = world.nodes[1]
    told = world.leave(home, told=True)
    assert 1 in ran(told)
    while any(node.assigned for node in world.core.nodes.values()):
        number = min(number for node in world.core.nodes.values() for number in node.assigned)
        world.done(number, body=b"x", seconds=0.001)
    assert not world.core.tasks


def test_followers_wait_for_a_retry_of_their_producer() -> None:
    world = World(max_retries=0)
    world.join("a", cores=1)
    world.call(**SHORT)
    world.done(0, seconds=0.001)
    world.submit(follower(world, makes="v1"), follower(world, "v1"))
    assert set(records(world.leave("a"))) == {1}
    assert world.core.waiting == 1
    world.join("b")
    retry = follower(world, makes="v1")
    world.submit(retry)
    world.done(retry.number, body=b"x", seconds=0.001)
    assert 2 in [number for node in world.core.nodes.values() for number in node.assigned]


def test_node_is_told_of_a_cancelled_follower() -> None:
    world = short_world()
    world.submit(follower(world, makes="v1"), follower(world, "v1"))
    assert only(Kill, world.cancel(2)) == [Kill("n0", [2])]
    world.done(1, body=b"x", seconds=0.001)
    world.forget("v1")
    assert world.is_clean()


def test_draining_node_gets_no_followers() -> None:
    world = short_world(count=2)
    world.submit(follower(world, makes="v1"))
    world.drain(world.nodes[1])
    assert not ran(world.submit(follower(world, "v1")))


# --- tasks that read large results ---


def reader_world(seconds: float = 0.01, stored: int = 100) -> World:
    """Two nodes for one call at a time, of which ``a`` has a large file; readers are known to run for some seconds."""
    world = World()
    world.join("a", cores=1)
    world.make("large", 1000)
    world.join("b", cores=1)
    task = world.invocation(makes=["known"], category="reader")
    world.submit(task)
    world.done(task.number, made=[("known", stored)], seconds=seconds)
    return world


def readers(world: World, count: int) -> list[str | None]:
    """Submit tasks that read the large file; return their nodes."""
    tasks = [world.invocation(needs=["large"], category="reader") for _ in range(count)]
    world.submit(*tasks)
    return [world.nodes.get(task.number) for task in tasks]


def test_one_reader_waits_behind_another_on_the_node_with_its_input() -> None:
    assert readers(reader_world(), 2) == ["a", "a"]


def test_no_more_than_one_reader_waits() -> None:
    assert readers(reader_world(), 3).count("a") == 2


@pytest.mark.parametrize("seconds", [0.2, 10.0])
def test_long_readers_are_not_sent_ahead(seconds: float) -> None:
    assert readers(reader_world(seconds), 2) == ["a", "b"]


def test_time_to_write_a_result_counts() -> None:
    assert readers(reader_world(0.01, stored=10**9), 2) == ["a", "b"]


def test_readers_are_not_sent_ahead_if_that_is_off() -> None:
    world = reader_world()
    world.tune(**{"executor.prefetch": 0})
    assert readers(world, 2) == ["a", "b"]


# --- tasks with large results ---


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [([100], 10), ([LARGE_RESULT], 2), ([LARGE_RESULT, 100, 100], 4), ([LARGE_RESULT, *[100] * AHEAD], 10)],
)
def test_few_calls_are_sent_ahead_after_a_large_result(sizes: list[int], expected: int) -> None:
    world = World()
    world.join("a", cores=1)
    for index, size in enumerate(sizes):
        task = world.invocation(makes=[f"file{index}"], **SHORT)
        world.submit(task)
        world.done(task.number, made=[(f"file{index}", size)], seconds=0.0001)
    assert len(ran(world.call(count=10, **SHORT))) == expected
