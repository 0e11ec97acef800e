"""The calls of a chunk and their outcomes.

A chunk is sent as one :class:`Piece`. If not all of its calls have run, or if it was lost, the rest becomes smaller
pieces, which are sent again. The pieces of a chunk form a tree whose order is that of the calls.
"""

from __future__ import annotations

import math
import pickle
from collections.abc import Callable, Iterator
from typing import Any

from taskvine_exec.results.futures import unreadable
from taskvine_manager.runtime.bulk import Columns, Outcomes

PARTS = 32
"""Most pieces that a lost piece is divided into. Another death of a slot costs as much as many tasks."""


class Piece:
    """Consecutive calls that are sent as one task.

    Parameters
    ----------
    first : int
        Number of its first call.
    columns : tuple of list
        The calls' arguments.
    """

    __slots__ = ("columns", "count", "ended", "error", "first", "node", "outcomes", "parts", "task")

    def __init__(self, first: int, columns: Columns) -> None:
        self.first = first
        self.columns = columns
        self.count = len(columns[0])
        self.task = -1
        """Number of its task."""
        self.node = ""
        """Node on which it ran."""
        self.outcomes: Outcomes | None = None
        """Outcomes of its first calls."""
        self.error: Exception | None = None
        """Error of all its calls."""
        self.parts: tuple[Piece, ...] = ()
        """The calls after these, to be sent again."""
        self.ended = False

    def returned(self, outcomes: Outcomes, node: str) -> None:
        """Keep the outcomes of calls; those without an outcome become a part.

        Raises
        ------
        ValueError
            If there are no outcomes, or more than calls.
        """
        done = len(outcomes.results)
        if not 0 < done <= self.count:
            raise ValueError(f"{done} outcomes of {self.count} calls")
        self.outcomes, self.node = outcomes, node
        if done < self.count:
            self.parts = (self._slice(done, self.count),)
        self._end()

    def lost(self, error: Exception) -> None:
        """Divide the piece, so that only the call that caused the loss fails; fail it if it has one call."""
        if self.count == 1:
            self.fail(error)
            return
        step = math.ceil(self.count / PARTS)
        self.parts = tuple(self._slice(at, min(at + step, self.count)) for at in range(0, self.count, step))
        self._end()

    def fail(self, error: Exception) -> None:
        """Fail all calls."""
        self.error = error
        self._end()

    def _end(self) -> None:
        self.columns = ()  # their results may be kept for longer
        self.ended = True

    def _slice(self, start: int, stop: int) -> Piece:
        return Piece(self.first + start, tuple(column[start:stop] for column in self.columns))


Explain = Callable[[Piece, bytes], Exception]
"""Makes the exception of a call from its failure record."""


def outcomes_of(piece: Piece, explain: Explain) -> Iterator[tuple[Any, Exception | None]]:
    """Yield the result and exception of each call that has an outcome, in order."""
    if piece.error is not None:
        for _ in range(piece.count):
            yield None, piece.error
        return
    if piece.outcomes is None:
        return
    results, pickled, failed, _ = piece.outcomes
    # Otherwise, one array that the user keeps would keep those of all other calls.
    is_shared = sum(map(bool, pickled.values())) > 1
    for at, result in enumerate(results):
        if at in failed:
            yield None, explain(piece, result)
        elif at in pickled:
            buffers = list(map(_copy, pickled[at])) if is_shared else pickled[at]
            try:
                loaded = pickle.loads(result, buffers=buffers)
            except BaseException as error:  # the result's own methods run here and may raise anything
                yield None, unreadable(piece.task, error)
            else:
                yield loaded, None
        else:
            yield result, None


def _copy(buffer: Any) -> bytes | bytearray:
    view = memoryview(buffer)
    return bytes(view) if view.readonly else bytearray(view)
