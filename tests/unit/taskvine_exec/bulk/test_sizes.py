"""The sizes of chunks."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taskvine_exec.bulk.sizes import ARGUMENT_BYTES, CHUNK_SECONDS, GROWTH, MOST_CALLS, Sizes, window


def learned(seconds: float, rounds: int = 10) -> Sizes:
    """Sizes after some chunks whose calls took as long."""
    sizes = Sizes()
    for _ in range(rounds):
        count = sizes.next(2)
        sizes.ended(count, seconds * count)
    return sizes


def test_given_size_is_kept() -> None:
    sizes = Sizes(7)
    sizes.ended(7, 100.0)
    assert sizes.next(2, 1) == 7


@pytest.mark.parametrize("fixed", [0, -1])
def test_given_size_is_at_least_one(fixed: int) -> None:
    with pytest.raises(ValueError, match="chunksize must be >= 1"):
        Sizes(fixed)


def test_chunks_are_single_calls_until_one_has_ended() -> None:
    sizes = Sizes()
    assert [sizes.next(2) for _ in range(5)] == [1] * 5
    sizes.ended(1, 1e-6)
    assert sizes.next(2) == GROWTH


def test_chunks_grow_step_by_step() -> None:
    sizes = Sizes()
    sizes.ended(1, 1e-7)
    assert sizes.next(2) == GROWTH
    sizes.ended(GROWTH, GROWTH * 1e-7)
    assert sizes.next(2) == GROWTH**2


@pytest.mark.parametrize("seconds", [1e-5, 1e-4, 0.001, 0.01])
def test_chunk_takes_the_intended_time(seconds: float) -> None:
    assert learned(seconds).next(2) * seconds == pytest.approx(CHUNK_SECONDS, rel=0.2)


def test_long_calls_are_sent_alone() -> None:
    assert learned(1.0).next(2) == 1


def test_calls_without_measurable_time() -> None:
    assert learned(0.0).next(2) == MOST_CALLS


def test_slower_calls_make_chunks_smaller() -> None:
    sizes = learned(0.0001)
    sizes.ended(100, 1.0)
    assert sizes.next(2) < 20


def test_large_arguments_make_chunks_smaller() -> None:
    sizes = learned(1e-5)
    for _ in range(20):
        sizes.sent(1, ARGUMENT_BYTES // 4)
    assert sizes.next(2) == 4


@pytest.mark.parametrize(("left", "expected"), [(8000, 800), (2000, 500), (400, 100), (160, 40), (8, 40)])
def test_last_calls_are_divided_among_all_slots(left: int, expected: int) -> None:
    """But not into chunks that would cost more than their calls."""
    assert learned(1e-4).next(2, left) == pytest.approx(expected, abs=1)


def test_few_long_calls_are_divided_among_all_slots() -> None:
    assert learned(0.01).next(2, 8) == 2


@given(
    st.lists(st.tuples(st.floats(0, 1e6), st.integers(0, 1 << 40))),
    st.integers(1, 10_000),
    st.none() | st.integers(0, 1 << 40),
)
def test_every_size_is_possible(history: list[tuple[float, int]], slots: int, left: int | None) -> None:
    sizes = Sizes()
    for seconds, size in history:
        count = sizes.next(slots, left)
        assert 1 <= count <= MOST_CALLS
        sizes.sent(count, size)
        sizes.ended(count, seconds)
    assert 1 <= sizes.next(slots, left) <= MOST_CALLS


@pytest.mark.parametrize("slots", [1, 2, 64])
def test_all_slots_have_chunks_while_one_result_is_read(slots: int) -> None:
    assert window(slots) > 2 * slots
