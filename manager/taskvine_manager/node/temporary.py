"""Temporary directories of slots and L1 tasks, under a path that is short enough for sockets.

Programs make sockets in their temporary directory: multiprocessing's managers and forkserver, for example. Linux takes
107 bytes for a socket's path, and a worker's sandbox is too deep for that. So the directory is in the worker's
workspace, and goes with it, and tasks are given a short symbolic link to it.
"""

from __future__ import annotations

import contextlib
import os
import threading

from taskvine_manager.runtime.removal import remove

VARIABLE = "TASKVINE_EXEC_TEMPORARY"
"""Environment variable of a worker: the link, made by the process that started it and removed by that one."""
PREFIX = "tv-"
"""Of the link's name."""
LONGEST_ROOT = 40
"""Characters that the path may have before the link's name. The names of link and slot add some twenty, and
multiprocessing's own names 32."""


def link(directory: str) -> str:
    """Make a directory, and a link to it that has a short path; return the link's.

    Links of this user's to directories that are gone are removed: those of workers that were killed.
    """
    os.makedirs(directory, mode=0o700, exist_ok=True)
    import tempfile  # here, since every node imports this module, and only workers have links

    root = tempfile.gettempdir()
    if len(root) > LONGEST_ROOT and os.access("/tmp", os.W_OK):
        root = "/tmp"
    for entry in _links(root):
        with contextlib.suppress(OSError):
            if not os.path.exists(entry.path) and entry.stat(follow_symlinks=False).st_uid == os.getuid():
                unlink(entry.path)
    while True:
        path = os.path.join(root, PREFIX + os.urandom(4).hex())
        with contextlib.suppress(FileExistsError):
            os.symlink(os.path.abspath(directory), path)
            return path


def unlink(path: str) -> None:
    """Remove a link, if it is still there."""
    with contextlib.suppress(OSError):
        os.unlink(path)


def unlink_into(directory: str) -> None:
    """Remove links to what is, or was, in a directory: those of workers that were killed."""
    import tempfile

    within = os.path.join(os.path.abspath(directory), "")
    for root in {tempfile.gettempdir(), "/tmp"}:
        for entry in _links(root):
            with contextlib.suppress(OSError):
                if os.readlink(entry.path).startswith(within):
                    unlink(entry.path)


def _links(root: str) -> list[os.DirEntry[str]]:
    with contextlib.suppress(OSError), os.scandir(root) as entries:
        return [entry for entry in entries if entry.name.startswith(PREFIX) and entry.is_symlink()]
    return []


def empty(path: str) -> None:
    """Remove what an earlier user of a link's directory has left there."""
    for name in os.listdir(path):
        remove(os.path.join(path, name))


class Folders:
    """A node's temporary directories, one for each slot or task, named by whoever asks for them.

    Parameters
    ----------
    root : str or None
        Where they are made. None: tasks use the temporary directory of the node.
    """

    def __init__(self, root: str | None) -> None:
        self._root = root

    def make(self, name: str) -> dict[str, str]:
        """Make a directory; return the environment variables by which programs find it."""
        if self._root is None:
            return {}
        path = os.path.join(self._root, name)
        os.makedirs(path, 0o700, exist_ok=True)
        return dict.fromkeys(("TMPDIR", "TEMP", "TMP"), path)

    def remove(self, name: str) -> None:
        """Remove a directory whose processes have ended."""
        if self._root is None:
            return
        path = os.path.join(self._root, name)
        try:
            os.rmdir(path)
        except FileNotFoundError:
            pass
        except OSError:  # there is something in it, and removing that may take its time
            threading.Thread(target=remove, args=(path,), daemon=True).start()
