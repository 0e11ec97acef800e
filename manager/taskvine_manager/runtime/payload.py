"""The encoding of values: a pickle if small, a file that can be mapped if large.

A small value is encoded as its pickle. A large one is a file that its reader maps copy-on-write. Large buffers follow
the pickle, each aligned to 64 bytes. These are numpy arrays, arrow buffers and all other objects that offer `pickle
protocol 5 out-of-band data <https://peps.python.org/pep-0574/>`_::

    magic (8) | count of buffers n (8) | length of pickle (8) | n x (offset (8), length (8)) | pickle | buffers

Integers are little-endian and unsigned. A reader gets writable objects whose bytes are not copied on load. Its writes
do not change the bytes of other readers.

A value can share large buffers with other values (see :class:`Sharing`). A shared buffer is a file without a header,
and each value has a claim to it (:mod:`taskvine_manager.runtime.claims`). The buffer's offset in the table is 0. The
claim's path is the path of the value's file plus a dot and a number. On another machine, the buffer itself is at that
path.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import pickle
import struct
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

from taskvine_manager.runtime import claims, headroom, mapping, parsl_files

MAGIC = b"TVXPAY01"
INLINE_LIMIT = 32 * 1024
"""Default for the largest encoded value, in bytes, that is sent inside messages."""
LARGEST_INLINE_LIMIT = 64 * 1024
"""Largest value that this limit may have. The packet of a task holds its arguments and up to :data:`INLINE_LIMIT` bytes
of other tasks' results. It must fit into a socket's buffer together with the packet of its function
(:data:`taskvine_manager.runtime.slot.PACKET_LIMIT`)."""
FAST = "fast"
"""Link in a spool directory to a directory in memory, which is used for large short-lived values because disks are
slow. At most half of its file system is used (usually a quarter of the machine's memory), and at most half of the
memory that a control group may use."""
GONE = frozenset({errno.ENOENT, errno.ESTALE})
"""Errors of a file that does not exist. All other errors mean that the file cannot be read now."""
SHARED_FROM = 1 << 20
"""Buffers of at least this many bytes can be shared between values."""
_BAND_LIMIT = 16 * 1024
_ALIGN = 64
_HEAD = struct.Struct("<8sQQ")
_ENTRY = struct.Struct("<QQ")
_ELSEWHERE = 0
"""The offset of a buffer that is in a separate file."""
_PREFIX = "value-"
_SHARING_PREFIX = "sharing"
"""Prefix of the name of a file whose value shares buffers. The number of shared buffers follows."""

Payload = bytes | str
"""An encoded value: the bytes themselves, or the path of the file that holds them."""

Dumps = Callable[..., bytes]


class Sharing(Protocol):
    """Storage for the large buffers of values, in which equal buffers share a file."""

    def sample(self, buffer: memoryview) -> bytes:
        """Return a key that is the same for equal buffers."""

    def directory(self, samples: Sequence[bytes]) -> str | None:
        """Return the directory where a buffer with one of these samples is stored, if there is one."""

    def put(self, buffer: memoryview, sample: bytes, path: str) -> None:
        """Make a claim at ``path`` to a file with the bytes of a buffer; write the file if there is none."""


def encode(
    value: Any, directory: str, dumps: Dumps, limit: int = INLINE_LIMIT, sharing: Sharing | None = None
) -> Payload:
    """Encode a value, into a file under ``directory`` if it is large.

    Parameters
    ----------
    value
        Any object that ``dumps`` can pickle.
    directory : str
        Directory for the file of a large value, on a file system that the reader sees.
    dumps : callable
        ``pickle.dumps`` or ``cloudpickle.dumps``. Called with ``protocol`` and ``buffer_callback``.
    limit : int
        Largest pickle, in bytes, that is returned instead of written.
    sharing : Sharing, optional
        Storage for buffers of at least :data:`SHARED_FROM` bytes. Default: all buffers are in the value's own file.

    Returns
    -------
    bytes or str
        The pickle, or the path of the file.

    Raises
    ------
    OSError
        If the file cannot be written, for example because the disk is full. No partial file is left.
    Exception
        Whatever ``dumps`` raises for a value that cannot be pickled.
    """
    buffers: list[memoryview] = []

    def out_of_band(buffer: pickle.PickleBuffer) -> bool:
        raw = buffer.raw()
        if raw.nbytes < _BAND_LIMIT:
            return True
        buffers.append(raw)
        return False

    body = dumps(value, protocol=5, buffer_callback=out_of_band)
    if len(body) + sum(buffer.nbytes for buffer in buffers) <= limit:
        # The buffers are few and small, so they are pickled in band, which copies them once more.
        whole = dumps(value, protocol=5) if buffers else body
        if len(whole) <= limit:
            return whole
    return write_file(body, buffers, directory, sharing)


def roomy(directory: str, size: int) -> str:
    """Return the directory for a file of ``size`` bytes: the one in memory if there is one with enough room."""
    fast = os.path.join(directory, FAST)
    try:
        there = os.statvfs(fast)
    except OSError:
        return directory
    free, total = there.f_bavail * there.f_frsize, there.f_blocks * there.f_frsize
    return fast if free - size > total / 2 and headroom.allows(size) else directory


def write_file(body: bytes, buffers: Sequence[memoryview], directory: str, sharing: Sharing | None = None) -> str:
    """Write a pickle and its buffers to a new file in ``directory`` and return the file's path."""
    shared: list[tuple[memoryview, bytes]] = []
    offset = _HEAD.size + _ENTRY.size * len(buffers) + len(body)
    table = []
    for buffer in buffers:
        if sharing is not None and buffer.nbytes >= SHARED_FROM:
            shared.append((buffer, sharing.sample(buffer)))
            table.append((_ELSEWHERE, buffer.nbytes))
            continue
        offset = -(-offset // _ALIGN) * _ALIGN
        table.append((offset, buffer.nbytes))
        offset += buffer.nbytes
    place, prefix = None, _PREFIX
    if sharing is not None and shared:
        place, prefix = sharing.directory([sample for _, sample in shared]), f"{_SHARING_PREFIX}{len(shared)}-"
    if place is None:
        place = roomy(directory, offset + sum(buffer.nbytes for buffer, _ in shared))
        if place != directory:
            try:
                return _write_parts(place, prefix, offset, body, buffers, table, shared, sharing)
            except OSError as error:  # memory was filled meanwhile or has no inodes left; the disk may have room
                if not is_full(error):
                    raise
            place = directory
    return _write_parts(place, prefix, offset, body, buffers, table, shared, sharing)


def _write_parts(
    place: str,
    prefix: str,
    offset: int,
    body: bytes,
    buffers: Sequence[memoryview],
    table: Sequence[tuple[int, int]],
    shared: Sequence[tuple[memoryview, bytes]],
    sharing: Sharing | None,
) -> str:
    descriptor, path = _new_file(place, offset, prefix)
    try:
        with open(descriptor, "wb", buffering=0) as file:
            head = _HEAD.pack(MAGIC, len(buffers), len(body)) + b"".join(_ENTRY.pack(*entry) for entry in table)
            _write_all(file.fileno(), head)
            _write_all(file.fileno(), body)
            for (start, _), buffer in zip(table, buffers, strict=True):
                if start != _ELSEWHERE:
                    file.seek(start)
                    _write_all(file.fileno(), buffer)
            file.truncate(offset)
        if sharing is not None:
            for (buffer, sample), claim in zip(shared, shared_by(path), strict=True):
                sharing.put(buffer, sample, claim)
    except BaseException:
        _unlink(path)
        for claim in shared_by(path):
            release(claim)
        raise
    return path


def write_buffer(buffer: memoryview, claim: str) -> str:
    """Write a buffer to a new file, with a first claim to it in the same directory, and return the file's path."""
    descriptor, path = _new_file(os.path.dirname(claim), buffer.nbytes, "buffer-")
    try:
        with open(descriptor, "wb", buffering=0) as file:
            _write_all(file.fileno(), buffer)
            file.truncate(buffer.nbytes)
        claims.offer(path)
        claims.claim(path, claim)
    except BaseException:
        claims.withdraw(path)
        _unlink(path)
        raise
    return path


def shared_by(path: str) -> list[str]:
    """Return the paths of a value's claims to shared buffers, from the name of the value's file alone."""
    name = os.path.basename(path)
    if not name.startswith(_SHARING_PREFIX):
        return []
    count = name[len(_SHARING_PREFIX) :].partition("-")[0]
    return [f"{path}.{index}" for index in range(int(count))] if count.isdecimal() else []


def link(path: str, target: str) -> None:
    """Link a value's file, and its claims to shared buffers, to a second name.

    The name must begin like the first one: the part before the hyphen holds the number of shared buffers.
    """
    for source, other in zip((path, *shared_by(path)), (target, *shared_by(target)), strict=True):
        os.link(source, other)


def _new_file(place: str, size: int, prefix: str) -> tuple[int, str]:
    import tempfile  # imported here, because every L1 task imports this module, but few make files

    from taskvine_manager.runtime import spares

    spare = spares.take(place, size, prefix) if os.path.basename(place) == FAST else None
    return spare or tempfile.mkstemp(prefix=prefix, dir=place)


def _write_all(descriptor: int, data: bytes | memoryview) -> None:
    view = memoryview(data).cast("B")
    while view:
        view = view[os.write(descriptor, view) :]


class Damaged(ValueError):
    """A file was not written by :func:`encode`, or is cut short."""


def is_lost(error: BaseException) -> bool:
    """Whether an error of reading a value's file means that the file is lost.

    A file is lost if it does not exist or is damaged. An error for lack of descriptors, memory or permission says
    nothing about the file.
    """
    return isinstance(error, Damaged) or (isinstance(error, OSError) and error.errno in GONE)


def is_full(error: BaseException) -> bool:
    """Whether an error means that a disk or a quota is full."""
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)


class Frames(NamedTuple):
    """A value that has been read or mapped, but not loaded yet."""

    body: bytes | memoryview
    buffers: Sequence[memoryview] = ()

    def load(self) -> Any:
        """Load the value. This runs code of the value's classes, which may raise anything."""
        if parsl_files.needs(self.body):
            return parsl_files.load(self.body, self.buffers)
        return pickle.loads(self.body, buffers=self.buffers)


def decode(payload: Payload) -> Any:
    """Load an encoded value.

    The objects of a large value stay backed by a private mapping of its file. The file may be unlinked meanwhile.

    Raises
    ------
    Damaged
        If the file was not written by :func:`encode`, or is cut short.
    OSError
        If the file cannot be opened.
    """
    return read(payload).load()


def read(payload: Payload, mapped_from: int = mapping.MAPPED_FROM) -> Frames:
    """Read or map an encoded value without loading it.

    Parameters
    ----------
    payload : bytes or str
        The encoded value.
    mapped_from : int
        Size in bytes from which files are mapped if possible. Smaller files are read.

    Raises
    ------
    Damaged, OSError
        As :func:`decode` does.
    """
    if not isinstance(payload, str):
        return Frames(payload)
    view = mapping.bytes_of(payload, mapped_from)
    if len(view) < _HEAD.size:
        raise Damaged(f"{payload}: too short for a value")
    magic, count, length = _HEAD.unpack_from(view)
    start = _HEAD.size + _ENTRY.size * count
    if magic != MAGIC or start + length > len(view):
        raise Damaged(f"{payload}: not a value, or cut short")
    buffers = []
    elsewhere = itertools.count()
    for index in range(count):
        offset, size = _ENTRY.unpack_from(view, _HEAD.size + _ENTRY.size * index)
        whole = view if offset != _ELSEWHERE else _shared(f"{payload}.{next(elsewhere)}", size, mapped_from)
        if offset + size > len(whole):
            raise Damaged(f"{payload}: cut short in buffer {index}")
        buffers.append(whole[offset : offset + size])
    return Frames(view[start : start + length], buffers)


def _shared(path: str, size: int, mapped_from: int) -> memoryview:
    """Return the bytes of a shared buffer. ``path`` is a claim or, on another machine, the buffer itself."""
    if os.path.getsize(path) != size:
        try:
            path = claims.claimed(path)
        except ValueError as error:
            raise Damaged(f"{path}: cut short") from error
    return mapping.bytes_of(path, mapped_from)


def size(payload: Payload) -> int:
    """Return the size of a payload in bytes, shared buffers included."""
    if not isinstance(payload, str):
        return len(payload)
    return sum(map(os.path.getsize, (payload, *map(claims.claimed, shared_by(payload)))))


def discard(payload: Payload) -> None:
    """Remove the file behind a payload, if there is one, and its claims to shared buffers."""
    if isinstance(payload, str):
        _remove(payload)
        for claim in shared_by(payload):
            release(claim)


def release(claim: str) -> None:
    """Remove a claim to a shared buffer, and the buffer if this was the last claim."""
    if (buffer := claims.release(claim)) is not None:
        _remove(buffer)


def _remove(path: str) -> None:
    if os.path.basename(os.path.dirname(path)) == FAST:
        from taskvine_manager.runtime import spares  # see _new_file

        spares.give(path)
    else:
        _unlink(path)


def _unlink(path: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)
