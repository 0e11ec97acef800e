"""``why``: the causes of a task's state, or of what holds up a run; the root cause first."""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from taskvine_exec.command.runs import Problem, Source, at, find, is_live, moment, present
from taskvine_exec.insight.state import State, Task
from taskvine_exec.insight.why import Cause, explain, explain_run
from taskvine_exec.insight.words import few, shown
from taskvine_tune.command.terminal import FINE, console, write_json

if TYPE_CHECKING:
    from rich.tree import Tree

__all__ = ["add_arguments", "run"]

_LAUNCHED = re.compile(r"Parsl task (\d+) try \d+ launched on executor (.*) with executor id (\d+)")
"""How Parsl's log pairs its number of a task with the executor's."""
PLAIN = ("placement", "times", "running")
"""Kinds of causes that are no trouble."""
_DEFAULT = ("assigned", "ready", "waiting")


def add_arguments(command: argparse.ArgumentParser) -> None:
    """Declare the options of ``why``."""
    command.add_argument("words", nargs="*", metavar="[RUN] [TASK]", help="see below")
    command.add_argument("--json", action="store_true", help="write JSON")
    command.add_argument("--until", type=moment, metavar="T", help="explain the state at this moment, as in replay")
    command.epilog = (
        "TASK is the executor's number of a task (parsl_executor_task_id of its future), the name of an app, or "
        "tid=N for Parsl's number (the tid of an AppFuture). Of an app, a failed task is explained, or one that has "
        "not ended, or the last one. Without TASK, it is explained what holds up the run. Without RUN, the newest run "
        "under ./runinfo is meant."
    )


def run(options: argparse.Namespace) -> int:
    """Explain the state of a task or a run."""
    where, what = _split(options.words)
    source = find(where)
    state = source.read(None if options.until is None else at(source, options.until))
    if not state.started:
        raise Problem(f"{source.record} is empty" if options.until is None else "the run began after this moment")
    alive = True if options.until is not None else is_live(state)
    now = present(state) if options.until is None else state.now
    if what is None:
        cause = explain_run(state, now=now, is_live=alive)
    else:
        cause = explain(state, choose(source, state, what), now=now, is_live=alive)
    if options.json:
        write_json({"record": source.record, "root": _alone(cause.root), **cause.as_dict()})
    else:
        _show(cause)
    return FINE


def _split(words: Sequence[str]) -> tuple[str | None, str | None]:
    """Return the run and the task of a command line; one word alone is a run if it is a path that exists."""
    if len(words) > 2:
        raise Problem("give at most a run and a task")
    if len(words) == 2:
        return words[0], words[1]
    if not words:
        return None, None
    return (words[0], None) if os.path.exists(words[0]) else (None, words[0])


def choose(source: Source, state: State, what: str) -> int:
    """Return the number of the task that a word of the command line means.

    Raises
    ------
    Problem
        If there is none.
    """
    if re.fullmatch(r"-?\d+", what):
        number = int(what)
        if number not in state.tasks:
            known = f"the record has tasks 0 to {max(state.tasks)}" if state.tasks else "the record has no tasks yet"
            raise Problem(
                f"no task {number}: {known}. A task that waits in Parsl, or failed before it was sent, is not in it"
            )
        return number
    if match := re.fullmatch(r"tid=(\d+)", what):
        return _of_parsl(source, state, int(match[1]))
    named = [
        task
        for task in state.tasks.values()
        if task.origin is None and what in (state.category(task), _name(state, task))
    ]
    if not named:
        names = sorted({_name(state, task) for task in state.tasks.values()})
        raise Problem(f"no task of an app {what!r}: " + (f"there are {few(names, 10)}" if names else "there are none"))
    return min(named, key=_interest).number


def _name(state: State, task: Task) -> str:
    profile = state.profiles.get(task.profile)
    return profile.name if profile is not None else ""


def _interest(task: Task) -> tuple[int, int]:
    """Return the rank of a task of an app: failures first, then tasks that have not ended."""
    if task.outcome in ("raised", "lost"):
        return (0, task.number)
    if not task.outcome:
        return (1 + _DEFAULT.index(task.state), task.number)
    return (9, -task.number) if task.outcome == "returned" else (5, task.number)


def _of_parsl(source: Source, state: State, tid: int) -> int:
    """Return the executor's number of a task of Parsl, which its log has; of several tries, the last."""
    path, label = os.path.join(source.log, os.pardir, "parsl.log"), os.path.basename(os.path.abspath(source.log))
    found = None
    try:
        with open(path, encoding="utf-8", errors="replace") as lines:
            for line in lines:
                match = _LAUNCHED.search(line)
                if match is not None and int(match[1]) == tid and match[2] == label:
                    found = int(match[3])
    except OSError as error:
        raise Problem(f"Parsl's numbers of tasks are in its log, which cannot be read: {error}") from error
    if found is None or found not in state.tasks:
        raise Problem(f"Parsl has not sent a task with tid {tid} to this executor")
    return found


def _alone(cause: Cause) -> dict[str, object]:
    return {name: value for name, value in cause.as_dict().items() if name != "causes"}


def _show(cause: Cause) -> None:
    """Print the root cause, and then the chain from the task down to it."""
    from rich.text import Text

    terminal = console()
    root = cause.root
    if root is not cause and root.kind not in PLAIN:
        terminal.print(Text.assemble(("root cause: ", "bold red"), shown(root.text)), soft_wrap=True)
        if root.detail:
            terminal.print(Text(shown(root.detail.rstrip()), style="dim"), soft_wrap=True)
        terminal.print()
    terminal.print(_tree(cause), soft_wrap=True)


def _tree(cause: Cause) -> Tree:
    from rich.text import Text
    from rich.tree import Tree

    tree = Tree(Text(shown(cause.text)))
    for below in cause.causes:
        tree.children.append(_tree(below))
    return tree
