"""Lengths at the end of files that stay on TaskVine's workers.

TaskVine hands on whatever is under a file's name, also what is left of it. So a node ends each file that it makes with
a seal: the length of what is before it. Whoever reads the file checks the seal. The length cannot come from the manager
instead: when TaskVine makes a lost file again, the new one may have another length.
"""

from __future__ import annotations

import errno
import os
import struct

_SEAL = struct.Struct("<Q8s")
_MARK = b"TVX-SEAL"


class Cut(OSError):
    """A file is not all that was made: ``errno`` is ``EIO``."""


def seal(path: str) -> int:
    """Seal a file; return its length before that."""
    length = os.path.getsize(path)
    with open(path, "ab") as file:
        file.write(_SEAL.pack(length, _MARK))
    return length


def check(path: str) -> int:
    """See that a file is whole; return its length without the seal.

    Raises
    ------
    Cut
        If it is not.
    OSError
        If it cannot be read.
    """
    with open(path, "rb") as file:
        length = os.fstat(file.fileno()).st_size - _SEAL.size
        said = os.pread(file.fileno(), _SEAL.size, length) if length >= 0 else b""
    if said != _SEAL.pack(max(length, 0), _MARK):
        raise Cut(errno.EIO, "it was cut short or written to since it was made", path)
    return length
