"""The scheduler: what the user asks for, and is told once."""

from __future__ import annotations

import pickle

from taskvine_manager.runtime import failure
from taskvine_manager.scheduling import core
from tests.unit.taskvine_manager.scheduling.world import Instructions, World, only, value


def answers(instructions: Instructions) -> dict[int, core.Replica | bytes | None]:
    return {answer.request: answer.where for answer in only(core.Answer, instructions)}


def test_where_a_file_is() -> None:
    world = World()
    world.join("a")
    world.make("file")
    assert answers(world.ask("file", 7)) == {7: core.Replica("a", 100, 1)}


def test_a_small_result_is_answered_with_its_bytes() -> None:
    world = World()
    world.join("a")
    world.call(outputs=(value("v"),))
    world.done(0, body=b"encoded")
    assert answers(world.ask("v")) == {1: b"encoded"}


def test_what_nobody_has_or_makes_is_lost() -> None:
    world = World()
    world.join("a")
    (answer,) = only(core.Answer, world.ask("file"))
    assert answer.where is None
    record = pickle.loads(answer.record)
    assert (record["kind"], record["name"]) == ("file-lost", "file")
    assert world.names() == set()


def test_what_is_being_made_is_answered_when_it_is_there() -> None:
    world = World()
    world.join("a")
    world.call(makes=["file"])
    assert answers(world.ask("file", 1)) == {}
    assert answers(world.ask("file", 2)) == {}
    there = core.Replica("a", 100, 1)
    assert answers(world.works(0)) == {1: there, 2: there}
    assert answers(world.call()) == {}


def test_who_asked_for_what_was_not_made_in_the_end_is_told() -> None:
    for end in ("raise", "cancel"):
        world = World()
        world.join("a")
        world.call(makes=["file"])
        world.ask("file")
        told = world.cancel(0) if end == "cancel" else world.done(0, outcome=failure.RAISED)
        assert answers(told) == {1: None}


def test_what_is_lost_for_good_is_said_with_its_node() -> None:
    world = World()
    world.join("a")
    world.make("file", recoverable=False)
    world.leave("a")
    (answer,) = only(core.Answer, world.ask("file"))
    record = pickle.loads(answer.record)
    assert (record["kind"], record["name"], record["node"]) == ("file-lost", "file", "a")


def test_what_is_asked_for_is_kept_until_it_is_answered() -> None:
    world = World()
    world.join("a")
    world.make("file")
    world.leave("a")
    world.ask("file")
    world.forget("file")
    world.join("b")
    assert answers(world.works(-1)) == {1: core.Replica("b", 100, 1)}
    assert world.is_clean()


def test_a_file_is_read_from_a_node_that_is_not_about_to_go() -> None:
    world = World()
    world.replicate(2)
    world.join("a", cores=1)
    world.make("file")
    world.join("b")
    world.arrive()
    assert world.where("file") == "a"
    world.drain("a")
    assert world.where("file") == "b"


def test_a_file_that_only_the_manager_has_is_read_there() -> None:
    world = World(peer_transfers=False)
    world.join("a", cores=1)
    world.make("file")
    world.call(cores=1.0)
    world.join("b", cores=1)
    world.call(needs=["file"])
    world.handle(core.Relayed("file", 5, None))
    world.cancel(2)
    world.leave("a")
    assert answers(world.ask("file")) == {1: core.Replica(core.RELAY, 100, 5)}


def test_a_spoiled_replica_is_answered_with_another() -> None:
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


def test_the_snapshot_shows_what_is_live() -> None:
    world = World()
    world.join("a", cores=1)
    world.make("file")
    world.call(outputs=(value("v"),))
    world.done(1, body=b"encoded")
    world.call(count=2)
    shown = world.core.snapshot()
    assert sorted(shown["tasks"]) == [(2, "assigned", "a", 0), (3, "ready", "", 0)]
    assert sorted(shown["files"]) == [("file", 100, ["a"]), ("v", 7, ["manager"])]
