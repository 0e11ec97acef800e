"""A node's cache: which files it holds, under which names, within which quota.

The class keeps the index; the functions below it move bytes. A file is published by renaming it to its cache name, so a
file under a cache name is always complete. User inputs are cached under the hash of their content, temp files under
their id. The cache evicts only inputs that nobody is copying, least recently used first. Temp files are left to the
scheduler, because a temp file may be the only replica.

The node never writes to a published file. A file whose length or change time has changed since then is spoiled, and
counts as lost.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import itertools
import os
import stat
import sys
import threading
import time
from collections import Counter, OrderedDict
from collections.abc import Iterator
from typing import NamedTuple
from urllib.parse import quote

from taskvine_manager.node import trees
from taskvine_manager.node.digest import blake2b
from taskvine_manager.runtime import spares
from taskvine_manager.runtime.payload import FAST, GONE, roomy

_FICLONE = 0x40049409
"""Linux's ioctl to share a file's extents with a copy (linux/fs.h)."""
_CHUNK = 1 << 20
_NAME_LIMIT = 200
"""Longest file name, in bytes, that is used unchanged; file systems allow 255."""
SETTLED_NS = 50_000_000
"""A file that changed less than this many nanoseconds ago may change again under the same time stamp: the kernel's
clock for time stamps ticks every 1 to 10 ms."""


class QuotaExceeded(OSError):
    """The quota, not the disk, is exhausted: ``errno`` is ``ENOSPC``."""


class Spoiled(FileNotFoundError):
    """A cached file is missing, or was changed after it was published: ``errno`` is ``ENOENT``."""


class Source(NamedTuple):
    """A replica of a file elsewhere: its path, its size in bytes, its stamp when it was published, and its node."""

    path: str
    size: int
    stamp: int
    node: str = ""


class Peer(NamedTuple):
    """Another node's copy of a user's file: its path, its cache name, and the stamp of the user's file."""

    path: str
    name: str
    stamp: tuple[int, ...]


def file_name(name: str) -> str:
    """Return the name on disk of a cached file."""
    quoted = quote(name, safe="@", errors="surrogateescape")
    if len(quoted) <= _NAME_LIMIT:
        return quoted
    return blake2b(quoted.encode(), digest_size=32).hexdigest()


class Cache:
    """Index and quota of a directory of files; thread-safe.

    Parameters
    ----------
    directory : str
        An existing directory that only this node uses.
    quota : float
        Most bytes that its files may take in total.
    spool : str, optional
        Directory for large results. Results in its directory in memory stay there, and the cache holds a link to them.
        Copies of other nodes' temp files go there too while it has space.
    """

    def __init__(self, directory: str, quota: float, spool: str | None = None) -> None:
        self._directory = directory
        self._spool = spool
        self._fast = os.path.realpath(os.path.join(spool, FAST)) if spool is not None else ""
        self._targets: dict[str, str] = {}
        self._quota = quota
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._sizes: OrderedDict[str, int] = OrderedDict()
        self._stamps: dict[str, int] = {}
        self._temp: set[str] = set()
        self._pins: Counter[str] = Counter()
        self._held = 0
        self._reserved = 0
        self._known: dict[str, tuple[tuple[int, ...], str]] = {}
        self._busy: dict[str, _Lock] = {}

    @property
    def used(self) -> int:
        """Bytes that the files take, including space reserved for files that are being added."""
        return self._held + self._reserved

    def path(self, name: str) -> str:
        """Return the path of a cached file."""
        return os.path.join(self._directory, file_name(name))

    def __contains__(self, name: str) -> bool:
        return name in self._sizes

    def stamp(self, name: str) -> tuple[int, int]:
        """Return a cached file's size in bytes and its stamp when it was published; zeros if it is not cached."""
        return self._sizes.get(name, 0), self._stamps.get(name, 0)

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
            self._pins[name] += 1

    def unpin(self, name: str) -> None:
        """Remove one pin."""
        with self._lock:
            self._pins[name] -= 1
            if self._pins[name] <= 0:
                del self._pins[name]
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
        partial = _partial(self.path(name))
        with self._alone(name), self._room(name, seen.size) as room:
            try:
                if seen.is_tree or trees.is_packed(made):
                    trees.pack(made, partial, within)
                elif os.path.islink(made) or status.st_nlink > 1:  # its bytes are elsewhere, or can be changed there
                    _fill(made, partial)
                elif self._fast and os.path.realpath(os.path.dirname(made)) == self._fast:
                    os.symlink(os.path.join(self._fast, os.path.basename(made)), partial)
                else:
                    _move(made, partial)
                self._publish(name, partial, room, temp=True)
            finally:
                _unlink(partial)
        return room.size

    def fetch(self, name: str, source: Source) -> int:
        """Copy a temp file from another node's cache, unless it is cached here already; return its size in bytes.

        Raises
        ------
        Spoiled
            If the source is missing, or was changed.
        OSError
            If it exceeds the quota or the disk.
        """
        partial = _partial(self.path(name))
        with self._alone(name):
            with self._lock:
                if name in self._sizes:
                    return self._sizes[name]
            check(source)
            with self._room(name, source.size) as room:
                landing = self._landing(partial, source.size)
                try:
                    _fill(source.path, landing)
                    check(source)  # it may have been changed during the copy
                    if landing != partial:
                        os.symlink(landing, partial)
                    self._publish(name, partial, room, temp=True)
                except BaseException:
                    _unlink(landing)
                    raise
                finally:
                    _unlink(partial)
        return room.size

    def _landing(self, partial: str, size: int) -> str:
        """Return where to write a copy of this many bytes."""
        if self._spool is None or roomy(self._spool, size) == self._spool:
            return partial
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
        with self._alone(source):
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
        known = self._known.get(source)
        return None if known is None or known[1] not in self._sizes else (self._sizes[known[1]], known[1], known[0])

    def drop(self, name: str) -> None:
        """Remove a file, if it is cached."""
        with self._lock:
            self._remove(name)

    def make_room(self) -> int:
        """Evict all evictable files, since the disk can be full before the quota is; return the bytes freed."""
        with self._lock:
            return sum(self._remove(name) for name in self._evictable())

    def _take(self, name: str) -> bool:
        """Pin an input if it is cached and unchanged; return whether it is."""
        with self._lock:
            if name not in self._sizes:
                return False
            try:
                check(Source(self.path(name), *self.stamp(name)))
            except Spoiled:
                self._remove(name)
                return False
            self._pins[name] += 1
            self._sizes.move_to_end(name)
            return True

    def _bring(self, source: str, seen: trees.Survey) -> str:
        """Copy a user's file or directory, reading it once, and pin the copy."""
        if not seen.is_tree and self._has_like(seen):  # it may be cached already: then no space is needed
            name = _content_name(source, seen)
            if self._take(name):
                return name
        partial = _partial(self._directory + os.sep)
        with self._room(partial, seen.size) as room:
            try:
                if seen.is_tree:
                    trees.pack(source, partial)
                    name = _content_name(partial, seen)
                elif _clone(source, partial):
                    name = _content_name(partial, seen)
                else:
                    name = _copy_named(source, partial, seen)
                if not seen.is_tree and trees.is_packed(partial):  # must not be mistaken for a directory's archive
                    _archive(partial)
                    name = _content_name(partial, seen)
                os.chmod(partial, seen.mode & 0o777)
                with self._alone(name):
                    if not self._take(name):
                        self._publish(name, partial, room, temp=False)
            finally:
                _unlink(partial)
        return name

    def _has_like(self, seen: trees.Survey) -> bool:
        with self._lock:
            return any(size == seen.size and name not in self._temp for name, size in self._sizes.items())

    def _bring_from(self, peer: Peer) -> str | None:
        """Copy another node's copy of a user's file and pin it; None if that copy is gone or was changed."""
        with self._alone(peer.name):
            if self._take(peer.name):
                return peer.name
            partial = _partial(self.path(peer.name))
            try:
                with self._room(peer.name, os.path.getsize(peer.path)) as room:
                    _fill(peer.path, partial)
                    if _digest(partial) != peer.name.partition("-")[0]:  # that copy was changed
                        return None
                    self._publish(peer.name, partial, room, temp=False)
            except FileNotFoundError:  # its node has evicted it, or has left
                return None
            finally:
                _unlink(partial)
        return peer.name

    @contextlib.contextmanager
    def _alone(self, name: str) -> Iterator[None]:
        """Exclude other threads from working on the same name."""
        with self._lock:
            lock = self._busy.setdefault(name, _Lock())
            lock.users += 1
        try:
            with lock:
                yield
        finally:
            with self._lock:
                lock.users -= 1
                if not lock.users:
                    del self._busy[name]

    @contextlib.contextmanager
    def _room(self, name: str, size: int) -> Iterator[_Room]:
        """Reserve space for a file until it is published or has failed."""
        room = _Room(self, name)
        room.grow(size)
        try:
            yield room
        finally:
            with self._lock:
                self._give_back(room)

    def _publish(self, name: str, partial: str, room: _Room, *, temp: bool) -> None:
        size = os.path.getsize(partial)
        room.grow(size)
        with self._lock:
            target = os.readlink(partial) if os.path.islink(partial) else None
            os.replace(partial, self.path(name))
            self._remove_target(name)
            if target is not None:
                self._targets[name] = target
            self._give_back(room)
            self._held += size - self._sizes.pop(name, 0)  # it may replace a file
            self._sizes[name] = size
            self._stamps[name] = os.stat(self.path(name)).st_ctime_ns
            if temp:
                self._temp.add(name)
            else:
                self._pins[name] += 1

    def _reserve(self, size: int, path: str, *, patient: bool) -> None:
        """Reserve bytes; evict inputs if that frees enough. If ``patient``, wait for other threads' copies to end."""
        with self._lock:
            while (excess := self.used + size - self._quota) > 0:
                evictable = self._evictable()
                idle = sum(self._sizes[name] for name in evictable)
                if idle >= excess:
                    while excess > 0:
                        excess -= self._remove(evictable.pop(0))
                    break
                copied = sum(self._sizes.get(name, 0) for name in self._pins if name not in self._temp)
                if not patient or idle + copied + self._reserved < excess:
                    free = max(0.0, size - excess + idle)
                    reason = f"the node's cache can provide {free:.0f} bytes, but {size} are needed"
                    raise QuotaExceeded(errno.ENOSPC, reason, path)
                self._changed.wait()
            self._reserved += size

    def _give_back(self, room: _Room) -> None:
        self._reserved -= room.reserved
        room.reserved = 0
        self._changed.notify_all()

    def _evictable(self) -> list[str]:
        return [name for name in self._sizes if name not in self._temp and name not in self._pins]

    def _remove_target(self, name: str) -> None:
        if (target := self._targets.pop(name, None)) is not None:
            spares.give(target)

    def _remove(self, name: str) -> int:
        size = self._sizes.pop(name, None)
        if size is None:
            return 0
        self._held -= size
        self._stamps.pop(name, None)
        self._temp.discard(name)
        _unlink(self.path(name))
        self._remove_target(name)
        self._changed.notify_all()
        return size


class _Lock:
    """A lock, with the number of threads that hold it or wait for it."""

    def __init__(self) -> None:
        self.users = 0
        self._lock = threading.Lock()

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        self._lock.release()


class _Room:
    """Space that is reserved for a file that is being added; the size of a file that it replaces is subtracted."""

    def __init__(self, cache: Cache, name: str) -> None:
        self._cache = cache
        self._path = cache.path(name)
        self._replaced = cache._sizes.get(name, 0)
        self.size = 0
        self.reserved = 0

    def grow(self, size: int) -> None:
        """Reserve space for a file of this many bytes in total."""
        wanted = max(0, size - self._replaced)
        if wanted > self.reserved:
            # Only the first reservation waits: two threads that hold some space and wait for more could deadlock.
            self._cache._reserve(wanted - self.reserved, self._path, patient=not self.reserved)
            self.reserved = wanted
        self.size = size


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
                _unlink(target)


def copy(source: str, target: str, length: int | None = None) -> int:
    """Copy a file, or its first ``length`` bytes, atomically; return its size in bytes.

    The copy shares extents where the file system can. It keeps the permissions, but its owner may always read and write
    it.
    """
    partial = _partial(target)
    try:
        _fill(source, partial)
        if length is not None:
            os.truncate(partial, length)
        size = os.path.getsize(partial)
        os.replace(partial, target)
        return size
    finally:
        _unlink(partial)


def deliver(source: str, target: str, length: int | None = None) -> None:
    """Copy a cached file to a path of a task or the user; an archive is unpacked into the directory that it holds.

    A new file or directory appears atomically. An existing directory is added to, file by file.

    Parameters
    ----------
    length : int, optional
        Bytes to copy (default: all).
    """
    _regular(source)
    if trees.is_packed(source):
        trees.unpack(source, target, length)
    else:
        copy(source, target, length)


def _fill(source: str, target: str) -> None:
    status = _regular(source)
    if not _clone(source, target):
        import shutil  # here, since every node imports this module, and few copy this way

        shutil.copyfile(source, target)
    os.chmod(target, _mode(status))


def _move(source: str, target: str) -> None:
    os.chmod(source, _mode(os.stat(source)))
    try:
        os.rename(source, target)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        _fill(source, target)


def _clone(source: str, target: str) -> bool:
    if sys.platform != "linux":
        return False
    with open(source, "rb") as reader, open(target, "wb") as writer:
        try:
            fcntl.ioctl(writer.fileno(), _FICLONE, reader.fileno())
        except OSError:  # ext4, tmpfs and most others cannot
            return False
    return True


def _mode(status: os.stat_result) -> int:
    return stat.S_IMODE(status.st_mode) & 0o777 | stat.S_IRUSR | stat.S_IWUSR


def _regular(path: str) -> os.stat_result:
    """Return the status of a regular file.

    Raises
    ------
    OSError
        If it is anything else. For example, opening a pipe could block for ever.
    """
    status = os.stat(path)
    if stat.S_ISDIR(status.st_mode):
        raise IsADirectoryError(errno.EISDIR, "it is a directory, and only files can be staged", path)
    if not stat.S_ISREG(status.st_mode):
        raise OSError(errno.EINVAL, "not a regular file", path)
    return status


def is_lost(error: BaseException, path: str) -> bool:
    """Return whether an error says that the file at a path is missing, or was changed after it was published.

    A full disk or a lack of descriptors, for example, says nothing about the file.
    """
    return isinstance(error, OSError) and error.errno in GONE and error.filename == path


def check(source: Source) -> None:
    """Check that a cached file is unchanged since it was published.

    Raises
    ------
    Spoiled
        If it was changed, or is missing.
    OSError
        If its status cannot be read.
    """
    try:
        status = os.stat(source.path)
    except OSError as error:
        if error.errno not in GONE:
            raise
        raise Spoiled(errno.ENOENT, "it no longer exists", source.path) from error
    if (status.st_size, status.st_ctime_ns) != (source.size, source.stamp):
        raise Spoiled(errno.ENOENT, "it was written to since it was made", source.path)


def _copy_named(source: str, target: str, seen: trees.Survey) -> str:
    """Copy a user's file; return its cache name."""
    digest = blake2b(digest_size=20)
    with open(source, "rb") as reader, open(target, "wb") as writer:
        while chunk := reader.read(_CHUNK):
            digest.update(chunk)
            writer.write(chunk)
    return _named(digest.hexdigest(), seen)


def _archive(path: str) -> None:
    """Replace a file with an archive of it."""
    archive = _partial(path)
    try:
        trees.pack(path, archive)
        os.replace(archive, path)
    finally:
        _unlink(archive)


def _content_name(path: str, seen: trees.Survey) -> str:
    return _named(_digest(path), seen)


def _digest(path: str) -> str:
    digest = blake2b(digest_size=20)
    with open(path, "rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def _named(digest: str, seen: trees.Survey) -> str:
    """Return the cache name of a user's input: the same bytes with other permissions are another file."""
    return f"{digest}-{seen.mode & 0o777:o}"


_partials = itertools.count()


def _partial(target: str) -> str:
    # Short, because the target's name may already have the greatest length that is allowed.
    return os.path.join(os.path.dirname(target), f".{os.getpid()}-{next(_partials)}.partial")


def _unlink(path: str) -> None:
    with contextlib.suppress(OSError):
        os.unlink(path)
