"""The bytes of files in memory: large files are mapped copy-on-write, others are read.

A process that has no descriptors left can still read a file, if it keeps a spare one.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import functools
import mmap
import os
import sys
import threading
import weakref
from collections.abc import Callable, Iterator

MAPPED_FROM = 1 << 20
"""Size in bytes below which files are read, because mapping them would not be faster."""
MOST_MAPPED = 16_384
"""Most files mapped at a time: a quarter of Linux's limit per process, whose own memory needs mappings too."""
_MAP_FIXED = 0x10

_mappings: weakref.WeakSet[mmap.mmap] = weakref.WeakSet()
_broken: list[mmap.mmap] = []
"""Mappings that must never be unmapped."""
_spare: list[int] = []
_spare_lock = threading.Lock()


def count() -> int:
    """Return the number of files that are mapped now."""
    return len(_mappings)


def bytes_of(path: str, mapped_from: int = MAPPED_FROM) -> memoryview:
    """Return the bytes of a file, writable and private: mapped if the file is large and can be mapped, else read."""
    with _opened(path) as descriptor:
        length = os.fstat(descriptor).st_size
        if length >= mapped_from and len(_mappings) < MOST_MAPPED:
            with contextlib.suppress(OSError):  # a limit on mappings, or a file system that cannot map
                mapping = _mapped(descriptor, length)
                _mappings.add(mapping)
                return memoryview(mapping)
        whole = memoryview(bytearray(length))
        done = 0
        while done < length and (read := os.preadv(descriptor, [whole[done:]], done)):
            done += read
        return whole[:done]


def _mapped(descriptor: int, length: int) -> mmap.mmap:
    """Map a file copy-on-write, without keeping its descriptor open."""
    if sys.version_info >= (3, 13):
        return mmap.mmap(descriptor, 0, access=mmap.ACCESS_COPY, trackfd=False)
    # Before 3.13, mmap keeps a duplicate of the descriptor. Map memory without a file, then map the file over it.
    mapping = mmap.mmap(-1, length, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    place = ctypes.c_char.from_buffer(mapping)
    address = ctypes.addressof(place)
    del place
    access, flags = mmap.PROT_READ | mmap.PROT_WRITE, mmap.MAP_PRIVATE | _MAP_FIXED
    if _libc_mmap()(address, length, access, flags, descriptor, 0) != address:
        _broken.append(mapping)  # its range may be free already, and may soon be used for other memory
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return mapping


@functools.cache
def _libc_mmap() -> Callable[..., int | None]:
    function = ctypes.CDLL(None, use_errno=True).mmap
    function.restype = ctypes.c_void_p
    function.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
    return function


def keep_spare() -> None:
    """Reserve one descriptor, to be closed when a value cannot be opened for lack of descriptors. Idempotent."""
    with contextlib.suppress(OSError), _spare_lock:
        if not _spare:
            _spare.append(os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC))


@contextlib.contextmanager
def _opened(path: str) -> Iterator[int]:
    """Open a file for reading; use the spare descriptor if no other is left."""
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
