"""Copies of single files, and the delivery of cached files."""

from __future__ import annotations

import errno
import fcntl
import os
import stat

from taskvine_manager.node import trees
from taskvine_manager.node.partials import partial

_FICLONE = 0x40049409
"""Linux's ioctl to share a file's extents with a copy (linux/fs.h)."""


def copy(source: str, target: str, length: int | None = None) -> int:
    """Copy a file, or its first ``length`` bytes, atomically; return its size in bytes.

    The copy shares extents where the file system can. It keeps the permissions, but its owner may always read and write
    it.
    """
    with partial(target) as landing:
        fill(source, landing)
        if length is not None:
            os.truncate(landing, length)
        size = os.path.getsize(landing)
        os.replace(landing, target)
        return size


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


def move(source: str, target: str) -> None:
    """Move a file, or copy it if the target is on another file system."""
    os.chmod(source, trees.permissions(os.stat(source)))
    try:
        os.rename(source, target)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        fill(source, target)


def fill(source: str, target: str) -> None:
    """Copy a regular file, not atomically."""
    status = _regular(source)
    if not clone(source, target):
        import shutil  # here, since every node imports this module, and few copy this way

        shutil.copyfile(source, target)
    os.chmod(target, trees.permissions(status))


def clone(source: str, target: str) -> bool:
    """Copy a file by sharing its extents; return false if the file system cannot."""
    with open(source, "rb") as reader, open(target, "wb") as writer:
        try:
            fcntl.ioctl(writer.fileno(), _FICLONE, reader.fileno())
        except OSError:  # ext4, tmpfs and most others cannot
            return False
    return True


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
