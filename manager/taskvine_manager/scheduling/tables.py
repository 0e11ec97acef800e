"""The settings of the scheduler, and the tables that its parts share."""

from __future__ import annotations

from dataclasses import dataclass

from taskvine_manager.scheduling.checking import Checker
from taskvine_manager.scheduling.files import FileTable
from taskvine_manager.scheduling.graph import DependencyGraph
from taskvine_manager.scheduling.nodes import Node
from taskvine_manager.scheduling.outbox import Outbox
from taskvine_manager.scheduling.tasks import TaskTable
from taskvine_manager.scheduling.tuning import Tuning


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What does not change during a run.

    Parameters
    ----------
    max_retries : int or None
        How often a task is retried after it lost its node; None for no limit.
    uniform : bool
        Whether all nodes are alike. If they are, a task that fits no node is refused. Nodes started by hand may differ:
        the task then waits for a larger node.
    wait_for_nodes : int
        Number of nodes that must have joined before any task is placed.
    peer_transfers : bool
        Whether nodes copy files from each other. Otherwise all files pass through the manager's directory.
    details : bool
        Whether the scheduler returns details for the record of the run.
    """

    max_retries: int | None = 1
    uniform: bool = True
    wait_for_nodes: int = 0
    peer_transfers: bool = True
    details: bool = False


class Tables:
    """What all parts may read; each table has verbs for those that change it.

    Parameters
    ----------
    settings : Settings
        The settings of the scheduler.
    checker : Checker or None
        Keeps the stories of tasks, if the scheduler checks itself.
    """

    def __init__(self, settings: Settings, checker: Checker | None) -> None:
        self.settings = settings
        self.tuning = Tuning()
        self.nodes: dict[str, Node] = {}
        self.tasks = TaskTable(checker)
        self.files = FileTable()
        self.graph = DependencyGraph()
        self.outbox = Outbox(details=settings.details)
