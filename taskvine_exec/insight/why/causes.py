"""The tree of causes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

KINDS = {
    # states of tasks
    "waiting": "a task waits for inputs that do not exist",
    "ready": "a task has its inputs, and is not on a node",
    "assigned": "a task is on a node, and has not ended",
    "returned": "a task returned",
    "raised": "a task raised an exception",
    "lost": "a task was lost",
    "cancelled": "a task was cancelled",
    "over": "a task that recreates files has ended, or is not needed any more",
    "recovery": "a finished task runs again, because files that it made were lost",
    "requeued": "a task was run again, because it left a node without an end",
    # why tasks are not placed
    "no-node": "no node has joined, or all drain",
    "few-nodes": "fewer nodes have joined than the executor waits for",
    "full": "no node has enough free resources",
    "too-large": "no node has enough resources, even if it were empty",
    "reserved": "nodes with free resources are kept for an earlier task",
    "busy-node": "the node with the inputs is busy",
    "transfer-limit": "the sources of an input have reached their limit of transfers",
    "suspect": "a task that may have killed a node waits until it can be retried alone",
    "queue": "ready tasks are before this one",
    "priority": "tasks with lower priority hold what the task needs",
    "cache": "the caches of nodes are full",
    "unknown": "the record has no reason yet",
    # why tasks on a node have not ended
    "transfer": "an input is being copied to the node",
    "reading": "the node reads a file of the user",
    "library": "the library, or its context, is not ready",
    "node-queue": "tasks that were sent to the node earlier have not ended",
    "straggler": "the task runs for much longer than others of its category",
    "running": "the task runs",
    # nodes and blocks
    "block": "a block waits at the batch system",
    "silent-block": "a block runs, and none of its nodes has joined",
    "block-failed": "a block has ended without serving",
    "no-block": "no block was started",
    "walltime": "the time limit of a block was reached",
    "out-of-memory": "a job or node was killed for lack of memory",
    "preempted": "the batch system took a job's nodes for another job",
    "block-cancelled": "a job was cancelled",
    "released": "a node was told to leave",
    "node-lost": "a node was lost",
    # ends
    "error": "an exception of the user's function",
    "poison": "the task was on several nodes when they were lost",
    "file-lost": "the last replica of a file was lost",
    "no-maker": "nothing makes a file that a task reads",
    "by-program": "the program cancelled the task",
    "manager-gone": "the manager was killed",
    "run-over": "the run ended before the task",
    # of finished tasks and runs
    "placement": "why the task ran on its node",
    "times": "how long the task waited and ran",
    "run": "the state of the run",
    "program": "the program has submitted nothing that could run",
    "busy": "nodes are busy",
}
"""The kinds of causes. A task that was lost in another way has the kind of its loss, such as ``memory``."""


@dataclass(frozen=True)
class Cause:
    """A cause, and the causes below it.

    Parameters
    ----------
    kind : str
        One of :data:`KINDS`, or the kind of a loss.
    text : str
        One sentence without a full stop.
    task : int or None
        Number of the task that it is about.
    node : str
        Name of the node that it is about.
    detail : str
        A longer text, such as a traceback.
    causes : tuple of Cause
        Its own causes, the most important first.
    """

    kind: str
    text: str
    task: int | None = None
    node: str = ""
    detail: str = ""
    causes: tuple[Cause, ...] = ()

    @property
    def root(self) -> Cause:
        """The first cause: where the chain of most important causes begins."""
        cause = self
        while cause.causes:
            cause = cause.causes[0]
        return cause

    def walk(self, depth: int = 0) -> Iterator[tuple[int, Cause]]:
        """Yield this cause and all below it, each with its depth."""
        yield depth, self
        for cause in self.causes:
            yield from cause.walk(depth + 1)

    def as_dict(self) -> dict[str, Any]:
        """Return the tree as values that JSON can represent; empty fields are left out."""
        fields = {"kind": self.kind, "text": self.text, "task": self.task, "node": self.node, "detail": self.detail}
        shown = {name: value for name, value in fields.items() if value not in (None, "")}
        return {**shown, "causes": [cause.as_dict() for cause in self.causes]} if self.causes else shown
