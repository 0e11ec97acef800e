"""How long a run will still take, from the measured times of its tasks and their dependencies. Pure."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Mapping
from dataclasses import dataclass

from taskvine_exec.insight.state import State, Task


@dataclass(frozen=True)
class Estimate:
    """How long the tasks that have not ended will take.

    Parameters
    ----------
    seconds : float
        Seconds until the last one ends, if no more tasks come and the nodes stay.
    work : float
        The sum of their times.
    path : float
        The longest chain of them.
    unmeasured : int
        Tasks of categories without a measured task; they count with the mean of all categories.
    """

    seconds: float
    work: float
    path: float
    unmeasured: int


def estimate(state: State, now: float | None = None) -> Estimate | None:
    """Estimate when the tasks of a run will have ended.

    Returns
    -------
    Estimate or None
        None if nothing was measured, no node is there, or no task is left.
    """
    now = state.now if now is None else now
    left = [task for task in state.tasks.values() if not task.outcome]
    slots = _slots(state)
    means, mean = _means(state)
    if not left or not slots or mean is None:
        return None
    seconds = {task.number: _left(task, means.get(state.category(task), mean), now) for task in left}
    work = sum(seconds.values())
    path = longest(state, seconds)
    unmeasured = sum(state.category(task) not in means for task in left)
    return Estimate(max(work / slots, path), work, path, unmeasured)


def _slots(state: State) -> float:
    """Return how many tasks nodes run at a time."""
    nodes = [node for node in state.current_nodes().values() if not node.draining]
    return sum(node.info.cores if node.info.slots is None else node.info.slots for node in nodes)


def _means(state: State) -> tuple[Mapping[str, float], float | None]:
    """Return the mean time of tasks on their node by category, and of all; None if none was measured."""
    sums: dict[str, float] = defaultdict(float)
    counts: dict[str, int] = defaultdict(int)
    for task in state.tasks.values():
        if task.outcome == "returned" and task.started:
            category = state.category(task)
            sums[category] += task.seconds + max(0.0, task.started - (task.dispatched or task.started))
            counts[category] += 1
    if not counts:
        return {}, None
    return {name: total / counts[name] for name, total in sums.items()}, sum(sums.values()) / sum(counts.values())


def _left(task: Task, mean: float, now: float) -> float:
    """Return the seconds that a task still takes; one that runs for longer than the mean is about to end."""
    return max(0.0, mean - max(0.0, now - task.placed)) if task.state == "assigned" and not task.missing else mean


def longest(state: State, seconds: Mapping[int, float]) -> float:
    """Return the length of the longest chain of tasks of which each reads what the one before it makes."""
    makers: dict[str, int] = {}
    for number in seconds:
        for use in state.tasks[number].outputs:
            makers[use.source] = number
    readers: dict[int, set[int]] = defaultdict(set)
    open_inputs: dict[int, int] = dict.fromkeys(seconds, 0)
    for number in seconds:
        before = {makers[use.source] for use in state.tasks[number].inputs if use.source in makers} - {number}
        open_inputs[number] = len(before)
        for maker in before:
            readers[maker].add(number)
    begins = dict.fromkeys(seconds, 0.0)
    queue = deque(number for number, count in open_inputs.items() if not count)
    end = 0.0
    while queue:
        number = queue.popleft()
        ends = begins[number] + seconds[number]
        end = max(end, ends)
        for reader in readers[number]:
            begins[reader] = max(begins[reader], ends)
            open_inputs[reader] -= 1
            if not open_inputs[reader]:
                queue.append(reader)
    return end
