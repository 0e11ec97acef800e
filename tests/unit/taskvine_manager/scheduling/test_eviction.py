"""Eviction makes space for the outputs and inputs of tasks."""

from __future__ import annotations

from taskvine_manager.runtime import failure
from taskvine_manager.scheduling import eviction
from taskvine_manager.scheduling.events import Answer, Completed, Crowded, Drop, Finish, Full, RunAgain
from taskvine_manager.wire.messages import Completion
from tests.unit.taskvine_manager.scheduling.world import (
    Instructions,
    World,
    again,
    only,
    ran,
    sources,
    temp,
    value,
)

MB = 1 << 20


def crowd(*sizes: int, disk: int = 1000, **fields: bool) -> World:
    """A node of 1000 bytes with files f0, f1 and so on, results that no task waits for."""
    world = World()
    world.join("a", disk=disk / MB)
    for number, size in enumerate(sizes):
        world.make(f"f{number}", size, **fields)
    return world


def crowds(world: World, size: int, node: str = "a") -> Instructions:
    """A call on a node has made ``size`` bytes, for which the node has no space."""
    number = next(iter(world.core.nodes[node].assigned), None)
    if number is None:
        world.call(makes=["more"], cores=0.001)
        number = next(iter(world.core.nodes[node].assigned))
    return world.handle(Crowded(node, number, size))


def dropped(world: World, size: int) -> list[str]:
    told = crowds(world, size)
    return [file for drop in only(Drop, told) for file in drop.files if drop.node == "a"]


def test_cheapest_file_is_evicted_first() -> None:
    world = World()
    world.join("a", disk=1000 / MB)
    for number, seconds in enumerate((5.0, 1.0, 3.0)):
        world.call(makes=[f"f{number}"])
        world.done(number, made=[(f"f{number}", 300)], seconds=seconds)
    assert dropped(world, 300) == ["f1"]
    assert dropped(world, 700) == ["f2"]
    assert dropped(world, 1000) == ["f0"]
    assert world.core.nodes["a"].used == 0


def test_cost_of_a_file_includes_its_lost_inputs() -> None:
    world = World()
    world.join("a", disk=1000 / MB)
    world.call(outputs=(value("v"),))
    world.done(0, made=[("v", 10)], body="elsewhere", seconds=100.0)
    world.call(inputs=(value("v"),), makes=["cheap"])
    world.done(1, made=[("cheap", 300)], seconds=1.0)
    world.call(makes=["dear"])
    world.done(2, made=[("dear", 300)], seconds=10.0)
    world.forget("v")
    assert dropped(world, 600) == ["dear"]


def test_replicated_files_are_evicted_first() -> None:
    world = crowd(300, 300)
    world.replicate(2)
    world.join("b")
    world.cached("b", "f1")
    world.cached("b", "f0", "No space left on device")
    world.replicate(1)
    assert dropped(world, 500) == ["f1"]
    assert world.where("f1") == "b"


def test_unrecoverable_file_is_not_evicted() -> None:
    world = crowd(300, 300, recoverable=False)
    told = crowds(world, 900)
    assert told == [Full("a", [2])]
    assert len(world.core.nodes["a"].files) == 2


def test_file_in_use_is_not_evicted() -> None:
    world = crowd(300)
    world.call(needs=["f0"])
    assert crowds(world, 900) == [Full("a", [1])]


def test_replicated_file_in_use_is_not_evicted() -> None:
    world = World()
    world.replicate(2)
    world.join("a", cores=1, disk=1000 / MB)
    world.make("file", 300)
    world.join("b", cores=1)
    world.arrive()
    world.call(count=2, needs=["file"])
    for name in "ab":
        assert Full(name, list(world.core.nodes[name].assigned)) in crowds(world, MB * 1000, name)
    assert world.core.stats()["replicas"] == {"file": ["a", "b"]}


def test_source_of_a_transfer_is_not_evicted() -> None:
    world = crowd(300)
    world.replicate(2)
    world.join("b")
    assert crowds(world, 900) == [Full("a", [1])]
    world.cached("b", "f0")
    assert dropped(world, 900) == ["f0"]


def test_files_in_use_are_waited_for_before_a_result_is_given_up() -> None:
    world = crowd(300)
    world.call(needs=["f0"], makes=["a"])
    world.call(needs=["f0"], makes=["b"])
    assert not world.handle(Crowded("a", 1, 900))
    told = world.done(2, made=[("b", 10)])
    assert not only(Full, told)  # only the call that waits for space holds f0 now
    assert world.core.nodes["a"].crowded == {} or only(Drop, told)


def test_only_as_much_as_needed_is_evicted() -> None:
    world = crowd(200, 200, 200)
    assert len(dropped(world, 500)) == 1


def test_unknown_node_is_ignored() -> None:
    assert not World().handle(Crowded("a", 0, 1))


def test_evicted_file_is_recreated_for_a_new_reader() -> None:
    world = crowd(300)
    assert dropped(world, 900) == ["f0"]
    assert again(world.call(needs=["f0"])) == [(temp("f0"),)]
    assert ran(world.works(-1)) == [2]


def test_evicted_file_is_not_recreated_at_once() -> None:
    """It does not fit: it would evict another file, which would be recreated at once, and so on."""
    world = crowd(400, 400)
    world.tune(immediate_recovery=1)
    told = crowds(world, 600)
    assert only(Drop, told)
    assert not again(told)
    assert all(number >= 0 for number in world.core.tasks)


def test_space_is_made_for_inputs() -> None:
    world = World()
    world.join("a", cores=1, disk=1000 / MB)
    world.make("old", 700)
    world.call()
    world.join("b", cores=1)
    assert world.make("large", 500) == "b"
    world.call()
    world.works(1)
    told = world.call(needs=["large"])
    assert sources(told) == {"large": "b"}
    assert only(Drop, told) == [Drop("a", ["old"])]


def overfull() -> tuple[World, Instructions]:
    """A node of 30 bytes that has just made 40, all of which are waited for."""
    world = World()
    world.call(outputs=(value("v0"),))
    world.call(inputs=(value("v0"),))
    world.call(outputs=(temp("t2"), value("v2")))
    world.call(inputs=(temp("t2"), value("v2")))
    world.call(outputs=(value("v4"),))
    world.call(inputs=(temp("t2"), value("v4")))
    world.join("a", cores=3, disk=30 / MB)
    made = {0: ("v0",), 2: ("t2", "v2"), 4: ("v4",)}
    completions = [
        Completion(number, failure.RETURNED, "elsewhere", "a", 1.0, 1.0, 0.005, tuple((name, 10, 1) for name in names))
        for number, names in made.items()
    ]
    return world, world.handle(Completed("a", completions))


def test_evicted_input_of_a_ready_call_is_recreated() -> None:
    """Whatever is evicted, no task waits for ever."""
    world, _ = overfull()
    world.work()
    assert all(number >= 0 for number in world.core.tasks)
    assert world.core.stats()["tasks_done"] == 6


def test_result_is_reported_before_the_recreation() -> None:
    """Its output may be evicted in the same moment, for a task with a higher priority."""
    world = World()
    world.join("a", cores=1, disk=1000 / MB)
    world.make("first", 300)
    world.call(makes=["second"])
    world.join("b", cores=1)
    world.make("large", 500)
    world.call()
    world.call(needs=["first", "never"], priority=3.0)
    world.call(needs=["second"], priority=-1.0)
    world.call(needs=["large"], priority=5.0)
    told = world.done(1, made=[("second", 600)])
    assert Drop("a", ["second"]) in told
    kinds = [type(item) for item in told]
    assert kinds.index(Finish) < kinds.index(RunAgain)


# --- tasks that have ended together, each with the inputs of others ---


def gave_up(world: World, *numbers: int) -> Instructions:
    """The node has given up the outputs of tasks."""
    return world.done(*numbers, outcome=failure.LOST, body=failure.lost("disk-full", "no room for the result"))


def two_crowded(world: World) -> None:
    """Two tasks have ended on a full node. Each has an input that the output of the other could replace."""
    world.join("a", cores=2, disk=1000 / MB)
    for name in ("f0", "f1"):
        world.make(name, 500)
    for number in range(2):
        world.call(needs=[f"f{number}"], makes=[f"g{number}"])


def test_all_but_the_first_task_give_up_their_outputs_and_run_again() -> None:
    world = World()
    two_crowded(world)
    assert not world.handle(Crowded("a", 3, 400))  # the other task still runs
    assert world.handle(Crowded("a", 2, 400)) == [Full("a", [3])]
    told = gave_up(world, 3)
    assert only(Drop, told) == [Drop("a", ["f1"])]  # no task on the node reads it now
    assert again(told) == [(temp("f1"),)]
    world.done(2, made=[("g0", 400)])
    world.works(-1, size=500)
    assert not only(Finish, world.works(3))[0].completions[0].outcome
    assert world.core.tasks == {}


def test_tasks_that_must_not_run_again_keep_their_outputs() -> None:
    world = World()
    world.join("a", cores=2, disk=1000 / MB)
    world.make("f0", 500)
    world.call(needs=["f0"], makes=["g0"])
    world.call(needs=["f0"], makes=["g1"], recoverable=False)
    world.handle(Crowded("a", 2, 600))
    assert world.handle(Crowded("a", 1, 600)) == [Full("a", [2, 1])]
    assert [each.outcome for each in only(Finish, gave_up(world, 1, 2))[0].completions] == [failure.LOST] * 2


def test_node_with_crowded_tasks_takes_no_others() -> None:
    world = World()
    world.join("a", cores=3, disk=1000 / MB)
    for name in ("f", "g"):
        world.call(makes=[name])
    world.handle(Crowded("a", 0, 1001))
    assert not world.call()
    assert ran(gave_up(world, 1)) == [2]  # the node was told that the other task's file does not fit


def test_task_of_the_user_may_evict_the_files_of_the_first_task() -> None:
    world = World()
    world.join("a", cores=1, disk=1000 / MB)
    world.make("f0", 500)
    world.make("f1", 500)
    world.call(makes=["g"])
    world.call(needs=["f0", "f1"], priority=1.0)
    assert only(Drop, world.handle(Crowded("a", 2, 900))) == [Drop("a", ["f1", "f0"])]


def test_recovery_gives_way_for_a_limited_time() -> None:
    world = World()
    world.join("a", cores=1, disk=1000 / MB)
    world.make("old", 300)
    assert dropped(world, 900) == ["old"]
    gave_up(world, 1)
    world.make("f", 500)
    world.ask("old")
    world.call(needs=["f", "never"], priority=1.0)
    for _ in range(eviction.MAX_YIELDS):
        assert only(Full, world.handle(Crowded("a", -1, 900))) == [Full("a", [-1])]
        assert ran(gave_up(world, -1)) == [-1]
    world.handle(Crowded("a", -1, 900))
    (answer,) = only(Answer, gave_up(world, -1))
    assert b"no room for the result" in answer.record
