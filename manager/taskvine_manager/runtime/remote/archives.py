"""Members of zip and tar archives, unpacked into a task's sandbox."""

from __future__ import annotations

import os
import posixpath
import tarfile
import zipfile
import zlib
from collections.abc import Iterable

from taskvine_manager.runtime.remote.problems import Problem
from taskvine_manager.runtime.removal import remove

_DAMAGED = (zipfile.BadZipFile, tarfile.TarError, EOFError, zlib.error, NotImplementedError, RuntimeError, ValueError)


def unpack(archive: str, kind: str, member: str, target: str) -> None:
    """Unpack a member of an archive: a file, or a directory with its contents.

    Parameters
    ----------
    archive : str
        Path of the archive.
    kind : {'zip', 'tar'}
        Its kind. A tar archive may be compressed.
    member : str
        Path of the member; empty for the whole archive.
    target : str
        Path of the file or directory to make.

    Raises
    ------
    Problem
        If the archive is damaged, leads out of its directory, or has no such member.
    OSError
        If no space is left.
    """
    landing = f"{target}.unpacking"
    os.makedirs(landing)
    member = posixpath.normpath(member) if member else ""
    try:
        {"zip": _unpack_zip, "tar": _unpack_tar}[kind](archive, member, landing)
    except _DAMAGED as error:
        raise Problem(f"it cannot be unpacked: {type(error).__name__}: {error}") from error
    inside = os.path.join(landing, member) if member else landing
    if not os.path.lexists(inside):
        raise Problem(f"the archive has no member {member!r}")
    os.rename(inside, target)
    if member:
        remove(landing)


def _below(names: Iterable[str], member: str) -> list[str]:
    """Return the names of a member and of all that is in it."""
    return [name for name in names if not member or _is_in(name, member)]


def _is_in(name: str, member: str) -> bool:
    name = posixpath.normpath(name)
    return name == member or name.startswith(f"{member}/")


def _unpack_zip(archive: str, member: str, directory: str) -> None:
    with zipfile.ZipFile(archive) as opened:
        for name in _below(opened.namelist(), member):
            path = opened.extract(name, directory)  # never outside of the directory
            mode = opened.getinfo(name).external_attr >> 16 & 0o777
            if mode and os.path.isfile(path):
                os.chmod(path, mode | 0o600)


def _unpack_tar(archive: str, member: str, directory: str) -> None:
    with tarfile.open(archive, "r:*") as opened:
        names = set(_below(opened.getnames(), member))
        wanted = [entry for entry in opened.getmembers() if entry.name in names]
        if not hasattr(tarfile, "data_filter"):
            raise Problem("this Python cannot unpack tar archives safely: use a newer patch release")
        # The filter refuses absolute paths, links that lead out of the directory, and devices.
        opened.extractall(directory, wanted, filter="data")
