"""What happened in a run, on disk: the manager keeps nothing of an invocation that is over.

The file is a stream of msgpack arrays, which are appended in batches and may end in the middle of the last one if the
manager was killed. Each begins with its tag. Times are in seconds since the epoch, sizes in bytes, strings may hold
surrogates (paths need not be text).

========================================= ==========================================================================
``["run", version, time, facts]``         first of all; ``facts`` is a dict: ``engine``, ``tune_parameters``
``["profiles", profiles]``                fields of :class:`~taskvine_manager.wire.messages.Profile` in their order
``["submitted", time, invocations]``      of each: ``[number, profile, bytes of arguments, inputs, outputs]``, the last
                                          two as fields of :class:`~taskvine_manager.wire.messages.FileUse`
``["done", time, completions]``           of each: ``[number, outcome, node, dispatched, started, seconds, bytes of
                                          result, made, kind]``. ``outcome`` is 0 (returned), 1 (raised) or 2 (lost,
                                          ``kind`` says how); ``made`` is a list of ``[file, bytes]``; times that never
                                          came are 0
``["again", time, numbers, reason]``      these invocations had a node, and are to be run once more
``["cancelled", time, numbers]``
``["forgotten", time, files]``            nobody will ask for these again
``["nodes", time, nodes]``                those there are from now on, each a dict as of
                                          :class:`~taskvine_manager.wire.messages.NodeInfo`
``["tuned", time, parameters]``
``["end", time]``                         the manager ended as it was told to
========================================= ==========================================================================

A reader passes over tags that it does not know, and over what follows the fields that it knows: versions that differ
only by such additions have the same number.
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
from taskvine_manager.wire.messages import Completion, FileUse, Invocation, Profile

logger = logging.getLogger(__name__)

VERSION = 1
BATCH_BYTES = 1 << 18
"""What gathers before it is written."""
BATCH_SECONDS = 1.0
"""Nothing waits for longer than this, if anything comes after it."""


class Recorder:
    """Writes the record of a run.

    A record that cannot be written (a full disk) ends where it is; the run goes on.

    Parameters
    ----------
    path : str or None
        File to append to; None records nothing.
    **facts
        Plain data about the run, for its first entry.
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
                logger.error("nothing is recorded of this run: %s", error)
        self._add("run", VERSION, time.time(), facts)

    def submitted(self, profiles: Iterable[Profile], invocations: Iterable[Invocation]) -> None:
        """Invocations came, with profiles that are new."""
        if new := list(profiles):
            self._add("profiles", new)
        items = [
            (number, profile, _size(arguments), inputs, outputs)
            for number, profile, arguments, inputs, outputs in invocations
        ]
        self._add("submitted", time.time(), items)

    def done(self, completions: Iterable[Completion]) -> None:
        """Invocations ended."""
        items = [
            (number, outcome, node, dispatched, started, seconds, _size(body), _sized(made), _kind(outcome, body))
            for number, outcome, body, node, dispatched, started, seconds, made, _ in completions
        ]
        self._add("done", time.time(), items)

    def again(self, numbers: Iterable[int], reason: str) -> None:
        """Invocations that had a node are to be run once more."""
        self._add("again", time.time(), list(numbers), reason)

    def cancelled(self, numbers: Iterable[int]) -> None:
        """Nobody waits for these invocations any more."""
        self._add("cancelled", time.time(), list(numbers))

    def forgotten(self, files: Iterable[str]) -> None:
        """Nobody will ask for these files again."""
        self._add("forgotten", time.time(), list(files))

    def nodes(self, nodes: list[dict[str, Any]]) -> None:
        """These nodes there are from now on."""
        self._add("nodes", time.time(), nodes)

    def tuned(self, parameters: dict[str, float]) -> None:
        """Tuning parameters were set."""
        self._add("tuned", time.time(), parameters)

    def close(self) -> None:
        """Write what is left; the run is over."""
        self._add("end", time.time())
        self.flush()
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def flush(self) -> None:
        """Write what has gathered."""
        self._written = time.monotonic()
        if self._descriptor is None:
            self._buffer.clear()
            return
        try:
            while self._buffer:
                written = os.write(self._descriptor, self._buffer)
                del self._buffer[:written]
        except OSError as error:
            logger.error("the record of this run ends here: %s", error)
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
    except OSError:  # it has just been read and removed, or its node has gone
        return 0


def _sized(made: tuple[tuple[str, int, int], ...]) -> tuple[tuple[str, int], ...]:
    """Files with their sizes: their stamps mean nothing once they are gone."""
    return tuple((file, size) for file, size, _ in made) if made else ()


def _kind(outcome: int, body: payload.Payload) -> str:
    return failure.lost_kind(body) if outcome == failure.LOST else ""


class Submitted(NamedTuple):
    """An invocation, as recorded: ``size`` is its arguments', ``profile`` a number."""

    number: int
    profile: int
    size: int
    inputs: tuple[FileUse, ...]
    outputs: tuple[FileUse, ...]
    time: float


class Done(NamedTuple):
    """The end of an invocation, as recorded: ``size`` is its result's, ``kind`` says how it was lost."""

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
    """A record as :func:`read_record` found it.

    Parameters
    ----------
    started : float
        When the run began, in seconds since the epoch.
    facts : dict
        What the run was told about itself.
    profiles : dict
        By number.
    submitted : dict
        Invocations by number, in the order in which they came.
    done : dict
        How invocations ended, by number: the last word, if there were several.
    again : dict
        By number, how often an invocation was run once more after it had had a node.
    cancelled : set of int
        Invocations that nobody waited for any more.
    forgotten : dict
        Files that nobody asked for any more, with the time of that.
    nodes : list
        Pairs of a time and the nodes there were from then on.
    ended : float or None
        When the manager ended as told; None for a run that goes on, or whose manager was killed.
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
    """Entries of a record in their order, as the module's docstring lists them; one that is cut off is left out.

    Raises
    ------
    ValueError
        If the file is no record, or of a version that is not known here.
    OSError
        If it cannot be read.
    """
    with open(path, "rb") as file:
        unpacker = msgpack.Unpacker(file, use_list=False, unicode_errors="surrogateescape", max_buffer_size=0)
        first, whole = True, 0
        try:
            for entry in unpacker:
                if not isinstance(entry, tuple) or not entry or not isinstance(entry[0], str):
                    raise ValueError(f"{os.fspath(path)}: not the record of a run")
                if first and (entry[0] != "run" or len(entry) < 2):
                    raise ValueError(f"{os.fspath(path)}: not the record of a run")
                if first and entry[1] != VERSION:
                    raise ValueError(f"{os.fspath(path)}: a record of version {entry[1]}, and only {VERSION} is known")
                first, whole = False, unpacker.tell()
                yield entry
        except msgpack.exceptions.UnpackException as error:
            raise ValueError(f"{os.fspath(path)}: not the record of a run") from error
        if whole < os.fstat(file.fileno()).st_size:
            logger.warning(
                "%s: its last entry is cut off: its run still goes on, or its manager was killed, or the disk was full",
                os.fspath(path),
            )


def read_record(path: str | os.PathLike[str]) -> Record:
    """Read the record of a run, of one that still goes on or whose manager was killed too.

    Parameters
    ----------
    path : path-like
        The file ``record.msgpack`` in an executor's log directory.

    Returns
    -------
    Record
        All that was written.

    Raises
    ------
    ValueError
        If the file is no record, or of a version that is not known here.
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
    """Add an entry to what is known of a run."""
    if tag == "run":
        record.started, record.facts = rest[1], dict(rest[2])
    elif tag == "profiles":
        for item in rest[0]:
            profile = Profile(*item[: len(Profile._fields)])
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
