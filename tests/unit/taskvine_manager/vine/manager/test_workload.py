"""Unfinished tasks: where they wait, and how they end."""

from __future__ import annotations

from typing import Any

from taskvine_manager.runtime import failure
from taskvine_manager.scheduling.graph import DependencyGraph
from taskvine_manager.vine.manager.config import VineConfig
from taskvine_manager.vine.manager.events import Discard, Finish, Instruction, Locate, RunAgain
from taskvine_manager.vine.manager.fleet import Fleet
from taskvine_manager.vine.manager.holdings import Holdings
from taskvine_manager.vine.manager.sent import SentParcel
from taskvine_manager.vine.manager.tasks import State, Task
from taskvine_manager.vine.manager.workload import MOST_RENEWALS, Workload
from taskvine_manager.wire.messages import FileUse, Invocation
from tests.unit.taskvine_manager.node.test_config import config as node_config
from tests.unit.taskvine_manager.vine.manager.cores import PROFILE, of, returned, said

LOST = failure.lost("node-lost", "its worker was lost")


class Desk:
    """A workload, with the parts that it needs."""

    def __init__(self, **settings: Any) -> None:
        self.said: list[Instruction] = []
        graph = DependencyGraph()
        self.files = Holdings(self.said.append, graph.consumers, graph.lost)
        config = VineConfig(nodes=node_config(slots=None), python="", log="", **settings)
        self.fleet = Fleet(self.said.append, config)
        self.workload = Workload(self.said.append, graph, self.files, self.fleet, config, None)

    def add(self, number: int, *inputs: FileUse, makes: str = "", cores: float | None = None) -> Task:
        outputs = (FileUse("temp", makes, makes),) if makes else ()
        invocation = Invocation(number, 0, f"/spool/{number}", inputs, outputs)
        self.workload.add([PROFILE._replace(cores=cores)], [invocation])
        return self.workload.tasks.get(number) or Task(invocation, PROFILE, 0)

    def join(self, number: int, cores: int = 2) -> None:
        self.fleet.join(f"h:{number}", said(f"b0-{number}", cores), 0.0)
        self.workload.reconsider()

    def take(self, *, has_suspect: bool = False) -> list[Task]:
        """Take the tasks that fit the nodes, and give their resources back."""
        found = []
        for room, taken, tasks in self.workload.take(self.fleet.rooms, lambda: has_suspect):
            SentParcel(0, room=room, taken=taken).leave_room()
            found += tasks
        for task in found:
            task.move(State.ASSIGNED)
        return found


def test_reader_waits_for_its_file() -> None:
    desk = Desk()
    desk.join(1)
    maker, reader = desk.add(1, makes="x"), desk.add(2, FileUse("temp", "x", "x"))
    assert (maker.state, reader.state) == (State.READY, State.WAITING)
    assert desk.take() == [maker]
    desk.files.ask("x", 7)
    desk.workload.returned(maker, returned(1, "x"), "")
    assert (maker.state, reader.state) == (State.DONE, State.READY)
    assert desk.said == [Finish(returned(1, "x")), Discard("/spool/1"), Locate(7, "x")]


def test_task_that_fits_no_node_waits_for_another_where_nodes_differ() -> None:
    desk = Desk(uniform=False)
    desk.join(1)
    large = desk.add(1, cores=4.0)
    assert large.state is State.UNFIT
    desk.join(2, cores=3)
    assert large.state is State.UNFIT
    desk.join(3, cores=4)
    assert large.state is State.READY
    assert desk.take() == [large]


def test_task_that_fits_no_node_fails_where_nodes_are_alike() -> None:
    desk = Desk()
    task = desk.add(1, cores=4.0)
    assert task.state is State.READY, "there is no node yet"
    desk.join(1)
    assert task.state is State.DONE
    assert [failure.lost_kind(each.completion.body) for each in of(Finish, desk.said)] == ["unsatisfiable"]


def test_lost_tasks_are_retried_one_at_a_time_and_given_up() -> None:
    desk = Desk(max_retries=1)
    desk.join(1)
    desk.add(1), desk.add(2)
    first, second = desk.take()
    for task in (first, second):
        desk.workload.retry(task, LOST)
    assert [each.number for each in of(RunAgain, desk.said)] == [1, 2]
    assert desk.take(has_suspect=True) == []
    assert desk.take() == [first]
    desk.workload.retry(first, LOST)
    assert (first.state, first.attempts, desk.workload.retried) == (State.DONE, 2, 2)
    assert desk.take() == [second]


def test_task_with_a_renewed_input_is_retried_without_a_charge() -> None:
    desk = Desk(max_retries=0)
    desk.join(1)
    task = desk.add(1)
    for _ in range(MOST_RENEWALS):
        assert desk.take() == [task]
        desk.workload.retry_renewed(task, LOST)
    assert (task.state, task.attempts, task.suspect) == (State.READY, 0, False)
    desk.take()
    desk.workload.retry_renewed(task, LOST)
    assert task.state is State.DONE


def test_cancelled_task_is_forgotten_wherever_it_waits() -> None:
    desk = Desk(uniform=False)
    desk.join(1)
    tasks = [desk.add(1, makes="x"), desk.add(2, FileUse("temp", "x", "x")), desk.add(3, cores=9.0)]
    assert [task.state for task in tasks] == [State.READY, State.WAITING, State.UNFIT]
    for task in tasks:
        desk.workload.cancel(task)
    assert of(Finish, desk.said) == []
    assert desk.workload.tasks == {}
    desk.join(2, cores=9)
    assert desk.take() == []
