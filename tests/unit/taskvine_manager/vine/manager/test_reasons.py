"""What the record says of tasks that are not sent to TaskVine, and of the other decisions of the core."""

from __future__ import annotations

from typing import Any

import pytest

from taskvine_manager.record import events as recorded
from taskvine_manager.record.events import Event, Waiting
from taskvine_manager.vine.manager import events
from taskvine_manager.wire.messages import L2, FileUse, Invocation, Library, Profile
from tests.unit.taskvine_manager.vine.manager.cores import new_core

WORKER = {"ncpus": 2, "cores_total": 2, "memory_total": 100, "disk_total": 1000, "arch": "x86"}


class Recorded:
    """A core, and what it records."""

    def __init__(self, **settings: Any) -> None:
        self.core = new_core(details=True, **settings)
        self.numbers = iter(range(1000))
        self.said: list[events.Instruction] = []

    def handle(self, event: events.Event, kind: type[Event] = Waiting) -> list[Any]:
        self.said = self.core.handle(event)
        records = [said for said in self.said if isinstance(said, events.Record)]
        return [each for record in records for each in record.events if isinstance(each, kind)]

    def call(self, count: int = 1, outputs: tuple[FileUse, ...] = (), **fields: Any) -> None:
        number = next(self.numbers)
        profile = Profile(number, "f", "f", L2, None, None, None, None, 0.0, "f")._replace(**fields)
        calls = [Invocation(1000 * number + each, number, b"", (), outputs) for each in range(count)]
        self.handle(events.Submitted((("f", b"f"),), (profile,), calls))

    def join(self, *addresses: str, **status: Any) -> list[Any]:
        there = {address: {**WORKER, **status} for address in addresses}
        return self.handle(events.Connected(there, (), 1.0), recorded.NodeStarted)

    def cycle(self) -> list[recorded.Placed]:
        return self.handle(events.Cycle(), recorded.Placed)

    def reasons(self) -> list[tuple[int, str, str, Any]]:
        return [tuple(event[:4]) for event in self.handle(events.Looked())]


@pytest.fixture
def core() -> Recorded:
    return Recorded()


def test_reason_is_recorded_once_until_it_changes(core: Recorded) -> None:
    core.call(3, cores=1.0)
    assert core.core.reasons.are_due
    assert core.reasons() == [(0, "no-node", "", ())]
    assert core.reasons() == []
    (started,) = core.join("a:1")
    assert (started.node, started.cores) == ("a:1", 2.0)
    (first, second) = core.cycle()
    assert (first.node, first.how, [*first.numbers, *second.numbers]) == ("a:1", "parcel", [0, 1])
    assert core.reasons() == [(2, "full", "", (("a:1", "cores"),))]
    assert core.reasons() == []


def test_scarce_resource_is_named(core: Recorded) -> None:
    core.join("a:1")
    core.call(2, memory=60.0)
    core.cycle()
    assert core.reasons() == [(1, "full", "", (("a:1", "memory"),))]


def test_slots_of_a_library_are_named(core: Recorded) -> None:
    core.join("a:1")
    core.call(2, library=Library("model", 1, None, 0))
    core.cycle()
    assert core.reasons() == [(1, "full", "", (("a:1", "library slots"),))]


def test_few_nodes() -> None:
    core = Recorded(wait_for_nodes=2)
    core.join("a:1")
    core.call()
    core.cycle()
    assert core.reasons() == [(0, "few-nodes", "1 of 2", ())]


def test_task_too_large_for_any_node() -> None:
    core = Recorded(uniform=False)
    core.join("a:1")
    core.call(gpus=1)
    assert core.reasons() == [(0, "too-large", "", (("a:1", "gpus"),))]


def test_end_of_a_node_and_retries_are_recorded(core: Recorded) -> None:
    core.join("a:1")
    core.call()
    core.cycle()
    (launch,) = (said for said in core.said if isinstance(said, events.Launch))
    core.handle(events.Placed({launch.parcel.number: "a:1"}))
    gone = events.Connected({}, ("a:1",), 2.0)
    assert core.handle(gone, recorded.NodeEnded) == [
        recorded.NodeEnded("a:1", "its worker's connection ended", told=False)
    ]
    (record,) = (said for said in core.said if isinstance(said, events.Record))
    assert recorded.Requeued(0, "node-lost", 1) in record.events


def test_suspects_run_one_at_a_time(core: Recorded) -> None:
    core.join("a:1")
    core.call(2, cores=1.0)
    core.cycle()
    numbers = [said.parcel.number for said in core.said if isinstance(said, events.Launch)]
    core.handle(events.Placed(dict.fromkeys(numbers, "a:1")))
    core.handle(events.Connected({}, ("a:1",), 2.0))
    core.join("b:1")
    core.cycle()
    assert core.reasons() == [(1, "suspect", "", ())]


def test_nothing_is_recorded_without_details() -> None:
    core = new_core()
    told = core.handle(events.Connected({"a:1": WORKER}, (), 1.0)) + core.handle(events.Looked())
    assert not [said for said in told if isinstance(said, events.Record)]
    assert not core.reasons.are_due
