"""Directories of runs and nodes that could not clean up: the same user's next run or node on the machine removes them.

A batch system may kill all processes of a job at once, and a user all processes of a run. Therefore the processes that
would clean up hold a lock on a file in the directory for as long as they live. A directory whose lock is free is
abandoned.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import socket
import sys

from taskvine_manager import cleanup
from taskvine_manager.node import staging, temporary

PREFIX = "taskvine-"
"""Prefix of these directories' names."""
LEFT = "taskvine-worker: cleaned up"
"""Last line that a node prints."""
_LOCK = ".taskvine-node.lock"


def claim(directory: str, token: str, name: str) -> int:
    """Mark a new directory as in use.

    Parameters
    ----------
    directory : str
        The private directory of a run or a node.
    token : str
        Token of the run in the environment of its processes.
    name : str
        The node's name; empty for a run.

    Returns
    -------
    int
        A descriptor: the directory is claimed until all copies of it are closed.
    """
    path = os.path.join(directory, _LOCK)
    descriptor = os.open(f"{path}.new", os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with contextlib.suppress(OSError):  # a file system without locks: sweep() will not get this lock either
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.write(descriptor, json.dumps([socket.gethostname(), token, name]).encode())
    os.rename(f"{path}.new", path)  # the lock is held before the file is visible
    return descriptor


def sweep(root: str) -> list[str]:
    """Remove this user's abandoned directories, and end processes that still belong to them.

    Parameters
    ----------
    root : str
        The temporary directory that contains them.

    Returns
    -------
    list of str
        Paths of the removed directories.
    """
    removed = []
    with contextlib.suppress(OSError), os.scandir(root) as entries:
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
            return False  # machines share this directory: other machines' locks may not be visible here
        with contextlib.suppress(ImportError):  # psutil
            cleanup.kill_strays(token, name or None)
        staging.remove_run(directory)
        temporary.unlink_into(directory)
        return not os.path.exists(directory)
    finally:
        os.close(descriptor)


def say(removed: list[str]) -> None:
    """List removed directories in the job's output."""
    for path in removed:
        sys.stderr.write(f"taskvine-worker: removed {path}, left by processes that were killed\n")
    sys.stderr.flush()


def say_left() -> None:
    """Print that this node has cleaned up; the executor looks for this line in the job's output."""
    with contextlib.suppress(OSError, ValueError):  # the pipe's reader may have ended
        sys.stdout.write(f"{LEFT}\n")
        sys.stdout.flush()
