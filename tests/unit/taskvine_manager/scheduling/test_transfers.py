"""Transfers: their limits, and the path through the manager."""

from __future__ import annotations

import pickle
from typing import Any

import pytest

from taskvine_manager.runtime import failure
from taskvine_manager.scheduling.events import RELAY, Drop, Finish, Relay, Relayed, Release, Replica, Run
from tests.unit.taskvine_manager.scheduling.world import (
    World,
    again,
    copies,
    fetches,
    finished,
    local,
    only,
    ran,
    records,
    sources,
    spread,
    temp,
    unread,
)

# --- limits of transfers ----------------------------------------------------------------------------------------------


def test_transfers_from_one_node_are_limited() -> None:
    world = World()
    world.tune(worker_source_max_transfers=2)
    world.join("a", cores=1)
    world.make("file")
    world.call(cores=1.0)
    spread(world, 5)
    told = world.call(count=5, needs=["file"])
    assert len(ran(told)) == 2
    assert sources(told) == {"file": "a"}
    assert world.core.nodes["a"].sending == 2
    told = world.cached(world.nodes[2], "file")
    assert sorted(source.node for run in only(Run, told) for source in run.sources.values()) == [
        "a",
        *[world.nodes[2]] * 2,
    ]
    assert world.core.nodes["a"].sending == 2


def test_failed_or_unneeded_transfer_frees_its_place() -> None:
    world = World()
    world.tune(worker_source_max_transfers=1)
    world.join("a", cores=1)
    world.make("file")
    world.call(cores=1.0)
    spread(world, 2)
    assert len(ran(world.call(count=2, needs=["file"]))) == 1
    assert ran(world.cancel(2)) == [3]
    assert world.core.nodes["a"].sending == 1
    world.done(3, outcome=failure.LOST, body=failure.lost("disk-full", "no room for file"))
    assert world.core.nodes["a"].sending == 0


def test_transfer_of_a_forgotten_file_leaves_no_record() -> None:
    world = World()
    world.join("a")
    world.make("file")
    world.replicate(2)
    assert fetches(world.join("b")) == [("b", "file", "a")]
    world.forget("file")
    world.leave("a")
    assert world.names() == set()
    assert world.is_clean()


def test_replicas_count_for_the_limit() -> None:
    world = World()
    world.tune(worker_source_max_transfers=1, temp_replica_count=4)
    spread(world, 4)
    world.call(makes=["file"])
    first = world.nodes[0]
    rounds = [fetches(world.works(0))]
    while rounds[-1]:
        told = [(node, source) for node, _, source in rounds[-1]]
        rounds.append([copy for node, source in told for copy in fetches(world.cached(node, "file", source=source))])
    assert [len(each) for each in rounds] == [1, 2, 0]
    assert {source for _, _, source in rounds[0]} == {first}
    assert len(world.core.stats()["replicas"]["file"]) == 4


def test_no_transfer_is_left_at_the_end() -> None:
    world = World()
    world.tune(worker_source_max_transfers=1, temp_replica_count=3)
    spread(world, 4)
    for number in range(3):
        world.call(makes=[f"f{number}"])
    world.call(count=3, needs=["f0", "f1", "f2"])
    world.work()
    while any(node.fetching for node in world.core.nodes.values()):
        world.arrive()
    assert all(node.sending == 0 for node in world.core.nodes.values())
    world.forget("f0", "f1", "f2")
    assert world.is_clean()


def test_copy_that_ended_with_its_call_starts_again_as_replica() -> None:
    world = World()
    world.join("a", cores=1)
    world.make("file")
    world.call()
    world.join("b", cores=1)
    assert sources(world.call(needs=["file"])) == {"file": "a"}
    assert not fetches(world.replicate(2))
    assert fetches(world.cancel(2)) == [("b", "file", "a")]


def test_copies_come_from_nodes_that_stay() -> None:
    world = World()
    world.replicate(2)
    world.join("a", cores=1)
    world.make("file")
    world.join("b", cores=1)
    world.arrive()
    world.replicate(1)
    world.call(count=2)
    world.drain("a")
    world.join("c", cores=1)
    assert sources(world.call(needs=["file"])) == {"file": "b"}


def test_copies_go_to_the_emptier_node() -> None:
    world = World()
    world.join("a", cores=1)
    for number in range(4):
        world.make(f"old{number}")
    world.replicate(2)
    world.call(count=1)
    world.join("b", cores=1)
    world.arrive()
    world.call(count=1)
    world.join("c", cores=1)
    world.call(count=1)
    world.works(4)  # a is free again, b and c are not
    for number in range(3):
        world.submit(invocation := world.invocation(makes=[f"new{number}"]))
        assert [(node, source) for node, _, source in fetches(world.works(invocation.number))] == [("c", "a")]
        world.arrive()


def test_refused_copy_is_tried_again_when_its_source_has_left() -> None:
    """Its source may have refused to send it."""
    world = World()
    world.tune(temp_replica_count=2, transfer_temps_recovery=1)
    world.join("a")
    world.make("file")
    world.join("b")
    world.cached("b", "file", "Connection reset by peer", source="a")
    world.join("c")
    world.cached("c", "file", source="a")
    assert fetches(world.leave("a")) == [("b", "file", "c")]


def test_node_that_sends_a_users_file_is_not_released() -> None:
    world = World()
    spread(world, 2)
    world.call(count=2, inputs=(local("/x"),))
    first = world.nodes[0]
    ((second, source),) = copies(world.brought(first, "/x")).items()
    assert source == first
    world.works(0)
    assert not only(Release, world.drain(first))
    assert only(Release, world.brought(second, "/x")) == [Release(first)]


def test_changed_source_is_given_up() -> None:
    world = World()
    world.replicate(2)
    world.join("a")
    world.make("file")
    world.join("b")
    world.call(needs=["file", "never"])
    told = world.cached("b", "file", "it was written to since it was made", spoiled=True, source="a")
    assert Drop("a", ["file"]) in told
    assert again(told) == [(temp("file"),)]


# --- the manager as relay ---------------------------------------------------------------------------------------------


def relayed(world: World, **fields: Any) -> World:
    """A file on a busy node, and another node that needs it."""
    world.join("a", cores=1)
    world.make("file", **fields)
    world.call(cores=1.0)
    world.join("b", cores=1)
    return world


def test_without_peers_files_pass_through_the_manager() -> None:
    world = relayed(World(peer_transfers=False))
    told = world.call(needs=["file"])
    assert not ran(told)
    assert told == [Relay("file", Replica("a", 100, 1))]
    told = world.handle(Relayed("file", 5, None))
    (run,) = only(Run, told)
    assert run.sources == {"file": Replica(RELAY, 100, 5)}
    assert world.core.stats()["bytes_between_nodes"] == 100
    world.cached("b", "file", source=RELAY)
    world.works(2)
    assert world.core.parts.storage.transfers.relaying == 0
    told = world.forget("file")
    assert {drop.node for drop in only(Drop, told)} == {"a", "b", RELAY}


def test_file_is_brought_to_the_manager_once() -> None:
    world = relayed(World(peer_transfers=False))
    world.join("c", cores=1)
    assert len(only(Relay, world.call(count=2, needs=["file"]))) == 1
    assert world.core.nodes["a"].sending == 1
    assert len(ran(world.handle(Relayed("file", 5, None)))) == 2
    assert world.core.nodes["a"].sending == 0


def test_managers_copy_outlives_its_node() -> None:
    world = relayed(World(peer_transfers=False))
    world.call(needs=["file"])
    world.handle(Relayed("file", 5, None))
    world.cancel(1, 2)
    assert not world.leave("a")
    (run,) = only(Run, world.call(needs=["file"]))
    assert run.sources == {"file": Replica(RELAY, 100, 5)}
    assert world.core.stats()["tasks_recovered"] == 0


def test_file_that_did_not_reach_the_manager_is_recreated() -> None:
    world = relayed(World(peer_transfers=False))
    world.call(needs=["file"])
    told = world.handle(Relayed("file", 0, "it was written to since it was made"))
    assert Drop("a", ["file"]) in told
    assert again(told) == [(temp("file"),)]


def test_full_disk_at_the_manager_loses_no_replica() -> None:
    world = relayed(World(peer_transfers=False))
    world.call(needs=["file"])
    told = world.handle(Relayed("file", 0, "no space left", lost=False))
    assert told == [Relay("file", Replica("a", 100, 1))]  # it may have space now
    world.handle(Relayed("file", 0, "no space left", lost=False))
    told = world.handle(Relayed("file", 0, "no space left", lost=False))
    (finish,) = only(Finish, told)
    (completion,) = finish.completions
    said = pickle.loads(completion.body)
    assert said["kind"] == "file-unreadable"
    assert "no space left" in said["reason"]
    assert not again(told)
    assert world.core.stats()["replicas"] == {"file": ["a"]}
    assert only(Relay, world.call(needs=["file"])), "later ones try anew"


def test_unneeded_copy_is_removed_on_arrival() -> None:
    world = relayed(World(peer_transfers=False))
    world.call(needs=["file"])
    world.forget("file")
    told = world.handle(Relayed("file", 5, None))
    assert only(Drop, told) == [Drop(RELAY, ["file"])]


def test_damaged_managers_copy_is_brought_again() -> None:
    world = relayed(World(peer_transfers=False))
    world.call(needs=["file"])
    world.handle(Relayed("file", 5, None))
    told = world.done(2, **unread("file"))
    assert not finished(told)
    assert only(Relay, told) == [Relay("file", Replica("a", 100, 1))]
    assert ran(world.handle(Relayed("file", 6, None))) == [2]


def test_replicas_pass_through_the_manager_too() -> None:
    world = World(peer_transfers=False)
    world.replicate(2)
    world.join("a")
    world.make("file")
    assert only(Relay, world.join("b")) == [Relay("file", Replica("a", 100, 1))]
    told = world.handle(Relayed("file", 5, None))
    assert fetches(told) == [("b", "file", RELAY)]


def test_managers_copy_counts_after_its_source_has_left() -> None:
    world = relayed(World(peer_transfers=False))
    assert only(Relay, world.call(needs=["file"]))
    world.leave("a")
    assert -1 in world.core.tasks
    world.handle(Relayed("file", 5, None))
    assert list(world.core.tasks) == [1, 2]
    told = world.cancel(1)
    assert (ran(told), sources(told)) == ([2], {"file": RELAY})


def test_copy_of_an_unrecoverable_file_serves_later_tasks() -> None:
    world = relayed(World(peer_transfers=False), recoverable=False)
    assert only(Relay, world.call(needs=["file"]))
    assert records(world.leave("a")).keys() == {2}
    world.handle(Relayed("file", 5, None))
    world.cancel(1)
    told = world.call(needs=["file"])
    assert (ran(told), sources(told)) == ([3], {"file": RELAY})


def test_draining_node_leaves_its_files_to_the_manager() -> None:
    world = World(peer_transfers=False)
    world.join("a")
    world.make("file")
    world.join("b")
    told = world.drain("a")
    assert only(Relay, told)
    assert not only(Release, told)
    told = world.handle(Relayed("file", 5, None))
    while not only(Release, told):
        ((node, file, source),) = fetches(told)
        told = world.cached(node, file, source=source)
    assert world.leave("a") == []
    assert world.call(needs=["file"])


@pytest.mark.parametrize("peers", [True, False])
def test_outcome_is_the_same_with_and_without_peers(peers: bool) -> None:
    world = World(peer_transfers=peers)
    spread(world, 3)
    for number in range(4):
        world.call(makes=[f"f{number}"], needs=[f"f{number - 1}"] if number else [])
        world.call(makes=[f"g{number}"], needs=[f"f{number}"])
    world.call(needs=["g0", "g1", "g2", "g3", "f3"])
    for _ in range(100):
        orders = world.work()
        for name in list(world.core.parts.storage.transfers.relays):
            world.handle(Relayed(name, 5, None))
        if not orders and not world.core.tasks:
            break
    assert all(number >= 0 for number in world.core.tasks)
    world.forget(*world.names())
    assert world.is_clean()
