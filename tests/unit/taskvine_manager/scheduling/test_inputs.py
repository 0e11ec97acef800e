"""Users' files: which nodes read them, and which copy them."""

from __future__ import annotations

from tests.unit.taskvine_manager.scheduling.world import (
    World,
    copies,
    local,
    ran,
    runs,
    spread,
)


def test_users_file_is_read_once_and_copied_by_nodes() -> None:
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


def test_each_round_of_copies_doubles_the_holders() -> None:
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


def test_readers_of_the_original_file_are_limited() -> None:
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


def test_failed_reader_leaves_its_turn_to_the_next() -> None:
    world = World()
    spread(world, 2)
    world.call(count=2, inputs=(local("/x"),))
    told = world.brought(world.nodes[0], "/x", size=0)
    assert ran(told) == [1]
    assert copies(told) == {world.nodes[1]: None}


def test_next_node_reads_when_the_reader_leaves() -> None:
    world = World()
    spread(world, 2)
    world.call(count=2, inputs=(local("/x"),))
    told = world.leave(world.nodes[0], told=True)
    assert len(ran(told)) == 1
    assert list(copies(told).values()) == [None]


def test_leaving_node_frees_its_turns() -> None:
    world = World()
    world.tune(worker_source_max_transfers=1)
    spread(world, 2)
    world.call(count=2, inputs=(local("/x"),))
    first = world.nodes[0]
    world.brought(first, "/x")
    assert world.core.nodes[first].sending == 1
    world.leave(world.nodes[1])
    assert world.core.nodes[first].sending == 0


def test_call_goes_to_the_node_with_its_input() -> None:
    world = World()
    spread(world, 3)
    world.call(inputs=(local("/x"),))
    world.brought(world.nodes[0], "/x")
    world.works(0)
    told = world.call(inputs=(local("/x"),))
    assert runs(told) == {world.nodes[0]: [1]}


def test_call_that_waits_for_its_input_delays_no_others() -> None:
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
