"""Each invariant of the scheduler, broken on purpose."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from taskvine_manager.scheduling import invariants
from taskvine_manager.scheduling.checking import Invariant, InvariantBroken, check
from taskvine_manager.scheduling.files import File
from taskvine_manager.scheduling.nodes import Node, Transfer
from taskvine_manager.scheduling.tasks import Shape, State, Task
from taskvine_manager.wire.messages import L1, Library
from tests.unit.taskvine_manager.scheduling.world import World, local, temp

ODD = Shape(L1, 1.0, None, None, None)


def busy() -> World:
    """A scheduler with something of everything, and three nodes of one core.

    Files ``new``, and ``old`` that it was made from, were lost. Task -1 recreates ``old`` on node a. Task -2 and the
    user's task 3 wait, and so does request 1 for ``new``. Task 4 reads a user's file on b; tasks 5 and 6 are ready.
    Node a has ``x``, which b fetches. Node c drains.
    """
    world = World(max_retries=None)
    world.join("gone", cores=1.0)
    world.make("old")
    world.make("new", needs=["old"])
    world.forget("old")
    world.join("a", cores=1.0)
    world.leave("gone")
    maker = world.invocation(outputs=(temp("x", 2),))
    world.submit(maker)
    world.works(maker.number)
    world.join("b", cores=1.0)
    world.ask("new")
    world.call(needs=["new"])
    world.join("c", cores=1.0)
    world.call(inputs=(local("/data"),))
    world.drain("c")
    world.call(2)
    return world


def task(world: World, number: int) -> Task:
    return world.core.parts.tables.tasks[number]


def file(world: World, name: str) -> File:
    found = world.core.parts.tables.files.get(name)
    assert found is not None
    return found


def node(world: World, name: str) -> Node:
    return world.core.nodes[name]


def test_the_busy_scheduler_is_sound() -> None:
    world = busy()
    states = {number: (task.state, task.node) for number, task in world.core.tasks.items()}
    assert states == {
        -1: (State.ASSIGNED, "a"),
        -2: (State.WAITING, None),
        3: (State.WAITING, None),
        4: (State.ASSIGNED, "b"),
        5: (State.READY, None),
        6: (State.READY, None),
    }
    world.core.check()


def renumber(world: World) -> None:
    task(world, 5).invocation = task(world, 5).invocation._replace(number=50)


def disown(world: World) -> None:
    task(world, -2).origin = None


def suspect(world: World) -> None:
    task(world, 5).suspect = True


def miscount(world: World) -> None:
    task(world, 5).state = State.ASSIGNED


def assign_nowhere(world: World) -> None:
    node(world, "a").assigned.clear()


def assign_twice(world: World) -> None:
    node(world, "b").assigned[-1] = task(world, -1)


def misplace(world: World) -> None:
    task(world, -1).node = "b"


def keep_when_over(world: World) -> None:
    node(world, "a").assigned[0] = task(world, 4)


def rename(world: World) -> None:
    world.core.nodes["z"] = world.core.nodes.pop("c")


def unqueue(world: World) -> None:
    world.core.parts.tables.tasks.queues.clear()


def queue_elsewhere(world: World) -> None:
    task(world, 5).shape = ODD


def forget_to_judge(world: World) -> None:
    for queue in world.core.parts.tables.tasks.queues.values():
        queue.fits = False


def ready_too_early(world: World) -> None:
    task(world, 3).state = State.READY


def wait_for_nothing(world: World) -> None:
    task(world, 5).state = State.WAITING


def lose_the_producer(world: World) -> None:
    world.core.parts.tables.graph.prune(-2)


def send_an_ended_task_ahead(world: World) -> None:
    world.core.parts.tables.tasks.add_ahead((99,))


def recreate_in_vain(world: World) -> None:
    file(world, "old").value = b"here"


def recreate_what_must_not_be(world: World) -> None:
    task(world, -1).profile = task(world, -1).profile._replace(recoverable=False)


def leave_the_graph(world: World) -> None:
    world.core.parts.tables.graph.prune(3)


def read_another_file(world: World) -> None:
    task(world, 3).files = ("x",)


def make_another_file(world: World) -> None:
    task(world, -1).makes = ("x",)


def miscount_missing_files(world: World) -> None:
    world.core.parts.tables.graph.lacking[3] += 1


def miscount_those_of_no_task(world: World) -> None:
    world.core.parts.tables.graph.lacking[99] = 1


def miscount_shapes(world: World) -> None:
    node(world, "a").shapes[ODD] += 1


def miscount_reads(world: World) -> None:
    node(world, "a").reads["x"] += 1


def crowd_with_libraries(world: World) -> None:
    for library in (Library("model", None, None, 1), Library("other", None, 600.0, 2)):
        node(world, "a").shapes[ODD._replace(library=library)] = 1


def crowd_with_nobody(world: World) -> None:
    node(world, "a").crowded[5] = 10


def give_way_without_a_task(world: World) -> None:
    node(world, "a").yielding.add(5)


def suspect_two(world: World) -> None:
    node(world, "a").assigned[4] = task(world, 4)
    task(world, 4).suspect = task(world, -1).suspect = True


def misremember_needs(world: World) -> None:
    node(world, "a").needs[ODD] = (9.0,) * 6


def propose_a_draining_node(world: World) -> None:
    world.core.parts.candidates.of(ODD, 1.0)["c"] = None


def overlook_a_node(world: World) -> None:
    node(world, "a").shapes.clear()


def reserve_a_draining_node(world: World) -> None:
    world.core.parts.candidates.reserved[ODD] = "c"


def leave_the_first_waiting(world: World) -> None:
    node(world, "a").shapes.clear()


def drain_unknown(world: World) -> None:
    node(world, "a").draining = True


def release_a_busy_node(world: World) -> None:
    node(world, "a").released = True


def keep_a_drained_node(world: World) -> None:
    node(world, "c").released = False


def save_what_is_not_there(world: World) -> None:
    node(world, "a").unsaved["x"] = None


def hold_what_the_node_lacks(world: World) -> None:
    file(world, "x").holders["b"] = 1


def have_what_has_no_record(world: World) -> None:
    node(world, "a").files["y"] = 0


def miscount_bytes(world: World) -> None:
    node(world, "a").used += 1


def miscount_all_bytes(world: World) -> None:
    world.core.parts.storage.replicas.stored = 0


def exceed_the_peak(world: World) -> None:
    world.core.parts.storage.replicas.peak = 0


def read_what_has_no_record(world: World) -> None:
    task(world, 3).files = ("y",)


def miscount_consumers(world: World) -> None:
    file(world, "new").consumers += 1


def miscount_dependants(world: World) -> None:
    file(world, "old").dependants -= 1


def share_an_origin(world: World) -> None:
    file(world, "x").origin = file(world, "old").origin


def make_it_missing(world: World) -> None:
    world.core.parts.tables.graph.lost("x")


def keep_what_is_not_needed(world: World) -> None:
    file(world, "x").wanted = False


def keep_a_record_of_nothing(world: World) -> None:
    world.core.parts.tables.files["y"]  # creates it


def ask_for_what_is_there(world: World) -> None:
    file(world, "x").asked.append(2)


def ask_twice(world: World) -> None:
    file(world, "new").asked.append(1)


def expect_what_nobody_fetches(world: World) -> None:
    file(world, "x").coming["c"] = None


def fetch_what_nobody_expects(world: World) -> None:
    file(world, "x").coming.clear()


def fetch_for_no_task(world: World) -> None:
    node(world, "b").fetching["x"] = Transfer("a", True)


def fetch_from_a_lost_node(world: World) -> None:
    node(world, "b").fetching["x"] = Transfer("gone", False)


def miscount_transfers(world: World) -> None:
    node(world, "a").sending = 0


def miscount_relayed_transfers(world: World) -> None:
    world.core.parts.storage.transfers.relaying = 1


def copy_to_a_lost_node(world: World) -> None:
    world.core.parts.storage.inputs.by_path["/data"].copies["gone"] = ("data", (1,))


def replicate_to_no_node(world: World) -> None:
    world.core.parts.storage.replication.ring.pop()


BREAKS: list[tuple[Invariant, Callable[[World], None], str]] = [
    (invariants.tasks_have_their_numbers, renumber, "task 5: its number is 50"),
    (invariants.tasks_have_their_numbers, disown, "task -2: its origin is None"),
    (invariants.tasks_have_their_numbers, suspect, "task 5: suspect True"),
    (invariants.tasks_are_counted, miscount, "READY: counted 2, found 1"),
    (invariants.assigned_tasks_are_on_their_node, assign_nowhere, r"task -1: ASSIGNED, its node is a, .* on \[\]"),
    (invariants.assigned_tasks_are_on_their_node, assign_twice, r"task -1: .* on \['a', 'b'\]"),
    (invariants.assigned_tasks_are_on_their_node, misplace, r"task -1: .* node is b, but it is on \['a'\]"),
    (invariants.assigned_tasks_are_on_their_node, keep_when_over, "task 0 on node a is not the one in the table"),
    (invariants.assigned_tasks_are_on_their_node, rename, "node c is in the table as z"),
    (invariants.ready_tasks_are_queued, unqueue, "task 5: queued False, ready True"),
    (invariants.ready_tasks_are_queued, queue_elsewhere, "task 5 of shape .* is queued as"),
    (invariants.ready_tasks_are_queued, forget_to_judge, "2 ready tasks of .* unknown whether they fit"),
    (invariants.waiting_tasks_wait_for_files, ready_too_early, r"task 3 is ready without \['new'\]"),
    (invariants.waiting_tasks_wait_for_files, wait_for_nothing, "task 5 waits for nothing"),
    (invariants.waiting_tasks_wait_for_files, lose_the_producer, "task 3 waits for new, which no task produces"),
    (invariants.tasks_to_send_ahead_are_unfinished, send_an_ended_task_ahead, r"tasks \[99\] are over"),
    (invariants.recreations_are_needed, recreate_in_vain, r"task -1 recreates \('old',\)"),
    (invariants.recreations_are_needed, recreate_what_must_not_be, "task -1 must not run again"),
    (invariants.graph_agrees_with_tasks, leave_the_graph, r"in the graph \[-2, -1\], .* with files \[-2, -1, 3\]"),
    (invariants.graph_agrees_with_tasks, read_another_file, r"task 3 needs \['x'\], in the graph \['new'\]"),
    (invariants.graph_agrees_with_tasks, make_another_file, r"task -1 makes \['x'\], in the graph \['old'\]"),
    (invariants.graph_agrees_with_tasks, miscount_missing_files, r"task 3 lacks \['new'\], counted 2"),
    (invariants.graph_agrees_with_tasks, miscount_those_of_no_task, r"tasks \[99\], which are not there"),
    (invariants.nodes_count_their_tasks, miscount_shapes, "node a: counted"),
    (invariants.nodes_count_their_tasks, miscount_reads, "node a: counted reads {'x': 1}, found {}"),
    (invariants.nodes_count_their_tasks, crowd_with_nobody, r"node a has no space for outputs of \[5\]"),
    (invariants.nodes_count_their_tasks, give_way_without_a_task, r"tasks \[5\] give way on node a"),
    (invariants.nodes_count_their_tasks, suspect_two, "node a has 2 suspects"),
    (invariants.needs_are_up_to_date, misremember_needs, "node a: .* takes .*, remembered .*9"),
    (invariants.candidates_have_room, propose_a_draining_node, r"\['c'\] are candidates"),
    (invariants.candidates_have_room, overlook_a_node, "node a has room for 1 tasks"),
    (invariants.candidates_have_room, reserve_a_draining_node, "node c is reserved"),
    (invariants.first_task_has_no_room, leave_the_first_waiting, "task 5 waits, although it fits on node a"),
    (invariants.libraries_fit_together, crowd_with_libraries, r"\['model', 'other'\] take 600.0 MB and 3 gpus"),
    (invariants.draining_nodes_leave_in_time, drain_unknown, r"nodes \['a', 'c'\] drain, known are \['c'\]"),
    (invariants.draining_nodes_leave_in_time, release_a_busy_node, "node a is released"),
    (invariants.draining_nodes_leave_in_time, keep_a_drained_node, "node c drains, but nothing on it is needed"),
    (invariants.draining_nodes_leave_in_time, save_what_is_not_there, r"node a: draining False, to be saved \['x'\]"),
    (invariants.holders_and_nodes_agree, hold_what_the_node_lacks, "x is on node b, which does not have it"),
    (invariants.holders_and_nodes_agree, have_what_has_no_record, "node a has y, which is not on it"),
    (invariants.bytes_add_up, miscount_bytes, "node a: counted 101 bytes, found {'x': 100}"),
    (invariants.bytes_add_up, miscount_all_bytes, "counted 0 bytes, found 100"),
    (invariants.bytes_add_up, exceed_the_peak, "found 100, at most 0 before"),
    (invariants.users_of_files_are_counted, read_what_has_no_record, r"no records of \['y'\]"),
    (invariants.users_of_files_are_counted, miscount_consumers, r"new: counted \(2, 0\) .* found \(1, 0\)"),
    (invariants.users_of_files_are_counted, miscount_dependants, r"old: counted \(1, 0\) .* found \(1, 1\)"),
    (invariants.origins_and_files_agree, share_an_origin, r"origin 0 has \['old'\], and is that of \['old', 'x'\]"),
    (invariants.graph_agrees_with_files, make_it_missing, "x: a copy exists True, available to tasks False"),
    (invariants.files_are_kept_for_a_reason, keep_what_is_not_needed, r"x is not needed, but is on \['a'\]"),
    (invariants.files_are_kept_for_a_reason, keep_a_record_of_nothing, "the record of y is not needed"),
    (invariants.requests_wait_for_files, ask_for_what_is_there, r"requests \[2\] wait for x: it is there True"),
    (invariants.requests_wait_for_files, ask_twice, "request 1 waits 2 times"),
    (invariants.requests_wait_for_files, lose_the_producer, r"requests \[1\] wait for new"),
    (invariants.transfers_have_both_ends, expect_what_nobody_fetches, "x is coming to node c, which does not fetch it"),
    (invariants.transfers_have_both_ends, fetch_what_nobody_expects, "node b fetches x, which is not coming to it"),
    (invariants.transfers_have_both_ends, fetch_for_no_task, "node b fetches x for a task, but none there reads it"),
    (invariants.transfers_have_both_ends, fetch_from_a_lost_node, "node b fetches x from gone, which has left"),
    (invariants.transfers_are_counted, miscount_transfers, "node a: counted 0 transfers, found 1"),
    (invariants.transfers_are_counted, miscount_relayed_transfers, "directory: counted 1 transfers, found 0"),
    (invariants.places_are_nodes, copy_to_a_lost_node, r"/data is on, or coming to, \['gone'\]"),
    (invariants.places_are_nodes, replicate_to_no_node, r"nodes for replicas: \['a', 'b'\], nodes: \['a', 'b', 'c'\]"),
]


@pytest.mark.parametrize(("invariant", "tamper", "problem"), BREAKS, ids=[each[1].__name__ for each in BREAKS])
def test_broken_invariant_is_named_with_its_values(
    invariant: Invariant, tamper: Callable[[World], None], problem: str
) -> None:
    world = busy()
    tamper(world)
    with pytest.raises(InvariantBroken, match=problem) as caught:
        check((invariant,), world.core.parts)
    assert caught.value.invariant == invariant.__name__
    assert str(caught.value).startswith(f"{invariant.__name__}: ")


def test_every_invariant_is_checked_and_broken_here() -> None:
    assert {invariant.__name__ for invariant in invariants.INVARIANTS} == {each[0].__name__ for each in BREAKS}


@pytest.mark.parametrize("checks", [True, False])
def test_scheduler_checks_itself_if_asked(checks: bool) -> None:
    world = World(check=checks)
    world.join("a")
    world.make("x")
    world.core.parts.storage.replicas.stored += 1
    if checks:
        with pytest.raises(InvariantBroken, match=r"^bytes_add_up, after event 5 \(Cancelled\): counted 101 bytes"):
            world.cancel(7)
    else:
        world.cancel(7)
    with pytest.raises(InvariantBroken, match=r"^bytes_add_up: counted 101 bytes, found 100"):
        world.core.check()
