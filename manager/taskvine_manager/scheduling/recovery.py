"""Lost files: which finished tasks must run again to recreate them, and which files are lost for good."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from taskvine_manager.scheduling.files import File, Origin
from taskvine_manager.scheduling.tables import Tables
from taskvine_manager.scheduling.tasks import State, Task


class Unrecoverable(NamedTuple):
    """A file that can be neither read nor recreated, the reason, and the file that prevents it (perhaps itself)."""

    file: File
    reason: str
    problem: File


class Recovery:
    """Plans what is recreated. It changes nothing: the plans are carried out by the life cycle of tasks."""

    def __init__(self, tables: Tables) -> None:
        self._tasks, self._graph, self._files, self._tuning = tables.tasks, tables.graph, tables.files, tables.tuning

    def due(self, files: list[File], *, evicted: bool) -> list[File]:
        """Return the lost files that must be recreated now. The others are recreated when a task reads them."""
        immediate = self._tuning.immediate_recovery and not evicted  # evicted files would need space again
        return [file for file in files if self._is_awaited(file) or (immediate and file.wanted)]

    def _is_awaited(self, file: File) -> bool:
        if file.asked:
            return True
        consumers = (self._tasks[number] for number in self._graph.consumers(file.name))
        return any(task.state is State.WAITING for task in consumers)

    def plan(self, files: Iterable[File]) -> tuple[list[Origin], list[Unrecoverable]]:
        """Plan the recovery of missing files.

        Returns
        -------
        origins : list of Origin
            Tasks to run again, makers before readers.
        unrecoverable : list of Unrecoverable
            Those of the files that cannot be recreated.
        """
        plan: dict[Origin, None] = {}
        unrecoverable: list[Unrecoverable] = []
        for file in files:
            wanted: dict[Origin, None] = {}
            problem = self._add(file, {**plan}, wanted)
            if problem is not None:
                unrecoverable.append(Unrecoverable(file, _why_lost(problem), problem))
            else:
                plan.update(wanted)
        return list(reversed(plan)), unrecoverable

    def _add(self, file: File, planned: dict[Origin, None], wanted: dict[Origin, None]) -> File | None:
        """Add to ``wanted`` the tasks to run again for a file, readers first; return the file that prevents it, if any.

        ``planned`` has the tasks that will run again anyway.
        """
        left = [file]
        while left:
            file = left.pop()
            if file.is_there or self._graph.makers(file.name):
                continue
            origin = file.origin
            if origin is None or not file.recoverable:
                if not file.was_made and file.wanted:
                    continue  # it has not been produced yet
                return file
            if origin not in planned:
                planned[origin] = wanted[origin] = None
                left += [self._files[name] for name in origin.inputs]
        return None

    def useless(self, name: str) -> Iterator[Task]:
        """Yield the tasks that recreate a file although none of their outputs is needed any more."""
        for number in self._graph.makers(name):
            task = self._tasks.get(number)
            if task is None or task.origin is None:
                continue
            outputs = [self._files.get(each) for each in task.makes]
            if not any(file is not None and file.is_needed and not file.is_there for file in outputs):
                yield task

    def failed(self, task: Task, reason: str) -> list[Unrecoverable]:
        """Return the files that a task was to recreate and no task produces any more."""
        files = [self._files.get(name) for name in task.makes]
        return [
            Unrecoverable(file, f"{_why_lost(file)}, and making it again failed: {reason}", file)
            for file in files
            if file is not None and not file.is_there and not self._graph.makers(file.name)
        ]


def _why_lost(file: File) -> str:
    if file.lost_with:
        return f"the last replica of {file.name} was lost with node {file.lost_with}"
    return f"{file.name} was forgotten" if not file.wanted else f"{file.name} is on no node"
