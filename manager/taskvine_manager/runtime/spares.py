"""Spares: unused files in memory, kept to be overwritten by later results.

The kernel must find and clear each page of a new file in memory. This takes as long as filling the page, and several
times as long if a virtual machine returns memory to its host. Reusing the pages of results that are no longer needed
avoids this.

A process that still maps a file would see it change. A file therefore becomes a spare only if the kernel grants a
`write lease <https://man7.org/linux/man-pages/man2/F_SETLEASE.2const.html>`_, which means that no process has it open
or mapped.
"""

from __future__ import annotations

import contextlib
import fcntl
import os

LEAST = 1 << 20
"""Size in bytes of the smallest file that is worth keeping."""
MOST = 512 << 20
"""Most bytes in all spares of a run. They also never exceed a sixteenth of the file system."""
_DIRECTORY = "spares"


def give(path: str) -> bool:
    """Turn a file into a spare, unless there are enough spares or a process reads the file; return whether it is one.

    In either case, the path does not exist any more.
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
        os.rename(path, unseen)  # no process opens it from now on
        if _is_free(unseen):
            os.rename(unseen, os.path.join(directory, f"{size}-{os.path.basename(path)}"))
            return True
    except OSError:
        _unlink(path)
    _unlink(unseen)
    return False


def take(directory: str, size: int, prefix: str) -> tuple[int, str] | None:
    """Take a spare to write to: the smallest that is large enough, or else the largest.

    Parameters
    ----------
    directory : str
        Directory of the original file, in which the spare gets its new name.
    size : int
        Number of bytes that will be written.
    prefix : str
        Prefix of the new name.

    Returns
    -------
    tuple of (int, str), or None
        A descriptor open for writing, and a path. The file holds old bytes and may be too long.
    """
    if size < LEAST:
        return None
    import tempfile  # imported here, because every node imports this module, but few take spares

    spares = os.path.join(directory, _DIRECTORY)
    sizes = _sizes(spares)
    for name in sorted(sizes, key=lambda name: (sizes[name] < size, abs(sizes[name] - size))):
        descriptor, path = tempfile.mkstemp(prefix=prefix, dir=directory)
        os.close(descriptor)
        try:
            os.rename(os.path.join(spares, name), path)
            return os.open(path, os.O_WRONLY), path
        except OSError:  # another process has just taken it, or this one can open no more files
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
