"""Futures in containers: found, replaced, and named where they could not be."""

from __future__ import annotations

import functools
import sys
from collections import Counter, OrderedDict, UserDict, defaultdict, deque, namedtuple
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import pytest

from taskvine_exec.parsl_hooks import containers


def done(value: Any) -> Future[Any]:
    future: Future[Any] = Future()
    future.set_result(value)
    return future


def resolved(argument: Any) -> Any:
    return containers.replace(argument, lambda future: future.result())


class Words(list[Any]):
    """A list with an attribute."""

    def __init__(self, items: Any, title: str) -> None:
        super().__init__(items)
        self.title = title


class Names(dict[str, Any]):
    """A dict made with an argument, and with an attribute."""

    def __init__(self, owner: str) -> None:
        super().__init__()
        self.owner = owner


class Bag(set[Any]):
    """A set."""


class Fixed(frozenset[Any]):
    """A frozenset."""


class Pair(tuple[Any, Any]):
    """A tuple with attributes whose class takes two arguments."""

    def __new__(cls, first: Any, second: Any) -> Pair:
        return super().__new__(cls, (first, second))


class Point(NamedTuple):
    x: Any
    y: Any = 0


@dataclass
class Model:
    weights: Any
    name: str = "m"
    size: int = field(init=False, default=3)

    def __post_init__(self) -> None:
        self.made = "here"


@dataclass(frozen=True)
class Frozen:
    value: Any


class _Slotted:
    __slots__ = ("value",)


@dataclass
class Slotted:
    __slots__ = ("other", "value")
    value: Any
    other: Any


Loose = namedtuple("Loose", "a b")


def names() -> Names:
    made = Names("me")
    made["k"] = done(1)
    return made


def default() -> defaultdict[str, Any]:
    made: defaultdict[str, Any] = defaultdict(list)
    made["k"] = done(1)
    return made


def pair() -> Pair:
    made = Pair(done(1), 2)
    made.note = "kept"  # type: ignore[attr-defined]
    return made


CASES: dict[str, tuple[Callable[[], Any], Callable[[Any], bool]]] = {
    "future": (lambda: done(1), lambda made: made == 1),
    "list": (lambda: [done(1), 2], lambda made: type(made) is list and made == [1, 2]),
    "tuple": (lambda: (done(1), 2), lambda made: type(made) is tuple and made == (1, 2)),
    "set": (lambda: {done(1)}, lambda made: type(made) is set and made == {1}),
    "frozenset": (lambda: frozenset({done(1)}), lambda made: type(made) is frozenset and made == {1}),
    "dict": (lambda: {"k": done(1), done("l"): 2}, lambda made: type(made) is dict and made == {"k": 1, "l": 2}),
    "OrderedDict": (
        lambda: OrderedDict([("b", done(1)), (done("a"), 2), ("c", 3)]),
        lambda made: type(made) is OrderedDict and list(made.items()) == [("b", 1), ("a", 2), ("c", 3)],
    ),
    "defaultdict": (default, lambda made: type(made) is defaultdict and made == {"k": 1} and made["new"] == []),
    "Counter": (lambda: Counter({"k": done(1)}), lambda made: type(made) is Counter and made["k"] == 1),
    "dict subclass": (names, lambda made: type(made) is Names and made == {"k": 1} and made.owner == "me"),
    "list subclass": (
        lambda: Words([done(1)], "t"),
        lambda made: type(made) is Words and made == [1] and made.title == "t",
    ),
    "set subclass": (lambda: Bag({done(1)}), lambda made: type(made) is Bag and made == {1}),
    "frozenset subclass": (lambda: Fixed({done(1)}), lambda made: type(made) is Fixed and made == {1}),
    "tuple subclass": (pair, lambda made: type(made) is Pair and made == (1, 2) and made.note == "kept"),
    "NamedTuple": (lambda: Point(done(1)), lambda made: type(made) is Point and made == (1, 0)),
    "namedtuple": (lambda: Loose([done(1)], b=done(2)), lambda made: type(made) is Loose and made == ([1], 2)),
    "dataclass": (
        lambda: Model([done(1)]),
        lambda made: type(made) is Model and made == Model([1]) and made.made == "here" and made.size == 3,
    ),
    "frozen dataclass": (lambda: Frozen(Frozen(done(1))), lambda made: made == Frozen(Frozen(1))),
    "dataclass with slots": (lambda: Slotted(done(1), 2), lambda made: made == Slotted(1, 2)),
    "mixed": (
        lambda: [OrderedDict(k=Point(Model({"x": (done(1),)})))],
        lambda made: made[0]["k"].x.weights == {"x": (1,)},
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_futures_are_replaced_in_containers_of_every_kind(name: str) -> None:
    make, is_right = CASES[name]
    argument = make()
    assert containers.find(argument)
    made = resolved(argument)
    assert is_right(made)
    assert not containers.find(made)
    assert containers.find(argument), "the user's own object was changed"


def test_container_without_futures_stays_the_same_object() -> None:
    plain = {"a": [1, Model(2)]}
    assert resolved(plain) is plain
    mixed = [plain, done(1)]
    assert resolved(mixed)[0] is plain
    assert resolved(7) == 7


def test_shared_parts_stay_shared() -> None:
    asked = []
    future = done([1])
    inner = [future]

    def one(future: Future[Any]) -> Any:
        asked.append(future)
        return object()

    first, second, third = containers.replace([inner, inner, future], one)
    assert first is second
    assert first[0] is third
    assert asked == [future]


def test_futures_are_found_in_order() -> None:
    futures = [done(number) for number in range(5)]
    argument = [futures[0], {"a": (futures[1], futures[2])}, Point(futures[3]), futures[4], futures[0]]
    assert containers.find(argument) == [*futures, futures[0]]


def tree() -> dict[str, Any]:
    root: dict[str, Any] = {"name": "root", "children": []}
    root["children"].append({"name": "leaf", "parent": root})
    return root


def test_cycles_without_a_future_are_left_alone() -> None:
    root = tree()
    assert containers.find(root) == []
    assert resolved(root) is root
    argument = [root, done(1)]
    made = resolved(argument)
    assert made[0] is root
    assert made[1] == 1
    node = Model(None)
    node.weights = [node]
    assert resolved((node, done(2)))[1] == 2


def test_cycle_that_contains_a_future_is_refused() -> None:
    root = tree()
    root["children"][0]["value"] = done(1)
    with pytest.raises(ValueError, match=r"a future inside a (dict in a list|list in a dict) that contains itself"):
        resolved(root)
    looped: list[Any] = [done(1)]
    looped.append(looped)
    with pytest.raises(ValueError, match="inside a list that contains itself"):
        resolved({"k": looped})


def test_deep_containers_are_searched() -> None:
    argument: Any = done(1)
    for _ in range(3 * sys.getrecursionlimit()):
        argument = [argument]
    made = resolved(argument)
    for _ in range(3 * sys.getrecursionlimit()):
        (made,) = made
    assert made == 1


def test_container_that_cannot_be_copied_is_named() -> None:
    class Stubborn(dict[str, Any]):
        def __reduce_ex__(self, protocol: Any) -> Any:
            raise RuntimeError("never")

    argument = Stubborn(k=done(1))
    with pytest.raises(TypeError, match="futures in a Stubborn cannot be replaced by their results: never"):
        resolved(argument)


def test_place_of_a_remaining_future_is_named() -> None:
    class Holder:
        def __init__(self, value: Any) -> None:
            self.value = value

    slotted = _Slotted()
    slotted.value = [done(1)]
    captured = done(1)
    said = {
        "args[0]": done(1),
        "args[0][1]": [0, done(1)],
        "args[0]['k'][0]": {"k": (done(1),)},
        "args[0].value['k']": Holder({"k": done(1)}),
        "args[0].x": Point(done(1)),
        "args[0].weights": Model(done(1)),
        "args[0].value[0]": slotted,
        "an element of args[0]": {done(1)},
        "a key of args[0]": {done(1): 1},
        "args[0].args[0]": functools.partial(print, done(1)),
        "the variable captured of args[0]": lambda: captured,
        "args[0].data['k']": UserDict(k=done(1)),
        "args[0][2]": deque([1, 2, done(1)]),
    }
    assert {containers.where("args[0]", value) for value in said.values()} == set(said)


def test_no_place_is_named_without_a_future() -> None:
    root = tree()
    assert containers.where("x", root) is None
    assert containers.where("x", [1, "a", len, Model, Model(1), Point(2)]) is None


def test_search_runs_no_code_of_the_user() -> None:
    class Shy:
        __slots__ = ("hidden",)

        @property
        def __dict__(self) -> Any:  # type: ignore[override]
            raise AssertionError("it was looked at")

        def __getattribute__(self, name: str) -> Any:
            raise AssertionError("it was looked at")

    assert containers.where("x", [Shy()]) is None
    shy = Shy()
    object.__setattr__(shy, "hidden", done(1))
    assert containers.where("x", shy) == "x.hidden"
