"""Each invariant of the core, broken on purpose."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from taskvine_manager.scheduling.checking import IllegalTransition, Invariant, InvariantBroken, check
from taskvine_manager.vine.manager import events, invariants
from taskvine_manager.vine.manager.core import Core
from taskvine_manager.vine.manager.events import Launch
from taskvine_manager.vine.manager.holdings import TempFile
from taskvine_manager.vine.manager.sent import Fetch, Probe, SentParcel
from taskvine_manager.vine.manager.tasks import Need, State, Task
from taskvine_manager.wire.messages import FileUse, Invocation, Library
from tests.unit.taskvine_manager.vine.manager.cores import PROFILE, new_core, of, returned, said, submitted

DATA = FileUse("local", "data", "/data")
R = FileUse("value", "", "r@3")
W, X, Y, Z = (FileUse("temp", name[0], name) for name in ("w@4", "x@1", "y@2", "z@9"))


def busy() -> Core:
    """A core with something of everything, with three nodes of one core, one of which was lost.

    File ``x@1`` was forgotten, and is kept to recreate ``y@2``. Result ``r@3`` is kept here, in a file. Task 4 runs on
    the first node and makes ``w@4`` from it. Task 5 is examined, task 6 was on the lost node and waits as a suspect.
    Task 7 is ready, task 8 fits no node, and task 10 waits for a file of task 9, as does request 1. The first node
    drains: the second one is to copy ``y@2``. The user reads ``y@2``, too.
    """
    core = new_core(uniform=False, max_retries=None)

    def run(*invocations: Invocation) -> list[int]:
        core.handle(submitted(*invocations))
        launches = of(Launch, core.handle(events.Cycle()))
        core.handle(events.Placed({each.parcel.number: f"h:{each.feature[-1]}" for each in launches}))
        return [each.parcel.number for each in launches]

    for node in (1, 2, 3):
        (hello,) = of(Launch, core.handle(events.Connected({f"h:{node}": said(f"b{node}-{node}", 1)}, (), 0.0)))
        core.handle(events.Answered(hello.parcel.number, f"h:{node}", []))
    for invocation, made, body in (
        (Invocation(1, 0, b"", (), (X,)), ["x@1"], b"N."),
        (Invocation(2, 0, b"", (X,), (Y,)), ["y@2"], b"N."),
        (Invocation(3, 0, b"", (), (R,)), [], "/spool/r"),
    ):
        (number,) = run(invocation)
        done = returned(invocation.number, *made, body=body)._replace(node="b1-1")
        core.handle(events.Answered(number, "h:1", [done]))
    core.handle(events.Forgotten(("x@1",)))
    running = run(Invocation(4, 0, b"", (R,), (W,)), Invocation(5, 0, b"", (DATA,)), Invocation(6, 0, b""))
    core.handle(events.Connected({}, ("h:3",), 0.0))
    core.handle(events.Failed(running[1], "forsaken"))
    core.handle(submitted(Invocation(7, 0, b"")))
    core.handle(submitted(Invocation(8, 1, b""), profile=PROFILE._replace(number=1, cores=64.0)))
    core.handle(submitted(Invocation(9, 0, b"", (), (Z,)), Invocation(10, 0, b"", (Z,))))
    core.handle(events.Asked(1, "z@9"))
    core.handle(events.Wanted("y@2", 0))
    core.handle(events.Draining("1"))
    return core


def task(core: Core, number: int) -> Task:
    return core.workload.tasks[number]


def parcel(core: Core, number: int) -> SentParcel:
    """The parcel that a task is in."""
    found = core.parts.sent.get(task(core, number).parcel)
    assert found is not None
    return found


def probe(core: Core) -> Probe:
    return next(sent.errand for sent in core.parts.sent if isinstance(sent.errand, Probe))


def test_the_busy_core_is_sound() -> None:
    core = busy()
    assert {number: task.state for number, task in core.workload.tasks.items()} == {
        4: State.ASSIGNED,
        5: State.EXAMINED,
        6: State.READY,
        7: State.READY,
        8: State.UNFIT,
        9: State.READY,
        10: State.WAITING,
    }
    assert (core.files.values.keys(), core.files.pruned.keys()) == ({"r@3"}, {"x@1"})
    assert core.files.temps["y@2"].rescue == "h:2"
    core.check()


def renumber(core: Core) -> None:
    task(core, 7).invocation = task(core, 7).invocation._replace(number=70)


def queue_twice(core: Core) -> None:
    core.workload.backlog.push(task(core, 7))


def queue_what_runs(core: Core) -> None:
    core.workload.backlog.push(task(core, 4))


def unqueue(core: Core) -> None:
    core.workload.unfit.clear()


def lose_a_running_task(core: Core) -> None:
    parcel(core, 4).tasks.clear()


def forget_what_is_examined(core: Core) -> None:
    probe(core).case.tasks.clear()


def replace(core: Core) -> None:
    core.workload.tasks[7] = Task(Invocation(7, 0, b""), PROFILE, 0)


def suspect(core: Core) -> None:
    task(core, 7).suspect = True


def suspect_two(core: Core) -> None:
    sent = parcel(core, 4)
    sent.tasks[6] = task(core, 6)
    task(core, 4).suspect = True


def run_without_a_file(core: Core) -> None:
    task(core, 10).state = State.READY


def wait_for_nothing(core: Core) -> None:
    task(core, 7).state = State.WAITING


def leave_the_graph(core: Core) -> None:
    core.parts.graph.prune(10)


def end_early(core: Core) -> None:
    parcel(core, 4).ended = True


def renumber_a_parcel(core: Core) -> None:
    parcel(core, 4).number = 99


def name_another_parcel(core: Core) -> None:
    sent = parcel(core, 4)
    sent.tasks[4].parcel = 99


def run_an_errand_with_a_task(core: Core) -> None:
    parcel(core, 4).errand = Fetch("y@2")


def miscount_probes(core: Core) -> None:
    probe(core).case.open += 1


def miscount_cores(core: Core) -> None:
    core.fleet.nodes["h:2"].room.take(Need(0.5))


def overcommit(core: Core) -> None:
    parcel(core, 4).taken = Need(2.0)
    core.fleet.nodes["h:1"].room.busy = Need(2.0)


def miscount_libraries(core: Core) -> None:
    core.fleet.nodes["h:2"].room.enter(Library("model", None, None, 0))


def crowd_with_a_library(core: Core) -> None:
    library = Library("model", None, 9999.0, 0)
    parcel(core, 4).taken = Need(1.0, library=library)
    core.fleet.nodes["h:1"].room.enter(library)


def miscount_batches(core: Core) -> None:
    core.fleet.nodes["h:2"].room.batches = 1


def misname_a_node(core: Core) -> None:
    core.fleet.nodes["h:1"].name = "other"


def miscount_reads(core: Core) -> None:
    core.parts.reads.open = 0


def keep_it_twice(core: Core) -> None:
    core.files.values["y@2"] = b""


def miscount_bytes(core: Core) -> None:
    core.files.stored += 1


def exceed_the_peak(core: Core) -> None:
    core.files.most_stored = 0


def miscount_readers(core: Core) -> None:
    core.files.temps["y@2"].readers = 1


def keep_for_nobody(core: Core) -> None:
    core.files.pruned["y@2"] = core.files.temps.pop("y@2")


def read_what_is_unknown(core: Core) -> None:
    parcel(core, 4).reads = ("no@1",)


def miscount_readers_by_path(core: Core) -> None:
    core.files.readers_by_path["r@3"] += 1


def keep_a_value_for_nobody(core: Core) -> None:
    core.files.unread["s@1"] = b""


def miscount_files_of_a_parcel(core: Core) -> None:
    parcel(core, 4).temps += 1


def make_it_missing(core: Core) -> None:
    core.parts.graph.lost("y@2")


def expect_what_nobody_makes(core: Core) -> None:
    core.files.temps["no@1"] = TempFile()


def keep_what_is_forgotten(core: Core) -> None:
    core.files.unwanted.add("y@2")


def ask_for_what_is_there(core: Core) -> None:
    core.files.ask("y@2", 2)


def ask_twice(core: Core) -> None:
    core.files.ask("z@9", 1)


def ask_nobody_to_rescue(core: Core) -> None:
    core.files.temps["y@2"].rescue = "h:1"


BREAKS: list[tuple[Invariant, Callable[[Core], None], str]] = [
    (invariants.tasks_have_their_numbers, renumber, "task 7: its number is 70"),
    (invariants.tasks_are_in_one_place, queue_twice, r"task 7: READY, and \['queued', 'queued'\]"),
    (invariants.tasks_are_in_one_place, queue_what_runs, "task 4 is queued, but ASSIGNED"),
    (invariants.tasks_are_in_one_place, unqueue, "task 8: UNFIT, and nowhere"),
    (invariants.tasks_are_in_one_place, lose_a_running_task, "task 4: ASSIGNED, and nowhere"),
    (invariants.tasks_are_in_one_place, forget_what_is_examined, "task 5: EXAMINED, and nowhere"),
    (invariants.tasks_are_in_one_place, replace, "task 7 is queued, but READY, or another one"),
    (invariants.suspects_run_one_at_a_time, suspect, "task 7: suspect True, in the wrong queue"),
    (invariants.suspects_run_one_at_a_time, suspect_two, r"suspects \[4, 6\] were sent at the same time"),
    (invariants.waiting_tasks_wait_for_files, run_without_a_file, r"task 10: READY, without \['z@9'\]"),
    (invariants.waiting_tasks_wait_for_files, wait_for_nothing, r"task 7: WAITING, without \[\]"),
    (invariants.graph_agrees_with_tasks, leave_the_graph, r"in the graph \[4, 9\], tasks with files \[4, 9, 10\]"),
    (invariants.parcels_know_their_tasks, end_early, "parcel 7 has ended"),
    (invariants.parcels_know_their_tasks, renumber_a_parcel, "parcel 99 is in the table under another number"),
    (invariants.parcels_know_their_tasks, name_another_parcel, "task 4, in parcel 7 as 4, names parcel 99"),
    (invariants.parcels_know_their_tasks, run_an_errand_with_a_task, r"parcel 7 has tasks \[4\] and the errand Fetch"),
    (invariants.cases_are_open, miscount_probes, r"examination of tasks \[5\] counts 2 probes, found 1"),
    (invariants.resources_add_up, miscount_cores, "node b2-2: counted 0.5 cores, found 0.0, has 1.0"),
    (invariants.resources_add_up, overcommit, "node b1-1: counted 2.0 cores, found 2.0, has 1.0"),
    (invariants.resources_add_up, miscount_libraries, r"counted .*'model'.* of libraries, found"),
    (invariants.resources_add_up, crowd_with_a_library, "libraries and tasks take 9999.0 memory"),
    (invariants.resources_add_up, miscount_batches, "node b2-2: counted 1 batches, found 0"),
    (invariants.resources_add_up, misname_a_node, "node other at h:1 is in the table as h:1, its room as b1-1"),
    (invariants.reads_are_counted, miscount_reads, "counted 0 reads, found 1"),
    (invariants.files_are_in_one_place, keep_it_twice, "y@2: a value True, a temp file True"),
    (invariants.bytes_add_up, miscount_bytes, "counted 6 bytes, found 5"),
    (invariants.bytes_add_up, exceed_the_peak, "found 5, at most 0 before"),
    (invariants.readers_are_counted, miscount_readers, "y@2: counted 1 readers, found 0"),
    (invariants.readers_are_counted, keep_for_nobody, "y@2 is kept to recreate others, of which there are none"),
    (invariants.readers_are_counted, read_what_is_unknown, r"\['no@1'\] are read, but unknown"),
    (invariants.readers_are_counted, miscount_readers_by_path, "by path {'r@3': 2}, found {'r@3': 1}"),
    (invariants.readers_are_counted, keep_a_value_for_nobody, r"results \['s@1'\] are kept to recreate others"),
    (invariants.parcels_count_their_files, miscount_files_of_a_parcel, "parcel 7: counted 2 temp files, found 1"),
    (invariants.graph_agrees_with_files, make_it_missing, "y@2: created True, available to tasks False"),
    (invariants.files_are_kept_for_a_reason, expect_what_nobody_makes, "no@1 does not exist, and no task creates it"),
    (invariants.files_are_kept_for_a_reason, keep_what_is_forgotten, "y@2 was forgotten, and no task reads"),
    (invariants.requests_wait_for_files, ask_for_what_is_there, r"requests \[2\] wait for y@2: created True"),
    (invariants.requests_wait_for_files, ask_twice, "request 1 waits 2 times"),
    (invariants.rescues_are_under_way, ask_nobody_to_rescue, "y@2 is to be copied by h:1, which was not told"),
]


@pytest.mark.parametrize(("invariant", "tamper", "problem"), BREAKS, ids=[each[1].__name__ for each in BREAKS])
def test_broken_invariant_is_named_with_its_values(
    invariant: Invariant, tamper: Callable[[Core], None], problem: str
) -> None:
    core = busy()
    tamper(core)
    with pytest.raises(InvariantBroken, match=problem) as caught:
        check((invariant,), core.parts)
    assert caught.value.invariant == invariant.__name__


def test_every_invariant_is_checked_and_broken_here() -> None:
    assert {invariant.__name__ for invariant in invariants.INVARIANTS} == {each[0].__name__ for each in BREAKS}


@pytest.mark.parametrize("checks", [True, False])
def test_core_checks_itself_if_asked(checks: bool) -> None:
    core = new_core(check=checks)
    core.files.stored += 1
    if checks:
        with pytest.raises(InvariantBroken, match=r"^bytes_add_up, after event 1 \(Cycle\): counted 1 bytes, found 0"):
            core.handle(events.Cycle())
    else:
        core.handle(events.Cycle())
    with pytest.raises(InvariantBroken, match=r"^bytes_add_up: counted 1 bytes"):
        core.check()


def test_an_illegal_transition_tells_the_story_of_its_task() -> None:
    core = busy()
    story = "set TASKVINE_EXEC_CHECK=1 to get the task's story here"
    with pytest.raises(IllegalTransition, match=story):
        Task(Invocation(1, 0, b""), PROFILE, 0).move(State.ASSIGNED)
    with pytest.raises(IllegalTransition) as caught:
        task(core, 6).move(State.EXAMINED)
    lines = str(caught.value).splitlines()
    assert lines[0].startswith("task 6 (app): READY -> EXAMINED, parcel 9, 1 charged attempts, 0 renewals, in event ")
    assert lines[0].endswith(" (Draining); its last moves:")
    assert [line.partition(" (")[2] for line in lines[1:]] == [
        "Submitted): WAITING -> READY",
        "Cycle): READY -> ASSIGNED, node b3-3",
        "Connected): ASSIGNED -> READY",
    ]
