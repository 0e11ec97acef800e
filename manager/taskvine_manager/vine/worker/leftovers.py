"""Directories of nodes that could not clean up: the same user's next node on that machine removes them.

A batch system may kill all processes of a job at once. A node therefore holds a lock on a file in its directory for as
long as one of its processes that clean up lives. A directory whose lock can be had belongs to nobody any more.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import socket
import sys
import tempfile

from taskvine_manager import cleanup

PREFIX = "taskvine-node-"
"""What the names of nodes' directories begin with, where the run's own directory is not visible."""
LEFT = "taskvine-worker: cleaned up"
"""Line that a node prints last."""
_LOCK = ".taskvine-node.lock"


def claim(directory: str, token: str, name: str) -> int:
    """Mark a new directory as a living node's.

    Parameters
    ----------
    directory : str
        The node's directory.
    token, name : str
        By which its processes are known.

    Returns
    -------
    int
        A descriptor: the directory is claimed until all copies of it are closed.
    """
    path = os.path.join(directory, _LOCK)
    descriptor = os.open(f"{path}.new", os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with contextlib.suppress(OSError):  # a file system without locks: nobody will get this one either
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.write(descriptor, json.dumps([socket.gethostname(), token, name]).encode())
    os.rename(f"{path}.new", path)  # whoever sees it finds it locked
    return descriptor


def sweep() -> list[str]:
    """Remove this user's abandoned directories, and end processes that still belong to them.

    Returns
    -------
    list of str
        Paths of what was removed.
    """
    removed = []
    with contextlib.suppress(OSError), os.scandir(tempfile.gettempdir()) as entries:
        for entry in entries:
            if entry.name.startswith(PREFIX) and entry.is_dir(follow_symlinks=False):
                with contextlib.suppress(OSError, ValueError):
                    if entry.stat(follow_symlinks=False).st_uid == os.getuid() and _remove(entry.path):
                        removed.append(entry.path)
    return removed


def _remove(directory: str) -> bool:
    descriptor = os.open(os.path.join(directory, _LOCK), os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        host, token, name = json.loads(os.read(descriptor, 1 << 16))
        if host != socket.gethostname():
            return False  # a directory that machines share: locks of others may not be seen here
        with contextlib.suppress(ImportError):  # psutil
            cleanup.kill_strays(token, name)
        shutil.rmtree(directory, ignore_errors=True)
        return not os.path.exists(directory)
    finally:
        os.close(descriptor)


def say(removed: list[str]) -> None:
    """Name in the job's output what was removed."""
    for path in removed:
        sys.stderr.write(f"taskvine-worker: removed {path}, which a node that was killed had left\n")
    sys.stderr.flush()


def say_left() -> None:
    """Tell whoever reads the job's output that nothing of this node is left."""
    with contextlib.suppress(OSError, ValueError):  # nobody may be there to read it
        sys.stdout.write(f"{LEFT}\n")
        sys.stdout.flush()
