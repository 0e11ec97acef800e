"""The file with the password that TaskVine's manager and workers show each other.

Workers on other machines must read it too. It is in the user's home directory, which clusters usually share.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import stat
import tempfile

LONGEST = 1024
"""Largest password in bytes. TaskVine copies it into buffers of 2,048 bytes without checking its length."""


def default_path() -> str:
    """Return the path of the user's password file, in ``$XDG_STATE_HOME`` or ``~/.local/state``."""
    state = os.environ.get("XDG_STATE_HOME", "")
    if not os.path.isabs(state):  # the XDG specification ignores relative paths
        state = os.path.join(os.path.expanduser("~"), ".local", "state")
    return os.path.join(state, "taskvine-exec", "password")


def unusable(path: str) -> str | None:
    """Return what is wrong with a password file and what to do; None if the file can be used."""
    try:
        status = os.stat(path)
        if not stat.S_ISREG(status.st_mode):
            return "it is not a file"
        if status.st_mode & 0o077:
            return f"other users may read or write it (mode {stat.S_IMODE(status.st_mode):o}): chmod 600 {path}"
        with open(path, "rb") as file:
            content = file.read(LONGEST + 1)
    except OSError as error:
        return f"it cannot be read: {error.strerror}"
    if not content.split(b"\0", 1)[0].strip():
        return "it is empty: write a password into it"
    if len(content) > LONGEST:
        return f"it has more than {LONGEST:,} bytes: write a shorter password into it"
    return None


def unmakeable(path: str) -> str | None:
    """Return why a missing file cannot be created; None if it can."""
    directory = os.path.dirname(path)
    while not os.path.lexists(directory):
        directory = os.path.dirname(directory)
    if not os.path.isdir(directory):
        return f"{directory} is not a directory"
    if not os.access(directory, os.W_OK | os.X_OK):
        return f"nothing can be written to {directory}"
    return None


def make(path: str) -> None:
    """Create a file with a random password that only its owner can read. An existing file is kept.

    The file appears atomically, so that processes that create it at the same time read the same password.

    Raises
    ------
    OSError
        If the file cannot be written.
    """
    if os.path.exists(path):
        return
    directory = os.path.dirname(path)
    os.makedirs(directory, mode=0o700, exist_ok=True)
    descriptor, partial = tempfile.mkstemp(dir=directory)  # mkstemp sets the mode 0600
    try:
        with open(descriptor, "wb") as file:
            file.write(secrets.token_hex(32).encode())
            file.flush()
            os.fsync(descriptor)
        try:
            os.link(partial, path)
        except FileExistsError:
            pass
        except OSError:  # a file system without hard links
            os.rename(partial, path)
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(partial)
