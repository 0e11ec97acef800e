"""The scheduler: transfers and their limits, users' files, how many replicas there are, room, the manager as relay."""

from __future__ import annotations

import pickle

import pytest

from taskvine_manager.runtime import failure
from taskvine_manager.scheduling import core
from taskvine_manager.scheduling.tuning import Tuning
from taskvine_manager.wire.messages import Completion
from tests.unit.taskvine_manager.scheduling.world import (
    Instructions,
    World,
    again,
    copies,
    fetches,
    finished,
    local,
    only,
    ran,
    runs,
    sources,
    temp,
    unread,
    value,
)

MB = 1 << 20


def spread(world: World, count: int, cores: float = 1.0) -> None:
    """Have so many nodes, n0, n1 and so on, each with room for one call."""
    for number in range(count):
        world.join(f"n{number}", cores=cores)


# --- tuning parameters ----------------------------------------------------------------------------------------------


def test_defaults_are_those_of_taskvine() -> None:
    tuning = Tuning()
    assert (tuning.temp_replica_count, tuning.transfer_replica_per_cycle) == (1, 10)
    assert (tuning.transfer_temps_recovery, tuning.clean_redundant_replicas, tuning.immediate_recovery) == (0, 0, 0)
    assert (tuning.worker_source_max_transfers, tuning.file_source_max_transfers) == (10, 1)


def test_what_is_not_honoured_is_left_out_and_what_is_given_is_kept() -> None:
    tuning = Tuning()
    tuning.tune({"temp-replica-count": 3.0, "hungry-minimum": 5})
    tuning.tune({"immediate_recovery": 1})
    assert tuning == Tuning(temp_replica_count=3, immediate_recovery=1)


def test_no_limit_is_written_as_none_at_all() -> None:
    tuning = Tuning()
    tuning.tune({"worker-source-max-transfers": 0, "file-source-max-transfers": -1, "temp-replica-count": 0})
    assert tuning.worker_source_max_transfers > 10**6
    assert tuning.file_source_max_transfers > 10**6
    assert tuning.temp_replica_count == 1


# --- limits of transfers --------------------------------------------------------------------------------------------


def test_so_many_read_from_one_node_at_a_time() -> None:
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
    assert sorted(source.node for run in only(core.Run, told) for source in run.sources.values()) == [
        "a",
        *[world.nodes[2]] * 2,
    ]
    assert world.core.nodes["a"].sending == 2


def test_a_transfer_that_failed_or_was_not_needed_gives_its_turn_back() -> None:
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


def test_replicas_are_copied_within_the_limit_too() -> None:
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


def test_nothing_is_under_way_in_the_end() -> None:
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


def test_a_copy_that_ended_with_its_call_is_begun_for_its_own_sake() -> None:
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


def test_who_refused_a_copy_is_asked_again_when_its_source_has_gone() -> None:
    """It may have been the source that would not give it."""
    world = World()
    world.tune(temp_replica_count=2, transfer_temps_recovery=1)
    world.join("a")
    world.make("file")
    world.join("b")
    world.cached("b", "file", "Connection reset by peer", source="a")
    world.join("c")
    world.cached("c", "file", source="a")
    assert fetches(world.leave("a")) == [("b", "file", "c")]


def test_a_node_that_sends_a_users_file_is_not_let_go() -> None:
    world = World()
    spread(world, 2)
    world.call(count=2, inputs=(local("/x"),))
    first = world.nodes[0]
    ((second, source),) = copies(world.brought(first, "/x")).items()
    assert source == first
    world.works(0)
    assert not only(core.Release, world.drain(first))
    assert only(core.Release, world.brought(second, "/x")) == [core.Release(first)]


def test_a_source_that_is_not_what_it_was_is_given_up() -> None:
    world = World()
    world.replicate(2)
    world.join("a")
    world.make("file")
    world.join("b")
    world.call(needs=["file", "never"])
    told = world.cached("b", "file", "it was written to since it was made", spoiled=True, source="a")
    assert core.Drop("a", ["file"]) in told
    assert again(told) == [(temp("file"),)]


# --- users' files ---------------------------------------------------------------------------------------------------


def test_a_users_file_is_read_once_and_copied_by_the_nodes() -> None:
    world = World()
    spread(world, 5)
    told = world.call(count=5, inputs=(local("/x"),))
    assert len(ran(told)) == 1
    ((first, source),) = copies(told).items()
    assert source is None
    told = world.brought(first, "/x")
    assert len(ran(told)) == 4
    assert set(copies(told).values()) == {first}
    for name in copies(told):
        world.brought(name, "/x")
    stats = world.core.stats()
    assert (stats["inputs_read"], stats["bytes_between_nodes"]) == (10, 40)


def test_each_round_of_copies_doubles_those_that_have_a_file() -> None:
    world = World()
    world.tune(worker_source_max_transfers=1)
    spread(world, 16)
    taken = list(copies(world.call(count=16, inputs=(local("/x"),))))
    rounds = []
    while taken:
        rounds.append(len(taken))
        taken = [node for name in taken for node in copies(world.brought(name, "/x"))]
    assert rounds[:2] == [1, 1]
    assert (len(rounds), sum(rounds)) == (5, 16)
    assert world.core.stats()["inputs_read"] == 10
    assert all(node.sending == 0 for node in world.core.nodes.values())


def test_so_many_read_the_file_itself_at_a_time() -> None:
    world = World()
    world.tune(file_source_max_transfers=3)
    spread(world, 5)
    told = world.call(count=5, inputs=(local("/x"),))
    assert len(ran(told)) == 3
    assert set(copies(told).values()) == {None}


def test_different_files_do_not_wait_for_each_other() -> None:
    world = World()
    spread(world, 3)
    told = world.submit(*(world.invocation(inputs=(local(f"/x{each}"),)) for each in range(3)))
    assert len(ran(told)) == 3


def test_who_could_not_have_the_file_leaves_it_to_the_next() -> None:
    world = World()
    spread(world, 2)
    world.call(count=2, inputs=(local("/x"),))
    told = world.brought(world.nodes[0], "/x", size=0)
    assert ran(told) == [1]
    assert copies(told) == {world.nodes[1]: None}


def test_a_file_goes_on_being_read_when_its_reader_goes() -> None:
    world = World()
    spread(world, 2)
    world.call(count=2, inputs=(local("/x"),))
    told = world.leave(world.nodes[0], told=True)
    assert len(ran(told)) == 1
    assert list(copies(told).values()) == [None]


def test_a_node_that_leaves_gives_the_turn_of_its_inputs_back() -> None:
    world = World()
    world.tune(worker_source_max_transfers=1)
    spread(world, 2)
    world.call(count=2, inputs=(local("/x"),))
    first = world.nodes[0]
    world.brought(first, "/x")
    assert world.core.nodes[first].sending == 1
    world.leave(world.nodes[1])
    assert world.core.nodes[first].sending == 0


def test_a_call_goes_where_its_input_is() -> None:
    world = World()
    spread(world, 3)
    world.call(inputs=(local("/x"),))
    world.brought(world.nodes[0], "/x")
    world.works(0)
    told = world.call(inputs=(local("/x"),))
    assert runs(told) == {world.nodes[0]: [1]}


def test_a_call_that_waits_for_its_input_keeps_nobody_else_waiting() -> None:
    world = World()
    spread(world, 3)
    world.call(count=3, inputs=(local("/x"),))
    assert len(ran(world.call(count=3))) == 2


def test_without_peers_every_node_reads_the_file_itself() -> None:
    world = World(peer_transfers=False)
    spread(world, 3)
    world.call(count=3, inputs=(local("/x"),))
    told = world.brought(world.nodes[0], "/x")
    assert list(copies(told).values()) == [None]
    world.brought(world.nodes[ran(told)[0]], "/x")
    assert world.core.stats()["inputs_read"] == 20


# --- how many replicas ----------------------------------------------------------------------------------------------


def test_so_many_copies_are_begun_at_a_time() -> None:
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


def test_a_file_may_ask_for_more_replicas_than_others() -> None:
    world = World()
    spread(world, 4, cores=2)
    world.call(outputs=(temp("common"), temp("precious", 3)))
    assert [file for _, file, _ in fetches(world.works(0))] == ["precious", "precious"]
    world.arrive()
    replicas = world.core.stats()["replicas"]
    assert (len(replicas["common"]), len(replicas["precious"])) == (1, 3)


def test_a_file_may_ask_for_fewer_replicas_than_others() -> None:
    world = World()
    world.replicate(3)
    spread(world, 4, cores=2)
    world.call(outputs=(temp("one", 1), temp("three")))
    assert {file for _, file, _ in fetches(world.works(0))} == {"three"}


def test_what_is_made_again_is_replicated_again() -> None:
    world = World()
    world.replicate(2)
    world.join("a")
    world.make("file")
    world.leave("a")
    world.join("b")
    world.join("c")
    world.call(needs=["file", "never"])
    assert len(fetches(world.works(-1))) == 1


def test_redundant_replicas_are_cleaned_only_if_that_is_asked_for() -> None:
    for clean in (False, True):
        world = World()
        world.replicate(3)
        world.tune(clean_redundant_replicas=clean)
        spread(world, 3)
        world.make("file")
        world.arrive()
        told = world.replicate(2)
        assert len(only(core.Drop, told)) == clean
        assert len(world.core.stats()["replicas"]["file"]) == 3 - clean


def test_what_a_call_has_brought_makes_the_replica_redundant_that_nothing_reads() -> None:
    world = World()
    world.tune(clean_redundant_replicas=1)
    world.join("a", cores=1)
    world.make("file")
    world.call(cores=1.0)
    world.join("b", cores=1)
    assert sources(world.call(needs=["file"])) == {"file": "a"}
    assert only(core.Drop, world.cached("b", "file")) == [core.Drop("a", ["file"])]  # on b it is being read
    assert world.core.stats()["replicas"] == {"file": ["b"]}


def test_a_redundant_replica_that_is_read_is_kept_for_as_long() -> None:
    world = World()
    world.replicate(2)
    world.join("a", cores=1)
    world.make("file")
    world.join("b", cores=1)
    world.arrive()
    world.call(count=2, needs=["file"])
    assert not only(core.Drop, world.tune(temp_replica_count=1, clean_redundant_replicas=1))
    assert len(only(core.Drop, world.works(1))) == 1
    assert not only(core.Drop, world.works(2))


def test_nothing_is_cleaned_while_a_copy_is_under_way() -> None:
    world = World()
    world.replicate(3)
    world.join("a")
    world.make("file")
    world.join("b")
    world.arrive()
    world.join("c")
    assert not only(core.Drop, world.tune(temp_replica_count=1, clean_redundant_replicas=1))
    assert len(only(core.Drop, world.cached("c", "file"))) == 2


def test_the_fuller_node_is_cleaned() -> None:
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
    assert [drop.node for drop in only(core.Drop, told)] == full


def test_replicas_on_nodes_that_go_are_not_redundant() -> None:
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


def test_bytes_are_counted_off_as_they_were_counted() -> None:
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


# --- room -----------------------------------------------------------------------------------------------------------


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
    assert told == [core.Full("a")]
    assert len(world.core.nodes["a"].files) == 2


def test_what_is_being_read_is_not_evicted() -> None:
    world = crowd(300)
    world.call(needs=["f0"])
    assert crowds(world, 900) == [core.Full("a")]


def test_what_is_being_read_is_not_evicted_though_another_node_has_it() -> None:
    world = World()
    world.replicate(2)
    world.join("a", cores=1, disk=1000 / MB)
    world.make("file", 300)
    world.join("b", cores=1)
    world.arrive()
    world.call(count=2, needs=["file"])
    for name in "ab":
        assert core.Full(name) in crowds(world, MB * 1000, name)
    assert world.core.stats()["replicas"] == {"file": ["a", "b"]}


def test_what_is_being_copied_is_not_evicted_from_where_it_is_read() -> None:
    world = crowd(300)
    world.replicate(2)
    world.join("b")
    assert crowds(world, 900) == [core.Full("a")]
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
    assert kinds.index(core.Finish) < kinds.index(core.Again)


# --- the manager as relay -------------------------------------------------------------------------------------------


def relayed(world: World) -> World:
    """A file on a busy node, and another node that wants it."""
    world.join("a", cores=1)
    world.make("file")
    world.call(cores=1.0)
    world.join("b", cores=1)
    return world


def test_without_peers_a_file_passes_through_the_manager() -> None:
    world = relayed(World(peer_transfers=False))
    told = world.call(needs=["file"])
    assert not ran(told)
    assert told == [core.Relay("file", core.Replica("a", 100, 1))]
    told = world.handle(core.Relayed("file", 5, None))
    (run,) = only(core.Run, told)
    assert run.sources == {"file": core.Replica(core.RELAY, 100, 5)}
    assert world.core.stats()["bytes_between_nodes"] == 100
    world.cached("b", "file", source=core.RELAY)
    world.works(2)
    assert world.core._storage.transfers._relaying == 0
    told = world.forget("file")
    assert {drop.node for drop in only(core.Drop, told)} == {"a", "b", core.RELAY}


def test_a_file_is_brought_to_the_manager_once() -> None:
    world = relayed(World(peer_transfers=False))
    world.join("c", cores=1)
    assert len(only(core.Relay, world.call(count=2, needs=["file"]))) == 1
    assert world.core.nodes["a"].sending == 1
    assert len(ran(world.handle(core.Relayed("file", 5, None)))) == 2
    assert world.core.nodes["a"].sending == 0


def test_what_the_manager_has_outlives_its_node() -> None:
    world = relayed(World(peer_transfers=False))
    world.call(needs=["file"])
    world.handle(core.Relayed("file", 5, None))
    world.cancel(1, 2)
    assert not world.leave("a")
    (run,) = only(core.Run, world.call(needs=["file"]))
    assert run.sources == {"file": core.Replica(core.RELAY, 100, 5)}
    assert world.core.stats()["tasks_recovered"] == 0


def test_what_could_not_be_brought_to_the_manager_is_made_again() -> None:
    world = relayed(World(peer_transfers=False))
    world.call(needs=["file"])
    told = world.handle(core.Relayed("file", 0, "it was written to since it was made"))
    assert core.Drop("a", ["file"]) in told
    assert again(told) == [(temp("file"),)]


def test_a_full_disk_at_the_manager_neither_removes_a_replica_nor_runs_a_task_again() -> None:
    world = relayed(World(peer_transfers=False))
    world.call(needs=["file"])
    told = world.handle(core.Relayed("file", 0, "no space left", lost=False))
    assert told == [core.Relay("file", core.Replica("a", 100, 1))]  # it may have room now
    world.handle(core.Relayed("file", 0, "no space left", lost=False))
    told = world.handle(core.Relayed("file", 0, "no space left", lost=False))
    (finish,) = only(core.Finish, told)
    (completion,) = finish.completions
    said = pickle.loads(completion.body)
    assert said["kind"] == "file-unreadable"
    assert "no space left" in said["reason"]
    assert not again(told)
    assert world.core.stats()["replicas"] == {"file": ["a"]}
    assert only(core.Relay, world.call(needs=["file"])), "later ones try anew"


def test_what_nobody_needs_any_more_when_it_comes_is_removed() -> None:
    world = relayed(World(peer_transfers=False))
    world.call(needs=["file"])
    world.forget("file")
    told = world.handle(core.Relayed("file", 5, None))
    assert only(core.Drop, told) == [core.Drop(core.RELAY, ["file"])]


def test_what_the_manager_has_and_is_spoiled_there_is_brought_again() -> None:
    world = relayed(World(peer_transfers=False))
    world.call(needs=["file"])
    world.handle(core.Relayed("file", 5, None))
    told = world.done(2, **unread("file"))
    assert not finished(told)
    assert only(core.Relay, told) == [core.Relay("file", core.Replica("a", 100, 1))]
    assert ran(world.handle(core.Relayed("file", 6, None))) == [2]


def test_replicas_pass_through_the_manager_too() -> None:
    world = World(peer_transfers=False)
    world.replicate(2)
    world.join("a")
    world.make("file")
    assert only(core.Relay, world.join("b")) == [core.Relay("file", core.Replica("a", 100, 1))]
    told = world.handle(core.Relayed("file", 5, None))
    assert fetches(told) == [("b", "file", core.RELAY)]


def test_a_draining_node_leaves_what_it_has_to_the_manager() -> None:
    world = World(peer_transfers=False)
    world.join("a")
    world.make("file")
    world.join("b")
    told = world.drain("a")
    assert only(core.Relay, told)
    assert not only(core.Release, told)
    told = world.handle(core.Relayed("file", 5, None))
    while not only(core.Release, told):
        ((node, file, source),) = fetches(told)
        told = world.cached(node, file, source=source)
    assert world.leave("a") == []
    assert world.call(needs=["file"])


@pytest.mark.parametrize("peers", [True, False])
def test_it_ends_alike_with_and_without_peers(peers: bool) -> None:
    world = World(peer_transfers=peers)
    spread(world, 3)
    for number in range(4):
        world.call(makes=[f"f{number}"], needs=[f"f{number - 1}"] if number else [])
        world.call(makes=[f"g{number}"], needs=[f"f{number}"])
    world.call(needs=["g0", "g1", "g2", "g3", "f3"])
    for _ in range(100):
        orders = world.work()
        for name in list(world.core._storage.transfers._relays):
            world.handle(core.Relayed(name, 5, None))
        if not orders and not world.core.tasks:
            break
    assert all(number >= 0 for number in world.core.tasks)
    world.forget(*world.names())
    assert world.is_clean()
