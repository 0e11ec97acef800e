"""The direct connection of a supervisor to the manager, for parcels that need no files of TaskVine."""

from __future__ import annotations

import json
import os
import pickle
import socket
from collections.abc import Callable

from taskvine_manager.node.loop import Loop
from taskvine_manager.vine import access
from taskvine_manager.vine.parcels import ANSWER, HELLO, PARCEL, Answer, Parcel
from taskvine_manager.vine.worker.running import DirectCall
from taskvine_manager.wire import messages
from taskvine_manager.wire.channel import Channel


class DirectLink:
    """Parcels that come from the manager directly, and their answers.

    If there is no connection, everything comes by TaskVine. It may end at any time: the manager then collects open
    results by TaskVine.

    Parameters
    ----------
    node : str
        Name of the node.
    loop : Loop
        The node's loop.
    hear : callable
        Takes a parcel, and the call that awaits its answer.
    """

    def __init__(self, node: str, loop: Loop, hear: Callable[[DirectCall, Parcel], None]) -> None:
        self._node = node
        self._loop = loop
        self._hear = hear
        self._channel: Channel | None = None

    def connect(self, base: str, network: str, notice: Callable[[str], None]) -> None:
        """Connect to the manager, if it is on this machine or accepts direct connections over the network.

        Parameters
        ----------
        base : str
            The run's directory, if it is visible here, or empty.
        network : str
            Host, port and password file of the manager, as JSON; empty if it accepts no direct connections.
        notice : callable
            Takes the reason if the manager cannot be reached over the network.
        """
        if not messages.AVAILABLE:
            return
        if base:
            end = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            try:
                end.connect(os.path.join(base, "manager.sock"))
            except OSError:  # the manager is on another machine, or accepts no direct connections
                end.close()
            else:
                self._begin(end)
                return
        if network:
            self._loop.in_background(self._reach, json.loads(network), notice)

    def _reach(self, address: tuple[str, int, str], notice: Callable[[str], None]) -> None:
        try:
            end = access.connect(*address)
        except (OSError, access.Refused) as error:
            notice(f"no direct connection to the manager at {address[0]}:{address[1]}: {error}")
            return
        self._loop.later(lambda: self._begin(end))

    def _begin(self, end: socket.socket) -> None:
        self._channel = Channel(end)
        self._loop.watch(self._channel, self._speaks)
        self._send(HELLO, self._node)

    def answer(self, call: DirectCall, answer: Answer) -> None:
        """Answer a call, unless its connection has ended."""
        if self._channel is not None:
            self._send(ANSWER, call.number, pickle.dumps(tuple(answer), 5))

    def _send(self, *message: object) -> None:
        assert self._channel is not None
        self._channel.queue(*message)
        self._channel.push_with(self._loop.selector)

    def _speaks(self) -> None:
        channel = self._channel
        assert channel is not None
        channel.read()
        while (message := channel.next()) is not None:
            kind, data = message
            if kind != PARCEL:
                raise ValueError(f"the manager sent an unknown message: {kind!r:.100}")
            parcel = Parcel(*pickle.loads(data))
            self._hear(DirectCall(parcel.number), parcel)
        if channel.ended:
            self.close()
        elif channel.full:
            channel.push_with(self._loop.selector)

    def close(self) -> None:
        """Close the connection."""
        if self._channel is not None:
            self._loop.selector.unregister(self._channel)
            self._channel.close()
            self._channel = None
