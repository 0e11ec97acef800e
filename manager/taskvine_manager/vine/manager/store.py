"""Files of TaskVine's as the manager process sees them: how they are declared, and how the user's process reads them.

TaskVine names a file of this machine by its path, size and modification time in whole seconds. Each version of a
user's file is therefore declared under another path, a link to the file. A directory is declared as one archive.

On one machine, the file that a worker has in its cache is read where it is; else it is fetched, once, into the spool
directory.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import os
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from taskvine_manager.node import trees
from taskvine_manager.node.cache import SETTLED_NS, copy
from taskvine_manager.runtime import claims, payload
from taskvine_manager.vine import seals
from taskvine_manager.vine.manager.port import VinePort
from taskvine_manager.vine.manager.records import HOME

OVERUSED = 3
"""Times that a file on this machine may be found changed by whoever wants to read it, before it gets a copy."""
LARGE = 16 << 20
"""Bytes of files that are not compared by content: if one has just changed, it is looked at twice instead."""
_CHUNK = 1 << 20

Inode = tuple[int, int, int, int]
"""What tells a file in a worker's cache: its device, inode, size in bytes and modification time in ns."""
Where = tuple[str, str, int, int]
"""A file that the user's process can read: its node, path, size in bytes and stamp."""


@dataclass(eq=False)
class Stored:
    """A temp file: ``inode`` is where it is on ``node``, if that is on this machine; ``home`` is the path of a copy
    beside the manager, made because somebody asked for it."""

    file: Any
    node: str = ""
    inode: Inode | None = None
    home: str = ""
    disturbed: int = 0


@dataclass(eq=False)
class Version:
    """One version of a user's file or directory, as long as it is the latest or ``users`` may read it."""

    file: Any
    path: str
    """What TaskVine sends: a link to the file, or the archive of a directory."""
    seen: trees.Survey
    settled: bool
    """Whether the file cannot have changed since under the same stamp."""
    size: int
    digest: str = ""
    users: int = 0
    latest: bool = True


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
        self._buffers: dict[str, Buffer] = {}
        self._versions: dict[str, Version] = {}  # the latest of each path
        self._numbers = itertools.count()
        os.makedirs(os.path.join(base, "files"), mode=0o700, exist_ok=True)

    # --- declarations ---

    def declare(self, name: str) -> Any:
        """Declare a temp file that a task will make."""
        self._temps[name] = Stored(self._vine.temp())
        return self._temps[name].file

    def adopt(self, name: str, path: str) -> None:
        """Make a temp file of one that is on this machine, and ours."""
        seals.seal(path)  # whoever reads temp files looks for it
        self._temps[name] = Stored(self._vine.local(path, cache=True), HOME, home=path)

    def temp(self, name: str) -> Any:
        """TaskVine's file of a temp file."""
        return self._temps[name].file

    def made(self, name: str, node: str, inode: Inode | None) -> None:
        """A temp file is on a node, and can be told by this there."""
        if (stored := self._temps.get(name)) is not None:
            stored.node, stored.inode = node, inode

    def drop(self, name: str) -> None:
        """Remove a temp file everywhere."""
        stored = self._temps.pop(name, None)
        if stored is not None:
            self._vine.undeclare([stored.file])
            remove([stored.home])

    def prune(self, name: str) -> None:
        """Remove a temp file from all workers, and its copy here; a file that is only here is kept.

        TaskVine recreates a file of a worker's when it runs a reader again. It cannot recreate one that it was given.
        """
        if (stored := self._temps.get(name)) is not None:
            self._vine.manager.prune_file(stored.file)
            if stored.node != HOME:
                remove([stored.home])
                stored.home = ""
            stored.inode = None

    def renew(self, name: str) -> None:
        """Remove a file from all workers: its next reader gets a new copy.

        Parameters
        ----------
        name : str
            Of a temp file; or the path of a user's file, of a function's, or of a claim to a shared buffer.
        """
        if (stored := self._temps.get(name)) is not None:
            self._vine.manager.prune_file(stored.file)
            stored.inode = None
        elif (version := self._versions.get(name)) is not None:
            self._vine.manager.prune_file(version.file)
        else:
            with contextlib.suppress(OSError, ValueError):  # no claim, or one that has been released
                self._vine.manager.prune_file(self._buffers[claims.claimed(name)].file)

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

    def local(self, path: str) -> Version:
        """The present version of a file or directory of this machine, for one more user; see :meth:`leave`.

        Raises
        ------
        OSError
            If it is not there, or cannot be sent.
        """
        known = self._versions.get(path)
        now = time.time_ns()
        seen = trees.survey(path)
        if known is None or known.seen.stamp != seen.stamp or not known.settled:
            settled = now - seen.changed > SETTLED_NS
            if not settled and seen.size > LARGE:
                time.sleep(SETTLED_NS / 1e9)
                before, seen = seen, trees.survey(path)
                settled = before.stamp == seen.stamp
            version = self._declared(path, seen, known, settled=settled)
            if known is not None and version is not known:
                known.latest = False
                self._let_go(known)
            known = self._versions[path] = version
        known.users += 1
        return known

    def _declared(self, path: str, seen: trees.Survey, known: Version | None, *, settled: bool) -> Version:
        """A new version; the known one, if it has the same stamp and content, so that it need not be sent again."""
        plain = os.path.join(self._base, "files", f"input-{next(self._numbers)}")
        digest = ""
        if trees.must_pack(path):
            trees.pack(path, plain)
        else:
            os.symlink(path, plain)
        same = known is not None and known.seen.stamp == seen.stamp
        if (same or not settled) and seen.size <= LARGE:
            digest = _digest(plain)
        if known is not None and same and digest and known.digest == digest:
            remove([plain])
            known.settled = settled
            return known
        return Version(self._vine.local(plain, cache=True), plain, seen, settled, os.path.getsize(plain), digest)

    def leave(self, version: Version) -> None:
        """Count one user of a version less."""
        version.users -= 1
        self._let_go(version)

    def _let_go(self, version: Version) -> None:
        if not version.users and not version.latest:
            self._vine.undeclare([version.file])
            remove([version.path])

    def forget(self, paths: list[str]) -> None:
        """Let files of this machine go that no task will read any more."""
        for path in paths:
            version = self._versions.pop(path, None)
            if version is not None:
                version.latest = False
                self._let_go(version)

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
        _, inode, _, _ = stored.inode
        with contextlib.suppress(OSError), os.scandir(os.path.join(directory, "cache")) as entries:
            for entry in entries:
                if entry.inode() == inode:
                    there = entry.stat()
                    if (there.st_dev, there.st_ino, there.st_size, there.st_mtime_ns) == stored.inode:
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
        home = ""
        try:
            home = self.spool(b"")
            copy(path, home)
        except OSError:  # its worker has just gone, or there is no room: it is read where it is, or fetched
            remove([home])
            return None
        return home

    def spool(self, data: bytes) -> str:
        """Write a value's bytes to a file of their own."""
        descriptor, path = tempfile.mkstemp(prefix="value-", dir=os.path.join(self._base, "spool"))
        try:
            with open(descriptor, "wb") as file:
                file.write(data)
        except OSError:
            remove([path])
            raise
        return path


def where(node: str, path: str) -> Where | None:
    """How the user's process is told of a file; None if it is not there."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return node, path, status.st_size, status.st_ctime_ns


def _digest(path: str) -> str:
    digest = hashlib.blake2b(digest_size=20)
    with open(path, "rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def remove(paths: Iterable[str]) -> None:
    """Remove files, if they are there."""
    for path in paths:
        with contextlib.suppress(OSError):
            os.unlink(path)
