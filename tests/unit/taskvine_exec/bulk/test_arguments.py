"""Arguments taken from iterables."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from taskvine_exec.bulk.arguments import Arguments
from taskvine_exec.bulk.sizes import ARGUMENT_BYTES


def test_no_iterable_is_no_call() -> None:
    assert Arguments([]).take(3) is None


def test_one_iterable() -> None:
    arguments = Arguments([range(5)])
    assert [arguments.take(2) for _ in range(4)] == [([0, 1],), ([2, 3],), ([4],), None]


def test_shortest_iterable_ends() -> None:
    arguments = Arguments([range(5), itertools.count(7)])
    assert [arguments.take(3), arguments.take(3), arguments.take(3)] == [
        ([0, 1, 2], [7, 8, 9]),
        ([3, 4], [10, 11]),
        None,
    ]


@given(st.integers(0, 200), st.lists(st.integers(1, 100), min_size=1), st.booleans())
def test_nothing_is_left_out_or_repeated(count: int, sizes: list[int], two: bool) -> None:
    arguments = Arguments([range(count)] * (2 if two else 1))
    taken: list[int] = []
    for size in itertools.cycle(sizes):
        columns = arguments.take(size)
        if columns is None:
            break
        assert len(columns) == 1 + two
        assert 1 <= len(columns[0]) <= size
        taken += columns[-1]
    assert taken == list(range(count))


def test_iterables_are_read_only_as_far_as_calls_are_taken() -> None:
    read: list[int] = []

    def numbers() -> Iterator[int]:
        for number in itertools.count():
            read.append(number)
            yield number

    arguments = Arguments([numbers()])
    assert read == []
    arguments.take(100)
    assert len(read) == 100


def test_remaining_calls() -> None:
    arguments = Arguments([range(10), itertools.repeat(1, 8)])
    assert arguments.left == 8
    arguments.take(5)
    assert arguments.left == 3
    assert Arguments([range(10), itertools.count()]).left is None
    assert Arguments([(x for x in range(3))]).left is None


@pytest.mark.parametrize("make", [bytes, bytearray, lambda n: np.zeros(n, np.uint8), lambda n: "x" * n])
@pytest.mark.parametrize("two", [False, True])
def test_large_arguments_end_a_chunk(make: Any, two: bool) -> None:
    for parts, most in ((1, 1), (10, 15), (100, 127)):
        values = (make(ARGUMENT_BYTES // parts) for _ in range(1000))
        columns = Arguments([values, itertools.count()] if two else [values]).take(500)
        assert columns is not None
        assert parts <= len(columns[0]) <= most


def test_shared_argument_counts_once() -> None:
    columns = Arguments([itertools.repeat(bytes(ARGUMENT_BYTES // 2))]).take(100)
    assert columns is not None
    assert len(columns[0]) == 100


@pytest.mark.parametrize("others", [(), (itertools.count(),)])
def test_shared_argument_of_earlier_chunks_does_not_count(others: Any) -> None:
    arguments = Arguments([itertools.repeat(bytes(2 * ARGUMENT_BYTES)), *others])
    sizes = [len(columns[0]) for _ in range(4) if (columns := arguments.take(100)) is not None]
    assert sizes == [1, 100, 100, 100]


class Lazy:
    """A proxy that must not be loaded."""

    @property
    def __class__(self) -> Any:
        raise AssertionError

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(name)


def test_proxies_are_not_loaded() -> None:
    columns = Arguments([[Lazy(), Lazy()]]).take(2)
    assert columns is not None
    assert len(columns[0]) == 2
