"""How many calls a chunk has, and how many chunks there are at a time.

:class:`Sizes` is pure: it learns how long calls took and how large their arguments were.
"""

from __future__ import annotations

import math

CHUNK_SECONDS = 0.08
"""Run time that a chunk should have."""
LEAST_SECONDS = 0.004
"""Run time below which chunks are not made smaller to give each slot some of the last calls."""
MOST_CALLS = 1 << 14
"""Most calls of a chunk: with these, the cost of the task is a few percent even of calls that do nothing."""
ARGUMENT_BYTES = 4 << 20
"""Bytes of arguments that a chunk should have at most."""
GROWTH = 32
"""How many times larger a chunk may be than the largest one that has ended. A chunk that takes too long ends early."""
_SHARES = 2
"""Chunks for each slot that the remaining calls are divided into."""


class Sizes:
    """The sizes of the chunks of one function.

    Parameters
    ----------
    fixed : int, optional
        Number of calls of each chunk. Default: it follows from what was learned.

    Raises
    ------
    ValueError
        If ``fixed`` is less than 1.
    """

    def __init__(self, fixed: int | None = None) -> None:
        if fixed is not None and fixed < 1:
            raise ValueError("chunksize must be >= 1.")
        self._fixed = fixed
        self._seconds: float | None = None
        self._bytes = 0.0
        self._largest = 0

    def next(self, slots: int, left: int | None = None) -> int:
        """Return the number of calls of the next chunk.

        Parameters
        ----------
        slots : int
            Number of slots that run chunks.
        left : int, optional
            Number of calls that remain, if it is known.
        """
        if self._fixed is not None:
            return self._fixed
        if self._seconds is None:
            return 1  # nothing is known yet, and the calls may be long
        seconds = max(self._seconds, 1e-9)
        size = min(CHUNK_SECONDS / seconds, GROWTH * self._largest, MOST_CALLS)
        if self._bytes:
            size = min(size, ARGUMENT_BYTES / self._bytes)
        if left is not None:
            share = math.ceil(left / (_SHARES * slots))
            size = min(size, max(share, LEAST_SECONDS / seconds))
        return max(1, int(size))

    def sent(self, calls: int, argument_bytes: int) -> None:
        """Learn the size of the arguments of a chunk."""
        self._bytes = _mean(self._bytes, argument_bytes / calls)

    def ended(self, calls: int, seconds: float) -> None:
        """Learn the run time of a chunk."""
        each = seconds / calls
        self._seconds = each if self._seconds is None else _mean(self._seconds, each)
        self._largest = max(self._largest, calls)


def _mean(old: float, new: float) -> float:
    return (old + new) / 2


def window(slots: int) -> int:
    """Return the number of chunks that may be in flight: some run, and as many wait for a slot or for their reader."""
    return 3 * slots + 2
