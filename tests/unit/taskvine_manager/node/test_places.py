"""What named libraries take of their node, and which of them end for others."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from taskvine_manager.node.calls import NO_GRANT, SHARE, Grant, Need, Resources
from taskvine_manager.node.devices import Devices, Gpus
from taskvine_manager.node.places import Place, enough, shares
from taskvine_manager.wire.messages import Library


def node(cores: float = 4.0, memory: float = 1000.0, gpus: int = 4) -> Resources:
    return Resources(cores, memory, Devices(str(number) for number in range(gpus)))


def place(on: Resources, slots: int | None = 2, memory: float | None = None, gpus: float = 0.0) -> Place:
    return Place(on, Library("model", slots, memory, gpus))


def call(memory: float) -> Need:
    return Need(1.0, memory, SHARE)


def test_library_takes_memory_and_gpus_until_it_leaves() -> None:
    resources = node()
    model = place(resources, memory=600.0, gpus=3)
    assert model.take_place()
    assert model.take_place()
    assert (resources.cores, resources.memory, resources.devices.free) == (4.0, 400.0, ["3"])
    assert model.seen == "0,1,2"
    assert not place(resources, memory=500.0).take_place()
    assert not place(resources, gpus=2).take_place()
    model.leave()
    model.leave()
    assert (resources.memory, resources.devices.free) == (1000.0, ["0", "1", "2", "3"])


def test_calls_take_cores_of_the_node_and_the_rest_of_the_library() -> None:
    resources = node()
    model = place(resources, slots=4, memory=600.0, gpus=2)
    assert not model.fits(call(0.0))
    model.take_place()
    model.take(call(400.0), Grant(("0",)))
    assert (resources.cores, resources.memory) == (3.0, 400.0)
    assert not model.fits(call(300.0))
    assert model.fits(call(200.0))
    assert not model.fits(Need(4.0, 0.0, SHARE))
    assert model.free_shares == ["1", "2", "3"]
    model.give(call(400.0), Grant(("0",)))
    assert (resources.cores, model.free_shares) == (4.0, ["0", "1", "2", "3"])


def test_calls_of_a_library_without_its_own_take_of_the_node() -> None:
    resources = node()
    plain = place(resources, slots=None)
    plain.take_place()
    plain.take(call(100.0), Grant(("0",)))
    assert (resources.cores, resources.memory, resources.devices.free) == (3.0, 900.0, ["1", "2", "3"])
    assert plain.visible(Grant(("0", "1"))) == "0,1"
    assert not plain.fits(Need(1.0, 901.0))


def test_slots_are_limited() -> None:
    model = place(node(), slots=1)
    model.take_place()
    model.take(Need(0.0, 0.0), NO_GRANT)
    assert not model.fits(Need(0.0, 0.0))
    model.give(Need(0.0, 0.0), NO_GRANT)
    assert model.fits(Need(0.0, 0.0))


@pytest.mark.parametrize(
    ("gpus", "slots", "expected"),
    [
        ("", 3, []),
        ("a", 1, ["a"]),
        ("ab", 2, ["a", "b"]),
        ("a", 3, ["a", "a", "a"]),
        ("ab", 3, ["a", "b", "a"]),
        ("abc", 2, ["a", "b,c"]),
        ("abcd", 2, ["a,b", "c,d"]),
    ],
)
def test_shares_of_gpus(gpus: str, slots: int, expected: list[str]) -> None:
    assert shares(gpus, slots) == expected


@given(st.integers(1, 9), st.integers(1, 9))
def test_each_slot_has_a_gpu_and_each_gpu_a_slot(gpus: int, slots: int) -> None:
    names = [str(number) for number in range(gpus)]
    found = [share.split(",") for share in shares(names, slots)]
    assert len(found) == slots
    assert all(found)
    assert sorted({gpu for share in found for gpu in share}) == names
    if gpus >= slots:
        assert sum(map(len, found)) == gpus, "nobody shares a gpu"


def test_call_sees_its_share() -> None:
    resources = node()
    resources.take(Need(0.0, 0.0, Gpus(1.0)), Grant(("0",)))
    model = place(resources, slots=2, gpus=3)
    model.take_place()
    assert [model.visible(Grant((share,))) for share in model.free_shares] == ["1", "2,3"]


# --- who ends for whom ---


def idle(resources: Resources, *kinds: tuple[float, int]) -> list[tuple[int, Place]]:
    places = [place(resources, memory=memory, gpus=gpus) for memory, gpus in kinds]
    assert all(each.take_place() for each in places)
    return list(enumerate(places))


@pytest.mark.parametrize(
    ("want", "ending"),
    [
        (Need(0.0, 0.0, Gpus(1.0)), []),  # it is free
        (Need(0.0, 0.0, Gpus(2.0)), [0]),
        (Need(0.0, 0.0, Gpus(3.0)), [2]),  # the first is not needed, the second has no gpu
        (Need(0.0, 0.0, Gpus(4.0)), [0, 2]),
        (Need(0.0, 0.0, Gpus(5.0)), []),  # all of them are not enough
        (Need(0.0, 500.0, Gpus(0.0)), [1]),
        (Need(0.0, 500.0, Gpus(2.0)), [0, 1]),
    ],
)
def test_as_few_idle_libraries_end_as_possible(want: Need, ending: list[int]) -> None:
    resources = node()
    found = idle(resources, (0.0, 1), (600.0, 0), (100.0, 2))
    assert enough(want, resources, [], found) == ending


def test_libraries_that_are_ending_count() -> None:
    resources = node()
    (_, first), second = idle(resources, (0.0, 2), (0.0, 2))
    assert enough(Need(0.0, 0.0, Gpus(2.0)), resources, [first], [second]) == []
    assert enough(Need(0.0, 0.0, Gpus(3.0)), resources, [first], [second]) == [1]


class Accounts(RuleBasedStateMachine):
    """Libraries and calls that come and go: everything is given back, and nothing is given twice."""

    def __init__(self) -> None:
        super().__init__()
        self.resources = node()
        self.places = [
            place(self.resources, slots=3, memory=400.0, gpus=2),
            place(self.resources, slots=2, gpus=0.5),
            place(self.resources, slots=2, gpus=3),
            place(self.resources, slots=None),
        ]
        self.calls: list[tuple[Place, Need, Grant]] = []

    @rule(number=st.integers(0, 3))
    def comes(self, number: int) -> None:
        self.places[number].take_place()

    @rule(number=st.integers(0, 3))
    def leaves(self, number: int) -> None:
        if not any(place is self.places[number] for place, *_ in self.calls):
            self.places[number].leave()

    @rule(
        number=st.integers(0, 3),
        memory=st.sampled_from([0.0, 150.0, 300.0]),
        gpus=st.sampled_from([0.0, 0.25, 0.5, 1.0, 2.0]),
    )
    def call(self, number: int, memory: float, gpus: float) -> None:
        chosen = self.places[number]
        need = Need(1.0, memory, SHARE if chosen.has_gpus else Gpus(gpus))
        if chosen.fits(need):
            grant = chosen.grant(need)
            chosen.take(need, grant)
            self.calls.append((chosen, need, grant))

    @precondition(lambda self: self.calls)
    @rule(data=st.data())
    def ends(self, data: st.DataObject) -> None:
        chosen, need, grant = self.calls.pop(data.draw(st.integers(0, len(self.calls) - 1)))
        chosen.give(need, grant)

    @rule(wanted=st.sampled_from([Gpus(0.5), Gpus(1.0), Gpus(3.0), Gpus(4.0)]), memory=st.sampled_from([0.0, 700.0]))
    def libraries_end_for_others(self, wanted: Gpus, memory: float) -> None:
        busy = {id(place) for place, *_ in self.calls}
        idle = [(place, place) for place in self.places if place.is_taken and id(place) not in busy]
        want, before = Need(0.0, memory, wanted), self.resources.devices.free
        ending = enough(want, self.resources, [], idle)
        assert self.resources.devices.free == before, "it is a question"
        for each in ending:
            assert not self.resources.fits(want), "each of them must end"
            each.leave()
        assert not ending or self.resources.fits(want)

    @invariant()
    def nothing_is_taken_twice(self) -> None:
        assert self.resources.cores == 4.0 - len(self.calls)
        assert self.resources.memory >= 0
        held = sum(place.need.gpus.amount for place in self.places if place.is_taken)
        held += sum(need.gpus.amount for place, need, _ in self.calls if not place.has_gpus)
        assert held <= 4.0
        if not held:
            assert len(self.resources.devices.free) == 4
        for place in self.places:
            taken = [share for each, _, grant in self.calls if each is place for share in grant.devices]
            assert len(set(taken)) == len(taken) or not place.has_gpus


TestAccounts = Accounts.TestCase
TestAccounts.settings = settings(max_examples=30, stateful_step_count=30, deadline=None)
