"""Eviction: room for what tasks produce and read."""

from __future__ import annotations

from taskvine_manager.runtime import failure
from taskvine_manager.scheduling import core, eviction
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
    """A node of 1000 bytes with files f0, f1 and so on, results that nobody waits for."""
    world = World()
    world.join("a", disk=disk / MB)
    for number, size in enumerate(sizes):
        world.make(f"f{number}", size, **fields)
    return world


def crowds(world: World, size: int, node: str = "a") -> Instructions:
    """A call on a node has made so many bytes, and there is no room for them."""
    number = next(iter(world.core.nodes[node].assigned), None)
    if number is None:
        world.call(makes=["more"], cores=0.001)
        number = next(iter(world.core.nodes[node].assigned))
    return world.handle(core.Crowded(node, number, size))


def dropped(world: World, size: int) -> list[str]:
    told = crowds(world, size)
    return [file for drop in only(core.Drop, told) for file in drop.files if drop.node == "a"]


def test_what_is_cheapest_to_make_again_goes_first() -> None:
    world = World()
    world.join("a", disk=1000 / MB)
    for number, seconds in enumerate((5.0, 1.0, 3.0)):
        world.call(makes=[f"f{number}"])
        world.done(number, made=[(f"f{number}", 300)], seconds=seconds)
    assert dropped(world, 300) == ["f1"]
    assert dropped(world, 700) == ["f2"]
    assert dropped(world, 1000) == ["f0"]
    assert world.core.nodes["a"].used == 0


def test_the_cost_of_a_file_is_that_of_all_that_is_lost_before_it() -> None:
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


def test_what_another_node_has_too_goes_before_all_else() -> None:
    world = crowd(300, 300)
    world.replicate(2)
    world.join("b")
    world.cached("b", "f1")
    world.cached("b", "f0", "No space left on device")
    world.replicate(1)
    assert dropped(world, 500) == ["f1"]
    assert world.where("f1") == "b"


def test_what_cannot_be_made_again_is_not_evicted_and_the_node_is_told() -> None:
    world = crowd(300, 300, recoverable=False)
    told = crowds(world, 900)
    assert told == [core.Full("a", [2])]
    assert len(world.core.nodes["a"].files) == 2


def test_what_is_being_read_is_not_evicted() -> None:
    world = crowd(300)
    world.call(needs=["f0"])
    assert crowds(world, 900) == [core.Full("a", [1])]


def test_what_is_being_read_is_not_evicted_though_another_node_has_it() -> None:
    world = World()
    world.replicate(2)
    world.join("a", cores=1, disk=1000 / MB)
    world.make("file", 300)
    world.join("b", cores=1)
    world.arrive()
    world.call(count=2, needs=["file"])
    for name in "ab":
        assert core.Full(name, list(world.core.nodes[name].assigned)) in crowds(world, MB * 1000, name)
    assert world.core.stats()["replicas"] == {"file": ["a", "b"]}


def test_what_is_being_copied_is_not_evicted_from_where_it_is_read() -> None:
    world = crowd(300)
    world.replicate(2)
    world.join("b")
    assert crowds(world, 900) == [core.Full("a", [1])]
    world.cached("b", "f0")
    assert dropped(world, 900) == ["f0"]


def test_what_others_read_is_waited_for_before_a_result_is_given_up() -> None:
    world = crowd(300)
    world.call(needs=["f0"], makes=["a"])
    world.call(needs=["f0"], makes=["b"])
    assert not world.handle(core.Crowded("a", 1, 900))
    told = world.done(2, made=[("b", 10)])
    assert not only(core.Full, told)  # nothing but the one that waits for room holds f0 now
    assert world.core.nodes["a"].crowded == {} or only(core.Drop, told)


def test_no_more_is_evicted_than_is_needed() -> None:
    world = crowd(200, 200, 200)
    assert len(dropped(world, 500)) == 1


def test_a_node_that_is_not_known_is_not_crowded() -> None:
    assert not World().handle(core.Crowded("a", 0, 1))


def test_what_was_evicted_is_made_again_for_who_comes_for_it() -> None:
    world = crowd(300)
    assert dropped(world, 900) == ["f0"]
    assert again(world.call(needs=["f0"])) == [(temp("f0"),)]
    assert ran(world.works(-1)) == [2]


def test_what_was_evicted_is_not_made_again_at_once() -> None:
    """There is no room for it: it would drive out another, which would be made again at once, and so on."""
    world = crowd(400, 400)
    world.tune(immediate_recovery=1)
    told = crowds(world, 600)
    assert only(core.Drop, told)
    assert not again(told)
    assert all(number >= 0 for number in world.core.tasks)


def test_room_is_made_for_what_a_call_brings() -> None:
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
    assert only(core.Drop, told) == [core.Drop("a", ["old"])]


def overfull() -> tuple[World, Instructions]:
    """A node of 30 bytes that has just made 40, all of which somebody waits for."""
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
    return world, world.handle(core.Completed("a", completions))


def test_what_is_evicted_from_under_a_ready_call_is_made_again() -> None:
    """Whatever is evicted: nobody waits for ever."""
    world, _ = overfull()
    world.work()
    assert all(number >= 0 for number in world.core.tasks)
    assert world.core.stats()["tasks_done"] == 6


def test_a_call_is_said_to_have_returned_before_it_is_said_to_run_again() -> None:
    """What it made may be evicted in the same moment, for a call that comes first."""
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
    assert core.Drop("a", ["second"]) in told
    kinds = [type(item) for item in told]
    assert kinds.index(core.Finish) < kinds.index(core.RunAgain)


# --- tasks that have ended together, each with the inputs of others ---


def gave_up(world: World, *numbers: int) -> Instructions:
    """The node has given up the outputs of tasks."""
    return world.done(*numbers, outcome=failure.LOST, body=failure.lost("disk-full", "no room for the result"))


def two_crowded(world: World) -> None:
    """Two tasks have ended on a full node, each with an input of its own that the other's output could replace."""
    world.join("a", cores=2, disk=1000 / MB)
    for name in ("f0", "f1"):
        world.make(name, 500)
    for number in range(2):
        world.call(needs=[f"f{number}"], makes=[f"g{number}"])


def test_all_but_the_first_task_give_up_their_outputs_and_run_again() -> None:
    world = World()
    two_crowded(world)
    assert not world.handle(core.Crowded("a", 3, 400))  # the other task still runs
    assert world.handle(core.Crowded("a", 2, 400)) == [core.Full("a", [3])]
    told = gave_up(world, 3)
    assert only(core.Drop, told) == [core.Drop("a", ["f1"])]  # nothing on the node reads it any more
    assert again(told) == [(temp("f1"),)]
    world.done(2, made=[("g0", 400)])
    world.works(-1, size=500)
    assert not only(core.Finish, world.works(3))[0].completions[0].outcome
    assert world.core.tasks == {}


def test_tasks_that_must_not_run_again_keep_their_outputs() -> None:
    world = World()
    world.join("a", cores=2, disk=1000 / MB)
    world.make("f0", 500)
    world.call(needs=["f0"], makes=["g0"])
    world.call(needs=["f0"], makes=["g1"], recoverable=False)
    world.handle(core.Crowded("a", 2, 600))
    assert world.handle(core.Crowded("a", 1, 600)) == [core.Full("a", [2, 1])]
    assert [each.outcome for each in only(core.Finish, gave_up(world, 1, 2))[0].completions] == [failure.LOST] * 2


def test_node_with_crowded_tasks_takes_no_others() -> None:
    world = World()
    world.join("a", cores=3, disk=1000 / MB)
    for name in ("f", "g"):
        world.call(makes=[name])
    world.handle(core.Crowded("a", 0, 1001))
    assert not world.call()
    assert ran(gave_up(world, 1)) == [2]  # the node was told that there is no room for the other one's file


def test_task_of_the_user_may_evict_the_files_of_the_first_task() -> None:
    world = World()
    world.join("a", cores=1, disk=1000 / MB)
    world.make("f0", 500)
    world.make("f1", 500)
    world.call(makes=["g"])
    world.call(needs=["f0", "f1"], priority=1.0)
    assert only(core.Drop, world.handle(core.Crowded("a", 2, 900))) == [core.Drop("a", ["f1", "f0"])]


def test_recovery_gives_way_to_the_first_task_but_not_for_ever() -> None:
    world = World()
    world.join("a", cores=1, disk=1000 / MB)
    world.make("old", 300)
    assert dropped(world, 900) == ["old"]
    gave_up(world, 1)
    world.make("f", 500)
    world.ask("old")
    world.call(needs=["f", "never"], priority=1.0)
    for _ in range(eviction.MAX_YIELDS):
        assert only(core.Full, world.handle(core.Crowded("a", -1, 900))) == [core.Full("a", [-1])]
        assert ran(gave_up(world, -1)) == [-1]
    world.handle(core.Crowded("a", -1, 900))
    (answer,) = only(core.Answer, gave_up(world, -1))
    assert b"no room for the result" in answer.record
