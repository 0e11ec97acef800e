"""The index of a cache: the space of files, and which of them are evicted."""

from __future__ import annotations

import hypothesis.strategies as st
import pytest
from hypothesis import given

from taskvine_manager.node.index import Entry, Index


@pytest.fixture
def index() -> Index:
    return Index(100)


def temp(size: int) -> Entry:
    return Entry(size, 1, is_temp=True)


def user_file(size: int) -> Entry:
    return Entry(size, 1, is_temp=False)


def test_files_take_their_bytes_until_they_are_removed(index: Index) -> None:
    assert index.add("a", temp(30)) is None
    assert index.add("a", user_file(20)) == temp(30)
    index.add("b", temp(10))
    assert index.used == 30
    assert ("a" in index, "c" in index) == (True, False)
    assert (index.get("a"), index.get("c")) == (user_file(20), None)
    assert (index.size("a"), index.size("c")) == (20, 0)
    assert index.remove("a") == user_file(20)
    assert index.remove("a") is None
    assert index.used == 10


def test_inputs_of_a_size_are_found(index: Index) -> None:
    index.add("a", temp(30))
    index.add("b", user_file(20))
    assert [index.has_input_of(size) for size in (20, 30)] == [True, False]


def test_least_recently_used_inputs_are_evicted_first(index: Index) -> None:
    for name in "abc":
        index.add(name, user_file(20))
    index.add("t", temp(40))
    assert index.evictable() == ["a", "b", "c"]
    index.touch("a")
    index.pin("b")
    index.pin("b")
    index.unpin("b")
    assert index.evictable() == ["c", "a"]
    assert index.victims(20) == ["c"]
    assert index.victims(21) == ["c", "a"]
    assert index.available == 40
    assert index.victims(41) is None
    index.unpin("b")
    assert index.victims(60) == ["b", "c", "a"]


def test_no_file_is_evicted_while_there_is_space(index: Index) -> None:
    index.add("a", user_file(40))
    assert index.victims(60) == []
    index.reserve(10)
    assert index.used == 50
    assert index.victims(60) == ["a"]
    index.reserve(-10)
    assert index.victims(60) == []


def test_only_pinned_inputs_and_reserved_bytes_can_be_waited_for(index: Index) -> None:
    index.add("a", user_file(20))
    index.add("t", temp(30))
    index.pin("a")
    index.pin("t")
    index.pin("not there yet")
    index.reserve(10)
    assert index.available == 40
    assert [index.may_have(size) for size in (70, 71)] == [True, False]


@given(
    st.lists(st.tuples(st.integers(0, 40), st.booleans(), st.booleans()), max_size=8),
    st.integers(0, 120),
    st.integers(0, 20),
)
def test_evicted_files_are_enough_and_no_more(files: list[tuple[int, bool, bool]], size: int, more: int) -> None:
    index = Index(100)
    for number, (held, is_temp, is_pinned) in enumerate(files):
        if index.used + held + more <= 100:
            index.add(str(number), Entry(held, 1, is_temp))
            if is_pinned:
                index.pin(str(number))
    index.reserve(more)
    victims = index.victims(size)
    assert (victims is None) == (index.available < size)
    if victims is None:
        return
    assert victims == index.evictable()[: len(victims)]
    for name in victims[:-1]:
        index.remove(name)
    assert not victims or index.used + size > 100
    for name in victims[-1:]:
        index.remove(name)
    assert index.used + size <= 100
