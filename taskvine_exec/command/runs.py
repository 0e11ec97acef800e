"""Finding the record of a run, and reading it."""

from __future__ import annotations

import argparse
import datetime
import math
import os
import time
from collections.abc import Iterable
from dataclasses import dataclass

import psutil

from taskvine_exec.insight.fold import Fold, read_state
from taskvine_exec.insight.state import State
from taskvine_manager.record import entries

RUNINFO = "runinfo"
"""Parsl's default directory of run directories."""
LARGEST_OFFSET = 1e8
"""Numbers below are seconds since the start of a run, numbers above are seconds since the epoch."""


class Problem(Exception):
    """There is no such run or task."""


@dataclass(frozen=True)
class Source:
    """The record of a run."""

    record: str

    @property
    def log(self) -> str:
        """The executor's log directory."""
        return os.path.dirname(self.record) or "."

    @property
    def label(self) -> str:
        """What the run is called: its run directory and the label of its executor."""
        return os.path.relpath(self.record)

    def read(self, until: float | None = None) -> State:
        """Read the state of the run, at a moment or at the end of the record."""
        return read_state(self.record, until)


def find(run: str | None) -> Source:
    """Return the record that a word of the command line means.

    Raises
    ------
    Problem
        If there is none, or if the run has several executors.
    """
    if run is None:
        if not os.path.isdir(RUNINFO):
            raise Problem(f"no run is given, and there is no directory {RUNINFO} here")
        runs = [entry.path for entry in os.scandir(RUNINFO) if entry.is_dir()]
        newest = _newest(each for path in runs for each in _records(path))
        if newest is None:
            raise Problem(f"no run under {RUNINFO} has a record: give a run directory")
        return Source(newest)
    if os.path.isfile(run):
        return Source(run)
    if not os.path.isdir(run):
        raise Problem(f"there is no run {run!r}: give a run directory, an executor's log directory, or a record")
    found = _records(run)
    logs = {os.path.dirname(each) for each in found}
    if len(logs) > 1:
        raise Problem(f"{run} has several executors: give one of {', '.join(sorted(logs))}")
    newest = _newest(found)
    if newest is None:
        runs = [entry.path for entry in os.scandir(run) if entry.is_dir()]
        newest = _newest(each for path in runs for each in _records(path))
    if newest is None:
        raise Problem(f"{run} has no record: it is no run of this executor, or nothing was started")
    return Source(newest)


def _records(directory: str) -> list[str]:
    """Return the records in a log directory, or in the log directories of a run directory."""
    try:
        with os.scandir(directory) as found:
            entries = list(found)
    except OSError:  # it was removed, or may not be read
        return []
    here = [entry.path for entry in entries if _is_record(entry.name)]
    if here:
        return here
    below: list[str] = []
    for entry in entries:
        if entry.is_dir():
            try:
                below += [os.path.join(entry.path, name) for name in os.listdir(entry.path) if _is_record(name)]
            except OSError:
                continue
    return below


def _is_record(name: str) -> bool:
    return name.startswith("record") and name.endswith(".msgpack")


def _newest(records: Iterable[str]) -> str | None:
    times: list[tuple[float, str]] = []
    for record in records:
        try:
            times.append((os.stat(record).st_mtime, record))
        except OSError:
            continue
    return max(times)[1] if times else None


def is_live(state: State) -> bool | None:
    """Return whether the manager of a run still runs; None if this machine cannot tell."""
    if state.ended is not None:
        return False
    pid, host = state.facts.get("pid"), state.facts.get("host")
    if not isinstance(pid, int) or host != os.uname().nodename:
        return None
    try:
        process = psutil.Process(pid)
        if process.create_time() > state.started + 1:  # the number was given to another process
            return False
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
    except psutil.Error:
        return None


def present(state: State) -> float:
    """Return the time that views of a run count from: now if it goes on, or that of its last entry."""
    return time.time() if is_live(state) else state.now


def add_run(command: argparse.ArgumentParser) -> None:
    """Declare the argument that names a run."""
    command.add_argument("where", nargs="?", metavar="RUN", help="default: the newest run under ./runinfo")


def moment(text: str) -> float:
    """Read a moment: seconds since the start of a run or since the epoch, or a date and time."""
    try:
        seconds = float(text)
    except ValueError:
        pass
    else:
        if math.isfinite(seconds):
            return seconds
    try:
        return datetime.datetime.fromisoformat(text).timestamp()
    except ValueError as error:
        words = f"{text!r} is neither a number of seconds nor a date and time, such as 2026-01-31T12:00:00"
        raise argparse.ArgumentTypeError(words) from error


def at(source: Source, when: float) -> float:
    """Return the moment that a number means, in seconds since the epoch."""
    if abs(when) >= LARGEST_OFFSET:
        return when
    first = next(entries(source.record), None)
    if first is None:
        raise Problem(f"{source.record} is empty")
    return Fold.time_of(first) + when
