"""``submit_many``: a future for each call, completed chunk by chunk.

The thread that submits sends the first chunks, and the link's thread sends the others when earlier ones end. The lock
is held while chunks are taken and sent, never while futures are completed.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterable
from concurrent.futures import Future, InvalidStateError
from typing import Any

from taskvine_exec.bulk.arguments import Arguments
from taskvine_exec.bulk.pieces import Piece, outcomes_of
from taskvine_exec.bulk.sender import Sender, Tasks, cancelled
from taskvine_exec.bulk.sizes import Sizes, window
from taskvine_exec.parsl_hooks.conditions import LightFuture
from taskvine_exec.results.pending import set_exception

logger = logging.getLogger(__name__)


class Many:
    """One call of ``submit_many``.

    Parameters
    ----------
    tasks : Tasks
        How chunks are run.
    arguments : iterable of tuple
        The arguments of each call.
    sizes : Sizes
        The sizes of chunks.

    Raises
    ------
    TypeError
        If the arguments of a call are not a tuple.
    """

    def __init__(self, tasks: Tasks, arguments: Iterable[tuple[Any, ...]], sizes: Sizes) -> None:
        calls = list(arguments)
        for number, each in enumerate(calls):
            if not isinstance(each, tuple):
                raise TypeError(
                    f"the arguments of call {number} are not a tuple but of type {type(each).__name__}: write (x,) for "
                    "one argument"
                )
        self._tasks = tasks
        self._sizes = sizes
        self._futures: list[LightFuture | None] = [LightFuture() for _ in calls]
        self._calls = Arguments([calls])
        self._sender = Sender(tasks, sizes, self._ended)
        self._taken = 0
        self._sending = threading.Lock()

    def futures(self) -> list[Future[Any]]:
        """Send the first chunks, and return the futures of the calls."""
        futures: list[Any] = list(self._futures)
        try:
            self._fill()
        except BaseException:  # such as Ctrl-C: the caller gets no futures
            self._sender.close(cancelled("submit_many was interrupted"))
            raise
        return futures

    def _fill(self) -> None:
        """Send chunks until there are as many as may be in flight. Not nested: a chunk may end as it is sent."""
        while self._may_send() and self._sending.acquire(blocking=False):
            try:
                while self._may_send():
                    self._send_next()
            finally:
                self._sending.release()

    def _may_send(self) -> bool:
        return self._taken < len(self._futures) and self._sender.in_flight < window(self._tasks.slots())

    def _send_next(self) -> None:
        count = self._sizes.next(self._tasks.slots(), self._calls.left)
        columns = self._calls.take(count)
        assert columns is not None
        first = self._taken
        self._taken += len(columns[0])
        for start, stop in self._wanted(first, self._taken):
            self._sender.send(Piece(start, (columns[0][start - first : stop - first],)))

    def _wanted(self, first: int, end: int) -> list[tuple[int, int]]:
        """Mark the futures of calls as running; return the ranges of calls that were not cancelled before."""
        ranges: list[tuple[int, int]] = []
        for number in range(first, end):
            future = self._futures[number]
            if future is not None and future.set_running_or_notify_cancel():
                if ranges and ranges[-1][1] == number:
                    ranges[-1] = ranges[-1][0], number + 1
                else:
                    ranges.append((number, number + 1))
            else:
                self._futures[number] = None
        return ranges

    def _ended(self, piece: Piece) -> None:
        for number, (result, error) in enumerate(outcomes_of(piece, self._sender.explain), piece.first):
            future, self._futures[number] = self._futures[number], None
            if future is None:
                continue
            if error is not None:
                set_exception(future, error)
                continue
            try:
                future.set_result(result)
            except InvalidStateError:
                pass
            except BaseException:  # concurrent.futures catches only Exceptions of callbacks
                logger.exception("a callback of the future of call %d raised an exception", number)
        self._fill()
