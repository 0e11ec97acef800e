"""Recovery: how it ends, and what ends with it."""

from __future__ import annotations

from taskvine_manager.runtime import failure
from taskvine_manager.scheduling.events import Answer, Kill
from tests.unit.taskvine_manager.scheduling.world import (
    World,
    chain,
    finished,
    made_again,
    only,
    ran,
    records,
    recover,
    runs,
    value,
)

# --- what ends it -----------------------------------------------------------------------------------------------------


def test_unrecoverable_file_fails_its_consumers() -> None:
    world = World()
    world.join("a")
    world.make("source", recoverable=False)
    world.make("file", needs=["source"])
    world.call(needs=["file", "never"])
    record = records(world.leave("a"))[2]
    assert (record["kind"], record["name"], record["node"]) == ("file-lost", "source", "a")
    assert record["reason"] == "the last replica of source was lost with node a"
    assert world.core.stats()["tasks_recovered"] == 0


def test_only_consumers_of_the_unrecoverable_file_fail() -> None:
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


def test_failed_recovery_fails_its_consumers() -> None:
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


def test_recovery_that_fails_in_the_middle_fails_later_tasks() -> None:
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
    assert len(only(Answer, told)) == 1
    assert not world.core.tasks


def test_request_is_answered_if_the_recovery_fails() -> None:
    world = World()
    world.join("a")
    world.make("file")
    world.leave("a")
    world.ask("file", 7)
    world.join("b")
    (answer,) = only(Answer, world.done(-1, outcome=failure.LOST, body=failure.lost("slot-died", "killed")))
    assert (answer.request, answer.where) == (7, None)
    assert b"file-lost" in answer.record


def test_recovery_is_cancelled_with_its_consumers() -> None:
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
    assert only(Kill, told) == [Kill("b", [-1])]
    world.forget("never")
    assert world.is_clean()


def test_recovery_ends_when_its_file_is_forgotten() -> None:
    world = World()
    world.join("a")
    world.make("file")
    world.call(needs=["file", "never"])
    world.leave("a")
    world.join("b")
    told = world.forget("file")
    assert set(records(told)) == {1}
    assert only(Kill, told) == [Kill("b", [-1])]
    world.forget("never")
    assert world.is_clean()


def test_recovery_outlives_the_names_of_its_inputs() -> None:
    """Only the recovery reads them, so it does not matter that their name is forgotten meanwhile."""
    world = World()
    world.join("a")
    world.make("f0")
    world.make("f1", needs=["f0"])
    world.call(needs=["f1", "never"])
    world.leave("a")
    assert not finished(world.forget("f0"))
    world.join("b")
    assert recover(world) == ["f0", "f1"]


def test_recovery_goes_on_for_other_consumers() -> None:
    world = World()
    world.join("a")
    world.make("file")
    world.call(needs=["file", "never"])
    world.call(needs=["file", "never"])
    world.leave("a")
    world.join("b")
    assert not only(Kill, world.cancel(1))
    assert -1 in world.core.tasks


def test_arriving_copy_ends_the_recovery() -> None:
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
    assert only(Kill, told) == [Kill("b", [-1])]
    assert runs(told) == {"b": [2]}
    assert not [number for number in world.core.tasks if number < 0]


def test_second_loss_is_recovered_too() -> None:
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


def test_loss_during_the_recovery_extends_it() -> None:
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


def test_new_producer_serves_all_consumers() -> None:
    world = World()
    world.join("a")
    world.make("file")
    world.leave("a")
    world.call(makes=["file"])
    world.call(needs=["file"])
    assert world.core.stats()["tasks_recovered"] == 0
    assert ran(world.join("b")) == [1]
    assert ran(world.works(1)) == [2]


# --- ends that follow from ends ---------------------------------------------------------------------------------------


def lost_chain(length: int) -> tuple[World, int]:
    """Recreate the whole chain before a waiting task; return the number of that task."""
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


def test_failure_at_the_start_fails_a_long_chain() -> None:
    world, last = lost_chain(1000)
    told = world.done(-1, outcome=failure.RAISED, body=failure.raised(ValueError("not this time"), ()))
    assert set(records(told)) == {last}
    assert not world.core.tasks


def test_cancelling_the_end_cancels_a_long_chain() -> None:
    world, last = lost_chain(1000)
    assert only(Kill, world.cancel(last)) == [Kill("b", [-1])]
    assert not world.core.tasks


def test_recovery_may_end_together_with_its_consumer() -> None:
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
    assert only(Kill, told) == [Kill("a", [-1])]
    assert not world.core.tasks


def test_recovery_without_consumers_is_not_retried() -> None:
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
