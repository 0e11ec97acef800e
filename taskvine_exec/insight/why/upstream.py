"""The task at the beginning of a chain: why inputs do not come, and what failed first.

All tasks above a task are looked at once, without recursion: chains can have 100,000 links.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from typing import Any

from taskvine_exec.insight.state import Task
from taskvine_exec.insight.why.context import Context

Path = list[Task]
FAILED = ("raised", "lost", "cancelled")


def waited_for(context: Context, task: Task) -> Path:
    """Return the tasks from one that waits for inputs up to the one whose end it waits for.

    Of several, a failed task comes first, then one that is not placed, then the one that has been on a node for the
    longest time.
    """

    def parents(each: Task) -> Iterable[Task]:
        if each.outcome or each.state == "ready":
            return ()
        makers = (context.maker(file) for file in sorted(each.missing))
        return (maker for maker in makers if maker is not None)

    def weight(each: Task) -> tuple[float, ...]:
        if each.outcome in FAILED:
            return (0, each.ended)
        if each.state == "ready":
            said = context.reason(each)
            return (1, said is None or said[1].why != "too-large", *context.rank(each))
        return (2, each.placed, each.number)

    return _search(task, parents, weight)


def failed_first(context: Context, task: Task) -> Path:
    """Return the tasks from one that failed up to the one that failed first; only itself if its inputs did not fail."""

    def parents(each: Task) -> Iterable[Task]:
        if _ran(each):
            return ()
        makers = (context.maker(use.source) for use in each.inputs if use.kind != "local")
        return (maker for maker in makers if maker is not None and maker.outcome in FAILED)

    def weight(each: Task) -> tuple[float, ...]:
        return (each.outcome == "cancelled", each.ended, each.number)

    return _search(task, parents, weight)


def _ran(task: Task) -> bool:
    """Return whether a failed task had all its inputs, so that none of them is the cause."""
    kind = "" if task.failure is None else task.failure.kind
    if task.outcome == "raised":
        return kind != "DependencyError"  # Parsl raises it if an input failed
    return task.outcome == "lost" and kind not in ("", "file-lost")


def _search(task: Task, parents: Callable[[Task], Iterable[Task]], weight: Callable[[Task], tuple[Any, ...]]) -> Path:
    """Return the shortest path to the ancestor without parents that has the smallest weight."""
    came: dict[int, Task | None] = {task.number: None}
    ends: list[Task] = []
    queue = deque([task])
    while queue:
        each = queue.popleft()
        above = list(parents(each))
        if not above:
            ends.append(each)
        for other in above:
            if other.number not in came:
                came[other.number] = each
                queue.append(other)
    path: Path = []
    step: Task | None = min(ends, key=weight, default=task)  # a damaged record may have a circle, and no end
    while step is not None:
        path.append(step)
        step = came[step.number]
    return path[::-1]
