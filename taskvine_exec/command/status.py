"""``status`` and ``replay``: the state of a run, now or at a moment."""

from __future__ import annotations

import argparse
import json
import sys
import time
from typing import TYPE_CHECKING, Any

from taskvine_exec.command.runs import Problem, Source, add_run, at, find, is_live, moment, present
from taskvine_exec.insight.fold import Fold, many_objects
from taskvine_exec.insight.state import State
from taskvine_exec.insight.summary import Summary, summarize, tables
from taskvine_exec.insight.tables import renderable
from taskvine_exec.insight.words import plural
from taskvine_manager.record import Tail
from taskvine_tune.command.terminal import FINE, console, positive, write_json

if TYPE_CHECKING:
    from rich.console import RenderableType

__all__ = ["add_arguments", "add_replay_arguments", "replay", "run"]

INTERVAL = 1.0
"""Seconds between two updates of ``--watch``."""


def add_arguments(command: argparse.ArgumentParser) -> None:
    """Declare the options of ``status``."""
    add_run(command)
    command.add_argument("--json", action="store_true", help="write JSON instead of tables")
    command.add_argument("--all", action="store_true", help="show all nodes, blocks and categories")
    command.add_argument(
        "--watch",
        nargs="?",
        type=positive,
        const=INTERVAL,
        metavar="SECONDS",
        help="update until the run ends or Ctrl-C; default: every second",
    )


def add_replay_arguments(command: argparse.ArgumentParser) -> None:
    """Declare the options of ``replay``."""
    add_run(command)
    command.add_argument(
        "--until",
        type=moment,
        required=True,
        metavar="T",
        help="the moment: seconds since the start of the run or since the epoch, or a date and time",
    )
    command.add_argument("--json", action="store_true", help="write JSON, with all unfinished tasks and files")
    command.add_argument("--all", action="store_true", help="show all nodes, blocks and categories")


def run(options: argparse.Namespace) -> int:
    """Show the state of a run."""
    source = find(options.where)
    if options.watch is not None:
        return _watch(source, options)
    state = source.read()
    if not state.started:
        raise Problem(f"{source.record} is empty: the manager has not started, or was killed at once")
    summary = summarize(state, now=present(state), is_live=is_live(state))
    if options.json:
        write_json(_as_json(source, summary))
    else:
        console().print(renderable(summary, source.label, every=options.all))
    return FINE


def replay(options: argparse.Namespace) -> int:
    """Show the state of a run at a moment."""
    source = find(options.where)
    state = source.read(at(source, options.until))
    if not state.started:
        raise Problem(f"{source.record}: the run began after this moment")
    summary = summarize(state, is_live=None if state.ended is not None else True)
    if options.json:
        write_json({**_as_json(source, summary), **{f"all_{name}": value for name, value in tables(state).items()}})
    else:
        console().print(renderable(summary, source.label, every=options.all))
    return FINE


def _as_json(source: Source, summary: Summary) -> dict[str, Any]:
    return {"record": source.record, **summary.as_dict()}


def _watch(source: Source, options: argparse.Namespace) -> int:
    """Show the state of a run again and again, until the run ends."""
    with Tail(source.record) as tail:
        follower = _Follower(tail)
        if options.json:
            return _say(source, follower, options)
        from rich.live import Live

        terminal = console()
        if not terminal.is_terminal:
            return _say(source, follower, options)

        def view() -> RenderableType:
            return renderable(follower.summary(), source.label, every=options.all)

        with Live(view(), console=terminal, auto_refresh=False, screen=False, vertical_overflow="crop") as live:
            while not follower.is_over:
                time.sleep(options.watch)
                live.update(view(), refresh=True)
    return FINE


def _say(source: Source, follower: _Follower, options: argparse.Namespace) -> int:
    """Write one line for each look: JSON, or words where the output is no terminal."""
    while True:
        summary = follower.summary()
        if options.json:
            sys.stdout.write(json.dumps(_as_json(source, summary), ensure_ascii=False) + "\n")
        else:
            states = ", ".join(f"{count:,} {name}" for name, count in summary.states.items() if count)
            sys.stdout.write(f"{summary.run}: {states or 'no tasks'}; {plural(len(summary.nodes), 'node')}\n")
        sys.stdout.flush()
        if follower.is_over:
            return FINE
        time.sleep(options.watch)


class _Follower:
    """A state that follows a record."""

    def __init__(self, tail: Tail) -> None:
        self._tail, self._fold = tail, Fold()
        self.is_over = False

    def summary(self) -> Summary:
        """Read what is new, and return the state in numbers."""
        try:
            with many_objects():
                for entry in self._tail.more():
                    self._fold.take(entry)
        except (TypeError, LookupError, AttributeError) as error:
            raise Problem(f"{self._tail.path}: the record is damaged") from error
        state: State = self._fold.state
        alive = is_live(state) if state.started else None
        self.is_over = state.ended is not None or alive is False
        return summarize(state, now=present(state) if state.started else None, is_live=alive)
