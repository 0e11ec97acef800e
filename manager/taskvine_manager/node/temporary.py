"""Temporary directories of slots and L1 tasks, under a path that is short enough for sockets.

Some programs make sockets in their temporary directory, for example multiprocessing's managers and forkserver. Linux
limits a socket's path to 107 bytes, and paths in a worker's sandbox are longer. Therefore the directory is in the
worker's workspace, and is removed with it, but tasks get a short symbolic link to it.
"""

from __future__ import annotations

import contextlib
import os
import threading

from taskvine_manager.runtime.removal import remove

VARIABLE = "TASKVINE_EXEC_TEMPORARY"
"""Environment variable with the path of a worker's link. The process that starts the worker makes and removes it."""
PREFIX = "tv-"
"""Prefix of the link's name."""
LONGEST_ROOT = 40
"""Most characters of the path before the link's name. The names of link and slot add about twenty, and
multiprocessing's own names 32."""


def link(directory: str) -> str:
    """Make a directory and a link to it; return the link's path, which is short.

    This user's links to directories that no longer exist, left by killed workers, are removed.
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
    """Remove a link, if it exists."""
    with contextlib.suppress(OSError):
        os.unlink(path)


def unlink_into(directory: str) -> None:
    """Remove links to paths in a directory, left by killed workers; the directory need not exist."""
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
    """Remove all files that an earlier user of a link's directory has left in it."""
    for name in os.listdir(path):
        remove(os.path.join(path, name))


class Folders:
    """A node's temporary directories: one for each slot or task, under a name that the caller chooses.

    Parameters
    ----------
    root : str or None
        Parent of these directories. If None, tasks use the temporary directory of the node.
    """

    def __init__(self, root: str | None) -> None:
        self._root = root

    def make(self, name: str) -> dict[str, str]:
        """Make a directory; return the environment variables that name it to programs."""
        if self._root is None:
            return {}
        path = os.path.join(self._root, name)
        os.makedirs(path, 0o700, exist_ok=True)
        return dict.fromkeys(("TMPDIR", "TEMP", "TMP"), path)

    def remove(self, name: str) -> None:
        """Remove a directory whose processes have ended."""
        if self._root is not None:
            remove_soon(os.path.join(self._root, name))


def remove_soon(directory: str) -> None:
    """Remove a directory: at once if it is empty, else in a thread, because that may take long. It need not exist."""
    try:
        os.rmdir(directory)
    except FileNotFoundError:
        pass
    except OSError:  # not empty
        threading.Thread(target=remove, args=(directory,), daemon=True).start()
