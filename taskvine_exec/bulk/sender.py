"""Pieces sent as tasks, and what remains of them sent again.

Any thread may send. The link's thread calls :meth:`Sender._ended`, and sends the parts of a piece that did not end.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from typing import Any

from parsl.app.app import AppBase

from taskvine_exec.bulk.pieces import Piece
from taskvine_exec.bulk.sizes import Sizes
from taskvine_exec.errors import (
    ArgumentNotLoadable,
    ArgumentNotSerializable,
    DiskFull,
    FileLost,
    FileUnreadable,
    MemoryExceeded,
    NodeLost,
    ResultNotSerializable,
    SlotDied,
    TaskCancelled,
)
from taskvine_exec.parsl_hooks import wrappers
from taskvine_exec.results.advice import WorkingDirectories
from taskvine_exec.results.futures import TaskFuture, failure_of
from taskvine_exec.submission import resources
from taskvine_exec.submitter import Submitter
from taskvine_manager.runtime import execution
from taskvine_manager.runtime.bulk import Chunk, Columns, Outcomes

logger = logging.getLogger(__name__)

BY_ONE_CALL = (
    ArgumentNotLoadable,
    ArgumentNotSerializable,
    DiskFull,
    FileLost,
    FileUnreadable,
    MemoryError,
    MemoryExceeded,
    NodeLost,
    ResultNotSerializable,
    SlotDied,
)
"""Errors of a chunk that one of its calls can cause. The chunk is then divided, until that call is alone."""

Submit = Callable[[Columns, bool], TaskFuture]
"""Submits a task for the calls with these arguments; the flag tells whether it goes before other chunks."""


@dataclass(frozen=True)
class Tasks:
    """How an executor runs the chunks of one function.

    Parameters
    ----------
    name : str
        Name of the function.
    submit : callable
        Submits a chunk.
    cancel : callable
        Cancels tasks that have not begun, given their numbers and an error.
    slots : callable
        Returns the number of slots now.
    directories : WorkingDirectories
        The directories in which tasks run.
    """

    name: str
    submit: Submit
    cancel: Callable[[int, Exception], None]
    slots: Callable[[], int]
    directories: WorkingDirectories


class Sender:
    """Sends the pieces of one function's calls.

    Parameters
    ----------
    tasks : Tasks
        How chunks are run.
    sizes : Sizes
        Learns from the chunks.
    on_end : callable
        Called with each piece that has ended, before its parts are sent. No lock is held.
    """

    def __init__(self, tasks: Tasks, sizes: Sizes, on_end: Callable[[Piece], None]) -> None:
        self._tasks = tasks
        self._sizes = sizes
        self._on_end = on_end
        self._running: dict[int, Piece] = {}
        self._closed: Exception | None = None

    @property
    def in_flight(self) -> int:
        """Number of pieces that were sent and have not ended."""
        return len(self._running)

    def send(self, piece: Piece, *, again: bool = False) -> None:
        """Send a piece. A piece that cannot be sent ends at once, or its parts are sent.

        Raises
        ------
        BaseException
            Only Ctrl-C and the like. The piece was not sent then.
        """
        if self._closed is not None:
            piece.fail(self._closed)
            self._on_end(piece)
            return
        try:
            future = self._tasks.submit(piece.columns, again)
        except Exception as error:
            if isinstance(error, ArgumentNotSerializable) and piece.count == 1:
                error = self._about_arguments(piece, error)
            self._lost(piece, error)
            return
        self._sizes.sent(piece.count, future.argument_bytes)
        piece.task = future.parsl_executor_task_id
        self._running[piece.task] = piece
        future.add_done_callback(partial(self._ended, piece))
        if self._closed is not None:  # by another thread meanwhile
            self._tasks.cancel(piece.task, self._closed)

    def close(self, error: Exception) -> None:
        """Cancel the pieces that have not begun, and send no more. The pieces fail with ``error``."""
        if self._closed is None:
            self._closed = error
            for number in list(self._running):
                self._tasks.cancel(number, error)

    def explain(self, piece: Piece, record: bytes) -> Exception:
        """Make the exception of a call from its failure record."""
        error = failure_of(piece.task, record, piece.node, self._tasks.directories)
        assert isinstance(error, Exception)
        return error

    def _ended(self, piece: Piece, future: Future[Any]) -> None:
        self._running.pop(piece.task, None)
        error = future.exception()
        if error is not None:
            assert isinstance(error, Exception)
            self._lost(piece, error)
            return
        outcomes: Outcomes = future.result()
        times = future.taskvine_times if isinstance(future, TaskFuture) else None
        piece.returned(outcomes, times.node if times is not None else "")
        self._sizes.ended(len(outcomes.results), outcomes.seconds)
        self._finish(piece)

    def _lost(self, piece: Piece, error: Exception) -> None:
        if isinstance(error, BY_ONE_CALL) and self._closed is None:
            piece.lost(error)
        else:
            piece.fail(error)
        self._finish(piece)

    def _finish(self, piece: Piece) -> None:
        parts = piece.parts
        self._on_end(piece)
        for part in parts:
            self.send(part, again=True)

    def _about_arguments(self, piece: Piece, error: ArgumentNotSerializable) -> ArgumentNotSerializable:
        """Say which argument of which call is a future, if that is why it cannot be sent."""
        for at, column in enumerate(piece.columns):
            values = column[0] if type(column[0]) is tuple else (column[0],)
            for place, value in enumerate(values):
                if isinstance(value, Future):
                    reason = (
                        f"argument {at + place} of call {piece.first} is a future. map and submit_many take values, "
                        "not futures: pass its result()"
                    )
                    return ArgumentNotSerializable(task_id=error.task_id, reason=reason, subject=self._tasks.name)
        return error


def tasks_of(
    submitter: Submitter,
    function: Callable[..., Any],
    specification: dict[str, Any] | None,
    *,
    spread: bool,
    check: Callable[[], object],
    watched: Callable[[TaskFuture], TaskFuture],
    cancel: Callable[[int, Exception], None],
    slots: Callable[[], int],
) -> Tasks:
    """Prepare the tasks of a function's chunks.

    Parameters
    ----------
    submitter : Submitter
        Prepares and submits them.
    function : callable
        The user's function.
    specification : dict or None
        The user's resource specification.
    spread : bool
        As for :class:`~taskvine_manager.runtime.bulk.Chunk`.
    check : callable
        Raises an exception if the executor takes no tasks.
    watched : callable
        Called with the future of each task that was submitted.
    cancel, slots : callable
        As for :class:`Tasks`.

    Raises
    ------
    TypeError
        If the function is a Parsl app, which would submit a task instead of running, or is not callable.
    """
    if isinstance(function, AppBase):
        raise TypeError("map and submit_many take a function, not a Parsl app: give the function that the app calls")
    if not callable(function):
        raise TypeError(f"{type(function).__name__!r} object is not callable")
    chunk = Chunk(wrappers.without_wrap_error(function), spread=spread)
    priority = resources.parse(specification).priority
    first = submitter.prepare(chunk, specification, is_chunk=True)
    # The results of a piece that is sent again are waited for before those of other chunks.
    urgent = {**(specification or {}), "priority": math.nextafter(priority, math.inf)}
    again = submitter.prepare(chunk, urgent, is_chunk=True)

    def submit(columns: Columns, is_again: bool) -> TaskFuture:
        check()
        return watched(submitter.call(again if is_again else first, (columns,), {}))

    return Tasks(
        execution.name_of(chunk.function),
        submit,
        cancel,
        slots,
        WorkingDirectories(submitter.files.directory, submitter.files.in_place),
    )


def cancelled(reason: str) -> TaskCancelled:
    """Make the error of calls that are not awaited any more."""
    return TaskCancelled(task_id=None, reason=reason)
