"""The connection of a node to its manager."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable
from typing import Any

from taskvine_manager.node.loop import Loop
from taskvine_manager.wire.channel import Channel
from taskvine_manager.wire.messages import Completion, NodeInfo

HOLD_SECONDS = 0.001
"""Seconds that results wait so that several travel in one message, while more tasks are running. If these are many,
results wait up to :data:`HOLD_MOST` times as long."""
HOLD_MOST = 5


class ManagerLink:
    """Messages from and to the manager. Several completions are sent in one message.

    Parameters
    ----------
    loop : Loop
        The node's loop; it ends when the manager does.
    """

    def __init__(self, loop: Loop) -> None:
        self.abandoned = False
        """Whether the manager has ended."""
        self._loop = loop
        self._channel: Channel | None = None
        self._completions: list[Completion] = []
        self._held_since = 0.0

    def join(self, base: str, info: NodeInfo, hear: Callable[..., None]) -> None:
        """Connect to the manager of a run, describe this node, and let ``hear`` handle each message.

        Raises
        ------
        OSError
            If no manager listens in the directory ``base``.
        """
        end = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            end.connect(os.path.join(base, "manager.sock"))
        except ConnectionRefusedError:
            self.abandoned = True
            raise
        channel = self._channel = Channel(end)

        def speaks() -> None:
            channel.read()
            while (message := channel.next()) is not None:
                hear(*message)
            if channel.ended:
                self.abandoned = True
                self._loop.leave()
            elif channel.full:
                channel.push_with(self._loop.selector)

        self._loop.watch(channel, speaks)
        self.send("hello", info)

    def send(self, *message: Any) -> None:
        """Send a message."""
        assert self._channel is not None
        self._channel.queue(*message)
        self._channel.push_with(self._loop.selector)

    def complete(self, completion: Completion) -> None:
        """Queue the end of a task, which :meth:`flush` sends."""
        if not self._completions:
            self._held_since = time.monotonic()
        self._completions.append(completion)

    def wait(self, tasks: int) -> float | None:
        """Return the seconds until :meth:`flush` is due, with so many tasks on the node; None if nothing is queued."""
        if not self._completions:
            return None
        # Where many nodes share the processors, this one would send its results one by one without the factor.
        hold = HOLD_SECONDS * min(HOLD_MOST, max(1, tasks // 16))
        return max(0.0, hold - (time.monotonic() - self._held_since))

    def flush(self, tasks: int = 0) -> None:
        """Send what is queued, unless there are more tasks on the node, which may end soon."""
        if not self._completions or (tasks > 2 and len(self._completions) < 64 and self.wait(tasks)):
            return
        completions, self._completions = self._completions, []
        self.send("done", completions)

    def close(self) -> None:
        """Close the connection."""
        if self._channel is not None:
            while self._channel.read():
                pass
            # The manager may have been killed after it told this node to leave.
            self.abandoned = self.abandoned or self._channel.ended
            self._channel.close()
