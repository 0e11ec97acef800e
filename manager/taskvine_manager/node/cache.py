"""A node's cache of files.

A file is published by renaming it to its cache name, so a file under a cache name is always complete. User inputs are
cached under the hash of their content, temp files under their id. :mod:`taskvine_manager.node.index` says which of them
are evicted.

The node never writes to a published file: see :mod:`taskvine_manager.node.replicas`.
"""

from __future__ import annotations

import contextlib
import errno
import os
import threading
import time
from collections import Counter
from collections.abc import Iterator
from urllib.parse import quote

from taskvine_manager.node import copying, digest, trees
from taskvine_manager.node.index import Entry, Index
from taskvine_manager.node.partials import partial
from taskvine_manager.node.replicas import Peer, Source, Spoiled, check
from taskvine_manager.runtime import spares
from taskvine_manager.runtime.payload import FAST, roomy
from taskvine_manager.runtime.removal import remove

_CHUNK = 1 << 20
DIGEST_BYTES = 20
"""Length of the digests in the names of users' inputs."""
_NAME_LIMIT = 200
"""Longest file name, in bytes, that is used unchanged; file systems allow 255."""
SETTLED_NS = 50_000_000
"""A file that changed less than this many nanoseconds ago may change again under the same time stamp: the kernel's
clock for time stamps ticks every 1 to 10 ms."""


class QuotaExceeded(OSError):
    """The quota, not the disk, is exhausted: ``errno`` is ``ENOSPC``."""


def file_name(name: str) -> str:
    """Return the name on disk of a cached file."""
    quoted = quote(name, safe="@", errors="surrogateescape")
    if len(quoted) <= _NAME_LIMIT:
        return quoted
    return digest.blake2b(quoted.encode(), digest_size=32).hexdigest()


class Cache:
    """Files of a directory, within a quota; thread-safe.

    Parameters
    ----------
    directory : str
        An existing directory that only this node uses.
    quota : float
        Most bytes that its files may take in total.
    spool : str, optional
        Directory for large results. Results in its directory in memory stay there, and the cache holds a link to them.
        Copies of other nodes' temp files go there too while it has space.
    grows : bool
        Whether the quota grows when the disk has more space. It is for a quota that is only what was free at the start:
        the disk may have been full just then.
    """

    def __init__(self, directory: str, quota: float, spool: str | None = None, *, grows: bool = False) -> None:
        self._directory = directory
        self._grows = grows
        self._spool = spool
        self._fast = os.path.realpath(os.path.join(spool, FAST)) if spool is not None else ""
        self._index = Index(quota)
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._known: dict[str, tuple[tuple[int, ...], str]] = {}
        self._names = _NameLocks()

    @property
    def used(self) -> int:
        """Bytes that the files take, including space reserved for files that are being added."""
        return self._index.used

    def path(self, name: str) -> str:
        """Return the path of a cached file."""
        return os.path.join(self._directory, file_name(name))

    def __contains__(self, name: str) -> bool:
        return name in self._index

    def stamp(self, name: str) -> tuple[int, int]:
        """Return a cached file's size in bytes and its stamp when it was published; zeros if it is not cached."""
        entry = self._index.get(name)
        return (0, 0) if entry is None else (entry.size, entry.stamp)

    def checked(self, name: str) -> str:
        """Check a cached file, and return its path.

        Raises
        ------
        Spoiled
            If it is missing, or was changed after it was published. It is dropped.
        """
        path = self.path(name)
        try:
            check(Source(path, *self.stamp(name)))
        except Spoiled:
            self.drop(name)
            raise
        return path

    def pin(self, name: str) -> None:
        """Protect a file from eviction until it has been unpinned as often as it was pinned."""
        with self._lock:
            self._index.pin(name)

    def unpin(self, name: str) -> None:
        """Remove one pin."""
        with self._lock:
            self._index.unpin(name)
            self._changed.notify_all()

    def adopt(self, name: str, made: str, within: str = "") -> int:
        """Move a task's output file into the cache as a temp file; a directory is packed into an archive.

        Parameters
        ----------
        within : str, optional
            The task's sandbox: links into it are followed, because it will be removed.

        Returns
        -------
        int
            Its size in bytes.

        Raises
        ------
        OSError
            If it is neither a regular file nor a directory; ``ENOSPC`` if it exceeds the quota or the disk.
        """
        status = os.stat(made)
        seen = trees.survey(made, within)
        with self._names.alone(name), self._room(name, seen.size) as room, partial(self.path(name)) as landing:
            if seen.is_tree or trees.is_packed(made):
                trees.pack(made, landing, within)
            elif os.path.islink(made) or status.st_nlink > 1:  # its bytes are elsewhere, or can be changed there
                copying.fill(made, landing)
            elif self._fast and os.path.realpath(os.path.dirname(made)) == self._fast:
                os.symlink(os.path.join(self._fast, os.path.basename(made)), landing)
            else:
                copying.move(made, landing)
            return self._publish(name, landing, room, temp=True)

    def fetch(self, name: str, source: Source) -> int:
        """Copy a temp file from another node's cache, unless it is cached here already; return its size in bytes.

        Raises
        ------
        Spoiled
            If the source is missing, or was changed.
        OSError
            If it exceeds the quota or the disk.
        """
        with self._names.alone(name):
            if (entry := self._index.get(name)) is not None:
                return entry.size
            check(source)
            with self._room(name, source.size) as room, partial(self.path(name)) as landing:
                target = self._target(source.size)
                try:
                    copying.fill(source.path, target or landing)
                    check(source)  # it may have been changed during the copy
                    if target is not None:
                        os.symlink(target, landing)
                    return self._publish(name, landing, room, temp=True)
                except BaseException:
                    if target is not None:
                        remove(target)
                    raise

    def _target(self, size: int) -> str | None:
        """Make a file in memory for a copy of this many bytes; return None if the cache's directory is to have it."""
        if self._spool is None or roomy(self._spool, size) == self._spool:
            return None
        import tempfile  # here, since every node imports this module, and few copy files into memory

        descriptor, path = tempfile.mkstemp(prefix="copy-", dir=self._fast)
        os.close(descriptor)
        return path

    def obtain(self, source: str, peer: Peer | None = None) -> str:
        """Cache a user's input by content, pin it, and return its cache name.

        An input is not read again if it has not changed since it was cached, or if a peer has a copy of it. A
        directory is cached as one archive.

        Raises
        ------
        OSError
            If it cannot be read (``ENOENT`` if it is missing), or exceeds the quota or the disk.
        """
        with self._names.alone(source):
            now = time.time_ns()
            seen = trees.survey(source)
            known = self._known.get(source)
            if known is not None and known[0] == seen.stamp and self._take(known[1]):
                return known[1]
            name = None
            if peer is not None and peer.stamp == seen.stamp:
                name = self._bring_from(peer)
            if name is None:
                name = self._bring(source, seen)
            if now - seen.changed > SETTLED_NS and trees.survey(source).stamp == seen.stamp:
                self._known[source] = (seen.stamp, name)
            return name

    def known(self, source: str) -> tuple[int, str, tuple[int, ...]] | None:
        """Return size, cache name and original stamp of a user's input file; None if it cannot be copied from here."""
        stamp, name = self._known.get(source, ((), ""))
        entry = self._index.get(name)
        return None if entry is None else (entry.size, name, stamp)

    def drop(self, name: str) -> None:
        """Remove a file, if it is cached."""
        with self._lock:
            self._remove(name)

    def make_room(self) -> int:
        """Evict all files that may be evicted; return the bytes freed. For a disk that is full before the quota is."""
        with self._lock:
            before = self.used
            for name in self._index.evictable():
                self._remove(name)
            return before - self.used

    # --- inputs ---

    def _take(self, name: str) -> bool:
        """Pin an input if it is cached and unchanged; return whether it is."""
        with self._lock:
            if name not in self._index:
                return False
            try:
                check(Source(self.path(name), *self.stamp(name)))
            except Spoiled:
                self._remove(name)
                return False
            self._index.pin(name)
            self._index.touch(name)
            return True

    def _bring(self, source: str, seen: trees.Survey) -> str:
        """Copy a user's file or directory, reading it once, and pin the copy."""
        with self._lock:
            may_be_here = not seen.is_tree and self._index.has_input_of(seen.size)
        if may_be_here and self._take(name := content_name(source, seen)):  # then no space is needed
            return name
        with self._room(None, seen.size) as room, partial(self._directory + os.sep) as landing:
            if seen.is_tree:
                trees.pack(source, landing)
                name = content_name(landing, seen)
            elif copying.clone(source, landing):
                name = content_name(landing, seen)
            else:
                name = copy_named(source, landing, seen)
            if not seen.is_tree and trees.is_packed(landing):  # must not be mistaken for a directory's archive
                with partial(landing) as archive:
                    trees.pack(landing, archive)
                    os.replace(archive, landing)
                name = content_name(landing, seen)
            os.chmod(landing, seen.mode & 0o777)
            with self._names.alone(name):
                if not self._take(name):
                    self._publish(name, landing, room, temp=False)
        return name

    def _bring_from(self, peer: Peer) -> str | None:
        """Copy another node's copy of a user's file and pin it; None if that copy is gone or was changed."""
        with self._names.alone(peer.name):
            if self._take(peer.name):
                return peer.name
            try:
                size = os.path.getsize(peer.path)
                with self._room(peer.name, size) as room, partial(self.path(peer.name)) as landing:
                    copying.fill(peer.path, landing)
                    if digest.of_file(landing, DIGEST_BYTES) != peer.name.partition("-")[0]:  # that copy was changed
                        return None
                    self._publish(peer.name, landing, room, temp=False)
            except FileNotFoundError:  # its node has evicted it, or has left
                return None
        return peer.name

    # --- the files and their space ---

    @contextlib.contextmanager
    def _room(self, name: str | None, size: int) -> Iterator[_Room]:
        """Reserve space for a file until it is published or has failed; its name may not be known yet."""
        room = _Room(self._directory) if name is None else _Room(self.path(name), self._index.size(name))
        self._reserve(room, size)
        try:
            yield room
        finally:
            with self._lock:
                self._give_back(room)

    def _reserve(self, room: _Room, size: int) -> None:
        """Reserve space for a file of this many bytes in total; evict inputs if that frees enough."""
        wanted = max(0, size - room.replaced) - room.reserved
        if wanted <= 0:
            return
        with self._lock:
            while (victims := self._index.victims(wanted)) is None:
                # Only the first reservation waits: two threads that hold some space and wait for more could deadlock.
                if room.reserved or not self._index.may_have(wanted):
                    if self._has_grown(wanted):
                        continue
                    free = max(0.0, self._index.available)
                    reason = f"the node's cache can provide {free:.0f} bytes, but {wanted} are needed"
                    raise QuotaExceeded(errno.ENOSPC, reason, room.path)
                self._changed.wait()
            for name in victims:
                self._remove(name)
            self._index.reserve(wanted)
            room.reserved += wanted

    def _has_grown(self, wanted: int) -> bool:
        if not self._grows:
            return False
        there = os.statvfs(self._directory)
        free = there.f_bavail * there.f_frsize
        return free >= wanted and self._index.grow(self._index.used + free)

    def _give_back(self, room: _Room) -> None:
        self._index.reserve(-room.reserved)
        room.reserved = 0
        self._changed.notify_all()

    def _publish(self, name: str, landing: str, room: _Room, *, temp: bool) -> int:
        """Add a file, with a first pin if it is an input; return its size in bytes."""
        size = os.path.getsize(landing)
        self._reserve(room, size)
        path = self.path(name)
        with self._lock:
            target = os.readlink(landing) if os.path.islink(landing) else None
            os.replace(landing, path)
            self._give_back(room)
            _release(self._index.add(name, Entry(size, os.stat(path).st_ctime_ns, temp, target)))
            if not temp:
                self._index.pin(name)
        return size

    def _remove(self, name: str) -> None:
        entry = self._index.remove(name)
        if entry is not None:
            remove(self.path(name))
            _release(entry)
            self._changed.notify_all()


class _Room:
    """Space that is reserved for a file that is being added; the size of a file that it replaces is subtracted."""

    def __init__(self, path: str, replaced: int = 0) -> None:
        self.path = path
        self.replaced = replaced
        self.reserved = 0


class _NameLocks:
    """Locks by name, which exist as long as a thread holds them or waits for them."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._locks: dict[str, threading.Lock] = {}
        self._users: Counter[str] = Counter()

    @contextlib.contextmanager
    def alone(self, name: str) -> Iterator[None]:
        """Exclude other threads from working on the same name."""
        with self._lock:
            lock = self._locks.setdefault(name, threading.Lock())
            self._users[name] += 1
        try:
            with lock:
                yield
        finally:
            with self._lock:
                self._users[name] -= 1
                if not self._users[name]:
                    del self._users[name], self._locks[name]


def _release(entry: Entry | None) -> None:
    """Reuse or remove the bytes behind an entry's link."""
    if entry is not None and entry.target is not None:
        spares.give(entry.target)


def release(directory: str, fast: str | None) -> None:
    """Remove the targets of a cache directory's links, before the directory itself is removed.

    Parameters
    ----------
    directory : str
        The cache's directory.
    fast : str or None
        The run's directory in memory. Links to other places were made by tasks, and their targets stay.
    """
    if fast is None:
        return
    own = os.path.realpath(fast)
    with contextlib.suppress(OSError), os.scandir(directory) as entries:
        for entry in entries:
            if entry.is_symlink() and os.path.dirname(target := os.readlink(entry.path)) == own:
                remove(target)


# --- names of users' inputs ---


def content_name(path: str, seen: trees.Survey) -> str:
    """Return the cache name of a user's input: the same bytes with other permissions are another file."""
    return _named(digest.of_file(path, DIGEST_BYTES), seen)


def copy_named(source: str, target: str, seen: trees.Survey) -> str:
    """Copy a user's file; return its cache name."""
    found = digest.blake2b(digest_size=DIGEST_BYTES)
    with open(source, "rb") as reader, open(target, "wb") as writer:
        while chunk := reader.read(_CHUNK):
            found.update(chunk)
            writer.write(chunk)
    return _named(found.hexdigest(), seen)


def _named(content: str, seen: trees.Survey) -> str:
    return f"{content}-{seen.mode & 0o777:o}"
