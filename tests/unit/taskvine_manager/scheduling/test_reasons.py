"""What the record says of placements, and of tasks that are not placed."""

from __future__ import annotations

from typing import Any

from taskvine_manager.record.events import Event, Placed, Recovery, Requeued, Waiting
from taskvine_manager.scheduling.events import Looked, Record
from taskvine_manager.wire.messages import Library
from tests.unit.taskvine_manager.scheduling.world import Instructions, World, only, spread, value


def world_of(**settings: Any) -> World:
    return World(details=True, **settings)


def recorded(instructions: Instructions, kind: type[Event]) -> list[Any]:
    return [event for record in only(Record, instructions) for event in record.events if isinstance(event, kind)]


def reasons(world: World) -> list[tuple[int, str, str, Any]]:
    """Let the scheduler look; return the reasons that are new."""
    return [tuple(event[:4]) for event in recorded(world.handle(Looked()), Waiting)]


# --- placements ---


def test_nothing_is_recorded_without_details() -> None:
    world = World()
    told = world.join("n1") + world.call() + world.handle(Looked())
    assert only(Record, told) == []
    assert not world.core.holds


def test_tasks_without_inputs_are_recorded_together() -> None:
    world = world_of()
    world.join("n1")
    assert recorded(world.call(2), Placed) == [Placed("n1", [0, 1], "spread", queue=0)]


def test_placement_by_data_names_the_bytes_and_the_next_best_node() -> None:
    world = world_of()
    spread(world, 2)
    where = world.make("x", 100)
    other = {"n0": "n1", "n1": "n0"}[where]
    (placed,) = recorded(world.call(needs=["x"]), Placed)
    assert (placed.node, placed.how, placed.local, placed.missing) == (where, "inputs", 100, 0)
    ((name, cost, local, room),) = placed.others
    assert (name, local, room) == (other, 0, 1)
    assert cost > placed.cost


def test_task_sent_ahead_is_recorded() -> None:
    world = world_of()
    world.join("n1", cores=1.0)
    first = world.invocation(category="short")
    world.submit(first)
    world.done(first.number, seconds=0.001)
    maker = world.invocation(outputs=(value("v"),), category="short")
    reader = world.invocation(inputs=(value("v"),), category="short")
    placed = recorded(world.submit(maker, reader), Placed)
    assert [(event.numbers, event.how) for event in placed] == [([1], "spread"), ([2], "ahead")]


def test_recovery_names_its_files_and_their_last_node() -> None:
    world = world_of()
    world.join("n1")
    world.make("x")
    world.call(needs=["x"])
    told = world.leave("n1")
    assert recorded(told, Recovery) == [Recovery(-1, 0, [("x", "n1")])]
    assert recorded(told, Requeued) == [Requeued(1, "node-lost", 1)]


# --- waiting ---


def test_reason_is_recorded_once_until_it_changes() -> None:
    world = world_of()
    world.call(2, cores=2.0)
    assert reasons(world) == [(0, "no-node", "", ())]
    assert reasons(world) == []
    world.join("n1")
    assert reasons(world) == [(1, "full", "", (("n1", "cores"),))]
    assert reasons(world) == []
    world.done(0)
    assert not world.core.holds
    assert reasons(world) == []


def test_later_tasks_of_the_same_shape_are_counted() -> None:
    world = world_of()
    world.call(5)
    (waiting,) = recorded(world.handle(Looked()), Waiting)
    assert (waiting.number, waiting.alike) == (0, 5)


def test_few_nodes() -> None:
    world = world_of(wait_for_nodes=2)
    world.join("n1")
    world.call()
    assert reasons(world) == [(0, "few-nodes", "1 of 2", ())]


def test_scarce_resource_of_each_node_is_named() -> None:
    world = world_of()
    world.join("n1", cores=8.0, memory=100.0)
    world.join("n2", cores=1.0, memory=1000.0)
    world.call(2, memory=80.0)
    assert reasons(world) == []
    world.call(memory=80.0)
    assert reasons(world) == [(2, "full", "", (("n1", "memory"), ("n2", "cores")))]


def test_task_too_large_for_any_node() -> None:
    world = world_of(uniform=False)
    world.join("n1", memory=100.0)
    world.call(memory=200.0)
    assert reasons(world) == [(0, "too-large", "", (("n1", "memory"),))]


def test_missing_gpu_is_named() -> None:
    world = world_of(uniform=False)
    world.join("n1")
    world.call(gpus=1)
    assert reasons(world) == [(0, "too-large", "", (("n1", "gpus"),))]


def test_slots_of_a_library_are_named() -> None:
    world = world_of()
    world.join("n1", cores=4.0)
    world.call(2, library=Library("model", 1, None, 0))
    assert reasons(world) == [(1, "full", "", (("n1", "library slots"),))]


def test_reserved_node() -> None:
    world = world_of()
    world.join("n1", cores=2.0)
    world.call(cores=1.0)
    world.call(cores=2.0)
    world.call(cores=1.0)
    assert reasons(world) == [(1, "full", "", (("n1", "cores"),)), (2, "reserved", "1", ())]


def test_busy_node_with_the_inputs() -> None:
    world = world_of()
    world.tune(default_transfer_rate=1)
    spread(world, 2)
    where = world.make("x", 1000)
    world.call(needs=["x"])
    world.call(needs=["x"])
    assert reasons(world) == [(2, "busy-node", where, ())]


def test_transfer_limit() -> None:
    world = world_of()
    world.tune(worker_source_max_transfers=1, weight_transfer=0.0)
    spread(world, 3)
    world.make("x")
    world.call(3, needs=["x"])
    assert reasons(world) == [(3, "transfer-limit", "x", ())]


def test_suspect() -> None:
    world = world_of(max_retries=None)
    world.join("n1", cores=2.0)
    world.call(2)
    world.leave("n1")
    world.join("n2", cores=2.0)
    assert reasons(world) == [(1, "suspect", "", ())]
