"""A node's cache: which files it holds, under which names, within which quota.

The index here decides; bytes are moved by the functions below it. A file is published by renaming it to its cache
name, so that a name that is there is whole. User inputs are cached under the hash of their content; temp files under
their id. Only inputs that nobody is copying are ever evicted here, least recently used first: a temp file may be the
only copy there is, and its fate is the scheduler's.

What is published is not written to again. So a file whose length or change time is not what it was then has been
spoiled by somebody, and counts as lost.
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
"""Longest file name in bytes that is used as it is; file systems allow 255."""
SETTLED_NS = 50_000_000
"""A file that changed so shortly before it is looked at may change again under the same time stamp: kernels take theirs
from a clock that ticks every 1 to 10 ms."""


class QuotaExceeded(OSError):
    """The quota, not the disk, has no room: ``errno`` is ``ENOSPC``."""


class Spoiled(FileNotFoundError):
    """A cached file is not what was published under its name: ``errno`` is ``ENOENT``."""


class Source(NamedTuple):
    """Another's replica of a file: its path, its size in bytes, its stamp when it was published, and whose it is."""

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
    """What the file of a cached name is called on disk."""
    quoted = quote(name, safe="@", errors="surrogateescape")
    if len(quoted) <= _NAME_LIMIT:
        return quoted
    return blake2b(quoted.encode(), digest_size=32).hexdigest()


class Cache:
    """Index and quota of a directory of files; safe to use from several threads.

    Parameters
    ----------
    directory : str
        An existing directory of the node's own.
    quota : float
        Most bytes that its files may hold together.
    spool : str, optional
        Directory that large results are made in. Those that are in memory there stay where they are, behind a link, and
        copies of other nodes' temp files go there too while it has room.
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
        """Bytes that the files hold, those on their way in included."""
        return self._held + self._reserved

    def path(self, name: str) -> str:
        """Where a cached file is."""
        return os.path.join(self._directory, file_name(name))

    def __contains__(self, name: str) -> bool:
        return name in self._sizes

    def stamp(self, name: str) -> tuple[int, int]:
        """Size in bytes of a cached file, and the stamp that it had when it was published; zeros if it is not there."""
        return self._sizes.get(name, 0), self._stamps.get(name, 0)

    def checked(self, name: str) -> str:
        """Where a cached file is, after a look at it.

        Raises
        ------
        Spoiled
            If it is not what was published, or not there at all; it is dropped.
        """
        path = self.path(name)
        try:
            check(Source(path, *self.stamp(name)))
        except Spoiled:
            self.drop(name)
            raise
        return path

    def pin(self, name: str) -> None:
        """Keep a file from eviction until it is unpinned as often."""
        with self._lock:
            self._pins[name] += 1

    def unpin(self, name: str) -> None:
        """Take one pin back."""
        with self._lock:
            self._pins[name] -= 1
            if self._pins[name] <= 0:
                del self._pins[name]
            self._changed.notify_all()

    def adopt(self, name: str, made: str, within: str = "") -> int:
        """Move a file that a task made into the cache under a temp file's name; a directory goes in as an archive.

        Parameters
        ----------
        within : str, optional
            The task's sandbox: links into it are followed, as it is about to go.

        Returns
        -------
        int
            Its size in bytes.

        Raises
        ------
        OSError
            If it is no regular file or directory; ``ENOSPC`` if the quota or disk cannot hold it.
        """
        status = os.stat(made)
        seen = trees.survey(made, within)
        partial = _partial(self.path(name))
        with self._alone(name), self._room(name, seen.size) as room:
            try:
                if seen.is_tree or trees.is_packed(made):
                    trees.pack(made, partial, within)
                elif os.path.islink(made) or status.st_nlink > 1:  # its bytes are, or may be written to, elsewhere
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
        """Copy a temp file from another node's cache; a no-op if it is there. Returns its size in bytes.

        Raises
        ------
        Spoiled
            If the source is gone, or is not what it was.
        OSError
            If the quota or disk cannot hold it.
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
                    check(source)  # nobody wrote to it meanwhile
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
        """Where the bytes of a copy go."""
        if self._spool is None or roomy(self._spool, size) == self._spool:
            return partial
        import tempfile  # here, since every node imports this module, and few spill into memory

        descriptor, path = tempfile.mkstemp(prefix="copy-", dir=self._fast)
        os.close(descriptor)
        return path

    def obtain(self, source: str, peer: Peer | None = None) -> str:
        """Have a user's input cached by content, pin it, and return its cache name.

        What has not changed since it was cached is not read again; nor is what a peer has a copy of. A directory is
        cached as one archive.

        Raises
        ------
        OSError
            If it cannot be read (``ENOENT`` if it is missing), or the quota or disk cannot hold it.
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
        """Size, cache name and the file's own stamp of a user's input file, if others may copy it from here."""
        known = self._known.get(source)
        return None if known is None or known[1] not in self._sizes else (self._sizes[known[1]], known[1], known[0])

    def drop(self, name: str) -> None:
        """Remove a file, if it is there."""
        with self._lock:
            self._remove(name)

    def make_room(self) -> int:
        """Evict all that may be, as the disk can be full before the quota is. Returns how many bytes went."""
        with self._lock:
            return sum(self._remove(name) for name in self._evictable())

    def _take(self, name: str) -> bool:
        """Pin an input if it is there, and is what was published."""
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
        """Copy what a user has, reading it once, and pin the copy."""
        if not seen.is_tree and self._has_like(seen):  # it may be there: then no room is needed
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
                if not seen.is_tree and trees.is_packed(partial):  # it must not be taken for an archive of ours
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
        """Copy another node's copy of a user's file and pin it; None if it cannot be had, or is not what it was."""
        with self._alone(peer.name):
            if self._take(peer.name):
                return peer.name
            partial = _partial(self.path(peer.name))
            try:
                with self._room(peer.name, os.path.getsize(peer.path)) as room:
                    _fill(peer.path, partial)
                    if _digest(partial) != peer.name.partition("-")[0]:  # somebody has written to it
                        return None
                    self._publish(peer.name, partial, room, temp=False)
            except FileNotFoundError:  # its node has evicted it, or gone
                return None
            finally:
                _unlink(partial)
        return peer.name

    @contextlib.contextmanager
    def _alone(self, name: str) -> Iterator[None]:
        """Let one thread at a time do something about a name."""
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
        """Hold room for a file until it is published, or has failed to be."""
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
            self._held += size - self._sizes.pop(name, 0)  # it may replace bytes of the same name
            self._sizes[name] = size
            self._stamps[name] = os.stat(self.path(name)).st_ctime_ns
            if temp:
                self._temp.add(name)
            else:
                self._pins[name] += 1

    def _reserve(self, size: int, path: str, *, patient: bool) -> None:
        """Set bytes aside, evicting what may be if that is enough; who is patient waits for others' copies to end."""
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
                    reason = f"the node's cache has room for {free:.0f} bytes, and {size} are asked for"
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
    """A lock, and how many threads hold it or wait for it."""

    def __init__(self) -> None:
        self.users = 0
        self._lock = threading.Lock()

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        self._lock.release()


class _Room:
    """Bytes that are set aside for a file on its way into a cache; a file that it replaces counts as some of them."""

    def __init__(self, cache: Cache, name: str) -> None:
        self._cache = cache
        self._path = cache.path(name)
        self._replaced = cache._sizes.get(name, 0)
        self.size = 0
        self.reserved = 0

    def grow(self, size: int) -> None:
        """Have room for a file of so many bytes."""
        wanted = max(0, size - self._replaced)
        if wanted > self.reserved:
            # Two that hold some and wait for more could wait for each other.
            self._cache._reserve(wanted - self.reserved, self._path, patient=not self.reserved)
            self.reserved = wanted
        self.size = size


def release(directory: str, fast: str | None) -> None:
    """Remove what the links of a cache directory lead to, before it goes itself.

    Parameters
    ----------
    directory : str
        Of the cache.
    fast : str or None
        The run's directory in memory. Links to other places are not the cache's: a task has made them.
    """
    if fast is None:
        return
    own = os.path.realpath(fast)
    with contextlib.suppress(OSError), os.scandir(directory) as entries:
        for entry in entries:
            if entry.is_symlink() and os.path.dirname(target := os.readlink(entry.path)) == own:
                _unlink(target)


def copy(source: str, target: str, length: int | None = None) -> int:
    """Copy a file, or its first bytes, so that ``target`` appears whole or not at all; return its size in bytes.

    It shares extents where the file system can. Permissions go with it, except that its owner may always write to it.
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
    """Copy a cached file to where a task or the user wants it; an archive is laid out as the directory that it holds.

    What was not there appears whole or not at all. A directory that is there is added to, file by file.

    Parameters
    ----------
    length : int, optional
        Bytes to copy, if not all.
    """
    _regular(source)
    if trees.is_packed(source):
        trees.unpack(source, target, length)
    else:
        copy(source, target, length)


def _fill(source: str, target: str) -> None:
    status = _regular(source)
    if not _clone(source, target):
        import shutil  # here, since every node imports this module, and few copy so

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
    """Status of a regular file.

    Raises
    ------
    OSError
        If it is anything else: opening a pipe, for one, could take for ever.
    """
    status = os.stat(path)
    if stat.S_ISDIR(status.st_mode):
        raise IsADirectoryError(errno.EISDIR, "it is a directory, and only files can be staged", path)
    if not stat.S_ISREG(status.st_mode):
        raise OSError(errno.EINVAL, "it is not a regular file", path)
    return status


def is_lost(error: BaseException, path: str) -> bool:
    """Whether an error says that the file at a path is not there, or is not what was published.

    Other errors, such as a full disk or a lack of descriptors, say nothing about the file.
    """
    return isinstance(error, OSError) and error.errno in GONE and error.filename == path


def check(source: Source) -> None:
    """See that a cached file is what was published.

    Raises
    ------
    Spoiled
        If it is not, or is not there.
    OSError
        If it cannot be looked at.
    """
    try:
        status = os.stat(source.path)
    except OSError as error:
        if error.errno not in GONE:
            raise
        raise Spoiled(errno.ENOENT, "it is not there any more", source.path) from error
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
    """Replace a file by an archive of it."""
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
    """Cache name of what a user has: the same bytes with other permissions are another file."""
    return f"{digest}-{seen.mode & 0o777:o}"


_partials = itertools.count()


def _partial(target: str) -> str:
    # Short, since the name of the file itself may be as long as names can be.
    return os.path.join(os.path.dirname(target), f".{os.getpid()}-{next(_partials)}.partial")


def _unlink(path: str) -> None:
    with contextlib.suppress(OSError):
        os.unlink(path)
