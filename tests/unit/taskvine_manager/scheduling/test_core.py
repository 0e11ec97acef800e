"""The scheduler, event by event: states, placement, resources, nodes, the first life of files."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from taskvine_manager.runtime import failure
from taskvine_manager.scheduling import core, tasks
from taskvine_manager.scheduling.core import State
from taskvine_manager.wire.messages import L1
from tests.unit.taskvine_manager.scheduling.world import (
    World,
    fetches,
    finished,
    local,
    only,
    ran,
    records,
    runs,
    sources,
    unread,
    value,
)

# --- states ---------------------------------------------------------------------------------------------------------

ALLOWED = {
    (State.WAITING, State.READY),
    (State.WAITING, State.ASSIGNED),
    (State.WAITING, State.DONE),
    (State.READY, State.ASSIGNED),
    (State.READY, State.WAITING),
    (State.READY, State.DONE),
    (State.ASSIGNED, State.READY),
    (State.ASSIGNED, State.WAITING),
    (State.ASSIGNED, State.DONE),
}


@pytest.mark.parametrize(("start", "end"), list(itertools.product(State, State)), ids=lambda state: state.name)
def test_every_transition_is_allowed_or_raises_with_the_story(start: State, end: State) -> None:
    world = World()
    invocation = world.invocation()
    profile = next(iter(world.profiles.values()))
    task = core.Task(invocation, profile, core.Shape(*profile[3:8]), 0)
    task.state, task.node, task.attempts = start, "n7", 3
    if (start, end) in ALLOWED:
        task.move(end)
        assert task.state is end
    else:
        with pytest.raises(core.IllegalTransition, match=rf"task 0 \(name\): {start.name} -> {end.name}, node n7.*3"):
            task.move(end)
        assert task.state is start


def test_the_diagram_is_that_of_the_table() -> None:
    shown = [line.strip() for line in str(tasks.__doc__).splitlines() if " -> " in line]
    assert shown == core.diagram().splitlines()
    assert len(shown) == len(ALLOWED)
    assert {(State[line.split()[0]], State[line.split()[2]]) for line in shown} == ALLOWED


# --- placement ------------------------------------------------------------------------------------------------------


def test_calls_are_spread_evenly_over_the_nodes() -> None:
    world = World()
    world.join("a", cores=4)
    world.join("b", cores=4)
    given = runs(world.call(count=4))
    assert {name: len(numbers) for name, numbers in given.items()} == {"a": 2, "b": 2}


def test_a_task_goes_where_most_of_its_bytes_are() -> None:
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


def test_a_task_goes_elsewhere_when_where_its_bytes_are_is_no_room() -> None:
    world = World()
    world.join("a", cores=1)
    world.make("file")
    world.call()
    world.join("b", cores=1)
    told = world.call(needs=["file"])
    assert runs(told) == {"b": [2]}
    assert sources(told) == {"file": "a"}


def test_between_nodes_with_the_same_bytes_the_emptier_is_taken() -> None:
    world = World()
    world.join("a", cores=2)
    world.join("b", cores=4)
    assert runs(world.call(inputs=(local("/x"),))) == {"b": [0]}


def test_what_a_task_had_fetched_is_a_replica() -> None:
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
    assert not only(core.Drop, world.forget("file"))  # it may not have read it to the end
    assert {drop.node for drop in only(core.Drop, world.done(2))} == {"a", "b"}


def test_calls_not_known_to_be_short_are_given_out_one_to_a_slot() -> None:
    world = World()
    world.join("a", cores=2)
    assert ran(world.call(count=10)) == [0, 1]
    assert ran(world.done(0, seconds=1.0)) == [2]


def test_short_calls_are_given_out_ahead() -> None:
    world = World()
    world.join("a", cores=2)
    world.call(count=100)
    ahead = ran(world.done(0, 1, seconds=core.SHORT / 10))
    assert ahead == list(range(2, 34))  # 10 for each slot, rounded up to a power of two


def test_very_short_calls_are_given_out_so_far_ahead_and_no_further() -> None:
    world = World()
    world.join("a", cores=1)
    world.call(count=2 * core.AHEAD)
    assert len(ran(world.done(0, seconds=0.0))) == core.AHEAD


def test_a_single_long_call_ends_giving_out_ahead() -> None:
    world = World()
    world.join("a", cores=1)
    world.call(count=1000)
    ahead = ran(world.done(0, seconds=0.001))
    assert len(ahead) == 32
    assert not ran(world.done(ahead[0], seconds=10.0))


def test_short_calls_of_one_kind_do_not_have_those_of_another_given_out_ahead() -> None:
    world = World()
    world.join("a", cores=2)
    world.call(category="short")
    world.done(0, seconds=0.001)
    world.call(count=2, category="long")
    assert not ran(world.call(category="long"))


def test_ahead_of_one_kind_leaves_no_room_to_another() -> None:
    world = World()
    world.join("a", cores=2)
    world.call(category="short")
    world.call(count=4, category="short")
    world.done(0, seconds=0.001)
    assert not ran(world.call(cores=2.0))


def test_higher_priority_first_then_first_come() -> None:
    world = World()
    world.submit(*(world.invocation(priority=priority) for priority in (0, 5, -1, 5, 0)))
    order = []
    order += ran(world.join("a", cores=1))
    while len(order) < 5:
        order += ran(world.done(order[-1]))
    assert order == [1, 3, 0, 4, 2]


def test_priority_and_order_hold_between_calls_that_ask_for_different_things() -> None:
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


def test_the_oldest_that_does_not_fit_is_not_starved_by_smaller_ones() -> None:
    world = World()
    world.join("a", cores=2)
    world.call(cores=1.0)
    assert not ran(world.call(cores=2.0))
    assert not ran(world.call(count=5, cores=1.0))
    assert ran(world.done(0)) == [1]
    assert ran(world.done(1)) == [2, 3]


def test_what_is_kept_for_the_oldest_is_not_kept_from_the_more_urgent() -> None:
    world = World()
    world.join("a", cores=2)
    world.call(cores=1.0)
    assert not ran(world.call(cores=2.0))
    assert ran(world.call(cores=1.0, priority=5.0)) == [2]
    assert not ran(world.call(cores=1.0))
    world.done(0)
    assert ran(world.done(2)) == [1]


def test_what_the_oldest_does_not_keep_for_itself_is_used() -> None:
    world = World()
    world.join("small", cores=1)
    world.join("large", cores=4)
    world.call(cores=3.0)
    world.call(cores=4.0)
    assert runs(world.call(count=3, cores=1.0)) == {"small": [2]}


# --- resources ------------------------------------------------------------------------------------------------------


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
        ({"cores": 4.0, "slots": 8}, {}, 8),
        ({"cores": 4.0, "slots": 2}, {}, 2),
        ({"cores": 4.0, "slots": 2}, {"cores": 0.5}, 2),
        ({"cores": 4.0, "slots": 2}, {"mode": L1}, 4),
        ({"cores": 4.0, "slots": 8}, {"mode": L1, "cores": 2.0}, 2),
    ],
)
def test_as_many_run_at_once_as_fit(node: dict[str, Any], asked: dict[str, Any], fit: int) -> None:
    world = World()
    world.join("a", **node)
    assert len(ran(world.call(count=20, **asked))) == fit


def test_what_different_kinds_take_adds_up() -> None:
    world = World()
    world.join("a", cores=4, memory=100)
    assert ran(world.call(cores=2.0)) == [0]
    assert ran(world.call(mode=L1, cores=1.0, memory=80.0)) == [1]
    assert not ran(world.call(memory=30.0))
    assert ran(world.done(1)) == [2]


def test_what_can_never_fit_is_refused_with_both_amounts() -> None:
    world = World()
    world.join("a", cores=2, memory=100)
    record = records(world.call(cores=3.0, memory=50.0))[0]
    assert record["kind"] == "unsatisfiable"
    assert record["requested"] == {"cores": 3.0, "memory": 50.0}
    assert record["largest"]["cores"] == 2.0
    assert "3 cores, 50 MB of memory" in record["reason"]
    assert world.core.ready == 0


def test_tasks_of_several_shapes_that_can_never_fit_are_refused_in_their_order() -> None:
    world = World()
    for number in range(20):
        world.call(cores=100.0 + number)
    assert [each.number for each in finished(world.join("a"))] == list(range(20))


def test_what_can_never_fit_is_refused_when_there_is_a_node_to_judge_by() -> None:
    world = World()
    assert not world.call(gpus=1)
    assert records(world.join("a"))[0]["kind"] == "unsatisfiable"


def test_what_can_never_fit_is_refused_when_its_files_are_there() -> None:
    world = World()
    world.join("a")
    world.call(makes=["file"])
    assert not finished(world.call(needs=["file"], cores=3.0))
    assert records(world.done(0, made=[("file", 1)]))[1]["kind"] == "unsatisfiable"


def test_what_fitted_a_node_that_went_is_judged_anew() -> None:
    world = World()
    world.join("a", disk=500.0)
    world.join("b", disk=400.0)
    world.call(count=3, cores=2.0, disk=450.0)
    assert set(records(world.leave("a"))) == {0, 1, 2}


def test_on_nodes_that_may_differ_what_fits_none_waits_for_one_that_it_fits() -> None:
    world = World(uniform=False)
    world.join("a", cores=2)
    assert not world.call(cores=3.0)
    assert ran(world.call()) == [1]
    assert ran(world.join("b", cores=4)) == [0]


def test_nothing_is_placed_before_enough_nodes_have_joined() -> None:
    world = World(wait_for_nodes=2)
    world.call()
    assert not world.join("a")
    assert ran(world.join("b")) == [0]
    world.leave("a")
    assert ran(world.call())


# --- nodes go -------------------------------------------------------------------------------------------------------


def test_what_a_lost_node_ran_is_run_elsewhere() -> None:
    world = World()
    world.join("a")
    world.call(count=2)
    world.join("b")
    assert runs(world.leave("a", told=True)) == {"b": [0, 1]}
    assert [each.number for each in finished(world.done(0))] == [0]


def test_what_may_have_killed_a_node_runs_one_by_one() -> None:
    """With others beside it; on each node that there is."""
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
def test_so_often_and_no_more(retries: int) -> None:
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


def test_for_ever_if_there_is_no_limit() -> None:
    world = World(max_retries=None)
    world.call()
    for _ in range(20):
        assert ran(world.join("a")) == [0]
        assert not finished(world.leave("a"))


def test_only_what_can_have_been_running_is_charged() -> None:
    world = World(max_retries=0)
    world.join("a", cores=2)
    world.call(count=12)
    world.done(0, 1, seconds=core.SHORT / 5)
    assert len(world.core.nodes["a"].assigned) == 10
    assert set(records(world.leave("a"))) == {2, 3}
    assert world.core.ready == 8


def test_a_node_that_is_unknown_or_gone_is_nobody() -> None:
    world = World()
    world.join("a")
    world.call(makes=["file"])
    world.leave("a")
    assert not world.leave("a")
    assert not world.drain("a")
    assert not world.done(0, made=[("file", 1)])
    assert not world.handle(core.Returned("a", (0,)))
    assert not world.cached("a", "file")
    assert ran(world.join("b")) == [0]


def test_what_a_node_gives_back_is_run_elsewhere_without_a_charge() -> None:
    world = World(max_retries=0)
    world.join("a")
    world.call(count=2)
    world.join("b")
    world.drain("a")
    assert runs(world.handle(core.Returned("a", (0, 1)))) == {"b": [0, 1]}
    assert {number: task.attempts for number, task in world.core.nodes["b"].assigned.items()} == {0: 0, 1: 0}


# --- cancelling -----------------------------------------------------------------------------------------------------


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
    assert only(core.Kill, told) == [core.Kill("a", [0])]
    assert ran(told) == [1]
    assert not world.done(0)


def test_what_was_cancelled_keeps_no_room_though_nothing_more_is_heard_of_it() -> None:
    world = World()
    world.join("a", cores=2)
    world.call(count=2)
    world.cancel(0, 1)
    assert ran(world.call(count=2)) == [2, 3]


def test_what_was_cancelled_may_lose_its_node() -> None:
    world = World()
    world.join("a")
    world.call()
    world.cancel(0)
    assert not world.leave("a")
    assert not world.join("b")


def test_what_was_cancelled_may_be_given_back() -> None:
    world = World()
    world.join("a")
    world.call()
    world.cancel(0)
    assert not world.handle(core.Returned("a", (0,)))


# --- files ----------------------------------------------------------------------------------------------------------


def test_a_consumer_runs_when_its_file_is_made_and_where() -> None:
    world = World()
    world.join("a")
    world.join("b")
    world.call(makes=["file"])
    assert not world.call(needs=["file"])
    told = world.done(0, made=[("file", 10)])
    assert runs(told) == {world.nodes[0]: [1]}
    assert sources(told) == {}


def test_a_cycle_through_names_is_refused() -> None:
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


def test_a_consumer_that_was_ready_fails_with_its_file() -> None:
    world = World()
    world.join("a", cores=1)
    world.make("file", recoverable=False)
    world.call()
    world.call(needs=["file"])
    assert set(records(world.leave("a"))) == {2}
    assert ran(world.join("b", cores=1)) == [1]


def test_who_comes_after_the_loss_of_a_file_fails_at_once() -> None:
    world = World()
    world.join("a")
    world.make("file", recoverable=False)
    world.leave("a")
    assert records(world.call(needs=["file"]))[1]["node"] == "a"


def test_a_lost_file_that_somebody_is_making_again_is_waited_for() -> None:
    world = World()
    world.join("a")
    world.make("file")
    world.leave("a")
    world.call(makes=["file"])
    assert not world.call(needs=["file"])
    world.join("b")
    assert ran(world.done(1, made=[("file", 1)])) == [2]


def test_with_another_replica_nothing_is_lost() -> None:
    world = World()
    world.replicate(2)
    world.join("a")
    world.make("file")
    world.join("b")
    world.cached("b", "file")
    told = world.leave("a")
    assert not finished(told)
    assert runs(world.call(needs=["file"])) == {"b": [1]}


def test_a_copy_that_arrives_after_its_source_went_is_as_good() -> None:
    world = World()
    world.replicate(2)
    world.join("a")
    world.make("file")
    world.join("b")
    world.leave("a")
    world.cached("b", "file")
    assert runs(world.call(needs=["file"])) == {"b": [1]}


def test_a_consumer_whose_source_went_reads_another_replica() -> None:
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
    told = world.done(3, **unread("file"))  # a is on its way out, and nobody here knows yet
    assert not finished(told)
    assert runs(told) == {"c": [3]}
    assert sources(told) == {"file": "b"}
    assert world.core.stats()["replicas"]["file"] == ["b"]
    assert only(core.Drop, told) == [core.Drop("a", ["file"])]


def test_a_consumer_that_could_not_read_the_last_replica_fails() -> None:
    world = World()
    world.join("a", cores=1)
    world.make("file", recoverable=False)
    world.call(needs=["file"])
    world.call(needs=["file", "other"])
    told = world.done(1, **unread("file"))
    assert set(records(told)) == {1, 2}
    assert world.where("file") is None


def test_another_failure_of_a_consumer_is_its_own() -> None:
    world = World()
    world.join("a")
    world.make("file")
    world.call(needs=["file"])
    told = world.done(1, outcome=failure.LOST, body=failure.lost("slot-died", "it was killed"))
    assert records(told)[1]["kind"] == "slot-died"
    assert world.where("file") == "a"


def test_what_a_failing_task_made_is_not_what_it_promised() -> None:
    world = World()
    world.join("a")
    world.call(makes=["file"])
    world.call(needs=["file"])
    assert len(finished(world.done(0, outcome=failure.RAISED))) == 1
    assert world.core.waiting == 1
    retry = world.invocation(makes=["file"])
    world.submit(retry)
    assert ran(world.done(retry.number, made=[("file", 1)])) == [1]


# --- replicas -------------------------------------------------------------------------------------------------------


def test_one_replica_is_enough_unless_more_are_asked_for() -> None:
    world = World()
    world.join("a")
    world.join("b")
    here = world.make("file")
    assert world.core.stats()["replicas"] == {"file": [here]}
    (there,) = {"a", "b"} - {here}
    assert fetches(world.replicate(2)) == [(there, "file", here)]
    assert not world.replicate(2)


def test_replicas_are_made_as_files_are() -> None:
    world = World()
    world.replicate(3)
    for name in "abcd":
        world.join(name)
    world.call(makes=["file"])
    copies = fetches(world.done(0, made=[("file", 1)]))
    assert len({node for node, _, _ in copies} - {world.nodes[0]}) == 2


def test_replicas_are_made_for_a_node_that_joins() -> None:
    world = World()
    world.replicate(2)
    world.join("a")
    world.make("file")
    assert fetches(world.join("b")) == [("b", "file", "a")]
    assert not world.join("c")


@pytest.mark.parametrize("again", [False, True])
def test_replicas_are_made_for_a_node_that_left_if_that_is_asked_for(again: bool) -> None:
    world = World()
    world.replicate(2)
    world.tune(transfer_temps_recovery=again)
    world.join("a")
    world.make("file")
    world.join("b")
    world.cached("b", "file")
    world.join("c")
    assert fetches(world.leave("a")) == [("c", "file", "b")] * again


def test_a_replica_that_was_on_its_way_to_a_node_that_left_goes_to_another() -> None:
    world = World()
    world.replicate(2)
    world.join("a")
    world.make("file")
    world.join("b")
    world.join("c")
    assert fetches(world.leave("b")) == [("c", "file", "a")]


def test_the_scarcest_file_is_copied_first() -> None:
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


def test_a_node_that_cannot_take_a_file_is_not_asked_again_and_another_is() -> None:
    world = World()
    world.replicate(2)
    world.join("a")
    world.make("file")
    world.join("b")
    assert not world.cached("b", "file", "No space left on device")
    assert fetches(world.join("c")) == [("c", "file", "a")]


def test_a_copy_whose_source_went_is_tried_from_another() -> None:
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


# --- forgetting -----------------------------------------------------------------------------------------------------


def test_forgotten_everywhere() -> None:
    world = World()
    world.replicate(2)
    world.join("a")
    world.make("file")
    world.join("b")
    world.cached("b", "file")
    assert sorted(only(core.Drop, world.forget("file")), key=str) == [
        core.Drop("a", ["file"]),
        core.Drop("b", ["file"]),
    ]
    assert world.core.stats()["replicas"] == {}
    assert not world.join("c")


def test_forgotten_while_it_is_fetched() -> None:
    world = World()
    world.replicate(2)
    world.join("a")
    world.make("file")
    world.join("b")
    assert world.forget("file") == [core.Drop("a", ["file"])]
    assert world.cached("b", "file") == [core.Drop("b", ["file"])]


def test_forgotten_before_it_is_made() -> None:
    world = World()
    world.join("a")
    world.call(makes=["file"])
    world.call(needs=["file"])
    assert records(world.forget("file"))[1]["reason"] == "file was forgotten"
    assert world.core.waiting == 0
    told = world.done(0, made=[("file", 1)])
    assert only(core.Drop, told) == [core.Drop("a", ["file"])]
    assert world.is_clean()


def test_who_comes_for_a_forgotten_file_that_is_being_made_is_served() -> None:
    world = World()
    world.join("a")
    world.call(makes=["file"])
    world.forget("file")
    assert not world.call(needs=["file"])
    assert ran(world.works(0)) == [1]
    assert only(core.Drop, world.works(1)) == [core.Drop("a", ["file"])]
    assert world.is_clean()


def test_a_consumer_that_waits_for_more_fails_when_one_is_forgotten() -> None:
    world = World()
    world.join("a")
    world.make("file")
    world.call(needs=["file", "other"])
    assert records(world.forget("file"))[1]["kind"] == "file-lost"


# --- draining -------------------------------------------------------------------------------------------------------


def test_a_draining_node_finishes_takes_nothing_and_is_let_go() -> None:
    world = World()
    world.join("a")
    world.call()
    assert not world.drain("a")
    assert not world.call()
    assert only(core.Release, world.done(0)) == [core.Release("a")]
    assert not world.drain("a")
    world.leave("a")
    assert ran(world.join("b")) == [1]


def test_an_idle_node_is_let_go_at_once() -> None:
    world = World()
    world.join("a")
    assert world.drain("a") == [core.Release("a")]


def test_what_only_a_draining_node_has_is_copied_first() -> None:
    world = World()
    world.join("a")
    world.make("file")
    world.join("b")
    assert fetches(world.drain("a")) == [("b", "file", "a")]
    assert world.cached("b", "file") == [core.Release("a")]
    assert not world.leave("a")
    assert runs(world.call(needs=["file"])) == {"b": [1]}


def test_what_is_made_while_draining_is_copied_too() -> None:
    world = World()
    world.join("a")
    world.call(makes=["file"])
    world.join("b")
    assert not world.drain("a")
    assert fetches(world.done(0, made=[("file", 1)])) == [("b", "file", "a")]
    assert world.cached("b", "file") == [core.Release("a")]


def test_what_another_node_has_needs_no_copy() -> None:
    world = World()
    world.replicate(2)
    world.join("a")
    world.make("file")
    world.join("b")
    world.cached("b", "file")
    assert world.drain("a") == [core.Release("a")]


def test_a_copy_on_a_node_that_is_going_too_saves_nothing() -> None:
    world = World()
    world.replicate(2)
    world.join("a", cores=1)
    world.make("file")
    world.join("b", cores=1)
    world.cached("b", "file")
    world.call(count=2)
    assert not world.drain("a")
    assert not world.drain("b")
    world.replicate(1)
    assert fetches(world.join("c")) == [("c", "file", "a")]
    assert only(core.Release, world.done(next(iter(world.core.nodes["a"].assigned)))) == []
    assert world.cached("c", "file") == [core.Release("a")]


def test_with_nowhere_to_go_a_file_goes_with_its_node() -> None:
    world = World()
    world.join("a")
    world.make("file")
    assert world.drain("a") == [core.Release("a")]


def test_a_file_that_no_other_node_can_take_goes_with_its_node() -> None:
    world = World()
    world.join("a")
    world.make("file")
    world.join("b")
    world.drain("a")
    assert world.cached("b", "file", "No space left on device") == [core.Release("a")]


def test_when_the_rescuer_goes_another_is_found() -> None:
    world = World()
    world.join("a")
    world.make("file")
    world.join("b")
    world.join("c")
    ((first, *_),) = fetches(world.drain("a"))
    ((second, *_),) = fetches(world.leave(first))
    assert second != first
    assert world.leave(second) == [core.Release("a")]


def test_a_node_that_a_task_reads_from_is_not_let_go() -> None:
    world = World()
    world.join("a", cores=1)
    world.make("file")
    world.call()
    world.join("b", cores=1)
    assert sources(world.call(needs=["file"])) == {"file": "a"}
    world.drain("a")
    assert not only(core.Release, world.done(1))
    assert only(core.Release, world.cached("b", "file")) == [core.Release("a")]


def test_a_draining_node_that_gives_everything_back_is_let_go() -> None:
    world = World()
    world.join("a")
    world.call(count=3)
    assert not world.drain("a")
    assert world.handle(core.Returned("a", (0, 1))) == [core.Release("a")]
    assert world.core.ready == 3


# --- what may be asked ----------------------------------------------------------------------------------------------


def test_a_file_is_read_from_a_node_that_stays() -> None:
    world = World()
    world.replicate(2)
    world.join("a")
    world.make("file")
    world.join("b")
    world.cached("b", "file")
    assert world.where("file") == "a"
    world.drain("a")
    assert world.where("file") == "b"
    assert world.where("other") is None


def test_stats_count() -> None:
    world = World()
    world.join("a", cores=1)
    world.call(count=2)
    world.call(needs=["file"])
    world.done(0)
    assert world.core.stats() == {
        "tasks_done": 1,
        "tasks_pending": 2,
        "tasks_waiting": 1,
        "tasks_recovered": 0,
        "tasks_retried": 0,
        "tasks_returned": 0,
        "nodes": 1,
        "bytes_between_nodes": 0,
        "inputs_read": 0,
        "bytes_stored": 0,
        "bytes_stored_at_most": 0,
        "files_evicted": 0,
        "replicas": {},
    }


# --- values ---------------------------------------------------------------------------------------------------------


def test_a_small_value_goes_with_its_consumers() -> None:
    world = World()
    world.join("a", cores=1)
    maker = world.invocation(outputs=(value("v"),))
    world.submit(maker, world.invocation(inputs=(value("v"),)))
    (run,) = only(core.Run, world.done(maker.number, body=b"encoded"))
    assert run.values == {"v": b"encoded"}
    assert run.sources == {}
    world.forget("v")
    world.done(1)
    assert world.is_clean()


def test_a_small_value_that_nobody_can_ask_for_is_not_kept() -> None:
    world = World()
    world.join("a")
    maker = world.invocation(outputs=(value("v"),))
    world.submit(maker)
    world.forget("v")
    assert len(finished(world.done(maker.number, body=b"encoded"))) == 1
    assert world.is_clean()


def test_of_short_calls_that_may_have_killed_a_node_none_is_given_out_ahead() -> None:
    world = World(max_retries=None)
    world.join("a", cores=4)
    world.call(count=5)
    world.done(0, seconds=0.001)
    world.leave("a")
    suspects = [task for node in (world.join("b", cores=4), world.join("c", cores=4)) for task in ran(node)]
    assert len(suspects) == 2
