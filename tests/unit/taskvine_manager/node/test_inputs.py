"""Tasks on a node that wait for inputs."""

from __future__ import annotations

from typing import Any

import pytest

from taskvine_manager.embedded.staging_in import Sent
from taskvine_manager.node import inputs as module
from taskvine_manager.node.calls import Call, Need
from taskvine_manager.node.inputs import Inputs, State
from taskvine_manager.node.replicas import Source
from taskvine_manager.wire.messages import L2, FileUse, Invocation, Profile

PROFILE = Profile(0, "key", "f", L2, None, None, None, None, 0.0, "f")
NOTHING = Sent({}, {}, {})


class Cache(set[str]):
    """Names of cached files; the value of each is its name."""

    def checked(self, name: str) -> str:
        if name not in self:
            raise FileNotFoundError(name)
        return f"/cache/{name}"


@pytest.fixture
def cache() -> Cache:
    return Cache()


@pytest.fixture
def inputs(cache: Any) -> Inputs:
    return Inputs(cache)


def value(name: str) -> FileUse:
    return FileUse("value", "", name)


def temp(name: str) -> FileUse:
    return FileUse("temp", name, name)


def call(number: int, reads: tuple[FileUse, ...] = (), makes: tuple[FileUse, ...] = ()) -> Call:
    return Call(Invocation(number, 0, b"", reads, makes), PROFILE, Need(1.0, 0.0))


def test_task_waits_for_the_task_that_makes_its_input(inputs: Inputs) -> None:
    maker, reader = call(1, makes=(value("x"),)), call(2, reads=(value("x"),))
    inputs.expect(maker)
    assert inputs.wait(reader, NOTHING) is State.WAITING
    assert inputs.waiting({1, 2}) == [reader]
    assert inputs.made(maker, b"result") == [reader]
    assert reader.values == {"x": b"result"}
    assert inputs.waiting({1, 2}) == []


def test_task_waits_for_all_its_inputs(inputs: Inputs) -> None:
    makers = [call(number, makes=(value(f"x{number}"),)) for number in (1, 2)]
    reader = call(3, reads=(value("x1"), value("x2"), temp("t")))
    for maker in makers:
        inputs.expect(maker)
    inputs.fetching(["t"])
    assert inputs.wait(reader, NOTHING) is State.WAITING
    assert inputs.made(makers[0], b"1") == inputs.fetched(["t"]) == []
    assert inputs.made(makers[1], b"2") == [reader]


def test_file_fetched_twice_has_arrived_after_the_second_time(inputs: Inputs) -> None:
    reader = call(1, reads=(temp("t"),))
    inputs.fetching(["t"])
    inputs.fetching(["t"])
    assert inputs.wait(reader, NOTHING) is State.WAITING
    assert inputs.fetched(["t"]) == []
    assert inputs.fetched(["t"]) == [reader]


def test_small_results_are_kept_for_tasks_that_come_late(inputs: Inputs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "RECENT", 2)
    for number in (1, 2, 3):
        maker = call(number, makes=(value(f"x{number}"),))
        inputs.expect(maker)
        inputs.made(maker, b"result")
    reader = call(4, reads=(value("x2"), value("x3")))
    assert inputs.wait(reader, NOTHING) is State.READY
    assert reader.values == {"x2": b"result", "x3": b"result"}
    assert inputs.wait(call(5, reads=(value("x1"),)), NOTHING) is State.MISSING


@pytest.mark.parametrize("where", ["values", "sources", "cache"])
def test_task_whose_inputs_are_here_waits_for_nothing(inputs: Inputs, cache: Cache, where: str) -> None:
    sources, values = {"x": Source("/x", 1, 1)}, {"x": b""}
    supply = Sent(sources if where == "sources" else {}, values if where == "values" else {}, {})
    if where == "cache":
        cache.add("x")
    reader = call(1, reads=(value("x"), FileUse("local", "in", "/in")))
    assert inputs.wait(reader, supply) is State.READY
    assert inputs.are_available(reader, supply)
    assert not inputs.are_available(reader, NOTHING) or where == "cache"


def test_missing_temp_file_is_left_to_staging(inputs: Inputs) -> None:
    assert inputs.wait(call(1, reads=(temp("t"),)), NOTHING) is State.READY


def test_tasks_that_wait_in_vain_are_found(inputs: Inputs) -> None:
    maker, reader, other = call(1, makes=(value("x"),)), call(2, reads=(value("x"),)), call(3, reads=(value("x"),))
    inputs.expect(maker)
    inputs.wait(reader, NOTHING)
    inputs.wait(other, NOTHING)
    assert inputs.drop(other) == []
    assert inputs.drop(maker) == [reader]
    assert inputs.wait(call(4, reads=(value("x"),)), NOTHING) is State.MISSING


def test_results_are_provided(inputs: Inputs, cache: Cache) -> None:
    cache.add("x")
    reader = call(1, reads=(value("x"), value("y")))
    assert inputs.give_all(reader, Sent({}, {"y": b"2"}, {}))
    assert reader.values == {"x": "/cache/x", "y": b"2"}
    assert not inputs.give_all(call(2, reads=(value("x"), value("z"))), NOTHING)


def test_files_need_staging(inputs: Inputs, cache: Cache) -> None:
    cache.add("t")
    assert not inputs.give_all(call(1, reads=(temp("t"),)), NOTHING)
    assert not inputs.give_all(call(1, makes=(temp("t"),)), NOTHING)
    assert inputs.give_all(call(1, makes=(value("x"),)), NOTHING)
