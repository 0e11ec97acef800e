"""The calls of a chunk: their outcomes, and the pieces that are sent again."""

from __future__ import annotations

import pickle
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taskvine_exec.bulk.pieces import PARTS, Piece, outcomes_of
from taskvine_exec.errors import ResultNotSerializable, SlotDied
from taskvine_manager.runtime.bulk import Outcomes

DIED = SlotDied(task_id=3, exit_code=1)


def explain(piece: Piece, record: bytes) -> Exception:
    return ValueError(piece.first, record)


def done(*results: Any, pickled: dict[int, list[Any]] | None = None, failed: set[int] | None = None) -> Outcomes:
    return Outcomes(list(results), pickled or {}, failed or set(), 0.1)


def leaves(piece: Piece) -> list[Piece]:
    """Pieces in order of their calls, without those that were divided."""
    own = [piece] if not piece.parts or piece.outcomes is not None else []
    return own + [leaf for part in piece.parts for leaf in leaves(part)]


def test_all_calls_returned() -> None:
    piece = Piece(10, ([1, 2],))
    piece.returned(done("a", "b"), "n1")
    assert piece.ended
    assert piece.parts == ()
    assert piece.node == "n1"
    assert list(outcomes_of(piece, explain)) == [("a", None), ("b", None)]
    assert piece.columns == (), "the arguments are let go"


def test_calls_that_have_not_run_are_a_part() -> None:
    piece = Piece(10, ([1, 2, 3], [4, 5, 6]))
    piece.returned(done("a"), "n1")
    (part,) = piece.parts
    assert (part.first, part.count, part.columns) == (11, 2, ([2, 3], [5, 6]))
    assert list(outcomes_of(piece, explain)) == [("a", None)]


@pytest.mark.parametrize("count", [0, 3])
def test_impossible_outcomes_are_refused(count: int) -> None:
    with pytest.raises(ValueError, match="outcomes of 2 calls"):
        Piece(0, ([1, 2],)).returned(done(*[1] * count), "")


def test_failures_are_explained() -> None:
    piece = Piece(5, ([1, 2],))
    piece.returned(done(b"record", 7, failed={0}), "")
    (nothing, error), second = outcomes_of(piece, explain)
    assert nothing is None
    assert isinstance(error, ValueError)
    assert error.args == (5, b"record")
    assert second == (7, None)


class Refuses:
    def __reduce__(self) -> Any:
        return int, ("not a number",)


def test_result_that_cannot_be_loaded_fails_alone() -> None:
    piece = Piece(0, ([1, 2, 3],))
    piece.returned(done(pickle.dumps(Refuses()), pickle.dumps([1]), 3, pickled={0: [], 1: []}), "")
    (_, error), *others = outcomes_of(piece, explain)
    assert isinstance(error, ResultNotSerializable)
    assert others == [([1], None), (3, None)]


@pytest.mark.parametrize(("number", "copied"), [(1, False), (2, True)])
def test_buffers_that_share_a_file_are_copied(number: int, copied: bool) -> None:
    buffers = [bytearray(b"abc") for _ in range(number)]
    bodies = [pickle.dumps(pickle.PickleBuffer(b), 5, buffer_callback=lambda _: False) for b in buffers]
    piece = Piece(0, ([0] * number,))
    piece.returned(done(*bodies, pickled={at: [buffer] for at, buffer in enumerate(buffers)}), "")
    results = [result for result, _ in outcomes_of(piece, explain)]
    assert [result is not buffer for result, buffer in zip(results, buffers, strict=True)] == [copied] * number


def test_single_call_that_is_lost_fails() -> None:
    piece = Piece(4, ([1],))
    piece.lost(DIED)
    assert list(outcomes_of(piece, explain)) == [(None, DIED)]
    assert piece.parts == ()


def test_all_calls_fail() -> None:
    piece = Piece(4, ([1, 2],))
    piece.fail(DIED)
    assert list(outcomes_of(piece, explain)) == [(None, DIED)] * 2


def test_lost_piece_is_divided() -> None:
    piece = Piece(100, (list(range(70)),))
    piece.lost(DIED)
    assert piece.ended
    assert list(outcomes_of(piece, explain)) == []
    assert len(piece.parts) <= PARTS
    assert [each for part in piece.parts for each in part.columns[0]] == list(range(70))
    assert [part.first for part in piece.parts] == list(range(100, 170, 3))


@given(st.integers(1, 3000), st.data())
def test_every_call_ends_once_and_in_order(count: int, data: Any) -> None:
    """Whatever runs, is lost or is left over: calls that kill their process fail alone."""
    killers = data.draw(st.sets(st.integers(0, count - 1), max_size=3))
    root = Piece(0, (list(range(count)),))
    left, runs = [root], 0
    while left:
        piece = left.pop(0)
        runs += 1
        calls = piece.columns[0]
        if killers.intersection(calls):
            piece.lost(DIED)
        else:
            piece.returned(done(*calls[: data.draw(st.integers(1, len(calls))) if runs < 10 else len(calls)]), "")
        left += piece.parts
    ended = [each for leaf in leaves(root) for each in outcomes_of(leaf, explain)]
    assert [number for number, (_, error) in enumerate(ended) if error] == sorted(killers)
    assert [result for result, error in ended if error is None] == [n for n in range(count) if n not in killers]
    assert runs <= 20 + 3 * PARTS * max(1, len(killers))
