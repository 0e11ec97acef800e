"""The program of a Globus Compute user endpoint, with a pipe to the test in place of the cloud service's queues.

All the rest is the endpoint's own: its command line, the reading of its YAML, its interchange and its logs.
"""

from __future__ import annotations

import os
import site
import sys
import threading
from concurrent.futures import Future
from multiprocessing.connection import Client, Connection
from typing import Any

CONNECTION, REGISTERED = sys.argv[1:3]
"""The socket of the test, and the directory in which the engine was registered."""


class Cloud:
    """The connection to the test, which all threads share."""

    connection: Connection
    lock = threading.Lock()

    @classmethod
    def send(cls, kind: str, body: bytes) -> None:
        with cls.lock:
            cls.connection.send((kind, body))


class Subscriber(threading.Thread):
    """Receive tasks, as the endpoint's TaskQueueSubscriber does from a queue."""

    def __init__(self, *, pending_task_queue: Any, **_: Any) -> None:
        super().__init__(daemon=True)
        self._tasks = pending_task_queue

    def __enter__(self) -> Subscriber:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def run(self) -> None:
        try:
            while True:
                self._tasks.put(Cloud.connection.recv())
        except EOFError:
            pass

    def ack(self, tag: object) -> None:
        Cloud.send("acknowledged", str(tag).encode())


class Publisher:
    """Send results or heartbeats, as the endpoint's ResultPublisher does to a queue."""

    def __init__(self, *, cred_fn: Any = None, queue_info: Any = None) -> None:  # the second until version 4.15
        self._kind = (queue_info or cred_fn())["queue"]

    def __enter__(self) -> Publisher:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def publish(self, body: bytes) -> Future[None]:
        Cloud.send(self._kind, body)
        sent: Future[None] = Future()
        sent.set_result(None)
        return sent


def main() -> None:
    site.addsitedir(REGISTERED)  # as Python does with site-packages when it starts
    from globus_compute_endpoint import cli
    from globus_compute_endpoint.endpoint import interchange

    Cloud.connection = Client(CONNECTION)
    interchange.TaskQueueSubscriber = Subscriber
    interchange.ResultPublisher = Publisher
    sys.argv = [os.path.basename(sys.argv[0]), *sys.argv[3:]]
    cli.app()


if __name__ == "__main__":
    main()
