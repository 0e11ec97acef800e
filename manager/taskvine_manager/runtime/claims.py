"""Files that several values use, counted by the file system.

Beside such a file is a short *claims file*, which holds the file's path. A claim is a hard link to the claims file. The
file system therefore counts the claims, processes need not tell each other about them, and each claim leads to the
file. The file itself has a single name, so that tools which add up sizes count it once.
"""

from __future__ import annotations

import contextlib
import errno
import os

_SUFFIX = ".claims"
_ENDING = ".ending"
_LONGEST = 4096
"""Longest path, in bytes, that Linux accepts."""


def offer(file: str) -> None:
    """Make a file claimable."""
    descriptor = os.open(file + _SUFFIX, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with open(descriptor, "wb", buffering=0) as claims:
        claims.write(os.fsencode(file))


def withdraw(file: str) -> None:
    """Make a file that has no claims unclaimable."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(file + _SUFFIX)


def is_offered(file: str) -> bool:
    """Whether a file exists and can be claimed."""
    return os.path.exists(file + _SUFFIX)


def count(claim: str) -> int:
    """Return the number of claims to the file that a claim refers to."""
    return os.stat(claim).st_nlink - 1


def claim(file: str, path: str) -> None:
    """Make a claim to a file at a path in the same file system.

    Raises
    ------
    FileNotFoundError
        If the last claim has been released: the file is gone or about to go.
    OSError
        If the file system allows no more claims.
    """
    os.link(file + _SUFFIX, path)
    # The kernel looks the claims file up before it links it. In between, a process that releases the last claim may
    # rename the claims file, count its links and decide to remove the file.
    if not is_offered(file):
        if (last := release(path)) is not None:
            os.unlink(last)
        raise FileNotFoundError(errno.ENOENT, "its last claim is being released", file)


def duplicate(claim: str, path: str) -> None:
    """Make a second claim, at a path, to the file that a claim refers to.

    Raises
    ------
    FileNotFoundError
        If there is no such claim.
    OSError
        If the file system allows no more claims.
    """
    os.link(claim, path)


def claimed(path: str) -> str:
    """Return the path of the file that a claim refers to.

    Raises
    ------
    ValueError
        If the file at this path is not a claim.
    """
    with open(path, "rb", buffering=0) as claim:
        content = claim.read(_LONGEST + 1)
    if not content or len(content) > _LONGEST or b"\0" in content:
        raise ValueError(f"{path}: not a claim to a shared buffer")
    return os.fsdecode(content)


def release(path: str) -> str | None:
    """Remove a claim. If it was the last, return the path of the file, which the caller must remove."""
    try:
        file = claimed(path)
        os.unlink(path)
    except FileNotFoundError:
        return None
    claims, ending = file + _SUFFIX, file + _ENDING
    # If the claims file is not there, another process is in this loop. It will check the count again, unless it has
    # seen no other claim: then no other claim is valid (see claim).
    with contextlib.suppress(FileNotFoundError):
        while os.stat(claims).st_nlink == 1:
            os.rename(claims, ending)  # from here on the file cannot be claimed
            if os.stat(ending).st_nlink == 1:
                os.unlink(ending)
                return file
            os.rename(ending, claims)  # it was claimed just before
    return None
