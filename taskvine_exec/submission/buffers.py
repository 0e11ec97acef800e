"""Large buffers of arguments, stored once however many tasks they are given to.

An array that is an argument of many tasks is pickled for each of them, and its bytes would be stored each time. Here
they are compared with what is stored already. Two buffers share a file only if all their bytes are equal at that time:
neither the identity of an object nor a digest is trusted. An array that was changed in place gets a new file.

Each value has a claim to the file of its buffer (:mod:`taskvine_manager.runtime.claims`). The manager gives the claim
up when the task cannot have to run again, and the file goes with the last claim. Nothing has to be said to this
process: it finds out when it tries to claim the file once more.
"""

from __future__ import annotations

import ctypes
import errno
import hashlib
import mmap
import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from taskvine_manager.runtime import claims, payload

_PIECES = 64
_PIECE = 64
"""A sample is so many pieces of so many bytes, evenly spread. Buffers with equal samples are compared."""
_CANDIDATES = 4
"""Files with the same sample that a buffer is compared with, at most."""
_FEW = 64
"""Files or samples that need no clearing up."""


class Buffers:
    """The large buffers that an executor has stored. Safe to use from several threads.

    ``shared`` counts the bytes that did not have to be stored again.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._alike: dict[bytes, _Alike] = {}
        self._most = _FEW
        self.shared = 0

    def sample(self, buffer: memoryview) -> bytes:
        """Return a key that equal buffers have, and others hardly ever."""
        return _sample(buffer)

    def directory(self, samples: Sequence[bytes]) -> str | None:
        """Return the directory where one of these buffers may be stored already: claims do not cross file systems."""
        for sample in samples:
            if (alike := self._alike.get(sample)) is not None and (found := alike.directory()) is not None:
                return found
        return None

    def put(self, buffer: memoryview, sample: bytes, path: str) -> None:
        """Make a claim at ``path`` to a file with the bytes of a buffer, which is stored now if it is not yet.

        Raises
        ------
        OSError
            If there is no room for it.
        """
        with self._lock:
            alike = self._alike.get(sample)
            if alike is None:
                self._forget_what_has_gone()
                alike = self._alike[sample] = _Alike()
        with alike.lock:  # of two threads with the same new buffer, the second waits and finds it
            if alike.claim(buffer, path):
                with self._lock:
                    self.shared += buffer.nbytes
            else:
                alike.add(_write(buffer, path), buffer.nbytes)

    def stored(self) -> int:
        """Return the bytes that are stored now, each buffer counted once."""
        with self._lock:
            every = list(self._alike.values())
        return sum(alike.stored() for alike in every)

    def _forget_what_has_gone(self) -> None:
        """Drop the samples of buffers that are not stored any more, once there are twice as many as were left last."""
        if len(self._alike) >= self._most:
            self._alike = {sample: alike for sample, alike in self._alike.items() if not alike.has_gone()}
            self._most = max(_FEW, 2 * len(self._alike))


class _Alike:
    """Stored buffers of one sample, the one that was used last at the end."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self._sizes: dict[str, int] = {}
        self._most = _FEW

    def directory(self) -> str | None:
        """Where the one is that was used last."""
        last = list(self._sizes)[-1:]
        return os.path.dirname(last[0]) if last and claims.is_offered(last[0]) else None

    def claim(self, buffer: memoryview, path: str) -> bool:
        """Make a claim to a file with the bytes of a buffer, if there is one."""
        for file in list(self._sizes)[: -_CANDIDATES - 1 : -1]:
            try:
                claims.claim(file, path)
            except FileNotFoundError:  # nobody needed it any more
                del self._sizes[file]
                continue
            except OSError:  # it is on another file system, or has as many claims as that allows
                continue
            if _holds(file, buffer):
                self._sizes[file] = self._sizes.pop(file)
                return True
            payload.release(path)
        return False

    def add(self, file: str, size: int) -> None:
        """Add a file that has just been made."""
        if len(self._sizes) >= self._most:
            self._sizes = {each: size for each, size in self._sizes.items() if claims.is_offered(each)}
            self._most = max(_FEW, 2 * len(self._sizes))
        self._sizes[file] = size

    def stored(self) -> int:
        """Return the bytes of the files that are there."""
        with self.lock:
            return sum(size for file, size in self._sizes.items() if claims.is_offered(file))

    def has_gone(self) -> bool:
        """Whether none of the files is there, and none is being made."""
        return not self.lock.locked() and not any(map(claims.is_offered, list(self._sizes)))


def _sample(buffer: memoryview) -> bytes:
    step = max(_PIECE, (buffer.nbytes - _PIECE) // (_PIECES - 1))
    pieces = [buffer[start : start + _PIECE] for start in range(0, buffer.nbytes, step)]
    return hashlib.blake2b(b"".join(pieces), digest_size=16, salt=buffer.nbytes.to_bytes(8, "little")).digest()


def _write(buffer: memoryview, path: str) -> str:
    try:
        return payload.write_buffer(buffer, path)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        said = f"{error.strerror}: an argument of {buffer.nbytes / 1e6:,.0f} MB has no room"
        raise OSError(error.errno, said, os.path.dirname(path)) from error


class _PyBuffer(ctypes.Structure):
    """``Py_buffer``, for the address of memory that cannot be written to; ``ctypes`` itself gives it of no such."""

    _fields_ = (
        ("address", ctypes.c_void_p),
        ("owner", ctypes.c_void_p),
        ("length", ctypes.c_ssize_t),
        ("item_size", ctypes.c_ssize_t),
        ("read_only", ctypes.c_int),
        ("dimensions", ctypes.c_int),
        ("format", ctypes.c_void_p),
        ("shape", ctypes.c_void_p),
        ("strides", ctypes.c_void_p),
        ("suboffsets", ctypes.c_void_p),
        ("internal", ctypes.c_void_p),
    )


_python = ctypes.PyDLL(None)
_python.PyObject_GetBuffer.argtypes = (ctypes.py_object, ctypes.POINTER(_PyBuffer), ctypes.c_int)
_python.PyBuffer_Release.argtypes = (ctypes.POINTER(_PyBuffer),)
_python.PyBuffer_Release.restype = None
_memcmp = ctypes.CDLL(None).memcmp  # called without the interpreter lock
_memcmp.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t)


@contextmanager
def _address(of: memoryview | mmap.mmap) -> Iterator[int]:
    buffer = _PyBuffer()
    _python.PyObject_GetBuffer(of, buffer, 0)
    try:
        yield buffer.address
    finally:
        _python.PyBuffer_Release(buffer)


def _holds(path: str, buffer: memoryview) -> bool:
    """Whether a file holds the bytes of a buffer, and nothing else."""
    with open(path, "rb") as file:
        if os.fstat(file.fileno()).st_size != buffer.nbytes:
            return False
        mapping = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    with mapping, _address(mapping) as stored, _address(buffer) as given:
        return bool(_memcmp(stored, given, buffer.nbytes) == 0)
