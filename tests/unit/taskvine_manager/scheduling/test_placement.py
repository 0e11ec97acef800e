"""Placement: where tasks run, in which order, and what fits on a node."""

from __future__ import annotations

from typing import Any

import pytest

from taskvine_manager.scheduling.events import Drop, Run
from taskvine_manager.scheduling.nodes import AHEAD
from taskvine_manager.scheduling.tuning import SHORT
from taskvine_manager.wire.messages import L1
from tests.unit.taskvine_manager.scheduling.world import (
    World,
    finished,
    local,
    only,
    ran,
    records,
    runs,
    sources,
    value,
)


def one_by_one(world: World) -> list[int]:
    """Run all tasks on a node of one core; return their order."""
    world.join("a", cores=1)
    return world.work()


# --- placement --------------------------------------------------------------------------------------------------------


def test_calls_are_spread_evenly_over_the_nodes() -> None:
    world = World()
    world.join("a", cores=4)
    world.join("b", cores=4)
    given = runs(world.call(count=4))
    assert {name: len(numbers) for name, numbers in given.items()} == {"a": 2, "b": 2}


def test_task_goes_to_the_node_with_most_of_its_bytes() -> None:
    world = World()
    world.join("a")
    small = world.make("small", 10)
    world.join("b", cores=8)
    large = world.make("large", 1000)
    assert (small, large) == ("a", "b")
    task = world.invocation(needs=["small", "large"])
    told = world.submit(task)
    assert runs(told) == {"b": [task.number]}
    assert sources(told) == {"small": "a"}


def test_task_goes_elsewhere_if_that_node_is_full() -> None:
    world = World()
    world.join("a", cores=1)
    world.make("file")
    world.call()
    world.join("b", cores=1)
    told = world.call(needs=["file"])
    assert runs(told) == {"b": [2]}
    assert sources(told) == {"file": "a"}


def test_emptier_of_equal_nodes_is_chosen() -> None:
    world = World()
    world.join("a", cores=2)
    world.join("b", cores=4)
    assert runs(world.call(inputs=(local("/x"),))) == {"b": [0]}


def test_fetched_input_is_a_replica() -> None:
    world = World()
    world.join("a", cores=1)
    world.make("file")
    world.call()
    world.join("b", cores=1)
    world.call(needs=["file"])
    world.cached("b", "file")
    assert world.core.stats()["replicas"] == {"file": ["a", "b"]}
    assert world.core.stats()["bytes_between_nodes"] == 7
    world.cached("b", "file")
    assert world.core.stats()["bytes_between_nodes"] == 7
    assert not only(Drop, world.forget("file"))  # the task may not have read it to the end
    assert {drop.node for drop in only(Drop, world.done(2))} == {"a", "b"}


def test_calls_of_unknown_length_are_sent_one_to_a_slot() -> None:
    world = World()
    world.join("a", cores=2)
    assert ran(world.call(count=10)) == [0, 1]
    assert ran(world.done(0, seconds=1.0)) == [2]


def test_short_calls_are_sent_ahead() -> None:
    world = World()
    world.join("a", cores=2)
    world.call(count=100)
    ahead = ran(world.done(0, 1, seconds=SHORT / 10))
    assert ahead == list(range(2, 34))  # 10 for each slot, rounded up to a power of two


def test_very_short_calls_are_sent_ahead_up_to_a_limit() -> None:
    world = World()
    world.join("a", cores=1)
    world.call(count=2 * AHEAD)
    assert len(ran(world.done(0, seconds=0.0))) == AHEAD


def test_one_long_call_ends_sending_ahead() -> None:
    world = World()
    world.join("a", cores=1)
    world.call(count=1000)
    ahead = ran(world.done(0, seconds=0.001))
    assert len(ahead) == 32
    assert not ran(world.done(ahead[0], seconds=10.0))


def test_only_short_kinds_are_sent_ahead() -> None:
    world = World()
    world.join("a", cores=2)
    world.call(category="short")
    world.done(0, seconds=0.001)
    world.call(count=2, category="long")
    assert not ran(world.call(category="long"))


def test_calls_sent_ahead_leave_no_slot_to_other_kinds() -> None:
    world = World()
    world.join("a", cores=2)
    world.call(category="short")
    world.call(count=4, category="short")
    world.done(0, seconds=0.001)
    assert not ran(world.call(cores=2.0))


def test_order_is_priority_then_arrival() -> None:
    world = World()
    world.submit(*(world.invocation(priority=priority) for priority in (0, 5, -1, 5, 0)))
    order = []
    order += ran(world.join("a", cores=1))
    while len(order) < 5:
        order += ran(world.done(order[-1]))
    assert order == [1, 3, 0, 4, 2]


def test_order_applies_across_requests() -> None:
    world = World()
    one, two = {"cores": 1.0}, {"cores": 1.0, "memory": 1.0}
    world.submit(
        world.invocation(**one, priority=9),
        world.invocation(**one),
        world.invocation(**two, priority=5),
        world.invocation(**two),
        world.invocation(**one, priority=5),
    )
    assert ran(world.join("a", cores=2)) == [0, 2]
    assert ran(world.done(0)) == [4]
    assert ran(world.done(2)) == [1]
    assert ran(world.done(4)) == [3]


def test_oldest_task_is_not_starved_by_smaller_ones() -> None:
    world = World()
    world.join("a", cores=2)
    world.call(cores=1.0)
    assert not ran(world.call(cores=2.0))
    assert not ran(world.call(count=5, cores=1.0))
    assert ran(world.done(0)) == [1]
    assert ran(world.done(1)) == [2, 3]


def test_reserved_node_is_open_to_higher_priorities() -> None:
    world = World()
    world.join("a", cores=2)
    world.call(cores=1.0)
    assert not ran(world.call(cores=2.0))
    assert ran(world.call(cores=1.0, priority=5.0)) == [2]
    assert not ran(world.call(cores=1.0))
    world.done(0)
    assert ran(world.done(2)) == [1]


def test_unreserved_resources_are_used() -> None:
    world = World()
    world.join("small", cores=1)
    world.join("large", cores=4)
    world.call(cores=3.0)
    world.call(cores=4.0)
    assert runs(world.call(count=3, cores=1.0)) == {"small": [2]}


# --- order ------------------------------------------------------------------------------------------------------------


def test_longest_path_goes_first() -> None:
    world = World()
    world.submit(
        world.invocation(),
        world.invocation(makes=["a"]),
        world.invocation(needs=["a"]),
        world.invocation(makes=["b"]),
        world.invocation(needs=["b"], makes=["c"]),
        world.invocation(needs=["c"]),
    )
    assert one_by_one(world) == [3, 4, 5, 1, 2, 0]


def test_started_chain_ends_before_the_next_starts() -> None:
    world = World()
    steps = [
        world.invocation(needs=[f"{name}{step - 1}"] if step else [], makes=[f"{name}{step}"])
        for step in range(3)
        for name in "abc"
    ]
    world.submit(*steps)
    assert one_by_one(world) == [0, 3, 6, 1, 4, 7, 2, 5, 8]


def test_priority_comes_before_the_path() -> None:
    world = World()
    world.submit(
        world.invocation(makes=["a"]), world.invocation(needs=["a"]), world.invocation(priority=1.0), world.invocation()
    )
    assert one_by_one(world) == [2, 0, 1, 3]


def test_path_that_grows_makes_ready_tasks_urgent() -> None:
    world = World()
    world.submit(world.invocation(), world.invocation(makes=["a"]))
    world.submit(world.invocation(needs=["a"]))
    assert one_by_one(world) == [1, 2, 0]


def test_equal_tasks_go_by_arrival() -> None:
    world = World()
    world.call(count=5)
    assert one_by_one(world) == [0, 1, 2, 3, 4]


def test_call_that_waits_for_a_transfer_delays_no_others() -> None:
    world = World()
    world.tune(worker_source_max_transfers=1)
    world.join("a", cores=1)
    world.make("file")
    world.call(cores=1.0)
    world.join("b", cores=2)
    told = world.call(count=2, needs=["file"], priority=1.0, mode=L1)
    assert ran(told) == [2, 3]  # the file is on its way to b for both
    world.join("c", cores=1)
    assert not ran(world.call(needs=["file"], priority=1.0, mode=L1))
    assert ran(world.call()) == [5]


# --- resources --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("node", "asked", "fit"),
    [
        ({"cores": 4.0}, {}, 4),
        ({"cores": 4.0}, {"cores": 0.5}, 8),
        ({"cores": 4.0}, {"cores": 3.0}, 1),
        ({"cores": 0.3}, {"cores": 0.1}, 3),
        ({"cores": 0.5}, {}, 1),
        ({"cores": 4.0, "memory": 1000.0}, {"memory": 400.0}, 2),
        ({"cores": 4.0, "disk": 100.0}, {"disk": 50.0}, 2),
        ({"cores": 4.0, "gpus": 1}, {"gpus": 1}, 1),
        ({"cores": 9.0, "gpus": 2}, {"gpus": 0.25}, 8),
        ({"cores": 9.0, "gpus": 2}, {"gpus": 0.6}, 2),
        ({"cores": 9.0, "gpus": 2, "gpu_memory": (1000.0, 1000.0)}, {"gpu_memory": 300.0}, 6),
        ({"cores": 9.0, "gpus": 2, "gpu_memory": (1000.0, 1000.0)}, {"gpus": 0.25, "gpu_memory": 600.0}, 2),
        ({"cores": 9.0, "gpus": 2, "gpu_memory": (1000.0, 500.0)}, {"gpus": 1, "gpu_memory": 600.0}, 1),
        ({"cores": 4.0, "slots": 8}, {}, 8),
        ({"cores": 4.0, "slots": 2}, {}, 2),
        ({"cores": 4.0, "slots": 2}, {"cores": 0.5}, 2),
        ({"cores": 4.0, "slots": 2}, {"mode": L1}, 4),
        ({"cores": 4.0, "slots": 8}, {"mode": L1, "cores": 2.0}, 2),
    ],
)
def test_as_many_tasks_run_as_fit(node: dict[str, Any], asked: dict[str, Any], fit: int) -> None:
    world = World()
    world.join("a", **node)
    assert len(ran(world.call(count=20, **asked))) == fit


def test_resources_of_all_kinds_add_up() -> None:
    world = World()
    world.join("a", cores=4, memory=100)
    assert ran(world.call(cores=2.0)) == [0]
    assert ran(world.call(mode=L1, cores=1.0, memory=80.0)) == [1]
    assert not ran(world.call(memory=30.0))
    assert ran(world.done(1)) == [2]


def test_impossible_task_is_refused_with_both_amounts() -> None:
    world = World()
    world.join("a", cores=2, memory=100)
    record = records(world.call(cores=3.0, memory=50.0))[0]
    assert record["kind"] == "unsatisfiable"
    assert record["requested"] == {"cores": 3.0, "memory": 50.0}
    assert record["largest"]["cores"] == 2.0
    assert world.core.ready == 0


def test_impossible_tasks_are_refused_in_order() -> None:
    world = World()
    for number in range(20):
        world.call(cores=100.0 + number)
    assert [each.number for each in finished(world.join("a"))] == list(range(20))


def test_impossible_task_is_refused_at_the_first_node() -> None:
    world = World()
    assert not world.call(gpus=1)
    assert records(world.join("a"))[0]["kind"] == "unsatisfiable"


@pytest.mark.parametrize(
    ("asked", "memories"), [({"gpu_memory": 600.0}, ()), ({"gpus": 1, "gpu_memory": 1500.0}, (1000.0, 1000.0))]
)
def test_gpu_memory_that_no_gpu_has_is_refused(asked: dict[str, Any], memories: tuple[float, ...]) -> None:
    world = World()
    world.join("a", gpus=2, gpu_memory=memories)
    record = records(world.call(**asked))[0]
    assert (record["kind"], record["requested"]) == ("unsatisfiable", asked)
    assert record["largest"].get("gpu_memory") == (1000.0 if memories else None)


def test_tasks_of_several_kinds_share_gpu_memory() -> None:
    """The second kind fits beside the first, and the first beside the second."""
    for kinds in (500.0, 200.0), (200.0, 500.0):
        world = World()
        world.join("a", cores=4, gpus=1, gpu_memory=(800.0,))
        assert [len(ran(world.call(gpu_memory=memory))) for memory in (*kinds, 200.0)] == [1, 1, 0]


def test_impossible_task_is_refused_once_it_is_ready() -> None:
    world = World()
    world.join("a")
    world.call(makes=["file"])
    assert not finished(world.call(needs=["file"], cores=3.0))
    assert records(world.done(0, made=[("file", 1)]))[1]["kind"] == "unsatisfiable"


def test_loss_of_a_node_may_make_a_task_impossible() -> None:
    world = World()
    world.join("a", disk=500.0)
    world.join("b", disk=400.0)
    world.call(count=3, cores=2.0, disk=450.0)
    assert set(records(world.leave("a"))) == {0, 1, 2}


def test_task_waits_for_a_larger_node_if_nodes_differ() -> None:
    world = World(uniform=False)
    world.join("a", cores=2)
    assert not world.call(cores=3.0)
    assert ran(world.call()) == [1]
    assert ran(world.join("b", cores=4)) == [0]


def test_tasks_wait_until_enough_nodes_have_joined() -> None:
    world = World(wait_for_nodes=2)
    world.call()
    assert not world.join("a")
    assert ran(world.join("b")) == [0]
    world.leave("a")
    assert ran(world.call())


# --- values -----------------------------------------------------------------------------------------------------------


def test_small_value_is_sent_with_its_consumers() -> None:
    world = World()
    world.join("a", cores=1)
    maker = world.invocation(outputs=(value("v"),))
    world.submit(maker, world.invocation(inputs=(value("v"),)))
    (run,) = only(Run, world.done(maker.number, body=b"encoded"))
    assert run.values == {"v": b"encoded"}
    assert run.sources == {}
    world.forget("v")
    world.done(1)
    assert world.is_clean()


def test_small_value_without_readers_is_not_kept() -> None:
    world = World()
    world.join("a")
    maker = world.invocation(outputs=(value("v"),))
    world.submit(maker)
    world.forget("v")
    assert len(finished(world.done(maker.number, body=b"encoded"))) == 1
    assert world.is_clean()


def test_suspect_calls_are_not_sent_ahead() -> None:
    world = World(max_retries=None)
    world.join("a", cores=4)
    world.call(count=5)
    world.done(0, seconds=0.001)
    world.leave("a")
    suspects = [task for node in (world.join("b", cores=4), world.join("c", cores=4)) for task in ran(node)]
    assert len(suspects) == 2
