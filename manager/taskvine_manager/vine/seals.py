"""Lengths at the end of files that stay on TaskVine's workers.

TaskVine copies whatever has the file's name, even if it was cut short. A node therefore ends each file that it creates
with a seal: the length of the content. Every reader checks the seal. The manager cannot supply the length: when
TaskVine recreates a lost file, the new one may have another length.
"""

from __future__ import annotations

import errno
import os
import struct

Inode = tuple[int, int, int, int]
"""Identity of such a file on its worker: its device, inode, size in bytes and modification time in ns."""
_SEAL = struct.Struct("<Q8s")
_MARK = b"TVX-SEAL"


class Cut(OSError):
    """A file was cut short or changed: ``errno`` is ``EIO``."""


def seal(path: str) -> int:
    """Seal a file; return its length without the seal."""
    length = os.path.getsize(path)
    with open(path, "ab") as file:
        file.write(_SEAL.pack(length, _MARK))
    return length


def check(path: str) -> int:
    """Check that a file is whole; return its length without the seal.

    Raises
    ------
    Cut
        If it is not whole.
    OSError
        If it cannot be read.
    """
    with open(path, "rb") as file:
        length = os.fstat(file.fileno()).st_size - _SEAL.size
        said = os.pread(file.fileno(), _SEAL.size, length) if length >= 0 else b""
    if said != _SEAL.pack(max(length, 0), _MARK):
        raise Cut(errno.EIO, "it was cut short or changed after it was created", path)
    return length
