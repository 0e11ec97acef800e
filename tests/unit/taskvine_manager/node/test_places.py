"""What named libraries take of their node, and which of them end for others."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from taskvine_manager.node.calls import Resources
from taskvine_manager.node.places import Place, Want, enough, shares
from taskvine_manager.wire.messages import Library


def node(cores: float = 4.0, memory: float = 1000.0, gpus: int = 4) -> Resources:
    return Resources(cores, memory, [str(number) for number in range(gpus)])


def place(on: Resources, slots: int | None = 2, memory: float | None = None, gpus: int = 0) -> Place:
    return Place(on, Library("model", slots, memory, gpus))


def test_library_takes_memory_and_gpus_until_it_leaves() -> None:
    resources = node()
    model = place(resources, memory=600.0, gpus=3)
    assert model.take_place()
    assert model.take_place()
    assert (resources.cores, resources.memory, resources.gpus) == (4.0, 400.0, ["3"])
    assert model.seen == "0,1,2"
    assert not place(resources, memory=500.0).take_place()
    assert not place(resources, gpus=2).take_place()
    model.leave()
    model.leave()
    assert (resources.memory, resources.gpus) == (1000.0, ["0", "1", "2", "3"])


def test_calls_take_cores_of_the_node_and_the_rest_of_the_library() -> None:
    resources = node()
    model = place(resources, slots=4, memory=600.0, gpus=2)
    assert not model.fits(1.0, 0.0, 1)
    model.take_place()
    model.take(1.0, 400.0, ["0"])
    assert (resources.cores, resources.memory) == (3.0, 400.0)
    assert not model.fits(1.0, 300.0, 1)
    assert model.fits(1.0, 200.0, 1)
    assert not model.fits(4.0, 0.0, 1)
    assert model.gpus == ["1", "2", "3"]
    model.give(1.0, 400.0, ["0"])
    assert (resources.cores, model.gpus) == (4.0, ["0", "1", "2", "3"])


def test_calls_of_a_library_without_its_own_take_of_the_node() -> None:
    resources = node()
    plain = place(resources, slots=None)
    plain.take_place()
    plain.take(1.0, 100.0, ["0"])
    assert (resources.cores, resources.memory, plain.gpus) == (3.0, 900.0, ["1", "2", "3"])
    assert plain.visible(["0", "1"]) == "0,1"
    assert not plain.fits(1.0, 901.0, 0)


def test_slots_are_limited() -> None:
    model = place(node(), slots=1)
    model.take_place()
    model.take(0.0, 0.0, [])
    assert not model.fits(0.0, 0.0, 0)
    model.give(0.0, 0.0, [])
    assert model.fits(0.0, 0.0, 0)


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
    resources.take(0.0, 0.0, ["0"])
    model = place(resources, slots=2, gpus=3)
    model.take_place()
    assert [model.visible([share]) for share in model.gpus] == ["1", "2,3"]


# --- who ends for whom ---


def idle(resources: Resources, *kinds: tuple[float, int]) -> list[tuple[int, Place]]:
    places = [place(resources, memory=memory, gpus=gpus) for memory, gpus in kinds]
    assert all(each.take_place() for each in places)
    return list(enumerate(places))


@pytest.mark.parametrize(
    ("want", "ending"),
    [
        (Want(0.0, 1), []),  # it is free
        (Want(0.0, 2), [0]),
        (Want(0.0, 3), [0, 2]),  # the second has no gpu
        (Want(0.0, 4), [0, 2]),
        (Want(0.0, 5), []),  # all of them are not enough
        (Want(500.0, 0), [1]),
        (Want(500.0, 2), [0, 1]),
    ],
)
def test_as_few_idle_libraries_end_as_possible(want: Want, ending: list[int]) -> None:
    resources = node()
    found = idle(resources, (0.0, 1), (600.0, 0), (100.0, 2))
    assert enough(want, resources, [], found) == ending


def test_libraries_that_are_ending_count() -> None:
    resources = node()
    (_, first), second = idle(resources, (0.0, 2), (0.0, 2))
    assert enough(Want(0.0, 2), resources, [first], [second]) == []
    assert enough(Want(0.0, 3), resources, [first], [second]) == [1]


class Accounts(RuleBasedStateMachine):
    """Libraries and calls that come and go: everything is given back, and nothing is given twice."""

    def __init__(self) -> None:
        super().__init__()
        self.resources = node()
        self.places = [
            place(self.resources, slots=3, memory=400.0, gpus=2),
            place(self.resources, slots=2, gpus=3),
            place(self.resources, slots=None),
        ]
        self.calls: list[tuple[Place, float, list[str]]] = []

    @rule(number=st.integers(0, 2))
    def comes(self, number: int) -> None:
        self.places[number].take_place()

    @rule(number=st.integers(0, 2))
    def leaves(self, number: int) -> None:
        if not any(place is self.places[number] for place, *_ in self.calls):
            self.places[number].leave()

    @rule(number=st.integers(0, 2), memory=st.sampled_from([0.0, 150.0, 300.0]))
    def call(self, number: int, memory: float) -> None:
        chosen = self.places[number]
        if chosen.fits(1.0, memory, 1):
            gpus = chosen.gpus[:1]
            chosen.take(1.0, memory, gpus)
            self.calls.append((chosen, memory, gpus))

    @precondition(lambda self: self.calls)
    @rule(data=st.data())
    def ends(self, data: st.DataObject) -> None:
        chosen, memory, gpus = self.calls.pop(data.draw(st.integers(0, len(self.calls) - 1)))
        chosen.give(1.0, memory, gpus)

    @invariant()
    def nothing_is_taken_twice(self) -> None:
        assert self.resources.cores == 4.0 - len(self.calls)
        assert self.resources.memory >= 0
        held = [place.kind.gpus for place in self.places if place.is_taken]
        of_node = sum(place.kind.gpus == 0 for place, *_ in self.calls)
        assert len(self.resources.gpus) == 4 - sum(held) - of_node
        for place in self.places:
            taken = [share for each, _, gpus in self.calls if each is place for share in gpus]
            assert len(set(taken)) == len(taken)


TestAccounts = Accounts.TestCase
TestAccounts.settings = settings(max_examples=30, stateful_step_count=30, deadline=None)
