"""Replication: how many replicas there are, and where."""

from __future__ import annotations

import pytest

from taskvine_manager.scheduling.events import Drop
from tests.unit.taskvine_manager.scheduling.world import (
    World,
    fetches,
    only,
    sources,
    spread,
    temp,
)

# --- replicas ---------------------------------------------------------------------------------------------------------


def test_one_replica_is_the_default() -> None:
    world = World()
    world.join("a")
    world.join("b")
    here = world.make("file")
    assert world.core.stats()["replicas"] == {"file": [here]}
    (there,) = {"a", "b"} - {here}
    assert fetches(world.replicate(2)) == [(there, "file", here)]
    assert not world.replicate(2)


def test_new_files_are_replicated() -> None:
    world = World()
    world.replicate(3)
    for name in "abcd":
        world.join(name)
    world.call(makes=["file"])
    copies = fetches(world.done(0, made=[("file", 1)]))
    assert len({node for node, _, _ in copies} - {world.nodes[0]}) == 2


def test_files_are_replicated_to_a_new_node() -> None:
    world = World()
    world.replicate(2)
    world.join("a")
    world.make("file")
    assert fetches(world.join("b")) == [("b", "file", "a")]
    assert not world.join("c")


@pytest.mark.parametrize("again", [False, True])
def test_lost_replicas_are_replaced_on_request(again: bool) -> None:
    world = World()
    world.replicate(2)
    world.tune(transfer_temps_recovery=again)
    world.join("a")
    world.make("file")
    world.join("b")
    world.cached("b", "file")
    world.join("c")
    assert fetches(world.leave("a")) == [("c", "file", "b")] * again


def test_replica_for_a_lost_node_goes_to_another() -> None:
    world = World()
    world.replicate(2)
    world.join("a")
    world.make("file")
    world.join("b")
    world.join("c")
    assert fetches(world.leave("b")) == [("c", "file", "a")]


def test_scarcest_file_is_copied_first() -> None:
    world = World()
    world.join("a")
    world.make("common")
    world.make("rare")
    world.replicate(2)
    world.join("b")
    world.cached("b", "common")
    world.cached("b", "rare", "No space left on device")
    told = world.replicate(3)
    assert fetches(told) == [("b", "rare", "a")]
    world.cached("b", "rare", "No space left on device")
    assert [file for _, file, _ in fetches(world.join("c"))] == ["rare", "common"]


def test_refused_replica_goes_to_another_node() -> None:
    world = World()
    world.replicate(2)
    world.join("a")
    world.make("file")
    world.join("b")
    assert not world.cached("b", "file", "No space left on device")
    assert fetches(world.join("c")) == [("c", "file", "a")]


def test_copy_is_retried_from_another_source() -> None:
    world = World()
    world.replicate(2)
    world.join("a")
    world.make("file")
    world.join("b")
    world.cached("b", "file")
    world.replicate(3)
    assert fetches(world.join("c")) == [("c", "file", "a")]
    told = world.leave("a")
    told += world.cached("c", "file", "it is not there any more", spoiled=True, source="a")
    assert fetches(told) == [("c", "file", "b")]
    assert world.where("file") == "b"


# --- how many replicas ------------------------------------------------------------------------------------------------


def test_concurrent_replications_are_limited() -> None:
    world = World()
    world.tune(transfer_replica_per_cycle=2)
    world.join("a")
    for number in range(5):
        world.make(f"f{number}")
    world.join("b")
    assert len(fetches(world.replicate(2))) == 2
    assert len(fetches(world.call())) == 2
    assert len(fetches(world.call())) == 1
    assert not fetches(world.call())


def test_file_may_have_more_replicas_than_others() -> None:
    world = World()
    spread(world, 4, cores=2)
    world.call(outputs=(temp("common"), temp("precious", 3)))
    assert [file for _, file, _ in fetches(world.works(0))] == ["precious", "precious"]
    world.arrive()
    replicas = world.core.stats()["replicas"]
    assert (len(replicas["common"]), len(replicas["precious"])) == (1, 3)


def test_file_may_have_fewer_replicas_than_others() -> None:
    world = World()
    world.replicate(3)
    spread(world, 4, cores=2)
    world.call(outputs=(temp("one", 1), temp("three")))
    assert {file for _, file, _ in fetches(world.works(0))} == {"three"}


def test_recreated_file_is_replicated_again() -> None:
    world = World()
    world.replicate(2)
    world.join("a")
    world.make("file")
    world.leave("a")
    world.join("b")
    world.join("c")
    world.call(needs=["file", "never"])
    assert len(fetches(world.works(-1))) == 1


def test_redundant_replicas_are_removed_on_request() -> None:
    for clean in (False, True):
        world = World()
        world.replicate(3)
        world.tune(clean_redundant_replicas=clean)
        spread(world, 3)
        world.make("file")
        world.arrive()
        told = world.replicate(2)
        assert len(only(Drop, told)) == clean
        assert len(world.core.stats()["replicas"]["file"]) == 3 - clean


def test_unread_replica_becomes_redundant() -> None:
    world = World()
    world.tune(clean_redundant_replicas=1)
    world.join("a", cores=1)
    world.make("file")
    world.call(cores=1.0)
    world.join("b", cores=1)
    assert sources(world.call(needs=["file"])) == {"file": "a"}
    assert only(Drop, world.cached("b", "file")) == [Drop("a", ["file"])]  # on b it is being read
    assert world.core.stats()["replicas"] == {"file": ["b"]}


def test_redundant_replica_in_use_is_kept() -> None:
    world = World()
    world.replicate(2)
    world.join("a", cores=1)
    world.make("file")
    world.join("b", cores=1)
    world.arrive()
    world.call(count=2, needs=["file"])
    assert not only(Drop, world.tune(temp_replica_count=1, clean_redundant_replicas=1))
    assert len(only(Drop, world.works(1))) == 1
    assert not only(Drop, world.works(2))


def test_no_replica_is_removed_during_a_copy() -> None:
    world = World()
    world.replicate(3)
    world.join("a")
    world.make("file")
    world.join("b")
    world.arrive()
    world.join("c")
    assert not only(Drop, world.tune(temp_replica_count=1, clean_redundant_replicas=1))
    assert len(only(Drop, world.cached("c", "file"))) == 2


def test_replica_is_removed_from_the_fuller_node() -> None:
    world = World()
    world.replicate(2)
    world.join("a")
    world.make("file")
    world.join("b")
    world.arrive()
    world.tune(temp_replica_count=1)
    world.make("more", 1000)
    full = world.core.stats()["replicas"]["more"]
    told = world.tune(clean_redundant_replicas=1)
    assert [drop.node for drop in only(Drop, told)] == full


def test_replicas_on_draining_nodes_do_not_count() -> None:
    world = World()
    world.replicate(2)
    world.join("a", cores=1)
    world.make("file")
    world.call(cores=1.0)
    world.join("b")
    world.arrive()
    world.drain("a")
    world.tune(temp_replica_count=1, clean_redundant_replicas=1)
    assert world.core.stats()["replicas"]["file"] == ["a", "b"]


def test_removed_bytes_equal_added_bytes() -> None:
    world = World()
    world.join("a", cores=1)
    world.call(makes=["file"])
    world.cancel(0)
    world.call(cores=1.0)
    world.join("b", cores=1)
    retry = world.invocation(makes=["file"])
    world.submit(retry)
    world.done(retry.number, made=[("file", 20)])
    world.done(0, made=[("file", 10)])  # it had ended before it was told not to
    world.forget("file")
    assert [node.used for node in world.core.nodes.values()] == [0, 0]
    assert world.core.stats()["bytes_stored"] == 0
