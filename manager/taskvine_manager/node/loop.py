"""The loop of a node: it waits for sockets, signals and staging threads, and calls their handlers."""

from __future__ import annotations

import contextlib
import selectors
import signal
import socket
import sys
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from taskvine_manager.runtime import keeper

if TYPE_CHECKING:
    from _typeshed import FileDescriptorLike


class Loop:
    """The loop of a node, of which there is one in a process: it handles the process's signals."""

    def __init__(self) -> None:
        self.selector = selectors.DefaultSelector()
        self.leaving = False
        """Whether the node is to end."""
        self._reap: Callable[[], None] = lambda: None
        self._stager = ThreadPoolExecutor(2, thread_name_prefix="staging")
        self._queue: deque[Callable[[], None]] = deque()
        self._wake, self._waker = socket.socketpair()
        for end in (self._wake, self._waker):
            end.setblocking(False)
        signal.set_wakeup_fd(self._waker.fileno(), warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.signal(signal.SIGTERM, lambda *_: self.leave())
        keeper.adopt_orphans()  # processes of killed libraries and keepers
        self.watch(self._wake, self._woken)

    def turn(self, seconds: float | None) -> None:
        """Wait at most ``seconds`` (None: without end), and call the handlers of what has come."""
        for key, _ in self.selector.select(seconds):
            key.data()

    def leave(self) -> None:
        """End the node after this turn."""
        self.leaving = True

    def watch(self, channel: FileDescriptorLike, callback: Callable[[], None]) -> None:
        """Call back when there is something to read."""
        self.selector.register(channel, selectors.EVENT_READ, callback)

    def unwatch(self, channel: socket.socket) -> None:
        """Do not call back any more."""
        self.selector.unregister(channel)

    def when_children_end(self, reap: Callable[[], None]) -> None:
        """Call back when child processes may have ended."""
        self._reap = reap

    def later(self, action: Callable[[], None]) -> None:
        """Queue an action for the loop; staging threads may call this."""
        self._queue.append(action)
        with contextlib.suppress(BlockingIOError):
            self._waker.send(b"s")

    def in_background(self, action: Callable[..., None], *args: Any) -> None:
        """Run an action in a staging thread, and print any exception that it raises."""
        self._stager.submit(action, *args).add_done_callback(_show)

    def _woken(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while self._wake.recv(4096):
                pass
        while self._queue:
            self._queue.popleft()()
        self._reap()

    def close(self) -> None:
        """Wait for the staging threads to finish what they have begun."""
        self._stager.shutdown(wait=True, cancel_futures=True)


class Radio:
    """A socket to which tasks send monitoring messages.

    Parameters
    ----------
    directory : str
        Directory for the socket, with a short path.
    """

    def __init__(self, directory: str) -> None:
        self.path = f"{directory}/radio"
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(self.path)
        self._socket.setblocking(False)

    def fileno(self) -> int:
        """Return the socket's descriptor."""
        return self._socket.fileno()

    def received(self) -> list[bytes]:
        """Return the messages since the previous call."""
        said = []
        with contextlib.suppress(BlockingIOError):
            while True:
                said.append(self._socket.recv(1 << 20))
        return said


def _show(ended: Future[None]) -> None:
    if not ended.cancelled() and (error := ended.exception()) is not None:
        sys.excepthook(type(error), error, error.__traceback__)
