"""Files that go with the last who needs them, whatever process that is.

A file that several values use has a short file beside it, which holds its path. A claim to the file is a hard link to
that short file. So the file system counts the claims, processes need not tell each other of them, and a claim says
where the file is. The file itself has one name only.
"""

from __future__ import annotations

import contextlib
import os

_SUFFIX = ".claims"
_ENDING = ".ending"


def offer(file: str) -> None:
    """Let a file be claimed from now on."""
    descriptor = os.open(file + _SUFFIX, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with open(descriptor, "wb", buffering=0) as claims:
        claims.write(os.fsencode(file))


def withdraw(file: str) -> None:
    """Undo an offer that nobody has taken."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(file + _SUFFIX)


def is_offered(file: str) -> bool:
    """Whether a file is there, and can be claimed."""
    return os.path.exists(file + _SUFFIX)


def claim(file: str, path: str) -> None:
    """Make a claim to a file at a path in the same file system.

    Raises
    ------
    FileNotFoundError
        If nobody needed the file any more.
    OSError
        If the file system allows no more claims.
    """
    os.link(file + _SUFFIX, path)


def claimed(path: str) -> str:
    """Return the file that a claim is to."""
    with open(path, "rb", buffering=0) as claim:
        return os.fsdecode(claim.read())


def release(path: str) -> str | None:
    """Give a claim up; return the file if it was the last, for the caller to remove."""
    try:
        file = claimed(path)
        os.unlink(path)
    except FileNotFoundError:
        return None
    claims, ending = file + _SUFFIX, file + _ENDING
    with contextlib.suppress(FileNotFoundError):  # another has come first, and looks once more
        while os.stat(claims).st_nlink == 1:
            os.rename(claims, ending)  # nobody can claim the file from here on
            if os.stat(ending).st_nlink == 1:
                os.unlink(ending)
                return file
            os.rename(ending, claims)  # somebody just had
    return None
