"""``logs``: the logs of a run, a node or a task."""

from __future__ import annotations

import argparse
import os
import re
import sys
import time
from collections.abc import Iterator, Sequence

from taskvine_exec.command.runs import Problem, Source, add_run, find, is_live
from taskvine_exec.command.why import choose
from taskvine_exec.insight.state import State, Task
from taskvine_exec.insight.words import shown
from taskvine_manager.record import Tail
from taskvine_tune.command.terminal import FINE, count

__all__ = ["add_arguments", "run"]

LINES = 200
"""Lines of each file that are shown, unless more are asked for."""
POLL = 0.3
"""Seconds between two looks for new lines."""
_TAIL = 1 << 20
"""Bytes at the end of a file in which its last lines are looked for."""
_NODE = "node-"
"""How the names of nodes' directories begin."""


def add_arguments(command: argparse.ArgumentParser) -> None:
    """Declare the options of ``logs``."""
    add_run(command)
    about = command.add_mutually_exclusive_group()
    about.add_argument("--task", metavar="TASK", help="how it failed, what logs say of it, and the logs of its nodes")
    about.add_argument("--node", metavar="NODE", help="only the logs of this node")
    command.add_argument("-f", "--follow", action="store_true", help="wait for more lines, until the run ends")
    command.add_argument("-n", "--lines", type=count, default=LINES, metavar="N", help=f"default: {LINES}")


def run(options: argparse.Namespace) -> int:
    """Show logs."""
    source = find(options.where)
    node: str | None = options.node
    nodes: list[str] | None = None if node is None else [node]
    pattern = None
    if options.task is not None:
        state = source.read()
        task = state.tasks[choose(source, state, options.task)]
        nodes, pattern = _nodes_of(task), re.compile(rf"\btasks? (?:-?\d+, )*{task.number}\b")
        _tell(state, task)
    paths = _logs(source.log, nodes)
    if node is not None and not paths:
        known = sorted({name for path in _logs(source.log, None) if (name := _node_of(path, source.log))})
        there = f"; there are logs of {', '.join(known)}" if known else ""
        raise Problem(f"{source.log} has no logs of a node {node!r}{there}")
    if pattern is not None:
        _say_matches(source, pattern, options.lines)
    reader = _Reader(options.lines)
    reader.show(paths)
    if options.follow:
        _follow(source, reader, nodes)
    return FINE


def _tell(state: State, task: Task) -> None:
    """Say where a task ran, and how it failed."""
    profile = state.profiles.get(task.profile)
    name = f" ({profile.name})" if profile is not None else ""
    nodes = ", ".join(_nodes_of(task)) or "no node"
    sys.stdout.write(shown(f"task {task.number}{name}: {task.outcome or task.state}, on {nodes}\n"))
    failure = task.failure
    if failure is not None and failure.same is not None and (first := state.tasks.get(failure.same)) is not None:
        failure = first.failure or failure
    if failure is not None:
        sys.stdout.write(shown(f"{failure.kind}\n{failure.text.rstrip()}\n"))


def _nodes_of(task: Task) -> list[str]:
    """Return the nodes that a task was on, the first one first."""
    names = [node for _, _, node in task.again]
    names += [task.placement.node if task.placement is not None else "", task.node, task.ran_on]
    return list(dict.fromkeys(filter(None, names)))


def _logs(directory: str, nodes: Sequence[str] | None) -> list[str]:
    """Return the logs in a log directory: those of some nodes, or all."""
    found = []
    for parent, _, names in os.walk(directory):
        for name in names:
            path = os.path.join(parent, name)
            node = _node_of(path, directory)
            if name.endswith(".msgpack") or not os.path.isfile(path):
                continue
            if nodes is None or node in nodes:
                found.append(path)
    return sorted(found, key=lambda path: (_node_of(path, directory) != "", *_age(path)))


def _age(path: str) -> tuple[str, int]:
    """Return the name of a log, and a number that is smaller for older parts of it: FILE.2, FILE.1, FILE."""
    name, _, number = path.rpartition(".")
    return (name, -int(number)) if number.isdecimal() else (path, 0)


def _node_of(path: str, directory: str) -> str:
    """Return the node whose log a path is; empty for none."""
    first = os.path.relpath(path, directory).split(os.sep)[0]
    return first.removeprefix(_NODE).removesuffix(".log") if first.startswith(_NODE) else ""


def _say_matches(source: Source, pattern: re.Pattern[str], most: int) -> None:
    """Show the lines of the logs outside nodes' directories that name a task."""
    for path in _logs(source.log, [""]):
        lines = [line for line in _last_lines(path, sys.maxsize) if pattern.search(line)]
        if lines:
            sys.stdout.write(f"==> {os.path.relpath(path)} <==\n{''.join(map(shown, lines[-most:]))}")


def _last_lines(path: str, most: int) -> list[str]:
    """Return the last lines of a file, each with its end."""
    try:
        with open(path, "rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - _TAIL))
            lines = file.read(_TAIL).decode(errors="replace").splitlines(keepends=True)
    except OSError as error:
        return [f"it cannot be read: {error.strerror}\n"]
    if size > _TAIL:
        lines = lines[1:]  # the first one is not whole
    lines = lines[-most:]
    if lines and not lines[-1].endswith("\n"):
        lines[-1] += "\n"
    return lines


class _Reader:
    """Shows what files have, and later what they have got since."""

    def __init__(self, lines: int) -> None:
        self._lines = lines
        self._read: dict[str, int] = {}
        self._last = ""

    def show(self, paths: Sequence[str]) -> None:
        """Show what is new in some files, with a heading where the file changes."""
        for path in paths:
            for text in self._news(path):
                if path != self._last:
                    sys.stdout.write(f"==> {os.path.relpath(path)} <==\n")
                    self._last = path
                sys.stdout.write(shown(text))
        sys.stdout.flush()

    def _news(self, path: str) -> Iterator[str]:
        try:
            size = os.path.getsize(path)
        except OSError:  # it was removed
            return
        known = self._read.get(path)
        self._read[path] = size
        if known is None:
            yield from _last_lines(path, self._lines)
        elif size != known:
            try:
                with open(path, "rb") as file:
                    file.seek(known if size > known else 0)  # a file that is shorter now was replaced
                    text = file.read(_TAIL)
                    self._read[path] = file.tell()
            except OSError:
                return
            yield text.decode(errors="replace")


def _follow(source: Source, reader: _Reader, nodes: Sequence[str] | None) -> None:
    """Show new lines until the run ends."""
    with Tail(source.record) as tail:
        state, ended = State(), False
        while True:
            for entry in tail.more():
                if entry[0] == "run" and len(entry) > 3:
                    state.started, state.facts = entry[2], entry[3]
                ended = ended or entry[0] == "end"
            over = ended or (bool(state.facts) and is_live(state) is False)
            reader.show(_logs(source.log, nodes))  # also once after the end
            if over:
                return
            time.sleep(POLL)
