"""Bytes that a measurement stores on its node: in files, and in the memory of its processes."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
from collections.abc import Iterable, Iterator

import psutil

from benchmarks import apart

LIMIT_STATUS = 3


class Watch:
    """The most that has been stored since the start, as a context manager.

    A thread looks every 20 ms. Files count with the blocks that they occupy, so a copy that shares them counts twice.
    The memory of a process is what it does not share with others; mapped files are thus counted once, as files. The
    user's own process does not count as part of the node.

    Parameters
    ----------
    roots : list of str
        Directories with all files of the measurement.
    limit : int
        Most bytes. Beyond it the process ends at once, so that the machine does not run out of memory.
    """

    def __init__(self, roots: list[str], limit: int) -> None:
        self.files = 0
        self.memory = 0
        self.both = 0
        self._roots, self._limit = roots, limit
        self._found: list[psutil.Process] = []
        self._looked = float("-inf")
        self._before = (0, 0)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="Stored", daemon=True)

    def __enter__(self) -> Watch:
        self._before = (size_of(self._roots), self._private())
        self._thread.start()
        return self

    def __exit__(self, *failure: object) -> None:
        self._ended.set()
        self._thread.join()
        self._look()

    def _run(self) -> None:
        while not self._ended.wait(0.02):
            self._look()

    def _look(self) -> None:
        files = max(0, size_of(self._roots) - self._before[0])
        memory = max(0, self._private() - self._before[1])
        self.files, self.memory = max(self.files, files), max(self.memory, memory)
        self.both = max(self.both, files + memory)
        if self.both > self._limit:
            print(f"more than {self._limit / 1e6:,.0f} MB were stored on the node", file=sys.stderr, flush=True)
            os._exit(LIMIT_STATUS)

    def _private(self) -> int:
        if time.monotonic() - self._looked > 0.5:
            self._looked = time.monotonic()
            self._found = list(_others())
        total = 0
        for process in self._found:
            with contextlib.suppress(psutil.Error):
                memory = process.memory_info()
                total += max(0, memory.rss - memory.shared)
        return total


def _others() -> Iterator[psutil.Process]:
    # Children too: HighThroughputExecutor's interchange overwrites its environment with a title.
    children = {process.pid for process in psutil.Process().children(recursive=True)}
    for process in children | set(apart.marked(os.environ.get(apart.MARK, ""))):
        with contextlib.suppress(psutil.Error):
            if process != os.getpid():
                yield psutil.Process(process)


def size_of(roots: Iterable[str]) -> int:
    """Return the bytes that all files below some directories occupy; a file with several names counts once."""
    seen: dict[tuple[int, int], int] = {}
    for root in roots:
        for directory, _, names in os.walk(root):
            for name in names:
                with contextlib.suppress(OSError):
                    found = os.lstat(os.path.join(directory, name))
                    seen[found.st_dev, found.st_ino] = found.st_blocks * 512
    return sum(seen.values())
