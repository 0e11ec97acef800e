"""Copies of files on other nodes, and whether a copy is still the file that was published.

Nodes never write to a published file. A file whose length or change time has changed since then is spoiled, and counts
as lost.
"""

from __future__ import annotations

import errno
import os
from typing import NamedTuple

from taskvine_manager.runtime.payload import GONE


class Spoiled(FileNotFoundError):
    """A cached file is missing, or was changed after it was published: ``errno`` is ``ENOENT``."""


class Source(NamedTuple):
    """A replica of a file elsewhere: its path, its size in bytes, its stamp when it was published, and its node."""

    path: str
    size: int
    stamp: int
    node: str = ""


class Peer(NamedTuple):
    """Another node's copy of a user's file: its path, its cache name, and the stamp of the user's file."""

    path: str
    name: str
    stamp: tuple[int, ...]


def check(source: Source) -> None:
    """Check that a cached file is unchanged since it was published.

    Raises
    ------
    Spoiled
        If it was changed, or is missing.
    OSError
        If its status cannot be read.
    """
    try:
        status = os.stat(source.path)
    except OSError as error:
        if error.errno not in GONE:
            raise
        raise Spoiled(errno.ENOENT, "it no longer exists", source.path) from error
    if (status.st_size, status.st_ctime_ns) != (source.size, source.stamp):
        raise Spoiled(errno.ENOENT, "it was written to since it was made", source.path)


def is_lost(error: BaseException, path: str) -> bool:
    """Return whether an error says that the file at a path is missing, or was changed after it was published.

    A full disk or a lack of descriptors, for example, says nothing about the file.
    """
    return isinstance(error, OSError) and error.errno in GONE and error.filename == path
