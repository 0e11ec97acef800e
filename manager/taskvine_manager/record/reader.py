"""The record as others read it: whole, while the run still writes it, or after its manager was killed."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, NamedTuple

import msgpack

from taskvine_manager.record.writer import VERSION
from taskvine_manager.wire import messages
from taskvine_manager.wire.messages import FileUse, Profile

logger = logging.getLogger(__name__)

_NO_RECORD = "not the record of a run: give the record.msgpack of a log directory"
_CHUNK = 1 << 20


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


class Tail:
    """Reads a record that may still grow, entry by entry; also as a context manager.

    Parameters
    ----------
    path : path-like
        The file.

    Raises
    ------
    OSError
        If it cannot be opened.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = os.fspath(path)
        self._file = open(path, "rb", buffering=0)
        self._unpacker = msgpack.Unpacker(use_list=False, unicode_errors="surrogateescape", max_buffer_size=0)
        self._fed = self._whole = 0
        self._is_first = True

    def __enter__(self) -> Tail:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    @property
    def is_cut(self) -> bool:
        """Whether the last entry is incomplete, after :meth:`more`."""
        return self._whole < self._fed

    def more(self) -> Iterator[tuple[Any, ...]]:
        """Yield the complete entries that were not yielded before.

        Raises
        ------
        ValueError
            If the file is not a record, or has an unknown version.
        OSError
            If it cannot be read.
        """
        while data := self._file.read(_CHUNK):
            self._unpacker.feed(data)
            self._fed += len(data)
            try:
                for entry in self._unpacker:
                    self._check(entry)
                    self._whole = self._unpacker.tell()
                    yield entry
            except msgpack.exceptions.UnpackException as error:
                raise ValueError(f"{self.path}: {_NO_RECORD}") from error

    def _check(self, entry: Any) -> None:
        is_tagged = isinstance(entry, tuple) and entry and isinstance(entry[0], str)
        if not is_tagged or (self._is_first and (entry[0] != "run" or len(entry) < 2)):
            raise ValueError(f"{self.path}: {_NO_RECORD}")
        if self._is_first and entry[1] != VERSION:
            raise ValueError(f"{self.path}: the record has version {entry[1]}, not {VERSION} as expected")
        self._is_first = False


def entries(path: str | os.PathLike[str]) -> Iterator[tuple[Any, ...]]:
    """Yield the entries of a record in order, as the package's docstring lists them; omit an incomplete last entry.

    Raises
    ------
    ValueError
        If the file is not a record, or has an unknown version.
    OSError
        If it cannot be read.
    """
    with Tail(path) as tail:
        yield from tail.more()
        if tail.is_cut:
            logger.warning(
                "%s: its last entry is cut off: its run still goes on, its manager was killed, or the disk was full",
                tail.path,
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
