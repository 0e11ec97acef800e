"""Parcels that TaskVine has."""

from __future__ import annotations

from taskvine_manager.vine.manager.batching import Room
from taskvine_manager.vine.manager.events import Abort, Instruction, Launch, Placed, Staged
from taskvine_manager.vine.manager.fleet import VineNode
from taskvine_manager.vine.manager.sent import Greeting, Rescue, SentParcel, SentParcels
from taskvine_manager.vine.manager.tasks import Need, State, Task
from taskvine_manager.vine.parcels import Parcel
from taskvine_manager.vine.worker.worker import MARK
from taskvine_manager.wire.messages import Invocation
from tests.unit.taskvine_manager.vine.manager.cores import PROFILE

NODE = VineNode("h:1", {"arch": f"{MARK}b0-1"}, 1, 0.0)


def test_parcel_is_known_until_it_is_taken_or_withdrawn() -> None:
    said: list[Instruction] = []
    sent = SentParcels(said.append)
    for _ in range(2):
        sent.hello(NODE, Greeting())
    first, second = sent
    assert sent.take(first.number) is first
    assert sent.take(first.number) is None
    sent.withdraw(second)
    assert list(sent) == []
    assert said[-1] == Abort(second.number)


def test_parcel_knows_the_inputs_that_nodes_cache_and_its_node() -> None:
    sent = SentParcels(lambda said: None)
    parcel = SentParcel(sent.number(), pinned="h:1")
    inputs = (Staged("temp", "x", "i0"), Staged("arguments", "/a", "a1"), Staged("local", "/l", "i2"))
    sent.launch(parcel, Launch(Parcel("run", parcel.number), inputs))
    assert parcel.given == {"x": "temp", "/l": "local"}
    assert (parcel.where, sent.lost({"h:1"})) == ("h:1", [])
    sent.placed(Placed({parcel.number: "h:2", 77: "h:3"}))
    assert parcel.where == "h:2"
    assert sent.lost({"h:1"}) == [parcel]


def test_node_is_busy_with_tasks_and_rescues_but_not_with_greetings() -> None:
    sent = SentParcels(lambda said: None)
    sent.hello(NODE, Greeting())
    assert not sent.is_busy(NODE)
    sent.hello(NODE, Rescue(("x",)))
    assert sent.is_busy(NODE)
    assert (sent.working(), sent.count_tasks(), sent.has_suspect()) == (set(), 0, False)
    task = Task(Invocation(1, 0, b""), PROFILE, 0)
    task.suspect = True
    parcel = SentParcel(sent.number(), {1: task})
    sent.tell(NODE, Parcel("run", parcel.number), parcel)
    task.parcel = parcel.number
    assert sent.of(task) is None
    task.move(State.READY)
    task.move(State.ASSIGNED)
    assert sent.of(task) is parcel
    sent.placed(Placed({parcel.number: "h:1"}))
    assert (sent.working(), sent.count_tasks(), sent.has_suspect()) == ({"h:1"}, 1, True)


def test_resources_are_freed_once() -> None:
    room = Room(Need(2.0), 2)
    room.take(Need(1.0))
    room.batches = 1
    for parcel in (SentParcel(1, room=room, taken=Need(1.0)), SentParcel(2, room=room)):
        parcel.leave_room()
        parcel.leave_room()
    assert (room.busy, room.batches) == (Need(0.0), 0)
