"""The record as the manager writes it: entries are collected, and written in batches."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterable, Sequence
from typing import Any

import msgpack

from taskvine_manager.record import events
from taskvine_manager.record.failures import Failures
from taskvine_manager.runtime import failure, payload
from taskvine_manager.wire.messages import Completion, Invocation, Profile

logger = logging.getLogger(__name__)

VERSION = 1
BATCH_BYTES = 1 << 18
"""Bytes that are collected before they are written."""
BATCH_SECONDS = 0.5
"""Seconds that an entry waits at most before it is written."""


class Recorder:
    """Writes the record of a run.

    If it cannot be written (a full disk, for example), the record ends there and the run goes on.

    Parameters
    ----------
    path : str or None
        File to append to; None records nothing.
    details : bool
        Whether to record events, see :mod:`taskvine_manager.record.events`.
    **facts
        Plain data about the run, for the first entry.
    """

    def __init__(self, path: str | None, *, details: bool = False, **facts: Any) -> None:
        self.path = path
        self.details = details
        self._failures = Failures()
        self._buffer = bytearray()
        self._since = 0.0
        self._packer = msgpack.Packer(unicode_errors="surrogateescape")
        self._descriptor: int | None = None
        if path is not None:
            try:
                self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
            except OSError as error:
                logger.error("this run is not recorded, because the record cannot be opened: %s", error)
        process = {"pid": os.getpid(), "host": os.uname().nodename}
        self._add("run", VERSION, time.time(), {**facts, "details": details, **process})

    def submitted(self, profiles: Iterable[Profile], invocations: Iterable[Invocation]) -> None:
        """Record submitted tasks, with their new profiles."""
        if new := list(profiles):
            self._add("profiles", new)
        items = [
            (number, profile, _size(arguments), inputs, outputs)
            for number, profile, arguments, inputs, outputs in invocations
        ]
        self.note("submitted", items)

    def done(self, completions: Sequence[Completion]) -> None:
        """Record tasks that ended."""
        items = [
            (number, outcome, node, dispatched, started, seconds, _size(body), _sized(made), _kind(outcome, body))
            for number, outcome, body, node, dispatched, started, seconds, made, _ in completions
        ]
        self.note("done", items)
        if self._is_detailed and (failed := [each for each in completions if each.outcome != failure.RETURNED]):
            self.events([self._failures.event(each.number, each.body) for each in failed])

    def events(self, happened: Iterable[events.Event]) -> None:
        """Record events of this moment, in their order."""
        if self._is_detailed:
            self.note("events", events.encoded(happened))

    @property
    def _is_detailed(self) -> bool:
        return self.details and self._descriptor is not None

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

    def flush_due(self) -> float | None:
        """Write the collected entries if one has waited for long enough; return the seconds until that is due."""
        if not self._buffer:
            return None
        wait = self._since + BATCH_SECONDS - time.monotonic()
        if wait <= 0:
            self.flush()
            return None
        return wait

    def _add(self, *entry: Any) -> None:
        if self._descriptor is None:
            return
        if not self._buffer:
            self._since = time.monotonic()
        self._buffer += self._packer.pack(entry)
        if len(self._buffer) >= BATCH_BYTES:
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
