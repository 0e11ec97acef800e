"""Files of one invocation on a node: into its sandbox before it runs, out of it afterwards.

Inputs are copies, never links into the cache: a task may write into what it reads, and the next consumer must not see
that. (The copy shares extents on file systems that can.)
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterable, Mapping

from taskvine_manager.embedded.cache import Cache, copy
from taskvine_manager.messages import FileUse
from taskvine_manager.runtime import failure


class StagingFailed(Exception):
    """A file could not be brought in or out; ``record`` is the failure record to report."""

    def __init__(self, record: bytes) -> None:
        super().__init__(record)
        self.record = record


def bring_in(
    inputs: Iterable[FileUse], outputs: Iterable[FileUse], sandbox: str, cache: Cache, sources: Mapping[str, str]
) -> list[str]:
    """Fill a sandbox.

    Parameters
    ----------
    inputs, outputs : iterable of FileUse
        Inputs are copied in; for outputs, their directories are made.
    sandbox : str
        An existing, empty directory.
    cache : Cache
        The node's.
    sources : mapping of str to str
        Where temp files that are not in the cache can be copied from.

    Returns
    -------
    list of str
        Cache names that were pinned for the invocation.

    Raises
    ------
    StagingFailed
        With what could not be had, and why; nothing stays pinned.
    """
    pinned: list[str] = []
    try:
        for use in inputs:
            try:
                name = _cached(use, cache, sources)
                pinned.append(name)
                copy(cache.path(name), _inside(sandbox, use.name))
            except OSError as error:
                raise StagingFailed(_explain(use, error)) from error
        for use in outputs:
            _inside(sandbox, use.name)
    except BaseException:
        for name in pinned:
            cache.unpin(name)
        raise
    return pinned


def _cached(use: FileUse, cache: Cache, sources: Mapping[str, str]) -> str:
    if use.kind == "local":
        return cache.obtain(use.source)
    cache.pin(use.source)
    try:
        if use.source not in cache:
            source = sources.get(use.source)
            if source is None:
                raise FileNotFoundError(errno.ENOENT, "no replica", use.source)
            cache.fetch(use.source, source)
    except BaseException:
        cache.unpin(use.source)
        raise
    return use.source


def _inside(sandbox: str, name: str) -> str:
    path = os.path.normpath(os.path.join(sandbox, name))
    if not path.startswith(sandbox + os.sep):
        reason = f"{name} points out of the task's sandbox"
        raise StagingFailed(failure.lost("file-missing", reason, path=name))
    os.makedirs(os.path.dirname(path), exist_ok=True)
    return path


def bring_out(
    outputs: Iterable[FileUse], sandbox: str, cache: Cache, *, required: bool
) -> tuple[list[tuple[str, int]], bytes | None]:
    """Empty a sandbox: temp files into the cache, others to the user's paths.

    Parameters
    ----------
    required : bool
        Whether a file that is not there is a failure: it is not when the function itself failed.

    Returns
    -------
    made : list of (str, int)
        Temp files, with their sizes in bytes.
    record : bytes or None
        Failure record of the first output that could not be brought out.
    """
    made: list[tuple[str, int]] = []
    record = None
    for use in outputs:
        path = os.path.join(sandbox, use.name)
        if not os.path.exists(path):
            if required and record is None:
                reason = f"the task ended without writing its output {use.name}"
                record = failure.lost("output-missing", reason, path=use.name)
            continue
        try:
            if use.kind == "temp":
                made.append((use.source, cache.adopt(use.source, path)))
            else:
                os.makedirs(os.path.dirname(use.source), exist_ok=True)
                copy(path, use.source)
        except OSError as error:
            record = record or _explain(use, error)
    return made, record


def _explain(use: FileUse, error: OSError) -> bytes:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        reason = f"no room for {use.name}: {error.strerror or error}"
        return failure.lost("disk-full", reason, path=error.filename or use.name)
    if error.errno == errno.ENOENT and use.kind == "temp":
        return failure.lost("file-lost", f"no replica of {use.source} could be read", name=use.source)
    reason = f"{use.source}: {error.strerror or error}"
    return failure.lost("file-missing", reason, path=use.source)


def remove(directory: str) -> None:
    """Remove a directory, with what a task may have made unreadable in it."""
    shutil.rmtree(directory, ignore_errors=True)
    if os.path.isdir(directory):
        for root, folders, _ in os.walk(directory):
            for folder in folders:
                os.chmod(os.path.join(root, folder), 0o700)
        shutil.rmtree(directory, ignore_errors=True)
