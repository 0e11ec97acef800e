"""Storage: no record outlives its use, and requests for files are answered once."""

from __future__ import annotations

import pickle

import pytest

from taskvine_manager.runtime import failure
from taskvine_manager.scheduling.events import RELAY, Answer, Discard, Relayed, Replica
from taskvine_manager.wire.messages import FileUse
from tests.unit.taskvine_manager.scheduling.world import (
    Instructions,
    World,
    chain,
    only,
    ran,
    records,
    temp,
    value,
)

# --- records ----------------------------------------------------------------------------------------------------------


def test_records_of_a_chain_are_removed_with_its_end() -> None:
    world = World()
    world.join("a")
    chain(world, 6)
    assert world.names() == {f"f{step}" for step in range(6)}  # the origins from which f5 may have to be recreated
    assert world.core.stats()["replicas"] == {"f5": ["a"]}  # and no bytes
    world.forget("f5")
    assert world.is_clean()


def test_small_result_frees_the_records_of_its_chain() -> None:
    world = World()
    world.join("a")
    chain(world, 4)
    world.call(inputs=(temp("f3"),), outputs=(value("v"),))
    world.forget("f3")
    world.done(4, body=b"encoded")
    assert world.names() == {"v"}
    world.forget("v")
    assert world.is_clean()


def test_call_without_outputs_keeps_no_record() -> None:
    world = World()
    world.join("a")
    chain(world, 2)
    world.call(needs=["f1"])
    world.works(2)
    world.forget("f1")
    assert world.is_clean()


@pytest.mark.parametrize("end", ["cancel", "raise", "forget"])
def test_failed_producer_leaves_no_record(end: str) -> None:
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


def test_recovery_leaves_no_record() -> None:
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


def test_forgotten_value_is_kept_for_its_consumers() -> None:
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


# --- files of arguments -----------------------------------------------------------------------------------------------


def discards(instructions: Instructions) -> list[str]:
    return [path for item in only(Discard, instructions) for path in item.paths]


def test_arguments_are_discarded_with_a_call_without_files() -> None:
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


def test_arguments_are_kept_while_their_call_may_run_again() -> None:
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


def test_arguments_are_discarded_with_the_last_file() -> None:
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


def test_arguments_are_discarded_once_if_another_call_makes_the_file() -> None:
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


def test_arguments_of_a_call_without_retries_are_discarded() -> None:
    world = World(max_retries=0)
    world.join("a")
    world.call(arguments="/args/0", makes=["file"])
    assert discards(world.leave("a")) == ["/args/0"]


def test_arguments_of_tasks_that_cannot_run_are_discarded() -> None:
    world = World()
    world.join("a")
    assert discards(world.call(arguments="/args/0", cores=99.0)) == ["/args/0"]
    world.make("once", recoverable=False)
    world.leave("a")
    assert discards(world.call(arguments="/args/2", needs=["once"])) == ["/args/2"]


def test_forgotten_result_stays_forgotten_when_its_call_runs_again() -> None:
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


# --- requests ---------------------------------------------------------------------------------------------------------


def answers(instructions: Instructions) -> dict[int, Replica | bytes | None]:
    return {answer.request: answer.where for answer in only(Answer, instructions)}


def test_request_is_answered_with_the_node() -> None:
    world = World()
    world.join("a")
    world.make("file")
    assert answers(world.ask("file", 7)) == {7: Replica("a", 100, 1)}


def test_request_for_a_small_result_is_answered_with_its_bytes() -> None:
    world = World()
    world.join("a")
    world.call(outputs=(value("v"),))
    world.done(0, body=b"encoded")
    assert answers(world.ask("v")) == {1: b"encoded"}


def test_unknown_file_is_lost() -> None:
    world = World()
    world.join("a")
    (answer,) = only(Answer, world.ask("file"))
    assert answer.where is None
    record = pickle.loads(answer.record)
    assert (record["kind"], record["name"]) == ("file-lost", "file")
    assert world.names() == set()


def test_request_waits_for_the_producer() -> None:
    world = World()
    world.join("a")
    world.call(makes=["file"])
    assert answers(world.ask("file", 1)) == {}
    assert answers(world.ask("file", 2)) == {}
    there = Replica("a", 100, 1)
    assert answers(world.works(0)) == {1: there, 2: there}
    assert answers(world.call()) == {}


def test_request_is_answered_if_the_producer_fails() -> None:
    for end in ("raise", "cancel"):
        world = World()
        world.join("a")
        world.call(makes=["file"])
        world.ask("file")
        told = world.cancel(0) if end == "cancel" else world.done(0, outcome=failure.RAISED)
        assert answers(told) == {1: None}
        assert world.names() == set()


def test_lost_file_is_answered_with_its_node() -> None:
    world = World()
    world.join("a")
    world.make("file", recoverable=False)
    world.leave("a")
    (answer,) = only(Answer, world.ask("file"))
    record = pickle.loads(answer.record)
    assert (record["kind"], record["name"], record["node"]) == ("file-lost", "file", "a")


def test_requested_file_is_kept_until_the_answer() -> None:
    world = World()
    world.join("a")
    world.make("file")
    world.leave("a")
    world.ask("file")
    world.forget("file")
    world.join("b")
    assert answers(world.works(-1)) == {1: Replica("b", 100, 1)}
    assert world.is_clean()


def test_file_is_read_from_a_node_that_stays() -> None:
    world = World()
    world.replicate(2)
    world.join("a", cores=1)
    world.make("file")
    world.join("b")
    world.arrive()
    assert world.where("file") == "a"
    world.drain("a")
    assert world.where("file") == "b"


def test_file_is_read_from_the_manager() -> None:
    world = World(peer_transfers=False)
    world.join("a", cores=1)
    world.make("file")
    world.call(cores=1.0)
    world.join("b", cores=1)
    world.call(needs=["file"])
    world.handle(Relayed("file", 5, None))
    world.cancel(2)
    world.leave("a")
    assert answers(world.ask("file")) == {1: Replica(RELAY, 100, 5)}


def test_damaged_replica_is_answered_with_another() -> None:
    world = World()
    world.replicate(2)
    world.join("a")
    world.make("file")
    world.join("b")
    world.arrive()
    first = world.where("file")
    assert first is not None
    world.spoiled(first, "file")
    assert world.where("file") not in (first, None)


def test_snapshot_shows_tasks_and_files() -> None:
    world = World()
    world.join("a", cores=1)
    world.make("file")
    world.call(outputs=(value("v"),))
    world.done(1, body=b"encoded")
    world.call(count=2)
    shown = world.core.snapshot()
    assert sorted(shown["tasks"]) == [(2, "assigned", "a", 0), (3, "ready", "", 0)]
    assert sorted(shown["files"]) == [("file", 100, ["a"]), ("v", 7, ["manager"])]
