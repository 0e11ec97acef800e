"""Comparison of a file with a buffer in memory, by the C library.

``ctypes`` reads the buffer's address from a ``Py_buffer``, because it gives no address of read-only memory. ``memcmp``
then compares the buffer with a mapping of the file, without the interpreter lock.
"""

from __future__ import annotations

import ctypes
import mmap
import os
from collections.abc import Iterator
from contextlib import contextmanager

from taskvine_exec.parsl_hooks.switches import COMPARISON

PIECE = 1 << 18
"""Number of bytes that are read and compared at a time without the C library."""


def holds(path: str, buffer: memoryview) -> bool:
    """Whether the bytes of a file and of a buffer are equal."""
    with open(path, "rb", buffering=0) as file:
        if os.fstat(file.fileno()).st_size != buffer.nbytes:
            return False
        if not COMPARISON.on:
            pieces = (buffer[start : start + PIECE] for start in range(0, buffer.nbytes, PIECE))
            return all(bytearray(file.read(piece.nbytes)) == piece for piece in pieces)
        mapping = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    with mapping, _address(mapping) as stored, _address(buffer) as given:
        return bool(_memcmp(stored, given, buffer.nbytes) == 0)


_PyBuffer = ctypes.c_void_p * 16
"""``Py_buffer``, or more. Its first field is the address, and no other is used here."""

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
        yield buffer[0] or 0
    finally:
        _python.PyBuffer_Release(buffer)
