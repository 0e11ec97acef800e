"""A stream socket with tagged messages on it, between processes of one machine.

Plain sockets, because each message is one wake-up of who hears it: with a library that does its input and output in
threads of its own (ZeroMQ was here before) it is three, and waking up is most of what one call after another waits for.
"""

from __future__ import annotations

import contextlib
import selectors
import socket
from typing import Any

from taskvine_manager.wire import messages

_BUFFER = 1 << 18
"""Bytes read at once at most: unix sockets hold no more by default."""


class Channel:
    """One end. It never blocks: what the socket does not take stays here, and what has not come whole is waited for.

    Parameters
    ----------
    end : socket.socket
        A connected stream socket; the channel's own from now on.
    """

    def __init__(self, end: socket.socket) -> None:
        end.setblocking(False)
        self._socket = end
        self._decoder = messages.Decoder()
        self._buffer = memoryview(bytearray(_BUFFER))
        self._outgoing = bytearray()
        self._closed = False
        self.ended = False
        """Whether nothing more can come: the other end is closed."""

    def fileno(self) -> int:
        """The socket's descriptor."""
        return self._socket.fileno()

    def queue(self, *message: Any) -> None:
        """Put a message behind those that are to be sent."""
        self.queue_encoded(messages.encode(*message))

    def queue_encoded(self, message: bytes) -> None:
        """Put a message that is encoded already behind those that are to be sent."""
        self._outgoing += message

    def send(self, *message: Any) -> None:
        """Send a message as far as the socket takes it; :meth:`push` sends the rest."""
        self.queue(*message)
        self.push()

    @property
    def full(self) -> bool:
        """Whether something is left to be sent."""
        return bool(self._outgoing)

    def push(self) -> None:
        """Send what is left as far as the socket takes it. Where nobody reads any more it is dropped."""
        if self._closed:
            self._outgoing.clear()
        try:
            while self._outgoing:
                sent = self._socket.send(self._outgoing)
                del self._outgoing[:sent]
        except BlockingIOError:
            pass
        except (BrokenPipeError, ConnectionResetError):
            self._outgoing.clear()

    def push_with(self, selector: selectors.BaseSelector) -> None:
        """The same, and have a selector in which this is registered say when there is room for the rest."""
        self.push()
        key = selector.get_key(self)
        events = selectors.EVENT_READ | (selectors.EVENT_WRITE if self.full else 0)
        if key.events != events:
            selector.modify(self, events, key.data)

    def read(self) -> bool:
        """Read once what is there, for :meth:`next`; say whether anything was."""
        try:
            size = self._socket.recv_into(self._buffer)
        except BlockingIOError:
            return False
        except ConnectionResetError:
            size = 0
        if size:
            self._decoder.feed(self._buffer[:size])
        else:
            self.ended = True
        return bool(size)

    def next(self) -> tuple[Any, ...] | None:
        """The next message that has come whole, or None.

        Raises
        ------
        ValueError
            If what came is no message.
        """
        return self._decoder.next()

    def finish(self, seconds: float) -> None:
        """Send all that is left, waiting for the other end at most this long, and close."""
        with contextlib.suppress(OSError):
            self._socket.settimeout(seconds)
            self._socket.sendall(self._outgoing)
        self.close()

    def close(self) -> None:
        """Close the socket."""
        self._closed = True
        self._outgoing.clear()
        self._socket.close()
