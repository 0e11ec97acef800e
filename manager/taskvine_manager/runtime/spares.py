"""Files in memory that nobody reads any more, kept to be written over.

The pages of a new file in memory have to be found and cleared one by one, which takes as long as filling them; where a
virtual machine hands memory back to its host, several times as long. A workflow whose large results come and go needs
no new ones.

Who still maps a file would see it change. So a file becomes a spare only when the kernel says that no process has it
open or mapped: that is when it grants a `write lease <https://man7.org/linux/man-pages/man2/F_SETLEASE.2const.html>`_.
"""

from __future__ import annotations

import contextlib
import fcntl
import os

LEAST = 1 << 20
"""Bytes of the smallest file that is worth it."""
MOST = 512 << 20
"""Bytes that the spares of a run may hold together; nor are they ever more than a sixteenth of the file system."""
_DIRECTORY = "spares"


def give(path: str) -> bool:
    """Make a spare of a file, unless there are enough, or somebody reads it; say whether it is one now.

    Whatever becomes of it, the file is not there any more.
    """
    directory = os.path.join(os.path.dirname(path), _DIRECTORY)
    unseen = os.path.join(directory, f".{os.path.basename(path)}")
    try:
        status = os.stat(path)
        size = status.st_size
        if size < LEAST or status.st_nlink > 1:  # another name of the file means that somebody still needs its bytes
            os.unlink(path)
            return False
        os.makedirs(directory, mode=0o700, exist_ok=True)
        there = os.statvfs(directory)
        if size + sum(_sizes(directory).values()) > min(MOST, there.f_blocks * there.f_frsize // 16):
            os.unlink(path)
            return False
        os.rename(path, unseen)  # nobody opens it from now on
        if _is_free(unseen):
            os.rename(unseen, os.path.join(directory, f"{size}-{os.path.basename(path)}"))
            return True
    except OSError:
        _unlink(path)
    _unlink(unseen)
    return False


def take(directory: str, size: int, prefix: str) -> tuple[int, str] | None:
    """Get a spare to write to: one that is large enough if there is any, else the largest.

    Parameters
    ----------
    directory : str
        Where the file that gave it was, and where it will be again.
    size : int
        Bytes that are to be written.
    prefix : str
        Of its new name.

    Returns
    -------
    tuple of (int, str), or None
        A descriptor open for writing, and a path. The file holds old bytes, and may be too long.
    """
    if size < LEAST:
        return None
    import tempfile  # here, since every node imports this module, and few take spares

    spares = os.path.join(directory, _DIRECTORY)
    sizes = _sizes(spares)
    for name in sorted(sizes, key=lambda name: (sizes[name] < size, abs(sizes[name] - size))):
        descriptor, path = tempfile.mkstemp(prefix=prefix, dir=directory)
        os.close(descriptor)
        try:
            os.rename(os.path.join(spares, name), path)
            return os.open(path, os.O_WRONLY), path
        except OSError:  # another has taken it just now, or this process can open no more files
            _unlink(path)
    return None


def _sizes(directory: str) -> dict[str, int]:
    try:
        names = os.listdir(directory)
    except FileNotFoundError:
        return {}
    return {name: int(name.partition("-")[0]) for name in names if not name.startswith(".")}


def _is_free(path: str) -> bool:
    descriptor = os.open(path, os.O_RDWR)
    try:
        fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_WRLCK)
        fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    except OSError:
        return False
    finally:
        os.close(descriptor)
    return True


def _unlink(path: str) -> None:
    with contextlib.suppress(OSError):
        os.unlink(path)
