"""Staging of a task's files and directories: into its sandbox before it runs, out of it afterwards.

Inputs are copies, never links into the cache: a task may write to its inputs, and other readers must not see that. (A
copy shares extents on file systems that can.)
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import TypeVar

from taskvine_manager.node import temporary, trees
from taskvine_manager.node.cache import Cache, QuotaExceeded
from taskvine_manager.node.copying import copy, deliver
from taskvine_manager.node.replicas import Peer, Source, Spoiled, is_lost
from taskvine_manager.runtime import failure
from taskvine_manager.runtime.payload import FAST, is_full
from taskvine_manager.runtime.removal import remove
from taskvine_manager.wire.messages import FileUse

_T = TypeVar("_T")
MEMORY_VARIABLE = "TASKVINE_EXEC_MEMORY"
"""Environment variable: the directory on a file system in memory to use instead of ``/dev/shm``; empty for none."""
_LEAST_MEMORY = 1 << 30
"""Bytes of the smallest file system in memory that is used: containers often have one of only 64 MB."""
MARK = ".taskvine-run"
"""File in a run's directory in memory that holds the path of the run's private directory."""


def bring_in(
    inputs: Iterable[FileUse],
    outputs: Iterable[FileUse],
    sandbox: str,
    cache: Cache,
    sources: Mapping[str, Source],
    peers: Mapping[str, Peer],
) -> bytes | None:
    """Fill a sandbox.

    Parameters
    ----------
    inputs, outputs : iterable of FileUse
        Inputs are copied in, except results of other tasks, which are read from the cache. For outputs, parent
        directories are made, and the output itself if it is a directory that the user already has.
    sandbox : str
        An existing, empty directory.
    cache : Cache
        The node's cache.
    sources : mapping of str to Source
        Replicas of temp files that are not in the cache, by id. They are copied into the cache, and stay there.
    peers : mapping of str to Peer
        Copies of users' files on other nodes, by path.

    Returns
    -------
    bytes or None
        Failure record of the first file that cannot be staged.
    """
    for use in inputs:
        try:
            if use.kind == "value":
                _fetch(use.source, cache, sources.get(use.source))
                continue
            target = inside(sandbox, use.name)
            if use.kind == "temp":
                _fetch(use.source, cache, sources.get(use.source))
                _with_room(cache, partial(deliver, cache.checked(use.source), target))
            else:
                _with_room(cache, partial(_copy_local, use.source, cache, peers.get(use.source), target))
        except Exception as error:  # also ValueError for an invalid file name, RecursionError for too deep a path
            source = sources.get(use.source)
            places = [cache.path(use.source), *([source.path] if source is not None else [])]
            return _explain_input(use, error, places)
    for use in outputs:
        try:
            if use.kind != "value":
                prepare(sandbox, use)
        except Exception as error:
            return explain_output(use, error)
    return None


def _copy_local(source: str, cache: Cache, peer: Peer | None, target: str) -> None:
    name = cache.obtain(source, peer)
    try:
        deliver(cache.path(name), target)
    finally:
        cache.unpin(name)


def _fetch(file: str, cache: Cache, source: Source | None) -> None:
    if file in cache:
        return
    if source is None:
        raise Spoiled(errno.ENOENT, "no node is known to have it", file)
    _with_room(cache, partial(cache.fetch, file, source))


def _with_room(cache: Cache, action: Callable[[], _T]) -> _T:
    """Do an action that writes; if the disk is full, evict what the cache can spare and try once more."""
    try:
        return action()
    except QuotaExceeded:
        raise
    except OSError as error:
        if error.errno != errno.ENOSPC or not cache.make_room():
            raise
    return action()


def inside(sandbox: str, name: str) -> str:
    """Return the path of a file in a sandbox, and make its parent directories.

    Raises
    ------
    ValueError
        If the path is not below the sandbox.
    """
    path = os.path.normpath(os.path.join(sandbox, name))
    if path == sandbox or not trees.is_in(path, sandbox):
        raise ValueError(f"{name} points out of the task's sandbox")
    os.makedirs(os.path.dirname(path), exist_ok=True)
    return path


def prepare(sandbox: str, use: FileUse) -> None:
    """Make an output's parent directories, and the output itself if it is a directory that the user already has."""
    path = inside(sandbox, use.name)
    if use.directory:
        os.makedirs(path, exist_ok=True)


def bring_home(made: str, target: str, sandbox: str) -> None:
    """Copy an output to the user's path; a directory is merged into an existing one.

    Raises
    ------
    OSError
        If it is a special file, such as a pipe, or cannot be written.
    """
    os.makedirs(os.path.dirname(target), exist_ok=True)
    if os.path.isdir(made):
        trees.copy_tree(made, target, sandbox)
    else:
        copy(made, target)


def bring_out(
    outputs: Sequence[FileUse], sandbox: str, cache: Cache, *, required: bool
) -> tuple[list[tuple[str, int, int]], bytes | None]:
    """Move outputs out of a sandbox: temp files into the cache, others to the user's paths.

    Temp files of a failed task are not kept, because they may be incomplete. A task has also failed if one of its
    outputs is missing. The user's files are copied even then, because they may show why the task failed.

    Parameters
    ----------
    required : bool
        Whether a missing file is a failure; false if the function itself failed.

    Returns
    -------
    made : list of (str, int, int)
        Temp files, with their sizes in bytes and their stamps.
    record : bytes or None
        Failure record of the first output that could not be staged.

    Raises
    ------
    QuotaExceeded
        If a temp file exceeds the cache's quota. Nothing is lost, and the caller may try again.
    """
    record = None
    for use in outputs:
        if use.kind == "value":
            continue
        path = os.path.join(sandbox, use.name)
        try:
            if not os.path.exists(path):
                if required and not (use.kind == "temp" and use.source in cache):
                    raise FileNotFoundError(errno.ENOENT, "the task ended without it", use.name)
            elif use.kind != "temp":
                bring_home(path, use.source, sandbox)
        except Exception as error:
            record = record or explain_output(use, error)
    if record is not None or not required:
        return [], record
    made: list[tuple[str, int, int]] = []
    for use in outputs:
        path = os.path.join(sandbox, use.name)
        if use.kind == "temp" and os.path.exists(path):  # else an earlier try has moved it into the cache
            try:
                _with_room(cache, partial(cache.adopt, use.source, path, sandbox))
            except QuotaExceeded:
                raise
            except Exception as error:
                for name, _, _ in made:
                    cache.drop(name)
                return [], explain_output(use, error)
        if use.kind == "temp":
            made.append((use.source, *cache.stamp(use.source)))
    return made, None


def _explain_input(use: FileUse, error: Exception, places: Sequence[str]) -> bytes:
    """Record why an input could not be staged; ``places`` are the paths where a temp file or result may be."""
    if record := no_room(use, error):
        return record
    if isinstance(error, OSError) and use.kind != "local":
        lost = isinstance(error, Spoiled) or any(is_lost(error, place) for place in places)
        kind = "file-lost" if lost else "file-unreadable"
        return failure.lost(kind, f"{words(error)}: {error.filename}", name=use.source)
    return failure.lost("file-missing", words(error), path=use.source)


def explain_output(use: FileUse, error: Exception) -> bytes:
    """Record why an output cannot be prepared or staged."""
    return no_room(use, error) or failure.lost("output-missing", words(error), path=use.name)


def no_room(use: FileUse, error: Exception) -> bytes | None:
    """Record that the disk is full or its quota used up; return None if the error has another reason."""
    if isinstance(error, OSError) and is_full(error):
        return failure.lost(
            "disk-full", f"no room for {use.name or use.source}: {words(error)}", path=error.filename or use.name
        )
    return None


def words(error: Exception) -> str:
    """Return the message of an exception, with its type if it is unexpected."""
    if isinstance(error, OSError):
        return error.strerror or str(error)
    return str(error) if isinstance(error, ValueError) else failure.describe(error)


def remove_run(base: str) -> None:
    """Remove a run's private directory, links to it, and the run's directory in memory."""
    fast = memory_of(base)
    remove(base)
    if fast is not None:
        remove(fast)
    temporary.unlink_into(base)


def keep_in_memory(base: str) -> str | None:
    """Have large values of a run made in memory, where there is a file system in memory of some size.

    Parameters
    ----------
    base : str
        The run's private directory.

    Returns
    -------
    str or None
        The run's directory in memory, which is named after the private directory and is marked as the run's.
    """
    directory = _memory_named_after(base)
    try:
        there = os.statvfs(os.path.dirname(directory))
        if there.f_blocks * there.f_frsize < _LEAST_MEMORY:
            return None
        os.mkdir(directory, 0o700)
        with open(os.path.join(directory, MARK), "x", encoding="utf-8", errors="surrogateescape") as file:
            file.write(base)
        os.symlink(directory, os.path.join(base, "spool", FAST))
    except OSError:
        return None
    return directory


def memory_of(base: str) -> str | None:
    """Return a run's directory in memory, if there is one.

    A task can replace or remove the link to that directory, and the directory is removed at the end. Therefore it must
    have the run's mark.
    """
    candidates = [_memory_named_after(base)]
    with contextlib.suppress(OSError):
        candidates.insert(0, os.readlink(os.path.join(base, "spool", FAST)))
    return next((directory for directory in candidates if _is_marked(directory, base)), None)


def _is_marked(directory: str, base: str) -> bool:
    try:
        with open(os.path.join(directory, MARK), encoding="utf-8", errors="surrogateescape") as file:
            return file.read() == base
    except OSError:
        return False


def _memory_named_after(base: str) -> str:
    return os.path.join(os.environ.get(MEMORY_VARIABLE, "/dev/shm"), f"{os.path.basename(base)}-memory")
