"""Failed tasks, grouped by their root cause. Pure."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from taskvine_exec.insight.paths import Parents, in_order
from taskvine_exec.insight.state import State, Task

FAILED = ("raised", "lost")
_VARIABLE = re.compile(r"0x[0-9a-fA-F]+|\d+(?:\.\d+)?")
_FRAME = re.compile(r'^\s*File "(?P<file>[^"]*)", line (?P<line>\d+)', re.MULTILINE)


@dataclass
class Cause:
    """Tasks that failed by themselves in the same way, and what followed.

    Parameters
    ----------
    kind : str
        Class of the exception, or kind of the loss.
    message : str
        The message of the first task.
    text : str
        Its traceback or reason.
    first : int
        Its number; it failed at ``time``.
    time : float
        In seconds since the epoch.
    place : str
        File and line where the exception was raised; empty if they are not known.
    tasks : list of int
        The tasks that failed, in order of their ends.
    categories : Counter
        The number of them by category.
    dependents : int
        Tasks that were cancelled or failed because they depend on these.
    """

    kind: str
    message: str
    text: str
    first: int
    time: float
    place: str = ""
    tasks: list[int] = field(default_factory=list)
    categories: Counter[str] = field(default_factory=Counter)
    dependents: int = 0


def causes(state: State, parents: Parents, categories: Mapping[int, str], kinds: Mapping[int, str]) -> list[Cause]:
    """Group the failed tasks of a run by root cause, the one with the most tasks and dependents first.

    A task that was cancelled or has not ended is a dependent of the first failed task among those that it needs.

    Parameters
    ----------
    state : State
        The run.
    parents : mapping
        Each task's parents.
    categories, kinds : mapping
        Categories of tasks, and kinds of lost tasks, by number.
    """
    found: dict[tuple[str, str, str], Cause] = {}
    of: dict[int, Cause] = {}
    failed = [task for task in state.tasks.values() if task.outcome in FAILED]
    for task in sorted(failed, key=lambda task: task.ended):
        kind, text = _said(state, task, kinds)
        message, place = _message(kind, text), _place(text)
        key = (kind, place, _VARIABLE.sub("#", message))
        cause = found.get(key)
        if cause is None:
            cause = found[key] = Cause(kind, message, text, task.number, task.ended, place)
        cause.tasks.append(task.number)
        cause.categories[categories[task.number]] += 1
        of[task.number] = cause
    for number in in_order(parents):
        if number in of or state.tasks[number].outcome == "returned":
            continue
        behind = [of[parent] for parent in parents[number] if parent in of]
        if behind:
            of[number] = min(behind, key=lambda cause: cause.time)
            of[number].dependents += 1
    return sorted(found.values(), key=lambda cause: -(len(cause.tasks) + cause.dependents))


def _said(state: State, task: Task, kinds: Mapping[int, str]) -> tuple[str, str]:
    """Return the kind and the text of a task's failure."""
    failure = task.failure
    if failure is None:
        return kinds.get(task.number) or task.outcome, ""
    text = failure.text
    if failure.same is not None and (same := state.tasks.get(failure.same)) is not None and same.failure is not None:
        text = same.failure.text
    return failure.kind or task.outcome, text


def _message(kind: str, text: str) -> str:
    """Return the line of a text that says what happened."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    own = [line for line in lines if re.match(rf"(?:\w+\.)*{re.escape(kind)}(?::|$)", line)]
    if own:
        return own[-1]
    if not lines:
        return ""
    return lines[-1] if lines[0].startswith("Traceback") else lines[0]


def _place(text: str) -> str:
    """Return the file and line of the innermost frame in a traceback."""
    frames = list(_FRAME.finditer(text))
    if not frames:
        return ""
    innermost = frames[0 if "most recent call first" in text else -1]
    return f"{innermost['file']}:{innermost['line']}"
