"""The record of a run on disk, so that the manager need not keep its history in memory.

The file is a stream of msgpack arrays, appended in batches. If the manager was killed, the last one may be incomplete.
Each array begins with its tag. Times are in seconds since the epoch, sizes in bytes, and strings may hold surrogates
(paths need not be text).

========================================= ==========================================================================
``["run", version, time, facts]``         the first entry; ``facts`` is a dict: ``engine``, ``tune_parameters``
``["profiles", profiles]``                each with the fields of :class:`~taskvine_manager.wire.messages.Profile`
``["submitted", time, invocations]``      each ``[number, profile, bytes of arguments, inputs, outputs]``, the last two
                                          with the fields of :class:`~taskvine_manager.wire.messages.FileUse`
``["done", time, completions]``           each ``[number, outcome, node, dispatched, started, seconds, bytes of result,
                                          made, kind]``. ``outcome`` is 0 (returned), 1 (raised) or 2 (lost, ``kind``
                                          says how). ``made`` is a list of ``[file, bytes]``. Unknown times are 0
``["again", time, numbers, reason]``      tasks that are run again after they had a node or had ended
``["cancelled", time, numbers]``
``["forgotten", time, files]``            files that will not be asked for again
``["nodes", time, nodes]``                all nodes from now on, each a dict of the fields of
                                          :class:`~taskvine_manager.wire.messages.NodeInfo`
``["tuned", time, parameters]``
``["end", time]``                         the manager ended without being killed
========================================= ==========================================================================

A reader skips unknown tags and unknown fields at the end of an entry. Versions that differ only by such additions have
the same number.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import msgpack

from taskvine_manager.runtime import failure, payload
from taskvine_manager.wire import messages
from taskvine_manager.wire.messages import Completion, FileUse, Invocation, Profile

logger = logging.getLogger(__name__)

VERSION = 1
_NO_RECORD = "not the record of a run: give the record.msgpack of a log directory"
BATCH_BYTES = 1 << 18
"""Bytes that are collected before they are written."""
BATCH_SECONDS = 1.0
"""Seconds since the last write after which the next entry is written at once."""


class Recorder:
    """Writes the record of a run.

    If it cannot be written (a full disk, for example), the record ends there and the run goes on.

    Parameters
    ----------
    path : str or None
        File to append to; None records nothing.
    **facts
        Plain data about the run, for the first entry.
    """

    def __init__(self, path: str | None, **facts: Any) -> None:
        self.path = path
        self._buffer = bytearray()
        self._written = time.monotonic()
        self._packer = msgpack.Packer(unicode_errors="surrogateescape")
        self._descriptor: int | None = None
        if path is not None:
            try:
                self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
            except OSError as error:
                logger.error("this run is not recorded, because the record cannot be opened: %s", error)
        self._add("run", VERSION, time.time(), facts)

    def submitted(self, profiles: Iterable[Profile], invocations: Iterable[Invocation]) -> None:
        """Record submitted tasks, with their new profiles."""
        if new := list(profiles):
            self._add("profiles", new)
        items = [
            (number, profile, _size(arguments), inputs, outputs)
            for number, profile, arguments, inputs, outputs in invocations
        ]
        self.note("submitted", items)

    def done(self, completions: Iterable[Completion]) -> None:
        """Record tasks that ended."""
        items = [
            (number, outcome, node, dispatched, started, seconds, _size(body), _sized(made), _kind(outcome, body))
            for number, outcome, body, node, dispatched, started, seconds, made, _ in completions
        ]
        self.note("done", items)

    def note(self, tag: str, *parts: Any) -> None:
        """Record an entry of another kind, such as ``("cancelled", numbers)``: its tag and what follows its time."""
        self._add(tag, time.time(), *parts)

    def close(self) -> None:
        """Write the end of the run and close the file."""
        self.note("end")
        self.flush()
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def flush(self) -> None:
        """Write the collected entries."""
        self._written = time.monotonic()
        if self._descriptor is None:
            self._buffer.clear()
            return
        try:
            while self._buffer:
                written = os.write(self._descriptor, self._buffer)
                del self._buffer[:written]
        except OSError as error:
            logger.error("the record of this run ends here, because it cannot be written: %s", error)
            os.close(self._descriptor)
            self._descriptor = None
            self._buffer.clear()

    def _add(self, *entry: Any) -> None:
        if self._descriptor is None:
            return
        self._buffer += self._packer.pack(entry)
        if len(self._buffer) >= BATCH_BYTES or time.monotonic() - self._written >= BATCH_SECONDS:
            self.flush()


def _size(body: payload.Payload) -> int:
    try:
        return payload.size(body)
    except OSError:  # its file was just read and removed, or its node is gone
        return 0


def _sized(made: tuple[tuple[str, int, int], ...]) -> tuple[tuple[str, int], ...]:
    """Return files with their sizes, without their stamps, which mean nothing once the files are gone."""
    return tuple((file, size) for file, size, _ in made) if made else ()


def _kind(outcome: int, body: payload.Payload) -> str:
    return failure.lost_kind(body) if outcome == failure.LOST else ""


class Submitted(NamedTuple):
    """A submitted task, as recorded: ``size`` is the size of its arguments, ``profile`` the number of its profile."""

    number: int
    profile: int
    size: int
    inputs: tuple[FileUse, ...]
    outputs: tuple[FileUse, ...]
    time: float


class Done(NamedTuple):
    """The end of a task, as recorded: ``size`` is the size of its result, ``kind`` says how it was lost."""

    number: int
    outcome: int
    node: str
    dispatched: float
    started: float
    seconds: float
    size: int
    made: tuple[tuple[str, int], ...]
    kind: str
    time: float


@dataclass
class Record:
    """The contents of a record, as :func:`read_record` returns them.

    Parameters
    ----------
    started : float
        When the run began, in seconds since the epoch.
    facts : dict
        The plain data of the first entry.
    profiles : dict
        Profiles by number.
    submitted : dict
        Tasks by number, in order of submission.
    done : dict
        How tasks ended, by number; the last end if there were several.
    again : dict
        Number of times that each task was run again, by number of the task.
    cancelled : set of int
        Numbers of cancelled tasks.
    forgotten : dict
        Names of files that will not be asked for again, and when this was known.
    nodes : list
        Pairs of a time and all nodes from then on.
    ended : float or None
        When the manager ended; None if it still runs or was killed.
    """

    started: float = 0.0
    facts: dict[str, Any] = field(default_factory=dict)
    profiles: dict[int, Profile] = field(default_factory=dict)
    submitted: dict[int, Submitted] = field(default_factory=dict)
    done: dict[int, Done] = field(default_factory=dict)
    again: dict[int, int] = field(default_factory=dict)
    cancelled: set[int] = field(default_factory=set)
    forgotten: dict[str, float] = field(default_factory=dict)
    nodes: list[tuple[float, list[dict[str, Any]]]] = field(default_factory=list)
    ended: float | None = None


def entries(path: str | os.PathLike[str]) -> Iterator[tuple[Any, ...]]:
    """Yield the entries of a record in order, as the module's docstring lists them; omit an incomplete last entry.

    Raises
    ------
    ValueError
        If the file is not a record, or has an unknown version.
    OSError
        If it cannot be read.
    """
    with open(path, "rb") as file:
        unpacker = msgpack.Unpacker(file, use_list=False, unicode_errors="surrogateescape", max_buffer_size=0)
        first, whole = True, 0
        try:
            for entry in unpacker:
                is_tagged = isinstance(entry, tuple) and entry and isinstance(entry[0], str)
                if not is_tagged or (first and (entry[0] != "run" or len(entry) < 2)):
                    raise ValueError(f"{os.fspath(path)}: {_NO_RECORD}")
                if first and entry[1] != VERSION:
                    raise ValueError(f"{os.fspath(path)}: the record has version {entry[1]}, not {VERSION} as expected")
                first, whole = False, unpacker.tell()
                yield entry
        except msgpack.exceptions.UnpackException as error:
            raise ValueError(f"{os.fspath(path)}: {_NO_RECORD}") from error
        if whole < os.fstat(file.fileno()).st_size:
            logger.warning(
                "%s: its last entry is cut off: its run still goes on, its manager was killed, or the disk was full",
                os.fspath(path),
            )


def read_record(path: str | os.PathLike[str]) -> Record:
    """Read the record of a run, even if the run still goes on or its manager was killed.

    Parameters
    ----------
    path : path-like
        The file ``record.msgpack`` in an executor's log directory.

    Returns
    -------
    Record
        Everything that was written.

    Raises
    ------
    ValueError
        If the file is not a record, or has an unknown version.
    OSError
        If it cannot be read.
    """
    record = Record()
    for number, (tag, *rest) in enumerate(entries(path)):
        try:
            _take(record, tag, rest)
        except (TypeError, LookupError, ValueError, AttributeError) as error:
            raise ValueError(f"{os.fspath(path)}: not the record of a run, in entry {number} ({tag!r:.50})") from error
    return record


def _take(record: Record, tag: str, rest: list[Any]) -> None:
    """Add an entry to a record."""
    if tag == "run":
        record.started, record.facts = rest[1], dict(rest[2])
    elif tag == "profiles":
        for item in rest[0]:
            profile = messages.profile(item[: len(Profile._fields)])
            record.profiles[profile.number] = profile
    elif tag == "submitted":
        for number, profile, size, inputs, outputs, *_ in rest[1]:
            record.submitted[number] = Submitted(number, profile, size, _uses(inputs), _uses(outputs), rest[0])
    elif tag == "done":
        for item in rest[1]:
            record.done[item[0]] = Done(*(*item[:9], rest[0]))
    elif tag == "again":
        for number in rest[1]:
            record.again[number] = record.again.get(number, 0) + 1
    elif tag == "cancelled":
        record.cancelled.update(rest[1])
    elif tag == "forgotten":
        record.forgotten.update((file, rest[0]) for file in rest[1])
    elif tag == "nodes":
        record.nodes.append((rest[0], list(rest[1])))
    elif tag == "end":
        record.ended = rest[0]


def _uses(items: tuple[tuple[Any, ...], ...]) -> tuple[FileUse, ...]:
    return tuple(FileUse(*item[: len(FileUse._fields)]) for item in items)
