"""A node's cache: which files it holds, under which names, within which quota.

The index here decides; bytes are moved by the functions below it. A file is published by renaming it to its cache
name, so that a name that is there is whole. User inputs are cached under the hash of their content; temp files under
their id. Only inputs that nothing running or pending uses are ever evicted, least recently used first: a temp file
may be the only copy there is.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import shutil
import sys
import threading
from collections import Counter, OrderedDict
from urllib.parse import quote

_FICLONE = 0x40049409
"""Linux's ioctl to share a file's extents with a copy (linux/fs.h)."""
_CHUNK = 1 << 20


class Cache:
    """Index and quota of a directory of files; safe to use from several threads.

    Parameters
    ----------
    directory : str
        An existing directory of the node's own.
    quota : float
        Most bytes that its files may hold together.
    """

    def __init__(self, directory: str, quota: float) -> None:
        self._directory = directory
        self._quota = quota
        self._lock = threading.Lock()
        self._sizes: OrderedDict[str, int] = OrderedDict()
        self._temp: set[str] = set()
        self._pins: Counter[str] = Counter()
        self._used = 0
        self._known: dict[tuple[str, int, int, int], str] = {}
        self._copying: dict[str, threading.Lock] = {}

    @property
    def used(self) -> int:
        """Bytes that the files hold."""
        return self._used

    def path(self, name: str) -> str:
        """Where a cached file is."""
        return os.path.join(self._directory, quote(name, safe="@"))

    def __contains__(self, name: str) -> bool:
        return name in self._sizes

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

    def adopt(self, name: str, made: str) -> int:
        """Move a file that a task made into the cache under a temp file's name.

        Returns
        -------
        int
            Its size in bytes.

        Raises
        ------
        OSError
            ``ENOSPC`` if the quota cannot hold it.
        """
        size = os.path.getsize(made)
        self._reserve(size, name)
        try:
            try:
                os.rename(made, self.path(name))
            except OSError as error:
                if error.errno != errno.EXDEV:
                    raise
                copy(made, self.path(name))
        except BaseException:
            self._release(size)
            raise
        self._publish(name, size, temp=True)
        return size

    def fetch(self, name: str, source: str) -> int:
        """Copy a temp file from another node's cache; a no-op if it is there. Returns its size in bytes.

        Raises
        ------
        OSError
            If the source is gone, or the quota or disk cannot hold it.
        """
        with self._copy_lock(name):
            if name in self._sizes:
                return self._sizes[name]
            size = os.path.getsize(source)
            self._reserve(size, name)
            try:
                copy(source, self.path(name))
            except BaseException:
                self._release(size)
                raise
            self._publish(name, size, temp=True)
            return size

    def obtain(self, source: str) -> str:
        """Have a user's input file cached by content, pin it, and return its cache name.

        A file whose path, size, inode and modification time are known is not read again.

        Raises
        ------
        OSError
            If it cannot be read (``ENOENT`` for a missing file), or the quota or disk cannot hold it.
        """
        status = os.stat(source)
        key = (source, status.st_size, status.st_mtime_ns, status.st_ino)
        with self._copy_lock(source):
            name = self._known.get(key)
            with self._lock:
                if name is not None and name in self._sizes:
                    self._pins[name] += 1
                    self._sizes.move_to_end(name)
                    return name
            name = _digest(source)
            with self._lock:
                self._pins[name] += 1
            try:
                with self._copy_lock(name):
                    if name not in self._sizes:
                        self._reserve(status.st_size, name)
                        try:
                            copy(source, self.path(name))
                        except BaseException:
                            self._release(status.st_size)
                            raise
                        self._publish(name, status.st_size, temp=False)
            except BaseException:
                self.unpin(name)
                raise
            self._known[key] = name
            return name

    def drop(self, name: str) -> None:
        """Remove a file, if it is there."""
        with self._lock:
            self._remove(name)

    def _copy_lock(self, name: str) -> threading.Lock:
        with self._lock:
            return self._copying.setdefault(name, threading.Lock())

    def _publish(self, name: str, size: int, *, temp: bool) -> None:
        with self._lock:
            self._used -= self._sizes.pop(name, 0)  # a newer version of the same name replaces its bytes
            self._sizes[name] = size
            if temp:
                self._temp.add(name)

    def _reserve(self, size: int, name: str) -> None:
        with self._lock:
            evictable = [old for old in self._sizes if old not in self._temp and not self._pins.get(old)]
            while self._used + size > self._quota and evictable:
                self._remove(evictable.pop(0))
            if self._used + size > self._quota:
                room = self._quota - self._used
                raise OSError(errno.ENOSPC, f"cache quota: {size} bytes asked for, {room:.0f} free", self.path(name))
            self._used += size

    def _release(self, size: int) -> None:
        with self._lock:
            self._used -= size

    def _remove(self, name: str) -> None:
        if name in self._sizes:
            self._used -= self._sizes.pop(name)
            self._temp.discard(name)
            try:
                os.unlink(self.path(name))
            except FileNotFoundError:
                pass


def copy(source: str, target: str) -> None:
    """Copy a file so that ``target`` appears whole or not at all, sharing extents where the file system can."""
    partial = f"{target}.{threading.get_ident()}.partial"
    try:
        with open(source, "rb") as reader, open(partial, "wb") as writer:
            if not _clone(reader.fileno(), writer.fileno()):
                shutil.copyfileobj(reader, writer, _CHUNK)
        os.rename(partial, target)
    except BaseException:
        try:
            os.unlink(partial)
        except FileNotFoundError:
            pass
        raise


def _clone(reader: int, writer: int) -> bool:
    if sys.platform != "linux":
        return False
    try:
        fcntl.ioctl(writer, _FICLONE, reader)
    except OSError:  # ext4, tmpfs and most others cannot
        return False
    return True


def _digest(path: str) -> str:
    digest = hashlib.blake2b(digest_size=20)
    with open(path, "rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()
