"""Results that come home: from the manager's messages about ended tasks to completed futures.

The link's thread calls :meth:`Completions.complete`, and advances it in handfuls of tasks. It holds no lock while it
completes a future.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from taskvine_exec.results.advice import WorkingDirectories, about_left
from taskvine_exec.results.futures import TaskFuture, settle
from taskvine_exec.results.node_files import NodeFiles
from taskvine_exec.results.pending import PendingTasks
from taskvine_exec.session import Session
from taskvine_exec.submission.temp_files import TempFiles
from taskvine_exec.values import Place, Value
from taskvine_manager.runtime import failure
from taskvine_manager.wire.messages import Completion

logger = logging.getLogger(__name__)


@dataclass(eq=False, repr=False)
class Completions:
    """The completions of one executor's tasks.

    Parameters
    ----------
    label : str
        Label of the executor.
    session : Session
        Its session with the manager.
    tasks : PendingTasks
        The tasks that are completed.
    node_files : NodeFiles
        Registers results that stay on nodes.
    temp_files : TempFiles
        Versions of temp files, which are marked as made.
    directories : WorkingDirectories
        The directories in which tasks run.
    proxy : callable or None
        Makes the proxy of a result on nodes, if results are references.
    """

    label: str
    session: Session
    tasks: PendingTasks
    node_files: NodeFiles
    temp_files: TempFiles
    directories: WorkingDirectories
    proxy: Callable[[Value], Any] | None
    _warned_of: set[str] = field(default_factory=set, init=False)

    def complete(self, completions: tuple[tuple[Any, ...], ...]) -> Iterator[None]:
        """Complete the futures of tasks, one with each step of the iterator."""
        unread: list[str] = []
        futures, made, node_files = self.tasks.futures, self.temp_files.made, self.node_files
        for item in completions:
            completion = Completion(*item)
            if completion.left:
                self._say_left(completion)
            for version, _, _ in completion.made:
                made.add(version)
            future = futures.pop(completion.number, None)
            if isinstance(future, TaskFuture):
                future.needs = ()
                value = future.value
                if value is not None and isinstance(completion.body, str):
                    node_files.arrived(value)  # before a callback can end the run
                try:
                    settle(future, completion, node_files.load, self.proxy, self.directories)
                except BaseException:  # concurrent.futures catches only Exceptions of callbacks
                    logger.exception("a callback of task %d's future raised an exception", completion.number)
                if value is not None and completion.outcome == failure.RETURNED:
                    if value.place is Place.HOME and not value.has_edges:
                        unread.append(value.number)  # later readers get it from this process
                    else:
                        node_files.hold(value)
            yield
        if unread:
            self.session.say("forget", unread)

    def _say_left(self, completion: Completion) -> None:
        """Warn of files that an app wrote without declaring them, once per app."""
        app, *files = completion.left
        level = logging.DEBUG if app in self._warned_of else logging.WARNING
        self._warned_of.add(app)
        logger.log(level, "executor %s: %s", self.label, about_left(app, files, completion.node))
