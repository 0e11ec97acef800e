"""Removal of directories in which tasks have written. They may be deep, closed to their owner, or full of links.

Links are removed and never followed, because their targets belong to the user.
"""

from __future__ import annotations

import contextlib
import os
import stat

_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def remove(path: str) -> None:
    """Remove a file or directory as far as possible. It need not exist."""
    try:
        if not stat.S_ISDIR(os.lstat(path).st_mode):
            os.unlink(path)
            return
    except OSError:
        return
    import shutil  # imported here, because every L1 task imports this module, but few need shutil

    with contextlib.suppress(RecursionError):
        shutil.rmtree(path, ignore_errors=True)
    if os.path.lexists(path):
        with contextlib.suppress(OSError):
            _remove_stubborn(path)


def _remove_stubborn(path: str) -> None:
    """Remove a directory that is too deep for :func:`shutil.rmtree`, or has parts that are closed to their owner.

    Directories inside it are moved to its top level one after another. Two descriptors are therefore enough, and paths
    stay short.
    """
    top = _open(path, None)
    try:
        pending = _emptied(top, top)
        while pending:
            name = pending.pop()
            with contextlib.suppress(OSError):
                inner = _open(name, top)
                try:
                    pending += _emptied(inner, top)
                finally:
                    os.close(inner)
                os.rmdir(name, dir_fd=top)
    finally:
        os.close(top)
    os.rmdir(path)


def _open(name: str, parent: int | None) -> int:
    _unlock(name, parent)
    return os.open(name, _FLAGS, dir_fd=parent)


def _unlock(name: str, parent: int | None) -> None:
    """Give the owner of a directory full access to it."""
    descriptor = os.open(name, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
    try:
        os.chmod(f"/proc/self/fd/{descriptor}", 0o700)
    finally:
        os.close(descriptor)


def _emptied(directory: int, top: int) -> list[str]:
    """Remove the files in a directory, and move its subdirectories to the top; return their names there."""
    moved = []
    for name in os.listdir(directory):
        try:
            os.unlink(name, dir_fd=directory)
        except OSError:
            with contextlib.suppress(OSError):
                _unlock(name, directory)
                fresh = f"removed-{os.urandom(8).hex()}"
                os.rename(name, fresh, src_dir_fd=directory, dst_dir_fd=top)
                moved.append(fresh)
    return moved
