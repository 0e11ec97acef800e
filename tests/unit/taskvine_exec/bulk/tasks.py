"""Tasks that run in the test's own process, when it says so, or are lost."""

from __future__ import annotations

import itertools
import pickle
from collections.abc import Callable
from typing import Any

from taskvine_exec.bulk.sender import Tasks
from taskvine_exec.errors import ArgumentNotSerializable, SlotDied
from taskvine_exec.results.advice import WorkingDirectories
from taskvine_exec.results.futures import TaskFuture
from taskvine_manager.runtime.bulk import Chunk, Columns


class Unsent:
    """An argument that cannot be pickled."""

    def __reduce__(self) -> Any:
        raise TypeError("it stays here")


class LocalTasks:
    """Runs the chunks of a function.

    Parameters
    ----------
    function : callable
        The function. A call that returns :data:`KILLER` kills its chunk.
    slots : int
        Number of slots.
    at_once : bool
        Whether chunks run when they are submitted. Otherwise :meth:`run` runs them.
    """

    KILLER = "killer"

    def __init__(
        self, function: Callable[..., Any], slots: int = 2, *, at_once: bool = True, spread: bool = False
    ) -> None:
        self.chunk = Chunk(function, spread=spread)
        self.waiting: dict[int, tuple[TaskFuture, Columns]] = {}
        self.sizes: list[int] = []
        self.again: list[bool] = []
        self.cancelled: list[int] = []
        self.refusal: BaseException | None = None
        self._at_once = at_once
        self._numbers = itertools.count()
        directories = WorkingDirectories(None, in_place=False)
        self.tasks = Tasks("work", self._submit, self._cancel, lambda: slots, directories)

    def _submit(self, columns: Columns, again: bool) -> TaskFuture:
        if self.refusal is not None:
            raise self.refusal
        number = next(self._numbers)
        try:
            columns = pickle.loads(pickle.dumps(columns))
        except TypeError as error:
            raise ArgumentNotSerializable(task_id=number, reason=str(error)) from error
        future = TaskFuture(number, 0.0)
        self.sizes.append(len(columns[0]))
        self.again.append(again)
        self.waiting[number] = future, columns
        if self._at_once:
            self.run(number)
        return future

    def _cancel(self, number: int, error: Exception) -> None:
        self.cancelled.append(number)
        future, _ = self.waiting.pop(number)
        future.set_exception(error)

    def run(self, number: int | None = None) -> None:
        """Run a chunk: the first one that waits, or the one with this number."""
        number = next(iter(self.waiting)) if number is None else number
        future, columns = self.waiting.pop(number)
        outcomes = self.chunk(columns)
        if self.KILLER in outcomes.results:
            future.set_exception(SlotDied(task_id=number, exit_code=1))
        else:
            future.set_result(pickle.loads(pickle.dumps(outcomes)))

    def lose(self, error: Exception) -> None:
        """Lose the first chunk that waits."""
        future, _ = self.waiting.pop(next(iter(self.waiting)))
        future.set_exception(error)
