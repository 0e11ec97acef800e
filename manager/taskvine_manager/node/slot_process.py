"""A slot's process, as its node sees it: two ends of a socket, and the packets that pass through it.

:mod:`taskvine_manager.runtime.slot` describes the packets.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import pickle
import socket
import time
from collections.abc import Mapping, Sequence
from typing import Any

from taskvine_manager.node.calls import NO_GRANT, Call, Grant, Need
from taskvine_manager.node.pool import Slot
from taskvine_manager.runtime import keeper
from taskvine_manager.runtime.payload import Payload
from taskvine_manager.runtime.slot import PACKET_LIMIT

FORGOTTEN_AT_ONCE = 1000
"""Most functions that a slot is told to forget in one packet."""
_PARTS = {"r": 6, "u": 1, "l": 1, "e": 3}
"""Number of parts after the kind in each packet of a slot."""


class SlotProcess(Slot):
    """A slot with its process, which the library forks and connects to :attr:`other_end`."""

    def __init__(self, number: int, need: Need, grant: Grant = NO_GRANT) -> None:
        super().__init__(number, need, grant)
        self.socket, self.other_end = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.socket.setblocking(False)
        self.pid: int | None = None
        """Process id of its keeper."""
        self.made = time.monotonic()
        self.has_spoken = False

    def give(self, calls: Sequence[Call], functions: Mapping[str, Payload]) -> int:
        """Send tasks of one function, and the function if the process does not have it.

        Returns
        -------
        int
            How many tasks were sent: not all if the socket is full, or if the process has died. The library reports
            its death.
        """
        key = calls[0].profile.function
        sent = 0
        self.tidy()
        with contextlib.suppress(BlockingIOError, BrokenPipeError, ConnectionResetError):
            if key not in self.functions:
                self.outdated.discard(key)
                self.socket.send(pickle.dumps(("f", key, functions[key])))
                self.functions.add(key)
            for call in calls:
                invocation = call.invocation
                sandbox = os.path.join(call.directory, "sandbox") if call.directory is not None else None
                packet = ("c", invocation.number, key, invocation.arguments, sandbox, call.given)
                self.socket.send(pickle.dumps(packet))
                sent += 1
        return sent

    def tidy(self) -> None:
        """Tell the process to forget outdated functions, if its socket is not full."""
        if self.outdated:
            some = list(itertools.islice(self.outdated, FORGOTTEN_AT_ONCE))
            with contextlib.suppress(BlockingIOError, BrokenPipeError, ConnectionResetError):
                self.socket.send(pickle.dumps(("d", some)))
                self.outdated.difference_update(some)

    def receive(self) -> tuple[Any, ...] | None:
        """Return the process's next packet, if there is one.

        Raises
        ------
        Exception
            If the packet is malformed, or does not answer the task that the process runs.
        """
        try:
            packet = self.socket.recv(PACKET_LIMIT)
        except OSError:
            return None
        if not packet:
            return None
        self.heard, self.has_spoken = time.monotonic(), True
        message: tuple[Any, ...] = pickle.loads(packet)
        kind, *rest = message
        if len(rest) != _PARTS.get(kind):
            raise ValueError(f"unknown packet {kind!r:.50} of {len(rest)} parts")
        is_answer = kind != "l" and (kind != "e" or rest[0] is not None)
        if is_answer and (not self.calls or self.calls[0].invocation.number != rest[0]):
            raise ValueError(f"an answer to call {rest[0]!r:.50}, which it does not run")
        return message

    def take_back(self) -> set[int]:
        """Read back the packets that the process has not read; return the numbers of their tasks."""
        numbers = set()
        with contextlib.suppress(OSError):
            while packet := self.other_end.recv(PACKET_LIMIT, socket.MSG_DONTWAIT):
                message = pickle.loads(packet)
                if message[0] == "f":
                    self.functions.discard(message[1])
                elif message[0] == "d":
                    self.outdated.update(message[1])
                else:
                    numbers.add(message[1])
        return numbers

    def end(self) -> None:
        """Have the keeper end the process, if its process id is known yet."""
        if self.pid is not None:
            keeper.end(self.pid)

    def close(self) -> None:
        """Close both sockets, upon which an idle process ends."""
        self.socket.close()
        self.other_end.close()
