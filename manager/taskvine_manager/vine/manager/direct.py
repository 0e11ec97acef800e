"""Direct connections of supervisors to the manager, for parcels that need no files of TaskVine.

TaskVine takes more than a millisecond for a function call: it writes several lines to its logs, makes a directory on
the worker, and wakes four processes on the way. A supervisor therefore also connects to the manager, if it can. Parcels
for its node that bring and leave no files then travel over that connection. TaskVine does not know of them. It still
has the workers, the supervisors and all files, and tells when a worker is lost. If only the connection ends, the
results of its parcels are collected by TaskVine.
"""

from __future__ import annotations

import contextlib
import logging
import os
import pickle
import socket
from collections.abc import Callable
from typing import Any

from taskvine_manager.engine_api import Watch
from taskvine_manager.vine.access import DIRECT
from taskvine_manager.vine.manager.events import Launch
from taskvine_manager.vine.parcels import ANSWER, HELLO, PARCEL, Answer, Parcel
from taskvine_manager.wire.channel import Channel

logger = logging.getLogger(__name__)

KINDS = ("run", "collect", "retire")
"""Kinds of parcels that take this way. ``"cancel"`` does not: it must not overtake tasks that TaskVine has."""
PUSH_SECONDS = 0.005
"""Seconds between two attempts to send what a socket did not take."""


class DirectLink:
    """The connection of one supervisor; ``node`` is the name of its node, empty until it has said so."""

    def __init__(self, end: socket.socket) -> None:
        self.channel = Channel(end)
        self.node = ""


class DirectLinks:
    """The direct connections of all supervisors.

    Parameters
    ----------
    listener : socket.socket or None
        Listening socket, to which supervisors connect; None for no direct connections.
    watch, unwatch : callable
        Register and unregister a file descriptor with the manager's loop.
    answered : callable
        Called with the number of a parcel, the name of its node, and the answer.
    cut : callable
        Called with the number of a parcel and the name of its node if their connection has ended before the answer.
    """

    def __init__(
        self,
        listener: socket.socket | None,
        watch: Watch,
        unwatch: Callable[[int], None],
        answered: Callable[[int, str, Answer], None],
        cut: Callable[[int, str], None],
    ) -> None:
        self._listener = listener
        self._watch = watch
        self._unwatch = unwatch
        self._answered = answered
        self._cut = cut
        self._links: set[DirectLink] = set()
        self._nodes: dict[str, DirectLink] = {}
        self._parcels: dict[int, DirectLink] = {}  # by number, until they are answered
        self._blocked: set[DirectLink] = set()
        self._givers: list[socket.socket] = []
        if listener is not None:
            listener.setblocking(False)
            watch(listener.fileno(), self._accept)

    # --- parcels ---

    def takes(self, said: Launch) -> bool:
        """Return whether a parcel can take this way."""
        return said.feature in self._nodes and said.parcel.kind in KINDS and not said.inputs and not said.outputs

    def send(self, node: str, parcel: Parcel) -> None:
        """Send a parcel to a node that has a direct connection. Its answer may have any size."""
        link = self._parcels[parcel.number] = self._nodes[node]
        link.channel.send(PARCEL, pickle.dumps(tuple(parcel._replace(brief=False)), 5))
        if link.channel.full:
            self._blocked.add(link)

    def withdraw(self, parcel: int) -> None:
        """Expect no answer to a parcel any more."""
        self._parcels.pop(parcel, None)

    def push(self) -> float | None:
        """Send what sockets did not take before; return the seconds until the next try, None if nothing is left."""
        for link in list(self._blocked):
            link.channel.push()
            if not link.channel.full:
                self._blocked.discard(link)
        return PUSH_SECONDS if self._blocked else None

    # --- connections ---

    def _accept(self) -> None:
        assert self._listener is not None
        with contextlib.suppress(BlockingIOError):
            end, _ = self._listener.accept()
            self._add(end)

    def take_from(self, giver: socket.socket) -> None:
        """Take over the connections that another process has accepted, and sends over this socket."""
        giver.setblocking(False)

        def take() -> None:
            with contextlib.suppress(BlockingIOError):
                data, descriptors, _, _ = socket.recv_fds(giver, len(DIRECT), 1)
                for descriptor in descriptors:
                    os.set_inheritable(descriptor, False)
                    self._add(socket.socket(fileno=descriptor))
                if not data:  # the process has ended
                    self._leave(giver)

        self._givers.append(giver)
        self._watch(giver.fileno(), take)

    def _leave(self, giver: socket.socket) -> None:
        self._givers.remove(giver)
        self._unwatch(giver.fileno())
        giver.close()

    def _add(self, end: socket.socket) -> None:
        link = DirectLink(end)
        self._links.add(link)
        self._watch(end.fileno(), lambda: self._speaks(link))

    def _speaks(self, link: DirectLink) -> None:
        link.channel.read()
        while True:
            try:
                message = link.channel.next()
                answer = self._decoded(link, *message) if message is not None else None
            except Exception:  # what is not a message may raise anything where it is decoded
                logger.exception("node %s sent a malformed message, and loses its direct connection", link.node)
                link.channel.ended = True
                break
            if message is None:
                break
            if answer is not None:
                self._take(link, *answer)
        if link.channel.ended:
            self._end(link)

    def _decoded(self, link: DirectLink, kind: Any, *rest: Any) -> tuple[int, Answer] | None:
        """Return the number and the answer of a supervisor's message; None if it names its node.

        Raises
        ------
        ValueError
            If it is malformed, or comes before the supervisor has named its node.
        """
        if kind == HELLO and not link.node:
            (name,) = rest
            if not isinstance(name, str) or not name:
                raise ValueError(f"not the name of a node: {name!r:.100}")
            link.node = name
            self._nodes[name] = link  # an earlier supervisor of this worker has ended, or is about to
            return None
        if kind == ANSWER and link.node:
            number, data = rest
            return int(number), Answer(*pickle.loads(data))
        raise ValueError(f"an unexpected message: {kind!r:.100}")

    def _take(self, link: DirectLink, number: int, answer: Answer) -> None:
        if self._parcels.get(number) is link:  # otherwise it was withdrawn
            del self._parcels[number]
            self._answered(number, link.node, answer)

    def _end(self, link: DirectLink) -> None:
        self._links.discard(link)
        self._blocked.discard(link)
        if self._nodes.get(link.node) is link:
            del self._nodes[link.node]
        self._unwatch(link.channel.fileno())
        link.channel.close()
        for number in [number for number, other in self._parcels.items() if other is link]:
            if self._parcels.pop(number, None) is not None:
                self._cut(number, link.node)

    def close(self) -> None:
        """Close all connections, and accept no more."""
        for link in self._links:
            self._unwatch(link.channel.fileno())
            link.channel.close()
        self._links.clear()
        self._nodes.clear()
        self._parcels.clear()
        for giver in list(self._givers):
            self._leave(giver)
        if self._listener is not None:
            self._unwatch(self._listener.fileno())
            self._listener.close()
            self._listener = None
