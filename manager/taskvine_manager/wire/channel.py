"""A stream socket that carries tagged messages between processes of one machine.

With plain sockets, each message takes one wake-up. With a library that has its own I/O threads, such as ZeroMQ, it
takes three, and wake-ups are most of the latency of one call after another.
"""

from __future__ import annotations

import contextlib
import errno
import selectors
import socket
from typing import Any

from taskvine_manager.wire import messages

_BUFFER = 1 << 18
"""Maximum bytes of one read: unix sockets hold no more by default."""


def _is_end(error: OSError) -> bool:
    """Return whether an error of a socket means that its connection has ended."""
    unreachable = (errno.ETIMEDOUT, errno.EHOSTUNREACH, errno.ENETUNREACH, errno.ENETDOWN)
    return isinstance(error, ConnectionError) or error.errno in unreachable


class Channel:
    """One end of a connection. It never blocks: it keeps bytes that the socket does not take, and incomplete messages.

    Parameters
    ----------
    end : socket.socket
        A connected stream socket, which the channel owns from now on.
    """

    def __init__(self, end: socket.socket) -> None:
        end.setblocking(False)
        self._socket = end
        self._decoder = messages.Decoder()
        self._buffer = memoryview(bytearray(_BUFFER))
        self._outgoing = bytearray()
        self._closed = False
        self.ended = False
        """Whether the other end is closed, so that nothing more can arrive."""

    def fileno(self) -> int:
        """Return the socket's descriptor."""
        return self._socket.fileno()

    def queue(self, *message: Any) -> None:
        """Queue a message."""
        self.queue_encoded(messages.encode(*message))

    def queue_encoded(self, message: bytes) -> None:
        """Queue a message that is already encoded."""
        self._outgoing += message

    def send(self, *message: Any) -> None:
        """Queue a message and send as much as the socket takes; :meth:`push` sends the rest."""
        self.queue(*message)
        self.push()

    @property
    def full(self) -> bool:
        """Whether bytes are left to be sent."""
        return bool(self._outgoing)

    def push(self) -> None:
        """Send as much of the queue as the socket takes; drop the queue if the connection is closed."""
        if self._closed:
            self._outgoing.clear()
        try:
            while self._outgoing:
                sent = self._socket.send(self._outgoing)
                del self._outgoing[:sent]
        except BlockingIOError:
            pass
        except OSError as error:
            if not _is_end(error):
                raise
            self._outgoing.clear()

    def push_with(self, selector: selectors.BaseSelector) -> None:
        """Push; if bytes are left, have a selector that watches this channel report when the socket takes more."""
        self.push()
        key = selector.get_key(self)
        events = selectors.EVENT_READ | (selectors.EVENT_WRITE if self.full else 0)
        if key.events != events:
            selector.modify(self, events, key.data)

    def read(self) -> bool:
        """Read once, for :meth:`next`; return whether there was anything to read."""
        try:
            size = self._socket.recv_into(self._buffer)
        except BlockingIOError:
            return False
        except OSError as error:
            if not _is_end(error):
                raise
            size = 0
        if size:
            self._decoder.feed(self._buffer[:size])
        else:
            self.ended = True
        return bool(size)

    def next(self) -> tuple[Any, ...] | None:
        """Return the next complete message, or None.

        Raises
        ------
        ValueError
            If the bytes are not a message.
        """
        return self._decoder.next()

    def finish(self, seconds: float) -> None:
        """Send the rest of the queue, waiting at most ``seconds`` for the other end, and close the socket."""
        with contextlib.suppress(OSError):
            self._socket.settimeout(seconds)
            self._socket.sendall(self._outgoing)
        self.close()

    def close(self) -> None:
        """Close the socket."""
        self._closed = True
        self._outgoing.clear()
        self._socket.close()
