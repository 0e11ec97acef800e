"""The heap of a slot: the memory of large objects is kept for those of the next tasks.

glibc maps each large object separately and unmaps it when it is freed. The kernel must then find and clear pages again
for the next object. A slot therefore lets glibc put larger objects into the heap, whose pages are reused. It returns
free pages to the system when it has been idle for a moment.
"""

from __future__ import annotations

import ctypes
import os
import select
import socket

LARGEST = 64 << 20
"""Size in bytes of the largest object in the heap."""
FREE = 2 * LARGEST
"""Most free bytes at the end of the heap."""
IDLE_SECONDS = 0.1
"""Seconds without a task after which all free pages are returned."""
WORTH_SECONDS = 0.001
"""Duration of the shortest task after which the heap may hold many free pages."""
_TRIM_THRESHOLD = -1
_MMAP_THRESHOLD = -3


class Heap:
    """The heap of this process, if glibc manages it and neither the user nor a memory limit prevents the change.

    Free pages count as memory of the next task, so a slot whose tasks have a memory limit does not keep any.

    Parameters
    ----------
    is_kept : bool
        Whether this process may keep free pages.
    """

    def __init__(self, *, is_kept: bool) -> None:
        self._is_kept = is_kept and not _is_tuned() and _keep()
        self._is_worn = False

    def used(self, seconds: float, *, has_file: bool) -> None:
        """Take note of a task that has ended, and whether its result is in a file."""
        if self._is_kept and (has_file or seconds >= WORTH_SECONDS):
            self._is_worn = True

    def receive(self, channel: socket.socket, buffer: memoryview) -> int:
        """Receive a packet; return free pages to the system if there may be many and no packet comes soon."""
        if self._is_worn:
            coming = select.poll()
            coming.register(channel, select.POLLIN)
            if not coming.poll(IDLE_SECONDS * 1000):
                ctypes.CDLL(None).malloc_trim(ctypes.c_size_t(0))
                self._is_worn = False
        return channel.recv_into(buffer)


def _is_tuned() -> bool:
    """Whether the user has chosen settings for glibc's allocator."""
    return any(name == "GLIBC_TUNABLES" or (name.startswith("MALLOC_") and name.endswith("_")) for name in os.environ)


def _keep() -> bool:
    """Let the heap hold large objects; return whether glibc did so."""
    library = ctypes.CDLL(None)
    if not hasattr(library, "mallopt") or not hasattr(library, "malloc_trim"):
        return False  # another C library
    return bool(library.mallopt(_MMAP_THRESHOLD, LARGEST) and library.mallopt(_TRIM_THRESHOLD, FREE))
