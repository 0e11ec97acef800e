"""A radio that sends Parsl's monitoring messages with the results of tasks.

A message goes to the node over its unix socket, to the manager with the results, and then to the user's process, which
gives it to Parsl's monitoring. Parsl's own radios do not fit: they need HighThroughputExecutor, a listening port, or a
shared file system.
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
    """The default radio of ``TaskVineExecutor``: monitoring messages travel with the results."""

    def create_receiver(self, *, run_dir: str, resource_msgs: Queue[Any]) -> MonitoringRadioReceiver:
        """Return a receiver that does nothing: the executor receives the messages with the results."""
        return _Receiver()

    def create_sender(self) -> MonitoringRadioSender:
        """Return a sender of messages to the node that this process runs on."""
        return TaskVineRadioSender(os.environ[VARIABLE])


class _Receiver(MonitoringRadioReceiver):
    def shutdown(self) -> None:
        pass


class TaskVineRadioSender(MonitoringRadioSender):
    """Sender of monitoring messages to a node.

    Parameters
    ----------
    path : str
        Path of the node's datagram socket.
    """

    def __init__(self, path: str) -> None:
        self._path = path

    def send(self, message: object) -> None:
        """Send one message."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
            channel.sendto(pickle.dumps(message), self._path)


def read_message(said: bytes) -> tuple[MessageType, Any] | None:
    """Unpickle and check a message. It may be anything, because any process of a task can send to the node's socket.

    Returns
    -------
    tuple of (MessageType, dict), or None
        The message for Parsl's monitoring. None if it is not valid; the log says so.
    """
    try:
        message = pickle.loads(said)
    except BaseException as error:  # unpickling may raise anything
        logger.warning("a monitoring message cannot be read: %s", type(error).__name__)
        return None
    if isinstance(message, tuple) and len(message) == 2 and isinstance(message[0], MessageType):
        return message
    logger.warning("a task sent a %s as a monitoring message, which is dropped", type(message).__name__)
    return None
