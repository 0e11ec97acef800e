"""Files that the user asks for: where they can be read, after they were fetched to this machine if need be."""

from __future__ import annotations

import math
import os
import time
from dataclasses import dataclass
from typing import Any

from taskvine_manager.runtime import failure
from taskvine_manager.vine import parcels
from taskvine_manager.vine.manager.events import HOME, CutShort, Fetched, Locate, Wanted
from taskvine_manager.vine.manager.recoveries import Recoveries
from taskvine_manager.vine.manager.shell import Shell
from taskvine_manager.vine.manager.store import remove, where

FETCH_TRIES, FETCH_PAUSE = 20, 0.1
"""Tries to fetch a file, and seconds between them."""


@dataclass(eq=False)
class Fetch:
    """A file that is being fetched: the requests for it, its path here, and how much of it has arrived."""

    requests: list[int]
    path: str
    offset: int = 0
    size: int = 0
    tries: int = FETCH_TRIES


class Fetches:
    """Reports where files are, and fetches those that are only on other machines, piece by piece.

    Parameters
    ----------
    shell : Shell
        TaskVine's files, the core, and the outlet for the reports.
    recoveries : Recoveries
        Watches lost files.
    """

    def __init__(self, shell: Shell, recoveries: Recoveries) -> None:
        self._files, self._handle = shell.core.files, shell.handle
        self._store, self._outlet = shell.store, shell.outlet
        self._recoveries = recoveries
        self._fetches: dict[str, Fetch] = {}
        self._pieces: dict[int, tuple[int, bytes]] = {}
        self._pauses: dict[str, float] = {}

    def locate(self, said: Locate) -> None:
        """Report where a file is; fetch it first if it is on other machines."""
        request, file = said.request, said.file
        value = self._files.values.get(file)
        answer: Any = where(HOME, value) if isinstance(value, str) else value
        answer = self._store.found(file) if answer is None else answer
        temp = self._files.temps.get(file)
        if answer is None and temp is not None and temp.node and not temp.recoverable:
            self._recoveries.see_lost([file])
        if answer is not None:
            self._outlet.located(request, answer)
        elif temp is None or not temp.node or temp.gone:
            self._outlet.located(request, (self._files.lost_record(file),))
        elif file in self._fetches:
            self._fetches[file].requests.append(request)
        else:
            try:
                path = self._store.spool(b"")
            except OSError as error:
                self._outlet.located(request, (_unreadable(file, error),))
                return
            self._fetches[file] = Fetch([request], path)
            self._handle(Wanted(file, 0))

    def arrived(self, parcel: int, piece: tuple[int, bytes]) -> None:
        """Keep a piece of a file until the core reports the end of its parcel."""
        self._pieces[parcel] = piece

    def fetched(self, said: Fetched) -> None:
        """Append a piece to a file that is being fetched, and ask for the next; start again if none has arrived."""
        piece = self._pieces.pop(said.parcel, None)
        file, fetch = said.file, self._fetches[said.file]
        if piece == parcels.CUT:
            self._handle(CutShort(file))
            piece = None
        if said.record or file not in self._files.temps:
            self._end(file, said.record)
        elif piece is not None and piece[0] == (fetch.size or piece[0]):
            size, data = piece
            try:
                with open(fetch.path, "ab") as home:
                    home.write(data)
                    fetch.size, fetch.offset = size, home.tell()
            except OSError as error:  # for example, a full disk; the file remains on its node
                self._end(file, _unreadable(file, error))
                return
            if data and fetch.offset < size:
                self._handle(Wanted(file, fetch.offset))
            else:
                self._store.bring_home(file, fetch.path)
                self._end(file)
        elif fetch.tries:
            # Wait first: TaskVine gives a worker no work for a while after a failed transfer. Start from the beginning:
            # a recreated file may differ.
            fetch.tries -= 1
            fetch.size = fetch.offset = 0
            os.truncate(fetch.path, 0)
            self._pauses[file] = time.monotonic() + FETCH_PAUSE
        else:
            self._end(file, self._files.lost_record(file))

    def _end(self, file: str, record: bytes = b"") -> None:
        fetch = self._fetches.pop(file)
        answer: Any = self._store.found(file)
        if answer is None:
            remove(fetch.path)
            answer = (record or self._files.lost_record(file),)
        for request in fetch.requests:
            self._outlet.located(request, answer)

    def resume(self, now: float) -> None:
        """Ask again for the files whose pause is over."""
        for file in [file for file, when in self._pauses.items() if when <= now]:
            del self._pauses[file]
            self._handle(Wanted(file, 0))

    def wait(self, now: float) -> float:
        """Return the seconds until a pause is over."""
        return max(0.0, min(self._pauses.values(), default=math.inf) - now)


def _unreadable(file: str, error: OSError) -> bytes:
    reason = f"it cannot be copied to the manager's machine: {error.strerror or error}: {error.filename}"
    return failure.lost("file-unreadable", reason, name=file)
