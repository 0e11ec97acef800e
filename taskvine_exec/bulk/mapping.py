"""``map``: results in the order of the calls, with few chunks at a time.

The thread that reads results takes arguments and sends chunks: the user's iterables are read in no other thread, and
not faster than the results. The link's thread only marks pieces as ended.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import TimeoutError
from typing import Any

from taskvine_exec.bulk.arguments import Arguments
from taskvine_exec.bulk.pieces import Piece, outcomes_of
from taskvine_exec.bulk.sender import Sender, Tasks, cancelled
from taskvine_exec.bulk.sizes import Sizes, window


class Mapping:
    """One call of ``map``.

    Parameters
    ----------
    tasks : Tasks
        How chunks are run.
    arguments : Arguments
        The arguments of the calls.
    sizes : Sizes
        The sizes of chunks.
    timeout : float, optional
        Seconds from now until the last result that may be waited for.
    clock : callable
        Returns the time in seconds.
    """

    def __init__(
        self,
        tasks: Tasks,
        arguments: Arguments,
        sizes: Sizes,
        timeout: float | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._tasks = tasks
        self._arguments = arguments
        self._sizes = sizes
        self._clock = clock
        self._timeout = timeout
        self._until = None if timeout is None else clock() + timeout
        self._sender = Sender(tasks, sizes, self._ended)
        self._pieces: deque[Piece] = deque()
        self._taken = 0
        self._some_ended = threading.Condition()

    def results(self) -> Iterator[Any]:
        """Send the first chunks, and return the generator of the results."""
        generator = self._generate()
        next(generator)  # from now on, the end of the generator cancels what it has sent
        return generator

    def _generate(self) -> Iterator[Any]:
        explain = self._sender.explain
        try:
            self._fill()
            yield
            while self._pieces:
                piece = self._pieces[0]
                self._wait(piece)
                self._pieces.popleft()
                self._pieces.extendleft(reversed(piece.parts))
                self._fill()
                outcomes = piece.outcomes
                if outcomes is not None and not outcomes.pickled and not outcomes.failed:
                    yield from outcomes.results
                    continue
                for result, error in outcomes_of(piece, explain):
                    if error is not None:
                        raise error
                    yield result
        finally:
            self._sender.close(cancelled("the iterator of map was closed"))
            self._pieces.clear()

    def _fill(self) -> None:
        """Send chunks until there are as many as may be in flight, or there are no more arguments."""
        slots = self._tasks.slots()
        while len(self._pieces) < window(slots):
            columns = self._arguments.take(self._sizes.next(slots, self._arguments.left))
            if columns is None:
                return
            piece = Piece(self._taken, columns)
            self._taken += piece.count
            self._pieces.append(piece)
            self._sender.send(piece)

    def _ended(self, piece: Piece) -> None:
        with self._some_ended:
            self._some_ended.notify_all()

    def _wait(self, piece: Piece) -> None:
        """Wait until a piece has ended.

        Raises
        ------
        TimeoutError
            If it has not ended in time.
        """
        if piece.ended:
            return
        with self._some_ended:
            while not piece.ended:
                left = None if self._until is None else self._until - self._clock()
                if left is not None and left <= 0:
                    raise TimeoutError(f"the result of call {piece.first} did not come within {self._timeout:g} s")
                self._some_ended.wait(left)
