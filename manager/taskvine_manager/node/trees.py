"""Copies of directory trees, and archives: single files that caches and engines can move.

An archive holds one directory with everything below it::

    MAGIC (16) | contents of the files, one after another | index | index length (8) | archive length (8) | END (8)

The index is a JSON list of ``[kind, path, mode, size or link target]``, parents first and in a fixed order, so that
equal trees give equal archives. Times and owners are not kept. The owner can always read and write unpacked files.

Symbolic links:

* A link to a target in the tree stays a link; an absolute one becomes relative.
* A relative link to a target outside the tree is replaced by a copy of the target.
* An absolute link to a target outside the tree is kept, as absolute paths of ``File`` are used in place. If its target
  is in the task's sandbox, the link is replaced by a copy of the target.
* A broken link is kept.

A regular file that begins with :data:`MAGIC` is archived too, so every file that begins with it is an archive.
"""

from __future__ import annotations

import errno
import functools
import os
import stat
import struct
from collections.abc import Callable, Iterable, Iterator
from typing import Any, BinaryIO, NamedTuple

from taskvine_manager.node.digest import blake2b
from taskvine_manager.node.partials import partial

MAGIC = b"\x93TVX-TREE-01\r\n\x1a\n"
"""First bytes of every archive."""
_END = b"TVX-END\n"
_FOOT = struct.Struct("<QQ8s")
_CHUNK = 1 << 20
_DIRECTORY, _FILE, _LINK = "d", "f", "l"
_Index = list[tuple[str, str, int, Any]]
"""Kind, path, mode, and size or link target of each entry."""
_UNUSUAL = "only files, directories and symbolic links can be staged"


class Survey(NamedTuple):
    """Description of a file or directory tree."""

    size: int
    """Bytes that it takes in a cache; for a directory, the size of its archive."""
    stamp: tuple[int, ...]
    """Differs whenever anything in it has changed."""
    changed: int
    """Latest change time of anything in it, in ns."""
    mode: int
    is_tree: bool
    """Whether it is a directory."""


class _Found(NamedTuple):
    """An entry of a tree on disk; ``source`` is the path to read, which may be the target of a link."""

    kind: str
    path: str
    source: str
    status: os.stat_result
    link: str = ""


class _Item(NamedTuple):
    """An entry to write; ``pour`` writes the contents of a file."""

    kind: str
    path: str
    mode: int
    link: str
    pour: Callable[[BinaryIO], object]


# --- looking ---


def survey(path: str, within: str = "") -> Survey:
    """Describe a file or a whole directory tree.

    Parameters
    ----------
    path : str
        File or directory; a link is followed.
    within : str, optional
        A directory that will be removed: absolute links into it are followed.

    Raises
    ------
    OSError
        If it is missing, or if it or anything in it is neither a file, a directory nor a link.
    """
    status = os.stat(path)
    if stat.S_ISREG(status.st_mode):
        return Survey(status.st_size, stamp(status), status.st_ctime_ns, permissions(status), False)
    digest = blake2b(digest_size=16)
    index: _Index = []
    size, changed = len(MAGIC) + _FOOT.size, 0
    for entry in _entries(path, within):
        there = entry.status
        held = there.st_size if entry.kind == _FILE else 0
        size += held
        changed = max(changed, there.st_ctime_ns)
        digest.update(repr((entry.kind, entry.path, entry.link, there.st_mode, *stamp(there))).encode())
        index.append(_listed(entry, held))
    halves = struct.unpack("<QQ", digest.digest())
    return Survey(
        size + len(_encode(index)), (status.st_dev, status.st_ino, *halves), changed, permissions(status), is_tree=True
    )


def stamp(status: os.stat_result) -> tuple[int, ...]:
    """Return a tuple that differs whenever a file has changed, even if its modification time was set back."""
    return (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)


def is_packed(path: str) -> bool:
    """Return whether a regular file is an archive."""
    with open(path, "rb") as file:
        return file.read(len(MAGIC)) == MAGIC


def must_pack(path: str) -> bool:
    """Return whether a path is a directory, or a file that could be mistaken for an archive."""
    return os.path.isdir(path) or (os.path.isfile(path) and is_packed(path))


def _walk(root: str, within: str) -> Iterator[_Found]:
    """Yield all entries of a tree, parents first; the tree's root has an empty path."""
    top = os.path.realpath(root)
    within = os.path.realpath(within) if within else ""
    yield _Found(_DIRECTORY, "", top, os.stat(top))
    left: list[tuple[str, str, str, tuple[str, ...]]] = [(top, "", top, (top,))]
    while left:
        directory, prefix, base, trail = left.pop()
        with os.scandir(directory) as scanned:
            names = sorted(entry.name for entry in scanned)
        for name in names:
            path, source, link = os.path.join(prefix, name), os.path.join(directory, name), ""
            status = os.lstat(source)
            follows = trail
            if stat.S_ISLNK(status.st_mode):
                link = _kept_link(source, base, within)
                if not link:
                    source = os.path.realpath(source)
                    status = os.stat(source)
                    follows = (*trail, source)
                    if stat.S_ISDIR(status.st_mode) and any(is_in(each, source) for each in trail):
                        words = f"a symbolic link leads to {source}, which contains the link"
                        raise OSError(errno.ELOOP, words, os.path.join(root, path))
            if link:
                yield _Found(_LINK, path, source, status, link)
            elif stat.S_ISDIR(status.st_mode):
                yield _Found(_DIRECTORY, path, source, status)
                left.append((source, path, base if follows is trail else source, follows))
            elif stat.S_ISREG(status.st_mode):
                yield _Found(_FILE, path, source, status)
            else:
                raise OSError(errno.EINVAL, f"not a regular file: {_UNUSUAL}", os.path.join(root, path))


def _kept_link(path: str, base: str, within: str) -> str:
    """Return a link's target in the copy of a tree; empty if the link is replaced by a copy of its target."""
    said = os.readlink(path)
    directory = os.path.dirname(path)
    end = os.path.normpath(os.path.join(directory, said))
    if is_in(end, base):
        return os.path.relpath(end, directory) if os.path.isabs(said) else said
    if os.path.isabs(said):
        real = os.path.realpath(path)
        if is_in(real, base):
            return os.path.relpath(real, directory)
        if not within or not is_in(real, within):
            return said
    return "" if os.path.exists(path) else said


def is_in(path: str, directory: str) -> bool:
    """Return whether a path is that of a directory or below it; both are normalized."""
    return path == directory or path.startswith(directory.rstrip(os.sep) + os.sep)


def permissions(status: os.stat_result) -> int:
    """Return the permissions of a file's or directory's copy, which its owner may always read and write."""
    least = stat.S_IRWXU if stat.S_ISDIR(status.st_mode) else stat.S_IRUSR | stat.S_IWUSR
    return stat.S_IMODE(status.st_mode) & 0o777 | least


# --- archives ---


def pack(source: str, target: str, within: str = "") -> None:
    """Write the archive of a directory, or of one file, to ``target``.

    Raises
    ------
    OSError
        As for :func:`survey`, or if it cannot be read or written.
    """
    index: _Index = []
    with open(target, "wb") as archive:
        archive.write(MAGIC)
        for entry in _entries(source, within):
            start = archive.tell()
            if entry.kind == _FILE:
                _pour_file(entry.source, archive)
            index.append(_listed(entry, archive.tell() - start))
        listing = _encode(index)
        archive.write(listing)
        archive.write(_FOOT.pack(len(listing), archive.tell() + _FOOT.size, _END))


def _listed(entry: _Found, held: int) -> tuple[str, str, int, int | str]:
    return (entry.kind, entry.path, permissions(entry.status), entry.link or held)


def _encode(index: _Index) -> bytes:
    import json  # here, since every node imports this module, and few stage directories

    return json.dumps(index, separators=(",", ":")).encode()  # ASCII, because names need not be valid text


def unpack(archive: str, target: str, length: int | None = None) -> None:
    """Unpack an archive; an existing directory is added to.

    Parameters
    ----------
    length : int, optional
        Bytes of the archive, if the file holds other data after it.

    Raises
    ------
    OSError
        If the archive is incomplete or damaged (``EIO``), or cannot be unpacked.
    """
    with open(archive, "rb") as source:
        _lay_out(_items(source, archive, length), target)


def _items(source: BinaryIO, path: str, length: int | None) -> Iterator[_Item]:
    def pour(size: int, target: BinaryIO) -> None:
        while size:
            chunk = source.read(min(size, _CHUNK))
            if not chunk:
                raise _cut(path)
            target.write(chunk)
            size -= len(chunk)

    start = len(MAGIC)
    for kind, name, mode, said in _index(source, path, length):
        if kind == _FILE:
            source.seek(start)
            start += said
            yield _Item(kind, name, mode, "", functools.partial(pour, said))
        else:
            yield _Item(kind, name, mode, said if kind == _LINK else "", lambda _: None)


def _index(source: BinaryIO, path: str, length: int | None) -> _Index:
    length = source.seek(0, os.SEEK_END) if length is None else length
    if length < len(MAGIC) + _FOOT.size:
        raise _cut(path)
    source.seek(length - _FOOT.size)
    listed, whole, end = _FOOT.unpack(source.read(_FOOT.size))
    if end != _END or whole != length or listed > length:
        raise _cut(path)
    source.seek(length - _FOOT.size - listed)
    import json

    try:
        index: _Index = json.loads(source.read(listed))
        whole = all(map(_is_entry, index))
    except (ValueError, TypeError, RecursionError):
        whole = False
    if not whole:
        raise _cut(path)
    return index


def _is_entry(entry: Any) -> bool:
    """Return whether an entry of an index is well-formed, and its path is within the tree."""
    kind, name, mode, said = entry
    if kind == _FILE:
        fits = type(said) is int and 0 <= said < 1 << 62
    elif kind == _LINK:
        fits = type(said) is str and said != "" and "\0" not in said
    else:
        fits = kind == _DIRECTORY
    inside = type(name) is str and "\0" not in name and (name == "" or not {"", ".", ".."} & set(name.split("/")))
    return fits and inside and type(mode) is int and 0 <= mode <= 0o7777


def _cut(path: str) -> OSError:
    return OSError(errno.EIO, "the archive of a directory is cut short", path)


# --- copying ---


def copy_tree(source: str, target: str, within: str = "") -> None:
    """Copy a directory; an existing directory at ``target`` is added to.

    Raises
    ------
    OSError
        As for :func:`survey`, or if it cannot be read or written.
    """
    items = (
        _Item(each.kind, each.path, permissions(each.status), each.link, functools.partial(_pour_file, each.source))
        for each in _entries(source, within)
    )
    _lay_out(items, target)


def _entries(source: str, within: str) -> Iterator[_Found]:
    status = os.stat(source)
    if stat.S_ISDIR(status.st_mode):
        return _walk(source, within)
    if not stat.S_ISREG(status.st_mode):
        raise OSError(errno.EINVAL, f"not a regular file: {_UNUSUAL}", source)
    return iter([_Found(_FILE, "", source, status)])


def _pour_file(path: str, target: BinaryIO) -> None:
    # O_NONBLOCK: opening must not block if a pipe has just replaced the file.
    with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
        while chunk := file.read(_CHUNK):
            target.write(chunk)


def _lay_out(items: Iterable[_Item], target: str) -> None:
    """Write a tree; a new target appears atomically."""
    if os.path.lexists(target):
        _add(items, target)
        return
    with partial(target) as landing:
        _add(items, landing)
        os.rename(landing, target)


def _add(items: Iterable[_Item], target: str) -> None:
    """Add a tree to an existing one; each file appears atomically."""
    folders = {""}
    for kind, name, mode, link, pour in items:
        if name and os.path.dirname(name) not in folders:
            raise OSError(errno.EIO, f"the archive of a directory is damaged: {name!r} has no parent in it", target)
        path = os.path.join(target, name) if name else target
        if kind == _DIRECTORY:
            folders.add(name)
            _make_directory(path, mode)
            continue
        if os.path.isdir(path) and not os.path.islink(path):
            raise IsADirectoryError(errno.EISDIR, "it is a directory, and a file cannot replace it", path)
        with partial(path) as landing:
            if kind == _LINK:
                os.symlink(link, landing)
            else:
                with open(landing, "xb") as file:
                    pour(file)
                os.chmod(landing, mode)
            os.replace(landing, path)


def _make_directory(path: str, mode: int) -> None:
    try:
        os.mkdir(path)
    except FileExistsError:
        if not os.path.isdir(path):
            raise NotADirectoryError(errno.ENOTDIR, "it is a file, and a directory cannot replace it", path) from None
    else:
        os.chmod(path, mode)
