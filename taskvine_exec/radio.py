"""Parsl's monitoring messages, riding the channel that results take.

A message goes over the node's unix socket to the node, with the results to the manager, and from there to the user's
process, which hands it to Parsl's monitoring. None of Parsl's own radios fits: they need HighThroughputExecutor, a
listening port, or a shared file system.
"""

from __future__ import annotations

import logging
import os
import pickle
import socket
from multiprocessing.queues import Queue
from typing import Any

from parsl.monitoring.message_type import MessageType
from parsl.monitoring.radios.base import MonitoringRadioReceiver, MonitoringRadioSender, RadioConfig
from parsl.utils import RepresentationMixin

logger = logging.getLogger(__name__)

VARIABLE = "TASKVINE_EXEC_RADIO"
"""Environment variable with the path of the node's socket."""


class TaskVineRadio(RadioConfig, RepresentationMixin):
    """The radio that :class:`~taskvine_exec.TaskVineExecutor` uses unless it is given another."""

    def create_receiver(self, *, run_dir: str, resource_msgs: Queue[Any]) -> MonitoringRadioReceiver:
        """Nothing listens here: the executor receives the messages with the results."""
        return _Receiver()

    def create_sender(self) -> MonitoringRadioSender:
        """Connect to the node that this process runs on."""
        return TaskVineRadioSender(os.environ[VARIABLE])


class _Receiver(MonitoringRadioReceiver):
    def shutdown(self) -> None:
        pass


class TaskVineRadioSender(MonitoringRadioSender):
    """Sends messages to a node.

    Parameters
    ----------
    path : str
        The node's datagram socket.
    """

    def __init__(self, path: str) -> None:
        self._path = path

    def send(self, message: object) -> None:
        """Send one message."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
            channel.sendto(pickle.dumps(message), self._path)


def read_message(said: bytes) -> tuple[MessageType, Any] | None:
    """Read a message; any process of a task can send to the node's socket, so it may be anything.

    Returns
    -------
    tuple of (MessageType, dict), or None
        What Parsl's monitoring takes. What it does not take is logged.
    """
    try:
        message = pickle.loads(said)
    except BaseException as error:  # unpickling may raise anything
        logger.warning("a monitoring message cannot be read: %s", type(error).__name__)
        return None
    if isinstance(message, tuple) and len(message) == 2 and isinstance(message[0], MessageType):
        return message
    logger.warning("a task has sent a %s as a monitoring message", type(message).__name__)
    return None
