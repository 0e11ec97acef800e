"""How values travel: one pickle, inline when small, a mappable file when large.

A small value is the pickle itself. A large one is a file that its reader maps copy-on-write, with large buffers
(numpy arrays, arrow buffers: anything that offers `pickle protocol 5 out-of-band data
<https://peps.python.org/pep-0574/>`_) laid out behind the pickle, each aligned to 64 bytes::

    magic (8) | count of buffers n (8) | length of pickle (8) | n x (offset (8), length (8)) | pickle | buffers

Integers are little-endian and unsigned. A reader gets writable objects whose bytes are never copied on load, and
nobody else's bytes change when it writes.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import functools
import mmap
import os
import pickle
import struct
import sys
import tempfile
import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from taskvine_manager.runtime import spares

MAGIC = b"TVXPAY01"
INLINE_LIMIT = 32 * 1024
"""Largest encoded value, in bytes, that rides inside messages where nothing else is said."""
LARGEST_INLINE_LIMIT = 64 * 1024
"""Most that may be said. A call's packet holds its arguments and up to :data:`INLINE_LIMIT` of others' results, and
must fit into a socket's buffer (:data:`taskvine_manager.runtime.slot.PACKET_LIMIT`) beside its function's."""
FAST = "fast"
"""Link in a spool directory to one of a file system in memory: disks are slower than what computes, and half of such a
file system, a quarter of the memory as it usually is, is used for what is large and short-lived."""
MAPPED_FROM = 1 << 20
"""Files below this many bytes are read at once: that is as quick as mapping them."""
MOST_MAPPED = 16_384
"""Files mapped at a time, at most: a quarter of what Linux allows a process, whose own memory needs mappings too."""
GONE = frozenset({errno.ENOENT, errno.ESTALE})
"""What the system says of a file that is not there. Any other error says that it cannot be read just now."""
_BAND_LIMIT = 16 * 1024
_ALIGN = 64
_HEAD = struct.Struct("<8sQQ")
_ENTRY = struct.Struct("<QQ")

Payload = bytes | str
"""An encoded value: the bytes themselves, or the path of the file that holds them."""

Dumps = Callable[..., bytes]


def encode(value: Any, directory: str, dumps: Dumps, limit: int = INLINE_LIMIT) -> Payload:
    """Encode a value, into a file under ``directory`` if it is large.

    Parameters
    ----------
    value
        Any object that ``dumps`` can pickle.
    directory : str
        Where the file of a large value is made; it must be on a file system that the reader sees.
    dumps : callable
        ``pickle.dumps`` or ``cloudpickle.dumps``: called with ``protocol`` and ``buffer_callback``.
    limit : int
        Largest pickle, in bytes, that is returned rather than written.

    Returns
    -------
    bytes or str
        The pickle, or the path of the file.

    Raises
    ------
    OSError
        If the file cannot be written (a full disk, for one); no partial file is left.
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
        # Few buffers, and small ones: in band after all, which copies them once more.
        whole = dumps(value, protocol=5) if buffers else body
        if len(whole) <= limit:
            return whole
    return write_file(body, buffers, directory)


def roomy(directory: str, size: int) -> str:
    """Where a file of so many bytes goes: into memory, if there is a link to such a place and it has room to spare."""
    fast = os.path.join(directory, FAST)
    try:
        there = os.statvfs(fast)
    except OSError:
        return directory
    free, total = there.f_bavail * there.f_frsize, there.f_blocks * there.f_frsize
    return fast if free - size > total / 2 else directory


def write_file(body: bytes, buffers: Sequence[memoryview], directory: str) -> str:
    """Write a pickle and its buffers to a new file in ``directory`` and return the file's path."""
    offset = _HEAD.size + _ENTRY.size * len(buffers) + len(body)
    table = []
    for buffer in buffers:
        offset = -(-offset // _ALIGN) * _ALIGN
        table.append((offset, buffer.nbytes))
        offset += buffer.nbytes
    descriptor, path = _new_file(directory, offset)
    try:
        with open(descriptor, "wb", buffering=0) as file:
            head = _HEAD.pack(MAGIC, len(buffers), len(body)) + b"".join(_ENTRY.pack(*entry) for entry in table)
            _write_all(file.fileno(), head)
            _write_all(file.fileno(), body)
            for (start, _), buffer in zip(table, buffers, strict=True):
                file.seek(start)
                _write_all(file.fileno(), buffer)
            file.truncate(offset)
    except BaseException:
        os.unlink(path)
        raise
    return path


def _new_file(directory: str, size: int) -> tuple[int, str]:
    place = roomy(directory, size)
    spare = spares.take(place, size, "value-") if place != directory else None
    return spare or tempfile.mkstemp(prefix="value-", dir=place)


def _write_all(descriptor: int, data: bytes | memoryview) -> None:
    view = memoryview(data).cast("B")
    while view:
        view = view[os.write(descriptor, view) :]


class Damaged(ValueError):
    """A file is not what :func:`encode` wrote, or is cut short."""


def is_lost(error: BaseException) -> bool:
    """Whether an error of reading a value's file says that the file is lost.

    It does if the file is not there or is not what was written. A process that is short of descriptors or memory, or
    lacks a permission, says nothing about the file.
    """
    return isinstance(error, Damaged) or (isinstance(error, OSError) and error.errno in GONE)


class Frames(NamedTuple):
    """A value that has been read, or mapped, and not loaded yet."""

    body: bytes | memoryview
    buffers: Sequence[memoryview] = ()

    def load(self) -> Any:
        """Make the value of it: this runs the code of the value's classes, which may raise anything."""
        return pickle.loads(self.body, buffers=self.buffers)


def decode(payload: Payload) -> Any:
    """Load what :func:`encode` made.

    The objects of a large value stay backed by a private mapping of its file, which may be unlinked meanwhile.

    Raises
    ------
    Damaged
        If the file is not one of ours, or is cut short.
    OSError
        If the file cannot be opened.
    """
    return read(payload).load()


def read(payload: Payload, mapped_from: int = MAPPED_FROM) -> Frames:
    """Read or map what :func:`encode` made, without loading it.

    Parameters
    ----------
    payload : bytes or str
        What :func:`encode` returned.
    mapped_from : int
        Files of so many bytes are mapped, if they can be; smaller ones are read.

    Raises
    ------
    Damaged, OSError
        As of :func:`decode`.
    """
    if not isinstance(payload, str):
        return Frames(payload)
    view = _bytes_of(payload, mapped_from)
    if len(view) < _HEAD.size:
        raise Damaged(f"{payload}: too short for a value")
    magic, count, length = _HEAD.unpack_from(view)
    start = _HEAD.size + _ENTRY.size * count
    if magic != MAGIC or start + length > len(view):
        raise Damaged(f"{payload}: not a value, or cut short")
    buffers = []
    for index in range(count):
        offset, size = _ENTRY.unpack_from(view, _HEAD.size + _ENTRY.size * index)
        if offset + size > len(view):
            raise Damaged(f"{payload}: cut short in buffer {index}")
        buffers.append(view[offset : offset + size])
    return Frames(view[start : start + length], buffers)


def _bytes_of(path: str, mapped_from: int) -> memoryview:
    """The bytes of a file, writable and private: mapped if that is worth it and possible, else read."""
    with _opened(path) as descriptor:
        length = os.fstat(descriptor).st_size
        if length >= mapped_from and len(_mappings) < MOST_MAPPED:
            with contextlib.suppress(OSError):  # a limit on mappings, or a file system that cannot map
                mapping = _mapped(descriptor, length)
                _mappings.add(mapping)
                return memoryview(mapping)
        whole = memoryview(bytearray(length))
        done = 0
        while done < length and (count := os.preadv(descriptor, [whole[done:]], done)):
            done += count
        return whole[:done]


def _mapped(descriptor: int, length: int) -> mmap.mmap:
    """Map a file copy-on-write, without keeping a descriptor of it open."""
    if sys.version_info >= (3, 13):
        return mmap.mmap(descriptor, 0, access=mmap.ACCESS_COPY, trackfd=False)
    # Until 3.13, mmap keeps a duplicate of the descriptor. Map memory without a file, and put the file in its place.
    mapping = mmap.mmap(-1, length, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    place = ctypes.c_char.from_buffer(mapping)
    address = ctypes.addressof(place)
    del place
    access, flags = mmap.PROT_READ | mmap.PROT_WRITE, mmap.MAP_PRIVATE | _MAP_FIXED
    if _libc_mmap()(address, length, access, flags, descriptor, 0) != address:
        _broken.append(mapping)  # never unmapped: the range may be free already, and belong to somebody else soon
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return mapping


def mappings() -> int:
    """How many files are mapped now."""
    return len(_mappings)


_mappings: weakref.WeakSet[mmap.mmap] = weakref.WeakSet()
_MAP_FIXED = 0x10
_broken: list[mmap.mmap] = []


@functools.cache
def _libc_mmap() -> Callable[..., int | None]:
    function = ctypes.CDLL(None, use_errno=True).mmap
    function.restype = ctypes.c_void_p
    function.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
    return function


_spare: list[int] = []
_spare_lock = threading.Lock()


def keep_spare() -> None:
    """Keep a descriptor, which is closed when none is left to open a value with; a no-op if there is one."""
    with contextlib.suppress(OSError), _spare_lock:
        if not _spare:
            _spare.append(os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC))


@contextlib.contextmanager
def _opened(path: str) -> Iterator[int]:
    """Open a file for reading, with the spare descriptor if there is no other."""
    flags = os.O_RDONLY | os.O_CLOEXEC
    descriptor, used_spare = -1, False
    try:
        try:
            descriptor = os.open(path, flags)
        except OSError as error:
            if error.errno not in (errno.EMFILE, errno.ENFILE):
                raise
            with _spare_lock:
                if not _spare:
                    raise
                used_spare = True
                os.close(_spare.pop())
                descriptor = os.open(path, flags)
        yield descriptor
    finally:
        if descriptor >= 0:
            os.close(descriptor)
        if used_spare:
            keep_spare()


def size(payload: Payload) -> int:
    """Bytes that a payload holds, wherever they are."""
    return os.path.getsize(payload) if isinstance(payload, str) else len(payload)


def discard(payload: Payload) -> None:
    """Remove the file behind a payload, if there is one and it is still there."""
    if isinstance(payload, str):
        if os.path.basename(os.path.dirname(payload)) == FAST:
            spares.give(payload)
            return
        with contextlib.suppress(FileNotFoundError):
            os.unlink(payload)
