"""The scheduler: files that were lost are made again, as far as somebody needs them, and no record outlives its use."""

from __future__ import annotations

from typing import Any

import pytest

from taskvine_manager.runtime import failure
from taskvine_manager.scheduling import core
from taskvine_manager.wire.messages import FileUse
from tests.unit.taskvine_manager.scheduling.world import (
    Instructions,
    World,
    again,
    finished,
    only,
    ran,
    records,
    runs,
    temp,
    unread,
    value,
)


def chain(world: World, length: int, **fields: Any) -> list[int]:
    """Have a chain of calls run; each forgets what came before, as results are when only the last is kept."""
    numbers = []
    for step in range(length):
        invocation = world.invocation(needs=[f"f{step - 1}"] if step else [], makes=[f"f{step}"], **fields)
        world.submit(invocation)
        numbers.append(invocation.number)
        world.works(invocation.number)
        if step:
            world.forget(f"f{step - 1}")
    return numbers


def made_again(instructions: Instructions) -> list[str]:
    return sorted(use.source for outputs in again(instructions) for use in outputs)


def recover(world: World) -> list[str]:
    """Have everything run to its end; say what was made again, in order."""
    return [use.source for number in world.work() if number < 0 for use in world.invocations[number].outputs]


# --- what is run again ----------------------------------------------------------------------------------------------


def test_a_consumer_that_waits_has_its_lost_file_made_again_and_runs() -> None:
    world = World()
    world.join("a")
    world.make("file")
    world.call(needs=["file", "other"])
    told = world.leave("a")
    assert not finished(told)
    assert only(core.Again, told) == [core.Again([0])]
    told = world.join("b")
    assert again(told) == [(temp("file"),)]
    assert not finished(world.works(*ran(told)))  # nobody is told of it
    world.make("other")
    assert world.nodes[1] == "b"
    assert world.core.stats()["tasks_recovered"] == 1
    assert world.core.stats()["tasks_done"] == 2


def test_a_consumer_that_was_ready_waits_for_its_file_again() -> None:
    world = World()
    world.join("a", cores=1)
    world.make("file")
    world.call()
    world.call(needs=["file"])
    assert (world.core.ready, world.core.waiting) == (1, 0)
    world.leave("a")
    assert world.core.waiting == 1
    world.join("b", cores=1)
    assert recover(world) == ["file"]
    assert world.core.stats()["tasks_pending"] == 0


def test_a_consumer_that_ran_on_the_lost_node_runs_after_its_file_is_made_again() -> None:
    world = World()
    world.join("a")
    world.make("file")
    assert ran(world.call(needs=["file"])) == [1]
    world.leave("a")
    assert world.core.waiting == 1
    told = world.join("b")
    assert ran(told) == [-1]
    assert ran(world.works(-1)) == [1]


def test_who_comes_after_the_loss_has_it_made_again() -> None:
    world = World()
    world.join("a")
    world.make("file")
    world.leave("a")
    world.join("b")
    assert not world.core.tasks
    assert made_again(world.call(needs=["file"])) == ["file"]


def test_nothing_is_run_again_that_nobody_needs() -> None:
    world = World()
    world.join("a")
    chain(world, 3)
    world.make("alone")
    world.leave("a")
    assert not world.join("b")
    assert world.core.stats()["tasks_recovered"] == 0


def test_a_chain_is_run_again_from_its_beginning() -> None:
    world = World()
    world.join("a")
    chain(world, 5)
    world.call(needs=["f4"])
    world.leave("a")
    world.join("b")
    assert recover(world) == [f"f{step}" for step in range(5)]
    assert world.core.stats()["tasks_done"] == 6


def test_of_a_chain_only_what_comes_after_the_last_copy_is_run_again() -> None:
    world = World()
    world.join("a", cores=1)
    world.make("f0")
    world.make("f1", needs=["f0"])
    world.join("b", cores=8)
    world.replicate(2)
    world.arrive()
    world.replicate(1)
    world.drain("b")
    world.make("f2", needs=["f1"])
    world.make("f3", needs=["f2"])
    assert world.core.stats()["replicas"] == {"f0": ["a", "b"], "f1": ["a", "b"], "f2": ["a"], "f3": ["a"]}
    world.call(needs=["f3", "never"])
    world.join("c")
    world.leave("a")
    assert recover(world) == ["f2", "f3"]


def test_of_a_diamond_each_call_is_run_again_once() -> None:
    world = World()
    world.join("a", cores=1)
    world.make("top")
    world.make("left", needs=["top"])
    world.make("right", needs=["top"])
    world.make("bottom", needs=["left", "right"])
    world.forget("top", "left", "right")
    world.call(needs=["bottom", "never"])
    told = world.leave("a")
    (numbers,) = only(core.Again, told)
    assert sorted(numbers.numbers) == [0, 1, 2, 3]
    world.join("b", cores=1)
    order = recover(world)
    assert sorted(order) == ["bottom", "left", "right", "top"]
    assert (order[0], order[-1]) == ("top", "bottom")


def test_of_a_diamond_only_the_lost_side_is_run_again() -> None:
    world = World()
    world.join("a", cores=1)
    world.make("top")
    world.make("left", needs=["top"])
    world.join("b", cores=8)
    world.tune(temp_replica_count=2)
    world.arrive()
    world.replicate(1)
    assert world.core.stats()["replicas"] == {"top": ["a", "b"], "left": ["a", "b"]}
    world.drain("b")
    assert world.make("right", needs=["top"]) == "a"
    world.call(needs=["left", "right", "never"])
    world.join("c")
    world.leave("a")
    assert recover(world) == ["right"]


def test_a_ladder_of_diamonds_is_planned_in_one_walk() -> None:
    """There are 2**40 ways from its end to its beginning."""
    world = World()
    world.join("a", cores=1)
    for step in range(40):
        before = [f"l{step - 1}", f"r{step - 1}"] if step else []
        world.make(f"l{step}", needs=before)
        world.make(f"r{step}", needs=before)
        world.forget(*before)
    world.call(needs=["l39", "r39", "never"])
    (numbers,) = only(core.Again, world.leave("a"))
    assert sorted(numbers.numbers) == list(range(80))
    world.join("b", cores=1)
    assert len(recover(world)) == 80


def test_several_files_lost_at_once_are_one_set() -> None:
    """Each call of it is run again once, and all that can run at once does."""
    world = World()
    world.join("a", cores=8)
    world.make("root")
    for each in range(4):
        world.make(f"leaf{each}", needs=["root"])
    for each in range(4):
        world.call(needs=[f"leaf{each}", f"never{each}"])
    told = world.leave("a")
    (numbers,) = only(core.Again, told)
    assert sorted(numbers.numbers) == [0, 1, 2, 3, 4]
    told = world.join("b", cores=8)
    assert made_again(told) == ["root"]
    assert made_again(world.works(*ran(told))) == [f"leaf{each}" for each in range(4)]


def test_of_a_call_that_made_several_files_all_are_made_again_by_one() -> None:
    world = World()
    world.join("a")
    world.call(makes=["x", "y"])
    world.works(0)
    world.call(needs=["x", "never"])
    world.call(needs=["y", "never"])
    world.leave("a")
    assert made_again(world.join("b")) == ["x", "y"]
    assert world.core.stats()["tasks_recovered"] == 1


def test_a_file_that_was_forgotten_is_not_kept_when_it_is_made_again_beside_another() -> None:
    world = World()
    world.join("a")
    world.call(makes=["x", "y"])
    world.works(0)
    world.forget("x")
    world.call(needs=["y", "never"])
    world.leave("a")
    world.join("b")
    told = world.works(-1)
    assert core.Drop("b", ["x"]) in told
    assert world.core.stats()["replicas"] == {"y": ["b"]}


def test_a_large_result_is_made_again_like_a_file() -> None:
    world = World()
    world.join("a")
    world.call(outputs=(value("v"),))
    world.works(0)
    world.call(inputs=(value("v"),), needs=["never"])
    world.leave("a")
    assert again(world.join("b")) == [(value("v"),)]


def test_a_small_result_is_never_lost() -> None:
    world = World()
    world.join("a")
    world.call(outputs=(value("v"),))
    world.done(0, body=b"encoded")
    world.leave("a")
    world.join("b")
    (run,) = only(core.Run, world.call(inputs=(value("v"),)))
    assert run.values == {"v": b"encoded"}
    assert world.core.stats()["tasks_recovered"] == 0


def test_a_small_result_of_what_is_run_again_reaches_it() -> None:
    """Its bytes are kept for as long as it may have to be given again."""
    world = World()
    world.join("a")
    world.call(outputs=(value("v"),))
    world.done(0, body=b"encoded")
    world.call(inputs=(value("v"),), outputs=(temp("file"),))
    world.works(1)
    world.forget("v")
    world.call(needs=["file", "never"])
    world.leave("a")
    (run,) = only(core.Run, world.join("b"))
    assert run.values == {"v": b"encoded"}
    assert [task.invocation.number for task in run.tasks] == [-1]


def test_a_lost_file_that_is_asked_for_is_made_again() -> None:
    world = World()
    world.join("a")
    world.make("file")
    world.leave("a")
    assert not only(core.Answer, world.ask("file"))
    assert made_again(world.join("b")) == ["file"]
    assert only(core.Answer, world.works(-1)) == [core.Answer(1, "file", core.Replica("b", 100, 1))]


def test_at_once_what_was_lost_is_made_again_if_that_is_asked_for() -> None:
    world = World()
    world.join("a")
    world.make("file")
    world.make("forgotten")
    world.forget("forgotten")
    world.make("once", recoverable=False)
    world.leave("a")
    world.join("b")
    assert made_again(world.tune(immediate_recovery=1)) == ["file"]
    world.works(-1)
    world.join("c")
    assert made_again(world.leave("b")) == ["file"]


def test_a_replica_that_was_spoiled_was_the_last_and_is_made_again() -> None:
    world = World()
    world.join("a", cores=1)
    world.make("file")
    world.call(needs=["file"])
    told = world.done(1, **unread("file"))
    assert only(core.Drop, told) == [core.Drop("a", ["file"])]
    assert made_again(told) == ["file"]
    assert ran(world.works(-1)) == [1]


def test_a_spoiled_replica_beside_another_costs_nothing_but_itself() -> None:
    world = World()
    world.replicate(2)
    world.join("a")
    world.make("file")
    world.join("b")
    world.arrive()
    told = world.spoiled("a", "file")
    assert core.Drop("a", ["file"]) in told
    assert not again(told)
    assert world.where("file") == "b"


def test_word_of_a_replica_that_was_replaced_is_old() -> None:
    world = World()
    world.join("a")
    world.make("file")
    assert not world.handle(core.FileSpoiled("a", "file", 2))
    assert not world.handle(core.FileSpoiled("z", "file", 1))
    assert not world.handle(core.FileSpoiled("a", "other", 1))
    assert world.where("file") == "a"


# --- in what order ---


def test_what_is_made_again_is_as_urgent_as_it_was() -> None:
    world = World()
    world.join("a", cores=1)
    world.make("file", priority=5.0)
    world.leave("a")
    world.call(count=3)
    world.call(needs=["file"])
    assert ran(world.join("b", cores=1)) == [-1]


def test_what_is_made_again_is_tried_as_often_as_anything() -> None:
    world = World(max_retries=1)
    world.join("a")
    world.make("file")
    world.call(needs=["file", "never"])
    world.leave("a")
    for name in ("b", "c"):
        assert ran(world.join(name)) == [-1]
        told = world.leave(name)
    record = records(told)[1]
    assert (record["kind"], record["name"], record["node"]) == ("file-lost", "file", "a")
    assert "making it again failed" in record["reason"]
    assert "its node c was lost" in record["reason"]


# --- what ends it ---------------------------------------------------------------------------------------------------


def test_what_cannot_be_made_again_ends_its_consumers_and_names_file_and_node() -> None:
    world = World()
    world.join("a")
    world.make("source", recoverable=False)
    world.make("file", needs=["source"])
    world.call(needs=["file", "never"])
    record = records(world.leave("a"))[2]
    assert (record["kind"], record["name"], record["node"]) == ("file-lost", "source", "a")
    assert record["reason"] == "the last replica of source was lost with node a"
    assert world.core.stats()["tasks_recovered"] == 0


def test_of_a_lost_set_only_what_hangs_on_the_irrecoverable_fails() -> None:
    world = World()
    world.join("a")
    world.make("once", recoverable=False)
    world.make("again")
    world.call(needs=["once", "never"])
    world.call(needs=["again", "never"])
    world.call(needs=["again", "once", "never"])
    told = world.leave("a")
    assert set(records(told)) == {2, 4}
    assert made_again(world.join("b")) == ["again"]


def test_a_recovery_that_raises_ends_its_consumers() -> None:
    world = World()
    world.join("a")
    world.make("file")
    world.call(needs=["file"])
    world.call(needs=["file", "never"])
    world.leave("a")
    world.join("b")
    body = failure.raised(ValueError("not this time"), ())
    told = world.done(-1, outcome=failure.RAISED, body=body)
    assert set(records(told)) == {1, 2}
    for record in records(told).values():
        assert (record["kind"], record["name"], record["node"]) == ("file-lost", "file", "a")
        assert "making it again failed: ValueError: not this time" in record["reason"]
    assert not world.core.tasks


def test_a_recovery_that_fails_in_the_middle_ends_what_comes_after_it() -> None:
    world = World()
    world.join("a")
    chain(world, 4)
    world.call(needs=["f3", "never"])
    world.leave("a")
    world.ask("f3", 7)
    world.join("b")
    world.works(-1)
    told = world.done(-2, outcome=failure.LOST, body=failure.lost("slot-died", "killed by signal 9"))
    assert set(records(told)) == {4}
    record = records(told)[4]
    assert (record["kind"], record["name"], record["node"]) == ("file-lost", "f3", "a")
    for words in ("the last replica of f3", "f2", "f1", "killed by signal 9"):
        assert words in record["reason"]
    assert len(only(core.Answer, told)) == 1
    assert not world.core.tasks


def test_a_request_is_answered_when_the_recovery_fails() -> None:
    world = World()
    world.join("a")
    world.make("file")
    world.leave("a")
    world.ask("file", 7)
    world.join("b")
    (answer,) = only(core.Answer, world.done(-1, outcome=failure.LOST, body=failure.lost("slot-died", "killed")))
    assert (answer.request, answer.where) == (7, None)
    assert b"file-lost" in answer.record


def test_recoveries_are_cancelled_when_their_consumers_are() -> None:
    world = World()
    world.join("a")
    world.call(outputs=(value("v0"),))
    world.works(0)
    world.call(inputs=(value("v0"),), outputs=(value("v1"),))
    world.works(1)
    world.call(inputs=(value("v1"),), needs=["never"])
    world.forget("v0", "v1")
    world.leave("a")
    world.join("b")
    assert sorted(world.core.tasks) == [-2, -1, 2]
    told = world.cancel(2)
    assert only(core.Kill, told) == [core.Kill("b", [-1])]
    world.forget("never")
    assert world.is_clean()


def test_a_recovery_ends_when_its_file_is_forgotten() -> None:
    world = World()
    world.join("a")
    world.make("file")
    world.call(needs=["file", "never"])
    world.leave("a")
    world.join("b")
    told = world.forget("file")
    assert set(records(told)) == {1}
    assert only(core.Kill, told) == [core.Kill("b", [-1])]
    world.forget("never")
    assert world.is_clean()


def test_a_recovery_outlives_what_its_inputs_are_called() -> None:
    """Nobody but it will read them: a name that is forgotten meanwhile is none of its business."""
    world = World()
    world.join("a")
    world.make("f0")
    world.make("f1", needs=["f0"])
    world.call(needs=["f1", "never"])
    world.leave("a")
    assert not finished(world.forget("f0"))
    world.join("b")
    assert recover(world) == ["f0", "f1"]


def test_a_recovery_that_others_need_goes_on() -> None:
    world = World()
    world.join("a")
    world.make("file")
    world.call(needs=["file", "never"])
    world.call(needs=["file", "never"])
    world.leave("a")
    world.join("b")
    assert not only(core.Kill, world.cancel(1))
    assert -1 in world.core.tasks


def test_a_copy_that_arrives_meanwhile_ends_the_recovery() -> None:
    world = World()
    world.replicate(2)
    world.join("a", cores=1)
    chain(world, 2)
    world.join("b", cores=1)
    assert "f1" in world.core.nodes["b"].fetching
    world.call(needs=["f1"])
    world.call(cores=1.0)
    world.leave("a", told=True)
    world.cancel(3)
    assert world.nodes[-1] == "b"
    told = world.cached("b", "f1", source="a")
    assert only(core.Kill, told) == [core.Kill("b", [-1])]
    assert runs(told) == {"b": [2]}
    assert not [number for number in world.core.tasks if number < 0]


def test_the_same_loss_twice_is_recovered_from_twice() -> None:
    world = World()
    world.join("a")
    chain(world, 3)
    world.call(needs=["f2", "never"])
    for node, following in (("a", "b"), ("b", "c")):
        world.leave(node)
        world.join(following)
        assert recover(world) == ["f0", "f1", "f2"]
    world.make("never")
    world.works(3)
    world.forget("f2", "never")
    assert world.is_clean()


def test_a_loss_during_the_recovery_adds_what_is_needed_again() -> None:
    world = World(max_retries=None)
    world.join("a")
    chain(world, 3)
    world.call(needs=["f2", "never"])
    world.leave("a")
    world.join("b")
    world.works(-1)  # f0
    assert made_again(world.leave("b")) == []
    world.join("c")
    assert recover(world)[-3:] == ["f0", "f1", "f2"]


def test_who_makes_a_file_anew_makes_it_for_all() -> None:
    world = World()
    world.join("a")
    world.make("file")
    world.leave("a")
    world.call(makes=["file"])
    world.call(needs=["file"])
    assert world.core.stats()["tasks_recovered"] == 0
    assert ran(world.join("b")) == [1]
    assert ran(world.works(1)) == [2]


# --- ends that follow from ends ---


def lost_chain(length: int) -> tuple[World, int]:
    """Have the whole chain before a waiting task be recreated; return the number of that task."""
    world = World()
    world.join("a", cores=1)
    for step in range(length):
        inputs = (value(f"v{step - 1}"),) if step else ()
        world.call(inputs=inputs, outputs=(value(f"v{step}"),))
        world.works(step)
    world.call(inputs=(value(f"v{length - 1}"), value("never")))
    world.forget(*(f"v{step}" for step in range(length)))
    world.leave("a")
    world.join("b", cores=1)
    assert len(world.core.tasks) == length + 1
    return world, length


def test_a_failure_at_the_start_of_a_long_chain_ends_all_of_it() -> None:
    world, last = lost_chain(1000)
    told = world.done(-1, outcome=failure.RAISED, body=failure.raised(ValueError("not this time"), ()))
    assert set(records(told)) == {last}
    assert not world.core.tasks


def test_cancelling_the_end_of_a_long_chain_ends_all_of_it() -> None:
    world, last = lost_chain(1000)
    assert only(core.Kill, world.cancel(last)) == [core.Kill("b", [-1])]
    assert not world.core.tasks


def test_a_recovery_that_ends_with_its_consumer_may_read_the_file_that_is_forgotten() -> None:
    world = World()
    world.join("a", cores=1)
    world.make("file")
    world.call(needs=["file"], outputs=(value("v"),))
    world.works(1)
    world.call(needs=["file"], inputs=(value("v"), value("never")))
    world.forget("v")
    world.spoiled("a", "v")
    assert sorted(world.core.tasks) == [-1, 2]
    told = world.forget("file")
    assert set(records(told)) == {2}
    assert only(core.Kill, told) == [core.Kill("a", [-1])]
    assert not world.core.tasks


def test_a_recovery_that_lost_its_node_with_its_last_consumer_is_not_retried() -> None:
    world = World()
    world.join("a", cores=2)
    world.call(outputs=(value("v"),), category="short")
    world.done(0, made=[("v", 100)], body="elsewhere", seconds=0.001)
    world.call(inputs=(value("v"),), category="short")
    world.forget("v")
    world.leave("a", told=True)
    assert runs(world.join("b", cores=2)) == {"b": [-1, 1]}  # the consumer is sent behind the recovery
    assert set(records(world.leave("b", told=True))) == {1}
    assert not world.core.tasks


# --- records --------------------------------------------------------------------------------------------------------


def test_records_of_a_chain_go_with_its_end() -> None:
    world = World()
    world.join("a")
    chain(world, 6)
    assert world.names() == {f"f{step}" for step in range(6)}  # what f5 may have to be made again from
    assert world.core.stats()["replicas"] == {"f5": ["a"]}  # and no bytes
    world.forget("f5")
    assert world.is_clean()


def test_a_small_result_ends_what_is_remembered_of_the_chain_before_it() -> None:
    world = World()
    world.join("a")
    chain(world, 4)
    world.call(inputs=(temp("f3"),), outputs=(value("v"),))
    world.forget("f3")
    world.done(4, body=b"encoded")
    assert world.names() == {"v"}
    world.forget("v")
    assert world.is_clean()


def test_a_call_without_outputs_keeps_no_record() -> None:
    world = World()
    world.join("a")
    chain(world, 2)
    world.call(needs=["f1"])
    world.works(2)
    world.forget("f1")
    assert world.is_clean()


@pytest.mark.parametrize("end", ["cancel", "raise", "forget"])
def test_nothing_is_kept_of_what_was_never_made(end: str) -> None:
    world = World()
    world.join("a")
    world.call(outputs=(temp("file"), value("v")))
    world.call(needs=["file"])
    world.forget("v")
    if end == "cancel":
        world.cancel(0, 1)
    elif end == "raise":
        world.done(0, outcome=failure.RAISED)
        world.cancel(1)
    else:
        world.forget("file")
        world.works(0)
    world.forget("file")
    assert world.is_clean()


def test_nothing_is_kept_after_a_recovery() -> None:
    world = World()
    world.join("a", cores=1)
    world.make("top")
    world.make("left", needs=["top"])
    world.make("right", needs=["top"])
    world.make("bottom", needs=["left", "right"])
    world.call(needs=["bottom"])
    world.leave("a")
    world.join("b", cores=1)
    world.work()
    world.forget("top", "left", "right", "bottom")
    assert world.is_clean()


def test_a_value_that_was_forgotten_lives_on_for_its_consumers_and_a_named_file_does_not() -> None:
    world = World()
    world.join("a")
    world.call(outputs=(value("v"), temp("file")))
    world.works(0)
    world.call(inputs=(value("v"),), needs=["never"])
    world.call(needs=["file", "never"])
    assert set(records(world.forget("v", "file"))) == {2}
    world.leave("a")
    world.join("b")
    world.works(-1)
    world.make("never")
    assert ran(world.cancel()) == []
    assert [task.invocation.number for task in world.core.nodes["b"].assigned.values()] == [1]


# --- files of arguments ---------------------------------------------------------------------------------------------


def discards(instructions: Instructions) -> list[str]:
    return [path for item in only(core.Discard, instructions) for path in item.paths]


def test_arguments_without_files_are_discarded_at_the_end_of_their_call() -> None:
    world = World()
    world.join("a", cores=1)
    for number, end in enumerate((world.works, world.cancel)):
        world.call(arguments=f"/args/{number}")
        assert discards(end(number)) == [f"/args/{number}"]
    world.call(arguments="/args/2")
    assert discards(world.done(2, outcome=failure.RAISED)) == ["/args/2"]
    world.call(arguments="/args/3", makes=["file"])
    assert discards(world.done(3, outcome=failure.RAISED)) == ["/args/3"]
    assert not discards(world.forget("file"))


def test_arguments_are_kept_for_as_long_as_their_call_may_be_run_again() -> None:
    world = World()
    world.join("a")
    told = []
    for step in range(3):
        uses: tuple[FileUse, ...] = (temp(f"f{step - 1}"),) if step else ()
        world.call(arguments=f"/args/{step}", inputs=uses, makes=[f"f{step}"])
        told += world.works(step)
        told += world.forget(f"f{step - 1}") if step else []
    assert not discards(told)
    world.call(needs=["f2", "never"])
    world.leave("a")
    world.join("b")
    for number in (-1, -2, -3):
        assert world.invocations[number].arguments == f"/args/{-number - 1}"
        assert not discards(world.works(number))
    told = world.cancel(3)
    told += world.forget("f2")
    assert sorted(discards(told)) == ["/args/0", "/args/1", "/args/2"]
    assert world.is_clean()


def test_arguments_of_a_call_with_two_files_go_with_the_second() -> None:
    world = World()
    world.join("a")
    world.call(arguments="/args/0", makes=["x", "y"])
    assert not discards(world.works(0))
    assert not discards(world.forget("x"))
    assert discards(world.forget("y")) == ["/args/0"]


def test_arguments_of_a_small_result_are_discarded_at_once() -> None:
    world = World()
    world.join("a")
    world.call(arguments="/args/0", outputs=(value("v"),))
    assert discards(world.done(0, body=b"encoded")) == ["/args/0"]
    assert not discards(world.forget("v"))


def test_arguments_are_discarded_once_when_a_second_call_makes_the_file_anew() -> None:
    world = World()
    world.join("a")
    world.call(arguments="/args/0", makes=["file"])
    world.works(0)
    world.leave("a")
    world.join("b")
    world.call(arguments="/args/1", makes=["file"])
    assert discards(world.works(1)) == ["/args/0"]
    assert discards(world.forget("file")) == ["/args/1"]
    assert world.is_clean()


def test_arguments_of_what_lost_its_node_once_too_often_are_discarded() -> None:
    world = World(max_retries=0)
    world.join("a")
    world.call(arguments="/args/0", makes=["file"])
    assert discards(world.leave("a")) == ["/args/0"]


def test_arguments_of_what_is_hopeless_or_waits_in_vain_are_discarded() -> None:
    world = World()
    world.join("a")
    assert discards(world.call(arguments="/args/0", cores=99.0)) == ["/args/0"]
    world.make("once", recoverable=False)
    world.leave("a")
    assert discards(world.call(arguments="/args/2", needs=["once"])) == ["/args/2"]


def test_a_forgotten_result_is_not_known_anew_when_its_call_runs_again_for_another_file() -> None:
    world = World()
    world.tune(immediate_recovery=1)
    world.join("a")
    world.call(makes=["file"], outputs=(value("v"),))
    world.done(0, made=[("file", 100)], body=b"small")
    world.forget("v")
    world.spoiled("a", "file")
    world.done(-1, made=[("file", 100)], body=b"small")
    assert world.names() == {"file"}
    world.forget("file")
    assert world.is_clean()
