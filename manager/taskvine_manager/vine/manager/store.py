"""Files of TaskVine's as the manager process sees them: how they are declared, and how the user's process reads them.

On one machine, the file that a worker has in its cache is read where it is; else it is fetched, once, into the spool
directory.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from taskvine_manager.node.cache import copy
from taskvine_manager.runtime import claims, payload
from taskvine_manager.vine.manager.port import VinePort
from taskvine_manager.vine.manager.records import HOME

OVERUSED = 3
"""Times that a file on this machine may be found changed by whoever wants to read it, before it gets a copy."""
_PLAIN = re.compile(r"[A-Za-z0-9_./+=,-]{1,200}")

Where = tuple[str, str, int, int]
"""A file that the user's process can read: its node, path, size in bytes and stamp."""


@dataclass(eq=False)
class Stored:
    """A temp file: ``inode`` is where it is on ``node``, if that is on this machine; ``home`` is the path of a copy
    beside the manager, made because somebody asked for it."""

    file: Any
    node: str = ""
    inode: tuple[int, int, int] | None = None
    home: str = ""
    disturbed: int = 0


@dataclass(eq=False)
class Buffer:
    """A buffer that arguments share: its path, TaskVine's file, the manager's own claim, and how many calls read it."""

    path: str
    file: Any
    claim: str
    readers: int = 0


class Store:
    """Temp files and files of this machine, declared to TaskVine.

    Parameters
    ----------
    base : str
        The run's private directory.
    vine : VinePort
        TaskVine.
    directory_of : callable
        The directory of a node by its name; empty if it is gone or has not said.
    """

    def __init__(self, base: str, vine: VinePort, directory_of: Callable[[str], str]) -> None:
        self._base = base
        self._vine = vine
        self._directory_of = directory_of
        self._temps: dict[str, Stored] = {}
        self._locals: dict[tuple[str, int, int], Any] = {}
        self._buffers: dict[str, Buffer] = {}
        self._numbers = itertools.count()
        os.makedirs(os.path.join(base, "files"), mode=0o700, exist_ok=True)

    # --- declarations ---

    def declare(self, name: str) -> Any:
        """Declare a temp file that a task will make."""
        self._temps[name] = Stored(self._vine.temp())
        return self._temps[name].file

    def adopt(self, name: str, path: str) -> None:
        """Make a temp file of one that is on this machine, and ours."""
        self._temps[name] = Stored(self._vine.local(path, cache=True), HOME, home=path)

    def temp(self, name: str) -> Any:
        """TaskVine's file of a temp file."""
        return self._temps[name].file

    def made(self, name: str, node: str, inode: tuple[int, int, int] | None) -> None:
        """A temp file is on a node; there, its device, inode and size are these."""
        if (stored := self._temps.get(name)) is not None:
            stored.node, stored.inode = node, inode

    def drop(self, name: str) -> None:
        """Remove a temp file everywhere."""
        stored = self._temps.pop(name, None)
        if stored is not None:
            self._vine.undeclare([stored.file])
            remove([stored.home])

    def prune(self, name: str) -> None:
        """Remove a temp file from all workers, and what there is of it here."""
        if (stored := self._temps.get(name)) is not None:
            self._vine.manager.prune_file(stored.file)
            remove([stored.home])
            stored.home = ""

    def __len__(self) -> int:
        """Temp files, be it that they are only there to be made again."""
        return len(self._temps)

    def replicas(self, name: str) -> int:
        """How many workers have a temp file; one that has come home will not be lost."""
        stored = self._temps[name]
        return 1 if stored.home else self._vine.replicas(stored.file)

    def on_workers(self, name: str) -> int:
        """How many workers have a temp file."""
        return self._vine.replicas(self._temps[name].file)

    def local(self, path: str) -> Any:
        """A file of this machine, declared once for each of its versions.

        Raises
        ------
        OSError
            If it is not there.
        """
        status = os.stat(path)
        key = (path, status.st_mtime_ns, status.st_size)
        if key not in self._locals:
            plain = path
            if not _PLAIN.fullmatch(path):  # TaskVine's protocol does not take every name
                plain = os.path.join(self._base, "files", f"input-{len(self._locals)}")
                try:
                    os.link(path, plain)
                except OSError:
                    shutil.copyfile(path, plain)
            self._locals[key] = self._vine.local(plain, cache=True)
        return self._locals[key]

    def share(self, claim: str) -> Buffer:
        """Declare the buffer behind a claim, once while any call may read it: each worker gets a single copy.

        Raises
        ------
        OSError
            If the claim has been removed.
        """
        path = claims.claimed(claim)
        buffer = self._buffers.get(path)
        if buffer is None:
            own = os.path.join(self._base, "files", f"claim-{next(self._numbers)}")
            claims.claim(path, own)
            buffer = self._buffers[path] = Buffer(path, self._vine.local(path, cache=True), own)
        buffer.readers += 1
        return buffer

    def unshare(self, buffer: Buffer) -> None:
        """Count off a call that reads a buffer."""
        buffer.readers -= 1
        self.tidy_buffers()

    def tidy_buffers(self) -> None:
        """Remove buffers everywhere that no call reads or will read: calls that wait have claims of their own."""
        for buffer in [buffer for buffer in self._buffers.values() if not buffer.readers]:
            if claims.count(buffer.path) == 1:
                del self._buffers[buffer.path]
                self._vine.undeclare([buffer.file])
                payload.release(buffer.claim)

    # --- reading ---

    def found(self, name: str) -> Where | None:
        """Where a temp file can be read now; None if it cannot."""
        stored = self._temps.get(name)
        if stored is None:
            return None
        if stored.home and (there := where(HOME, stored.home)) is not None:
            return there
        path = self.path(name)
        if path is not None and stored.disturbed < OVERUSED:
            return where(stored.node, path)
        if path is not None and (home := self._copied(path)) is not None:
            stored.home = home
        else:
            return None
        return where(HOME, stored.home)

    def bring_home(self, name: str, path: str) -> None:
        """All of a temp file has come to this path."""
        if (stored := self._temps.get(name)) is not None:
            stored.home = path
        else:
            remove([path])

    def path(self, name: str) -> str | None:
        """Path of a temp file in the cache of a worker on this machine: TaskVine says neither, but moved the file."""
        stored = self._temps.get(name)
        if stored is None or stored.inode is None:
            return None
        directory = self._directory_of(stored.node)
        if not directory.startswith(self._base + os.sep):
            return None
        device, inode, size = stored.inode
        with contextlib.suppress(OSError), os.scandir(os.path.join(directory, "cache")) as entries:
            for entry in entries:
                if entry.inode() == inode:
                    status = entry.stat()
                    if (status.st_dev, status.st_size) == (device, size):
                        return entry.path
        return None

    def spoiled(self, name: str, node: str, stamp: int) -> None:
        """Somebody has found another stamp than it was told."""
        stored = self._temps.get(name)
        if stored is None or not stamp:
            return
        if node == HOME and stored.home and os.path.exists(stored.home) and os.stat(stored.home).st_ctime_ns != stamp:
            remove([stored.home])
            stored.home = ""
        # TaskVine gives tasks hard links to what is cached, which leaves the same mark as writing to it.
        stored.disturbed += 1

    def _copied(self, path: str) -> str | None:
        home = self.spool(b"")
        try:
            copy(path, home)
        except OSError:  # its worker has just gone
            remove([home])
            return None
        return home

    def spool(self, data: bytes) -> str:
        """Write a value's bytes to a file of their own."""
        descriptor, path = tempfile.mkstemp(prefix="value-", dir=os.path.join(self._base, "spool"))
        with open(descriptor, "wb") as file:
            file.write(data)
        return path


def where(node: str, path: str) -> Where | None:
    """How the user's process is told of a file; None if it is not there."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return node, path, status.st_size, status.st_ctime_ns


def remove(paths: Iterable[str]) -> None:
    """Remove files, if they are there."""
    for path in paths:
        with contextlib.suppress(OSError):
            os.unlink(path)
