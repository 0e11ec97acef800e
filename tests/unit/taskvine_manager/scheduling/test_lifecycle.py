"""The life cycle of tasks: nodes that leave, tasks that are cancelled, files that come and go."""

from __future__ import annotations

import pytest

from taskvine_manager.runtime import failure
from taskvine_manager.scheduling.events import Drop, Kill, Returned
from taskvine_manager.scheduling.tuning import SHORT
from tests.unit.taskvine_manager.scheduling.world import (
    World,
    finished,
    only,
    ran,
    records,
    runs,
    sources,
    unread,
)

# --- nodes go ---------------------------------------------------------------------------------------------------------


def test_tasks_of_a_lost_node_run_elsewhere() -> None:
    world = World()
    world.join("a")
    world.call(count=2)
    world.join("b")
    assert runs(world.leave("a", told=True)) == {"b": [0, 1]}
    assert [each.number for each in finished(world.done(0))] == [0]


def test_suspects_run_one_by_one() -> None:
    """On each node, calls run beside it."""
    world = World()
    world.join("a", cores=3)
    world.call(count=3)
    world.leave("a")
    assert runs(world.join("b", cores=3)) == {"b": [0]}
    assert ran(world.call(count=3)) == [3, 4]
    assert runs(world.join("c", cores=3)) == {"c": [1, 5]}
    assert ran(world.done(3)) == []
    assert ran(world.done(0)) == [2]
    assert {each.number for each in finished(world.leave("b"))} == {2}
    assert ran(world.done(1, 5)) == [4]


@pytest.mark.parametrize("retries", [0, 1, 3])
def test_retries_are_limited(retries: int) -> None:
    world = World(max_retries=retries)
    world.call()
    for _ in range(retries):
        world.join("a")
        assert not finished(world.leave("a"))
    world.join("a")
    record = records(world.leave("a"))[0]
    assert record["kind"] == "node-lost"
    assert record["node"] == "a"
    assert f"at attempt {retries + 1}" in record["reason"]
    assert "its connection ended" in record["reason"]


def test_retries_may_be_unlimited() -> None:
    world = World(max_retries=None)
    world.call()
    for _ in range(20):
        assert ran(world.join("a")) == [0]
        assert not finished(world.leave("a"))


def test_only_tasks_that_may_have_run_are_charged() -> None:
    world = World(max_retries=0)
    world.join("a", cores=2)
    world.call(count=12)
    world.done(0, 1, seconds=SHORT / 5)
    assert len(world.core.nodes["a"].assigned) == 10
    assert set(records(world.leave("a"))) == {2, 3}
    assert world.core.ready == 8


def test_unknown_node_is_ignored() -> None:
    world = World()
    world.join("a")
    world.call(makes=["file"])
    world.leave("a")
    assert not world.leave("a")
    assert not world.drain("a")
    assert not world.done(0, made=[("file", 1)])
    assert not world.handle(Returned("a", (0,)))
    assert not world.cached("a", "file")
    assert ran(world.join("b")) == [0]


def test_returned_task_runs_elsewhere_without_charge() -> None:
    world = World(max_retries=0)
    world.join("a")
    world.call(count=2)
    world.join("b")
    world.drain("a")
    assert runs(world.handle(Returned("a", (0, 1)))) == {"b": [0, 1]}
    assert {number: task.attempts for number, task in world.core.nodes["b"].assigned.items()} == {0: 0, 1: 0}


# --- cancelling -------------------------------------------------------------------------------------------------------


def test_cancelled_while_waiting() -> None:
    world = World()
    world.join("a")
    world.call(needs=["file"])
    assert world.core.waiting == 1
    assert not world.cancel(0)
    assert world.core.waiting == 0
    assert not world.cancel(0)


def test_cancelled_while_ready() -> None:
    world = World()
    world.call(count=3)
    assert not world.cancel(0, 2)
    assert world.core.ready == 1
    assert ran(world.join("a")) == [1]


def test_cancelled_while_it_runs() -> None:
    world = World()
    world.join("a", cores=1)
    world.call(count=2)
    told = world.cancel(0)
    assert only(Kill, told) == [Kill("a", [0])]
    assert ran(told) == [1]
    assert not world.done(0)


def test_cancelled_task_frees_its_resources() -> None:
    world = World()
    world.join("a", cores=2)
    world.call(count=2)
    world.cancel(0, 1)
    assert ran(world.call(count=2)) == [2, 3]


def test_cancelled_task_may_lose_its_node() -> None:
    world = World()
    world.join("a")
    world.call()
    world.cancel(0)
    assert not world.leave("a")
    assert not world.join("b")


def test_cancelled_task_may_be_given_back() -> None:
    world = World()
    world.join("a")
    world.call()
    world.cancel(0)
    assert not world.handle(Returned("a", (0,)))


# --- files ------------------------------------------------------------------------------------------------------------


def test_consumer_runs_where_its_file_was_made() -> None:
    world = World()
    world.join("a")
    world.join("b")
    world.call(makes=["file"])
    assert not world.call(needs=["file"])
    told = world.done(0, made=[("file", 10)])
    assert runs(told) == {world.nodes[0]: [1]}
    assert sources(told) == {}


def test_cycle_of_names_is_refused() -> None:
    world = World()
    world.join("a")
    world.call(needs=["x"], makes=["y"])
    record = records(world.call(needs=["y"], makes=["x"]))[1]
    assert record["kind"] == "file-lost"
    assert "1 -> x -> 0 -> y -> 1" in record["reason"]
    assert world.core.waiting == 1


def test_consumers_of_a_lost_file_fail_and_name_the_node() -> None:
    world = World()
    world.join("a")
    world.make("file", recoverable=False)
    world.call(needs=["file", "never"])
    world.join("b")
    record = records(world.leave("a"))[1]
    assert record["kind"] == "file-lost"
    assert (record["node"], record["name"]) == ("a", "file")
    assert "node a" in record["reason"]


def test_ready_consumer_fails_with_its_file() -> None:
    world = World()
    world.join("a", cores=1)
    world.make("file", recoverable=False)
    world.call()
    world.call(needs=["file"])
    assert set(records(world.leave("a"))) == {2}
    assert ran(world.join("b", cores=1)) == [1]


def test_later_consumer_of_a_lost_file_fails_at_once() -> None:
    world = World()
    world.join("a")
    world.make("file", recoverable=False)
    world.leave("a")
    assert records(world.call(needs=["file"]))[1]["node"] == "a"


def test_lost_file_with_a_new_producer_is_waited_for() -> None:
    world = World()
    world.join("a")
    world.make("file")
    world.leave("a")
    world.call(makes=["file"])
    assert not world.call(needs=["file"])
    world.join("b")
    assert ran(world.done(1, made=[("file", 1)])) == [2]


def test_another_replica_prevents_a_loss() -> None:
    world = World()
    world.replicate(2)
    world.join("a")
    world.make("file")
    world.join("b")
    world.cached("b", "file")
    told = world.leave("a")
    assert not finished(told)
    assert runs(world.call(needs=["file"])) == {"b": [1]}


def test_copy_may_arrive_after_its_source_has_left() -> None:
    world = World()
    world.replicate(2)
    world.join("a")
    world.make("file")
    world.join("b")
    world.leave("a")
    world.cached("b", "file")
    assert runs(world.call(needs=["file"])) == {"b": [1]}


def test_consumer_reads_another_replica() -> None:
    world = World(max_retries=0)
    world.replicate(2)
    world.join("a", cores=1)
    world.make("file")
    world.call()
    world.join("b", cores=1)
    world.cached("b", "file")
    world.call()
    world.join("c", cores=1)
    assert sources(world.call(needs=["file"])) == {"file": "a"}
    told = world.done(3, **unread("file"))  # node a is leaving, but its message has not arrived yet
    assert not finished(told)
    assert runs(told) == {"c": [3]}
    assert sources(told) == {"file": "b"}
    assert world.core.stats()["replicas"]["file"] == ["b"]
    assert only(Drop, told) == [Drop("a", ["file"])]


def test_consumer_fails_without_a_readable_replica() -> None:
    world = World()
    world.join("a", cores=1)
    world.make("file", recoverable=False)
    world.call(needs=["file"])
    world.call(needs=["file", "other"])
    told = world.done(1, **unread("file"))
    assert set(records(told)) == {1, 2}
    assert world.where("file") is None


def test_other_failures_of_a_consumer_lose_no_file() -> None:
    world = World()
    world.join("a")
    world.make("file")
    world.call(needs=["file"])
    told = world.done(1, outcome=failure.LOST, body=failure.lost("slot-died", "it was killed"))
    assert records(told)[1]["kind"] == "slot-died"
    assert world.where("file") == "a"


def test_outputs_of_a_failed_task_do_not_count() -> None:
    world = World()
    world.join("a")
    world.call(makes=["file"])
    world.call(needs=["file"])
    assert len(finished(world.done(0, outcome=failure.RAISED))) == 1
    assert world.core.waiting == 1
    retry = world.invocation(makes=["file"])
    world.submit(retry)
    assert ran(world.done(retry.number, made=[("file", 1)])) == [1]


# --- forgetting -------------------------------------------------------------------------------------------------------


def test_forgotten_everywhere() -> None:
    world = World()
    world.replicate(2)
    world.join("a")
    world.make("file")
    world.join("b")
    world.cached("b", "file")
    assert sorted(only(Drop, world.forget("file")), key=str) == [
        Drop("a", ["file"]),
        Drop("b", ["file"]),
    ]
    assert world.core.stats()["replicas"] == {}
    assert not world.join("c")


def test_forgotten_while_it_is_fetched() -> None:
    world = World()
    world.replicate(2)
    world.join("a")
    world.make("file")
    world.join("b")
    assert world.forget("file") == [Drop("a", ["file"])]
    assert world.cached("b", "file") == [Drop("b", ["file"])]


def test_forgotten_before_it_is_made() -> None:
    world = World()
    world.join("a")
    world.call(makes=["file"])
    world.call(needs=["file"])
    assert records(world.forget("file"))[1]["reason"] == "file was forgotten"
    assert world.core.waiting == 0
    told = world.done(0, made=[("file", 1)])
    assert only(Drop, told) == [Drop("a", ["file"])]
    assert world.is_clean()


def test_later_consumer_gets_a_forgotten_file_that_is_being_made() -> None:
    world = World()
    world.join("a")
    world.call(makes=["file"])
    world.forget("file")
    assert not world.call(needs=["file"])
    assert ran(world.works(0)) == [1]
    assert only(Drop, world.works(1)) == [Drop("a", ["file"])]
    assert world.is_clean()


def test_consumer_of_several_files_fails_when_one_is_forgotten() -> None:
    world = World()
    world.join("a")
    world.make("file")
    world.call(needs=["file", "other"])
    assert records(world.forget("file"))[1]["kind"] == "file-lost"
