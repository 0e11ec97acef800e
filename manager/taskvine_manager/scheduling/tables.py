"""The tables that the parts of the scheduler share."""

from __future__ import annotations

from taskvine_manager.scheduling.checking import Checker
from taskvine_manager.scheduling.files import FileTable
from taskvine_manager.scheduling.graph import DependencyGraph
from taskvine_manager.scheduling.nodes import Node
from taskvine_manager.scheduling.outbox import Outbox
from taskvine_manager.scheduling.tasks import TaskTable
from taskvine_manager.scheduling.tuning import Tuning


class Tables:
    """What all parts may read; each table has verbs for those that change it.

    Parameters
    ----------
    checker : Checker or None
        Keeps the stories of tasks, if the scheduler checks itself.
    """

    def __init__(self, checker: Checker | None = None) -> None:
        self.tuning = Tuning()
        self.nodes: dict[str, Node] = {}
        self.tasks = TaskTable(checker)
        self.files = FileTable()
        self.graph = DependencyGraph()
        self.outbox = Outbox(self.nodes)
