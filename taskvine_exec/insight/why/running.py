"""How long a task has run, beside others of its category."""

from __future__ import annotations

from taskvine_exec.insight.state import Task
from taskvine_exec.insight.why.causes import Cause
from taskvine_exec.insight.why.context import Context
from taskvine_exec.insight.words import in_seconds

SLOW = 3.0
"""How many times longer than 95 % of its category a task runs before it counts as a straggler."""
SPARE = 1.0
"""Seconds that it runs longer than that."""


def is_straggler(context: Context, task: Task) -> bool:
    """Return whether a task has been on its node for much longer than others of its category took."""
    measured = context.measured.get(context.state.category(task))
    return measured is not None and context.since(task.placed) > SLOW * measured.most + SPARE


def running(context: Context, task: Task) -> Cause:
    """Return how long a task has been on its node."""
    category = context.state.category(task)
    measured = context.measured.get(category)
    words = f"{context.name(task)} has been on its node for {in_seconds(context.since(task.placed))}"
    if measured is None:
        return Cause("running", words, task.number, task.node)
    median, most = in_seconds(measured.median), in_seconds(measured.most)
    words += f"; 95 % of {measured.tasks:,} tasks of category {category} ran for at most {most} (median {median})"
    return Cause("straggler" if is_straggler(context, task) else "running", words, task.number, task.node)
