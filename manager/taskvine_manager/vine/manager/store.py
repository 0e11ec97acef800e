"""TaskVine's files in the manager process: how they are declared, and how the user's process reads them.

TaskVine identifies a file of this machine by path, size and modification time in whole seconds. Each version of a
user's file is therefore declared under another path, which is a link to the file. A directory is declared as one
archive.

On one machine, a file in a worker's cache is read where it is. Otherwise it is fetched once, into the spool directory.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from taskvine_manager.node import trees
from taskvine_manager.node.cache import SETTLED_NS, content_name
from taskvine_manager.node.copying import copy
from taskvine_manager.runtime import claims, payload
from taskvine_manager.vine import seals
from taskvine_manager.vine.manager.events import HOME
from taskvine_manager.vine.manager.port import VinePort
from taskvine_manager.vine.seals import Inode

OVERUSED = 3
"""Times that readers may find a temp file on this machine changed before the manager copies it."""
LARGE = 16 << 20
"""Largest file, in bytes, that is compared by content; a larger one that has just changed is examined twice."""

Where = tuple[str, str, int, int]
"""A file that the user's process can read: its node, path, size in bytes and stamp."""


@dataclass(eq=False)
class Stored:
    """A temp file in TaskVine.

    ``inode`` identifies it on ``node``, if that is on this machine. ``home`` is the path of a copy on the manager's
    machine, created because the user has asked for it.
    """

    file: Any
    node: str = ""
    inode: Inode | None = None
    home: str = ""
    disturbed: int = 0


@dataclass(eq=False)
class Version:
    """One version of a user's file or directory, kept while it is the latest or has ``users``."""

    file: Any
    path: str
    """File that TaskVine sends: a link to the file, or the archive of a directory."""
    seen: trees.Survey
    settled: bool
    """Whether the file cannot have changed since without a new stamp."""
    size: int
    digest: str = ""
    users: int = 0
    latest: bool = True


@dataclass(eq=False)
class Buffer:
    """A buffer that arguments share: its path, TaskVine's file, the manager's claim, and how many tasks read it."""

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
        Returns the directory of a node by its name; empty if the node is gone or has not reported it.
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
        """Declare a temp file that a task will create."""
        self._temps[name] = Stored(self._vine.manager.declare_temp())
        return self._temps[name].file

    def adopt(self, name: str, path: str) -> None:
        """Make a temp file of one of our files on this machine."""
        seals.seal(path)  # every reader of a temp file checks the seal
        self._temps[name] = Stored(self._vine.manager.declare_file(path, cache=True), HOME, home=path)

    def temp(self, name: str) -> Any:
        """Return TaskVine's file of a temp file."""
        return self._temps[name].file

    def made(self, name: str, node: str, inode: Inode | None) -> None:
        """Note that a temp file is on a node, and its identity there."""
        if (stored := self._temps.get(name)) is not None:
            stored.node, stored.inode = node, inode

    def drop(self, name: str) -> None:
        """Remove a temp file everywhere."""
        stored = self._temps.pop(name, None)
        if stored is not None:
            self._vine.undeclare([stored.file])
            remove(stored.home)

    def prune(self, name: str) -> None:
        """Remove a temp file from all workers, and its copy on this machine; keep a file that came home as a result.

        When TaskVine runs a reader again, it recreates the files that tasks created. It cannot recreate this one.
        """
        if (stored := self._temps.get(name)) is not None:
            self._vine.manager.prune_file(stored.file)
            if stored.node != HOME:
                remove(stored.home)
                stored.home = ""
            stored.inode = None

    def renew(self, name: str) -> None:
        """Remove a file from all workers: its next reader gets a new copy.

        Parameters
        ----------
        name : str
            Id of a temp file, or path: of a user's file, of a function, or of a claim to a shared buffer.
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
        """Return the number of temp files, including those kept only so that they can be recreated."""
        return len(self._temps)

    def replicas(self, name: str) -> int:
        """Return how many workers have a temp file, or 1 if there is a copy on this machine."""
        stored = self._temps[name]
        return 1 if stored.home else self._vine.replicas(stored.file)

    def on_workers(self, name: str) -> int:
        """Return how many workers have a temp file."""
        return self._vine.replicas(self._temps[name].file)

    def local(self, path: str) -> Version:
        """Return the present version of a file or directory of this machine, with one more user; see :meth:`leave`.

        Raises
        ------
        OSError
            If it is missing or cannot be sent.
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
        """Return a new version, or the known one if stamp and content are the same: it need not be sent again."""
        plain = os.path.join(self._base, "files", f"input-{next(self._numbers)}")
        digest = ""
        if trees.must_pack(path):
            trees.pack(path, plain)
        else:
            os.symlink(path, plain)
        same = known is not None and known.seen.stamp == seen.stamp
        if (same or not settled) and seen.size <= LARGE:
            digest = content_name(plain, seen)
        if known is not None and same and digest and known.digest == digest:
            remove(plain)
            known.settled = settled
            return known
        return Version(
            self._vine.manager.declare_file(plain, cache=True), plain, seen, settled, os.path.getsize(plain), digest
        )

    def leave(self, version: Version) -> None:
        """Count one user of a version less."""
        version.users -= 1
        self._let_go(version)

    def _let_go(self, version: Version) -> None:
        if not version.users and not version.latest:
            self._vine.undeclare([version.file])
            remove(version.path)

    def forget(self, paths: list[str]) -> None:
        """Release files of this machine that no task will read any more."""
        for path in paths:
            version = self._versions.pop(path, None)
            if version is not None:
                version.latest = False
                self._let_go(version)

    def share(self, claim: str) -> Buffer:
        """Declare the buffer behind a claim, once while any task may read it: each worker gets a single copy.

        Raises
        ------
        OSError
            If the claim has been removed.
        """
        path = claims.claimed(claim)
        buffer = self._buffers.get(path)
        if buffer is None:
            own = os.path.join(self._base, "files", f"claim-{next(self._numbers)}")
            claims.duplicate(claim, own)
            buffer = self._buffers[path] = Buffer(path, self._vine.manager.declare_file(path, cache=True), own)
        buffer.readers += 1
        return buffer

    def unshare(self, buffer: Buffer) -> None:
        """Count one reader of a buffer less."""
        buffer.readers -= 1
        self.tidy_buffers()

    def tidy_buffers(self) -> None:
        """Remove buffers that no task reads or will read: waiting tasks have their own claims."""
        for buffer in [buffer for buffer in self._buffers.values() if not buffer.readers]:
            if claims.count(buffer.claim) == 1:
                del self._buffers[buffer.path]
                self._vine.undeclare([buffer.file])
                payload.release(buffer.claim)

    # --- reading ---

    def found(self, name: str) -> Where | None:
        """Return where a temp file can be read now; None if it cannot."""
        stored = self._temps.get(name)
        if stored is None:
            return None
        if stored.home and (there := where(HOME, stored.home)) is not None:
            return there
        path = self.path(name)
        if path is not None and stored.disturbed < OVERUSED:
            return where(stored.node, path)
        if path is None or (home := self._copied(path)) is None:
            return None
        stored.home = home
        return where(HOME, home)

    def bring_home(self, name: str, path: str) -> None:
        """Note that a temp file has been fetched to this path."""
        if (stored := self._temps.get(name)) is not None:
            stored.home = path
        else:
            remove(path)

    def path(self, name: str) -> str | None:
        """Return the path of a temp file in the cache of a worker on this machine, or None.

        TaskVine does not tell the path. It has moved the file there, so the inode is still the same.
        """
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
        """Note that a reader found another stamp than expected."""
        stored = self._temps.get(name)
        if stored is None or not stamp:
            return
        if node == HOME and stored.home and os.path.exists(stored.home) and os.stat(stored.home).st_ctime_ns != stamp:
            remove(stored.home)
            stored.home = ""
        # TaskVine gives tasks hard links to cached files, which changes the stamp as writing does.
        stored.disturbed += 1

    def _copied(self, path: str) -> str | None:
        home = ""
        try:
            home = self.spool(b"")
            copy(path, home)
        except OSError:  # the worker is gone, or the disk full: the file is fetched instead
            remove(home)
            return None
        return home

    def spool(self, data: bytes) -> str:
        """Write a value's bytes to a new file."""
        descriptor, path = tempfile.mkstemp(prefix="value-", dir=os.path.join(self._base, "spool"))
        try:
            with open(descriptor, "wb") as file:
                file.write(data)
        except OSError:
            remove(path)
            raise
        return path


def where(node: str, path: str) -> Where | None:
    """Return a file's location for the user's process; None if the file is missing."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return node, path, status.st_size, status.st_ctime_ns


def remove(path: str) -> None:
    """Remove a file, if it exists."""
    with contextlib.suppress(OSError):
        os.unlink(path)
