"""The scheduler: the order of what is ready, calls that follow their makers, and what a decision costs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from taskvine_manager.runtime import failure
from taskvine_manager.scheduling import core, nodes, replication, transfers
from taskvine_manager.scheduling.core import State
from taskvine_manager.scheduling.tasks import Queue, Shape, Task
from taskvine_manager.wire.messages import L1, L2, Completion, Invocation, Profile
from tests.unit.taskvine_manager.scheduling.world import (
    Instructions,
    World,
    local,
    only,
    ran,
    records,
    runs,
    temp,
    value,
)

PLAIN = Shape(L2, None, None, None, None)


def task(number: int, *, priority: float = 0.0, path: int = 1, depth: int = 0) -> Task:
    profile = Profile(0, "f", "name", L2, None, None, None, None, priority, "c")
    made = Task(Invocation(number, 0, b""), profile, PLAIN, number)
    made.path, made.depth = path, depth
    made.move(State.READY)
    return made


def one_by_one(world: World) -> list[int]:
    """Have a node of one core do everything; say in which order."""
    world.join("a", cores=1)
    return world.work()


# --- queues ---------------------------------------------------------------------------------------------------------


def test_order_is_priority_then_path_then_depth_then_arrival() -> None:
    queue = Queue()
    expected = [
        task(6, priority=1.0),
        task(5, path=3),
        task(4, path=2, depth=1),
        task(2, path=2),
        task(3, path=2),
        task(0),
        task(1),
    ]
    for each in sorted(expected, key=lambda each: each.sequence):
        queue.push(each)
    found = []
    while queue.head() is not None:
        found.append(queue.pop())
        found[-1].move(State.ASSIGNED)
    assert [each.invocation.number for each in found] == [each.invocation.number for each in expected]


def test_a_task_whose_order_has_changed_is_pushed_again_and_taken_once() -> None:
    queue = Queue()
    first, second = task(0), task(1)
    queue.push(first)
    queue.push(second)
    second.path = 9
    queue.push(second)
    assert queue.head() is second
    queue.pop().move(State.ASSIGNED)
    assert queue.head() is first
    queue.pop().move(State.ASSIGNED)
    assert queue.head() is None


# --- order ----------------------------------------------------------------------------------------------------------


def test_the_longest_path_goes_first() -> None:
    world = World()
    world.submit(
        world.invocation(),
        world.invocation(makes=["a"]),
        world.invocation(needs=["a"]),
        world.invocation(makes=["b"]),
        world.invocation(needs=["b"], makes=["c"]),
        world.invocation(needs=["c"]),
    )
    assert one_by_one(world) == [3, 4, 5, 1, 2, 0]


def test_a_chain_that_has_begun_ends_before_another_of_its_length_begins() -> None:
    world = World()
    steps = [
        world.invocation(needs=[f"{name}{step - 1}"] if step else [], makes=[f"{name}{step}"])
        for step in range(3)
        for name in "abc"
    ]
    world.submit(*steps)
    assert one_by_one(world) == [0, 3, 6, 1, 4, 7, 2, 5, 8]


def test_priority_comes_before_the_path() -> None:
    world = World()
    world.submit(
        world.invocation(makes=["a"]), world.invocation(needs=["a"]), world.invocation(priority=1.0), world.invocation()
    )
    assert one_by_one(world) == [2, 0, 1, 3]


def test_a_path_that_grows_later_makes_those_urgent_that_are_ready_by_then() -> None:
    world = World()
    world.submit(world.invocation(), world.invocation(makes=["a"]))
    world.submit(world.invocation(needs=["a"]))
    assert one_by_one(world) == [1, 2, 0]


def test_what_is_alike_goes_by_arrival() -> None:
    world = World()
    world.call(count=5)
    assert one_by_one(world) == [0, 1, 2, 3, 4]


def test_a_call_that_waits_for_a_transfer_lets_others_go_first() -> None:
    world = World()
    world.tune(worker_source_max_transfers=1)
    world.join("a", cores=1)
    world.make("file")
    world.call(cores=1.0)
    world.join("b", cores=2)
    told = world.call(count=2, needs=["file"], priority=1.0, mode=L1)
    assert ran(told) == [2, 3]  # the file is on its way to b for both
    world.join("c", cores=1)
    assert not ran(world.call(needs=["file"], priority=1.0, mode=L1))
    assert ran(world.call()) == [5]


# --- calls that follow their makers ---------------------------------------------------------------------------------

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


def test_short_calls_are_sent_behind_those_that_make_their_inputs() -> None:
    world = short_world()
    told = world.submit(
        follower(world, makes="v1"), follower(world, "v1", makes="v2"), follower(world, "v1", "v2", makes="v3")
    )
    assert runs(told) == {"n0": [1, 2, 3]}
    (run,) = only(core.Run, told)
    assert (run.values, run.sources) == ({}, {})
    assert world.core.waiting == 0
    assert not only(core.Run, world.done(1, body=b"one", seconds=0.001))


def test_short_calls_follow_a_maker_that_was_there_before() -> None:
    world = short_world()
    world.submit(follower(world, makes="v1"))
    assert runs(world.submit(follower(world, "v1"))) == {"n0": [2]}


def test_calls_not_known_to_be_short_do_not_follow() -> None:
    world = short_world()
    told = world.submit(follower(world, makes="v1"), follower(world, "v1", category="unknown"))
    assert ran(told) == [1]
    assert world.core.waiting == 1


@pytest.mark.parametrize("fields", [{"needs": ["file"]}, {"makes_file": True}, {"mode": L1}])
def test_calls_with_files_or_processes_of_their_own_do_not_follow(fields: dict[str, Any]) -> None:
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


def test_small_inputs_that_are_there_go_with_those_that_follow() -> None:
    world = short_world()
    world.submit(follower(world, makes="v1"))
    world.done(1, body=b"one", seconds=0.001)
    told = world.submit(follower(world, makes="v2"), follower(world, "v1", "v2"))
    (run,) = only(core.Run, told)
    assert [task.invocation.number for task in run.tasks] == [2, 3]
    assert run.values == {"v1": b"one"}


def test_no_more_follow_than_are_given_out_ahead() -> None:
    world = short_world()
    chain = [follower(world, makes="v0")] + [follower(world, f"v{step}", makes=f"v{step + 1}") for step in range(100)]
    first = ran(world.submit(*chain))
    assert first == list(range(1, len(first) + 1))
    assert 1 < len(first) <= 33
    rest = ran(world.done(1, body=b"x", seconds=0.001))
    assert rest == [len(first) + 1]


def test_all_of_a_long_chain_runs_in_order() -> None:
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


def test_followers_come_back_when_their_maker_fails() -> None:
    """The node gives them back; they wait for a maker that is tried again."""
    world = short_world()
    world.submit(follower(world, makes="v1"), follower(world, "v1"))
    world.done(1, outcome=failure.RAISED)
    world.handle(core.Returned("n0", (2,)))
    assert world.core.waiting == 1
    retry = follower(world, makes="v1")
    assert ran(world.submit(retry)) == [2, retry.number]  # behind it, again
    assert world.core.waiting == 0


def test_a_follower_that_was_given_back_and_has_its_input_is_ready() -> None:
    world = short_world()
    world.submit(follower(world, makes="v1"), follower(world, "v1"))
    told = world.done(1, body=b"one", seconds=0.001)
    told = world.handle(core.Returned("n0", (2,)))
    (run,) = only(core.Run, told)
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


def test_followers_of_what_lost_its_node_too_often_wait_for_a_retry() -> None:
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


def test_a_follower_is_cancelled_with_its_node_told() -> None:
    world = short_world()
    world.submit(follower(world, makes="v1"), follower(world, "v1"))
    assert only(core.Kill, world.cancel(2)) == [core.Kill("n0", [2])]
    world.done(1, body=b"x", seconds=0.001)
    world.forget("v1")
    assert world.is_clean()


def test_nothing_follows_to_a_node_that_drains() -> None:
    world = short_world(count=2)
    world.submit(follower(world, makes="v1"))
    world.drain(world.nodes[1])
    assert not ran(world.submit(follower(world, "v1")))


# --- what a decision costs ------------------------------------------------------------------------------------------


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of nodes that were looked at: for room, or as target or source of a transfer."""
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
    """Many nodes of one core, some of them free."""
    world = World()
    world.replicate(2)
    for number in range(count):
        world.join(f"n{number:04}", cores=1)
    world.call(count=count - free)
    return world


def decide(world: World, looks: list[str], submit: Any) -> int:
    """The most that one of several alike decisions has cost."""
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
def test_a_decision_costs_the_same_with_ten_times_the_nodes(submit: Any, free: int, looks: list[str]) -> None:
    few = decide(busy_cluster(50, free), looks, submit)
    many = decide(busy_cluster(500, free * 10), looks, submit)
    assert many <= few + nodes.LOOKED_AT
    assert many <= 8 * nodes.LOOKED_AT


def test_a_file_that_all_nodes_have_costs_its_readers_no_more(looks: list[str]) -> None:
    costs = []
    for count in (40, 400):
        world = busy_cluster(count)
        world.handle(core.Submitted((), [world.invocation(makes=["file"])]))
        maker = max(world.invocations)
        world.works(maker)
        stamp = (("file", 100, 1),)
        for name in list(world.core.nodes):
            world.handle(core.Completed(name, [Completion(-99, failure.RETURNED, b"", name, 1.0, 1.0, 1.0, stamp)]))
        assert len(world.core.stats()["replicas"]["file"]) == count
        looks.clear()
        assert ran(world.call(needs=["file"]))
        costs.append(len(looks))
    assert costs[1] <= costs[0] + nodes.LOOKED_AT


def test_a_completion_is_answered_without_a_look_at_other_nodes(looks: list[str]) -> None:
    costs = []
    for count in (50, 500):
        world = busy_cluster(count)
        world.call(count=3 + 20)  # all nodes are busy now, and some calls wait
        world.done(0)
        looks.clear()
        assert len(ran(world.done(1))) == 1
        costs.append(len(looks))
    assert costs[1] <= costs[0] + 2


def test_calls_of_two_kinds_that_wait_cost_no_look_at_all_nodes(looks: list[str]) -> None:
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
