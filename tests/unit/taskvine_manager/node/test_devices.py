"""Which tasks use which gpus of a node."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from taskvine_manager.node.devices import NO_GPUS, Devices, Gpus

HALF, QUARTER = Gpus(0.5), Gpus(0.25)


def taken(devices: Devices, *wanted: Gpus) -> list[tuple[str, ...] | None]:
    found = []
    for gpus in wanted:
        names = devices.pick(gpus)
        devices.take(gpus, names or ())
        found.append(names)
    return found


def test_parts_fill_one_gpu_before_the_next() -> None:
    devices = Devices("ab")
    assert taken(devices, HALF, QUARTER, HALF, QUARTER, QUARTER) == [("a",), ("a",), ("b",), ("a",), ("b",)]
    assert devices.pick(HALF) is None
    assert devices.pick(QUARTER) == ("b",)
    assert devices.pick(NO_GPUS) == ()


def test_whole_gpus_are_those_that_no_task_uses() -> None:
    devices = Devices("abc")
    assert taken(devices, QUARTER, Gpus(2.0), Gpus(1.0)) == [("a",), ("b", "c"), None]
    devices.give(QUARTER, ["a"])
    assert devices.free == ["a"]
    assert devices.pick(Gpus(1.0)) == ("a",)
    assert not devices.has_room("b", QUARTER)


@pytest.mark.parametrize("parts", [3, 6, 7, 9, 49, 100])
def test_equal_parts_make_a_whole(parts: int) -> None:
    devices = Devices("a")
    assert taken(devices, *[Gpus(1 / parts)] * (parts + 1)) == [("a",)] * parts + [None]


def test_memory_is_shared_too() -> None:
    devices = Devices("ab", [1000.0, 2000.0])
    small, large = Gpus(0.25, 600.0), Gpus(memory=1500.0)
    assert taken(devices, small, small, large, large) == [("a",), ("b",), None, None]
    devices.give(small, ["b"])
    assert taken(devices, large, Gpus(memory=500.0), Gpus(memory=400.0)) == [("b",), ("b",), ("a",)]
    assert devices.pick(Gpus(memory=1.0)) is None


def test_whole_gpu_with_enough_memory_is_the_smallest_one() -> None:
    devices = Devices("abc", [4000.0, 1000.0, 2000.0])
    assert devices.pick(Gpus(1.0)) == ("a",)
    assert devices.pick(Gpus(1.0, 1500.0)) == ("c",)
    assert devices.pick(Gpus(2.0, 1500.0)) == ("c", "a")
    assert devices.could(Gpus(2.0, 1500.0))
    assert not devices.could(Gpus(3.0, 1500.0))


def test_gpus_of_unknown_memory_serve_no_task_that_names_some() -> None:
    devices = Devices("a")
    assert devices.pick(Gpus(1.0, 1.0)) is None
    assert not devices.could(Gpus(memory=1.0))


def test_task_that_names_only_memory_keeps_whole_requests_away() -> None:
    devices = Devices("a", [1000.0])
    assert taken(devices, Gpus(memory=1.0)) == [("a",)]
    assert devices.pick(Gpus(1.0)) is None


def test_room_beside_others() -> None:
    devices = Devices("a", [1000.0])
    assert devices.has_room("a", HALF, [HALF])
    assert not devices.has_room("a", HALF, [HALF, QUARTER])
    assert not devices.has_room("a", Gpus(1.0), [QUARTER])
    assert not devices.has_room("a", QUARTER, [Gpus(1.0)])
    assert not devices.has_room("a", Gpus(0.5, 600.0), [Gpus(0.25, 600.0)])


amounts = st.sampled_from([0.0, 0.01, 0.1, 0.25, 0.3, 1 / 3, 0.5, 0.75, 1.0, 2.0]) | st.floats(0.01, 0.99)
wanted_gpus = st.builds(Gpus, amounts, st.sampled_from([0.0, 0.0, 1.0, 300.5, 999.0, 2000.0]))


class DevicesMachine(RuleBasedStateMachine):
    """Whatever the order of starts and ends, no gpu is given out more than once, and nothing is kept back."""

    def __init__(self) -> None:
        super().__init__()
        self.memory = {"a": 1000, "b": 1000, "c": 2000}
        self.devices = Devices(self.memory, list(self.memory.values()))
        self.held: list[tuple[Gpus, tuple[str, ...]]] = []

    @rule(gpus=wanted_gpus)
    def start(self, gpus: Gpus) -> None:
        names = self.devices.pick(gpus)
        if names is None:
            assert self.held or not self.devices.could(gpus), "an idle node refuses nothing that it could run"
            return
        assert len(set(names)) == len(names) == gpus.seen
        self.devices.take(gpus, names)
        self.held.append((gpus, names))

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def end(self, data: st.DataObject) -> None:
        gpus, names = self.held.pop(data.draw(st.integers(0, len(self.held) - 1)))
        self.devices.give(gpus, names)

    @invariant()
    def no_gpu_is_given_out_twice(self) -> None:
        for name, memory in self.memory.items():
            users = [gpus for gpus, names in self.held if name in names]
            # A part counts as at most 1e-7 less than it is.
            assert sum(min(Fraction(1), Fraction(gpus.amount)) for gpus in users) <= 1 + Fraction(len(users), 10**7)
            assert sum(gpus.memory for gpus in users) <= memory
            assert len(users) == 1 or all(gpus.amount < 1 for gpus in users)
            assert (name in self.devices.free) == (not users)

    @invariant()
    def nothing_is_leaked(self) -> None:
        if not self.held:
            assert self.devices.pick(Gpus(3.0)) == ("a", "b", "c")
            assert self.devices.pick(Gpus(0.99, 2000.0)) == ("c",)


TestDevices = DevicesMachine.TestCase
TestDevices.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


@given(st.lists(wanted_gpus, max_size=8))
def test_copy_changes_nothing(several: list[Gpus]) -> None:
    devices = Devices("ab", [1000.0, 1000.0])
    taken(devices.copy(), *several)
    assert devices.free == ["a", "b"]
