"""The manager's own directory, through which files pass if nodes may not copy from each other."""

from __future__ import annotations

import contextlib
import os
import socket
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor

from taskvine_manager.engine_api import Watch
from taskvine_manager.node.cache import file_name
from taskvine_manager.node.copying import copy
from taskvine_manager.node.replicas import Source, check, is_lost
from taskvine_manager.runtime.payload import discard
from taskvine_manager.scheduling import events


class Relay:
    """Copies of nodes' files, and the threads that make them.

    Parameters
    ----------
    directory : str
        Path of the directory, which is made when it is needed.
    watch, unwatch : callable
        Register and unregister a file descriptor with the manager's loop.
    handle : callable
        Handles the event when a file has been copied, or could not be.
    """

    def __init__(
        self,
        directory: str,
        watch: Watch,
        unwatch: Callable[[int], None],
        handle: Callable[[events.Relayed], None],
    ) -> None:
        self._directory = directory
        self._unwatch = unwatch
        self._handle = handle
        self._threads = ThreadPoolExecutor(2, thread_name_prefix="relay")
        self._copied: deque[events.Relayed] = deque()
        self._wake, self._waker = socket.socketpair()
        for end in (self._wake, self._waker):
            end.setblocking(False)
        watch(self._wake.fileno(), self._woken)

    def path(self, file: str) -> str:
        """Return the path of a file's copy."""
        return os.path.join(self._directory, file_name(file))

    def bring(self, file: str, source: Source) -> None:
        """Copy a node's replica, in a thread."""
        self._threads.submit(self._bring, file, source)

    def _bring(self, file: str, source: Source) -> None:
        target = self.path(file)
        stamp, problem, lost = 0, None, False
        try:
            os.makedirs(self._directory, mode=0o700, exist_ok=True)
            check(source)
            copy(source.path, target)
            check(source)
            stamp = os.stat(target).st_ctime_ns
        except Exception as error:
            problem, lost = str(error) or type(error).__name__, is_lost(error, source.path)
        self._copied.append(events.Relayed(file, stamp, problem, lost))
        with contextlib.suppress(OSError):  # full: the loop will wake up anyway; or closed
            self._waker.send(b"m")

    def _woken(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while self._wake.recv(4096):
                pass
        while self._copied:
            self._handle(self._copied.popleft())

    def drop(self, files: Iterable[str]) -> None:
        """Remove copies."""
        for file in files:
            discard(self.path(file))

    def close(self) -> None:
        """Wait for the threads."""
        self._threads.shutdown(wait=True, cancel_futures=True)
        self._unwatch(self._wake.fileno())
        self._wake.close()
        self._waker.close()
