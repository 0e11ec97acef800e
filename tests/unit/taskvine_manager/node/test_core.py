"""The core of a node, with actions that only record what they are told."""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import pytest

from taskvine_manager.node.calls import Call, Ending, Need
from taskvine_manager.node.core import Actions, NodeCore
from taskvine_manager.runtime import failure
from taskvine_manager.wire.messages import L1, L2, FileUse, Invocation, Profile

RETURNED = Ending(failure.RETURNED, b"result", 1.0, 2.0)
LOST = Ending(failure.LOST, b"record", 0.0, 0.0)


class Sent(NamedTuple):
    sources: dict[str, Any]
    values: dict[str, bytes]


NOTHING = Sent({}, {})


class Cache(set[str]):
    def checked(self, name: str) -> str:
        return f"/cache/{name}"


class World:
    """A core, the node's cache, and the core's actions since the last look."""

    def __init__(self) -> None:
        self.cache = Cache()
        self.calls: dict[int, Call] = {}
        self.did: list[tuple[str, Any]] = []
        self.core = NodeCore(self.cache, self.calls)
        self.core.do = Actions(
            stage=lambda call, supply: self.note("stage", call),
            add=partial(self.note, "add"),
            pump=lambda: None,
            run=partial(self.note, "run"),
            keep=lambda call, ending: self.note("keep", call),
            complete=lambda call, ending: self.note("complete", call),
            crowded=lambda number, size: self.did.append(("crowded", (number, size))),
            returned=lambda numbers: self.did.append(("returned", numbers)),
            forget=self.forget,
        )

    def note(self, action: str, call: Call) -> None:
        self.did.append((action, call.invocation.number))

    def forget(self, call: Call) -> None:
        self.calls.pop(call.invocation.number, None)

    def done(self) -> list[tuple[str, Any]]:
        did, self.did = self.did, []
        return did

    def take(
        self,
        number: int,
        reads: tuple[FileUse, ...] = (),
        makes: tuple[FileUse, ...] = (),
        supply: Sent = NOTHING,
        mode: str = L2,
        broken: bytes | None = None,
    ) -> Call:
        profile = Profile(0, "key", "f", mode, None, None, None, None, 0.0, "f")
        call = self.calls[number] = Call(Invocation(number, 0, b"", reads, makes), profile, Need(1.0, 0.0))
        self.core.take(call, supply, broken)
        return call


@pytest.fixture
def world() -> World:
    return World()


def value(name: str) -> FileUse:
    return FileUse("value", "", name)


def temp(name: str) -> FileUse:
    return FileUse("temp", name, name)


def test_function_call_without_files_is_queued_at_once(world: World) -> None:
    world.take(1)
    assert world.done() == [("add", 1)]


def test_l1_task_is_staged_and_then_run(world: World) -> None:
    call = world.take(1, mode=L1)
    assert world.done() == [("stage", 1)]
    world.core.staged(call, None)
    assert world.done() == [("run", 1)]


def test_task_that_cannot_be_staged_is_lost(world: World) -> None:
    call = world.take(1, reads=(temp("file"),), supply=Sent({"file": "elsewhere"}, {}))
    world.core.staged(call, b"record")
    assert world.done() == [("stage", 1), ("complete", 1)]
    assert world.calls == {}


def test_ended_task_with_outputs_is_reported_once_they_are_kept(world: World) -> None:
    call = world.take(1, makes=(value("x"),))
    world.core.ended(call, RETURNED)
    assert world.done() == [("add", 1), ("keep", 1)]
    world.core.kept(call, RETURNED)
    assert world.done() == [("complete", 1)]


def test_task_starts_when_the_one_that_makes_its_input_has_ended(world: World) -> None:
    maker = world.take(1, makes=(value("x"),))
    reader = world.take(2, reads=(value("x"),))
    assert world.done() == [("add", 1)]
    world.core.kept(maker, RETURNED)
    assert world.done() == [("complete", 1), ("add", 2)]
    assert reader.values == {"x": b"result"}


def test_tasks_behind_a_lost_one_are_given_back_together(world: World) -> None:
    maker = world.take(1, makes=(value("x"),))
    world.take(3, reads=(value("y"),), supply=Sent({}, {"y": b""}))
    world.take(2, reads=(value("x"),), makes=(value("z"),))
    world.take(4, reads=(value("z"),))
    world.done()
    world.core.kept(maker, LOST)
    assert world.done() == [("complete", 1), ("returned", [2, 4])]
    assert list(world.calls) == [3]


def test_task_whose_input_nobody_makes_is_given_back(world: World) -> None:
    world.take(1, reads=(value("x"),))
    assert world.done() == [("returned", [1])]


def test_task_waits_for_a_file_that_is_being_fetched(world: World) -> None:
    world.core.fetching(["file"])
    world.take(1, reads=(value("file"),))
    assert world.done() == []
    world.cache.add("file")
    world.core.came(["file"])
    assert world.done() == [("add", 1)]


def test_task_is_given_back_if_its_transfer_fails(world: World) -> None:
    world.core.fetching(["file"])
    world.take(1, reads=(value("file"),))
    world.core.came(["file"])
    assert world.done() == [("returned", [1])]


def test_no_task_can_run_on_a_broken_node(world: World) -> None:
    world.take(1, broken=b"no interpreter")
    assert world.done() == [("complete", 1)]


def test_tasks_behind_cancelled_ones_are_given_back(world: World) -> None:
    queued = world.take(1, makes=(value("x"),))
    world.take(2, reads=(value("x"),))
    world.done()
    world.core.cancel({1}, [queued])
    assert world.done() == [("returned", [2])]
    assert world.calls == {}


def test_draining_node_starts_no_more_tasks(world: World) -> None:
    maker, staged = world.take(1, makes=(value("x"),)), world.take(3, mode=L1)
    world.take(2, reads=(value("x"),))
    world.core.drain([])
    world.done()
    world.core.kept(maker, RETURNED)
    world.core.staged(staged, None)
    assert world.done() == [("complete", 1), ("returned", [2]), ("returned", [3])]


def test_outputs_without_space_are_tried_again_or_given_up(world: World) -> None:
    tried: list[str] = []
    for number in (1, 2):
        call = world.take(number, makes=(value(f"x{number}"),))
        retry, give_up = (partial(tried.append, f"{what} {number}") for what in ("retry", "give up"))
        world.core.await_room(call, 7, retry, give_up)
    assert [each for each in world.done() if each[0] == "crowded"] == [("crowded", (1, 7)), ("crowded", (2, 7))]
    world.core.give_up([2, 3])
    assert tried == ["give up 2"]
    world.core.room_came()
    world.core.room_came()
    assert tried == ["give up 2", "retry 1"]
