"""Why tasks that could run are not placed, for the record of the run.

Placement notes the tasks that it passes over, with what stopped it: one entry for the first task of each shape that
fits nowhere, and for each of the few tasks that wait for a transfer or a busy node. This takes no more than a dict
entry for each. The details, such as the resource that each node lacks, are found only when the shell asks
(:class:`~taskvine_manager.scheduling.events.Looked`), about once a second. Shorter waits need no explanation. Later
tasks of the same shape wait behind the first, so they need no entry. Tasks that wait for inputs need none either: their
inputs are in the record.
"""

from __future__ import annotations

import itertools
from collections.abc import Hashable
from typing import NamedTuple

from taskvine_manager.record.events import Waiting
from taskvine_manager.scheduling.candidates import Candidates
from taskvine_manager.scheduling.nodes import Node
from taskvine_manager.scheduling.tables import Tables
from taskvine_manager.scheduling.tasks import State, Task

MOST_HELD = 64
"""Maximum number of tasks that are looked at."""
MOST_LACKING = 4
"""Maximum number of nodes of which one reason says what they lack."""


class Reason(NamedTuple):
    """A reason, with the fields of :class:`~taskvine_manager.record.events.Waiting`."""

    why: str
    subject: str = ""
    lacking: tuple[tuple[str, str], ...] = ()


class Reasons:
    """The tasks that placement has passed over in its last turn, and what the record says of them so far."""

    def __init__(self, tables: Tables, candidates: Candidates) -> None:
        self.held: dict[int, tuple[str, str]] | None = {} if tables.settings.details else None
        """Why, and its subject, by number of the task; ``"full"`` if no node can take it. None without details."""
        self._tasks, self._nodes, self._details = tables.tasks, tables.nodes, tables.outbox.details
        self._candidates = candidates
        self._said: dict[Hashable, Reason] = {}

    def look(self) -> None:
        """Record the reasons that have changed."""
        said: dict[Hashable, Reason] = {}
        for number, (why, subject) in itertools.islice((self.held or {}).items(), MOST_HELD):
            task = self._tasks.get(number)
            if task is None or task.state is not State.READY:
                continue
            reason = self._full(task) if why == "full" else Reason(why, subject)
            key = number if why in ("busy-node", "transfer-limit") else task.shape
            said[key] = reason
            if self._said.get(key) != reason and self._details is not None:
                self._details.append(Waiting(number, *reason, len(self._tasks.queues[task.shape])))
        self._said = said

    def _full(self, task: Task) -> Reason:
        """Return why no node can take a task now."""
        shape = task.shape
        nodes = [node for node in self._nodes.values() if not node.draining]
        if not nodes:
            return Reason("no-node")
        if not any(node.capacity(shape, others=False) for node in nodes):
            return Reason("too-large", "", self._lacking(nodes, task, others=False))
        for reserved, name in self._candidates.reserved.items():
            if self._nodes[name].room_for(shape, 1) > 0 and not self._candidates.is_free(name, task):
                head = self._tasks.queues[reserved].head()
                return Reason("reserved", "" if head is None else str(head.invocation.number))
        lacking = self._lacking(nodes, task, others=True)
        if shape.suspect and all(resource == "suspects" for _, resource in lacking):
            return Reason("suspect")
        return Reason("full", "", lacking)

    def _lacking(self, nodes: list[Node], task: Task, *, others: bool) -> tuple[tuple[str, str], ...]:
        few = itertools.islice(nodes, MOST_LACKING)
        return tuple((node.info.name, node.scarce(task.shape, others=others)) for node in few)
