"""Processes and files that a worker leaves on its node, and their removal by any process that survives the worker."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import tempfile
import time
from dataclasses import dataclass

from taskvine_manager import cleanup
from taskvine_manager.node import leftovers, temporary

DONE = b"d"
"""Sent by the launcher to the standby process once the launcher has cleaned up."""


@dataclass(frozen=True)
class Traces:
    """Processes and files of one worker.

    Parameters
    ----------
    worker : int
        Its process id, and that of its process group.
    begun : int or None
        When it was started, as returned by :func:`taskvine_manager.cleanup.start_time`.
    token, name : str
        Identify its processes, see :func:`taskvine_manager.cleanup.strays`.
    directory : str
        Its workspace.
    link : str
        Path of the link to the temporary directory of its tasks.
    run : str
        The run's private directory, if it is on this machine.
    user : str
        The user's process, as ``HOST:PID``; empty if it is not known.
    """

    worker: int
    begun: int | None
    token: str
    name: str
    directory: str
    link: str
    run: str = ""
    user: str = ""

    def kill_group(self) -> None:
        """Kill the rest of the worker's process group, unless another process has the worker's process id by now.

        A group keeps the id of its first process in use, so a group without that process is still the worker's.
        """
        begun = cleanup.start_time(self.worker)
        if begun is None or begun == self.begun:
            cleanup.kill_group(self.worker)

    def remove(self) -> None:
        """End the worker's other processes, and remove its files.

        The workspace may be gone: a worker removes it when it ends. A worker does not end processes that have left its
        group.
        """
        with contextlib.suppress(ImportError):  # psutil: without it, processes that left the group are not found
            cleanup.kill_strays(self.token, self.name)
        temporary.unlink(self.link)
        remove(self.directory)
        if self.run and self._is_last():
            from taskvine_manager.node import staging

            staging.remove_run(self.run)

    def _is_last(self) -> bool:
        """Return whether the user's process (and its manager) and all other nodes of this machine have ended."""
        host, _, user = self.user.rpartition(":")
        if host != socket.gethostname() or cleanup.is_alive(int(user)):
            return False
        try:
            others = os.listdir(os.path.join(self.run, "nodes"))
        except FileNotFoundError:
            return False
        return not any(
            cleanup.is_alive(int(number)) for name in others if (number := name.rpartition("-")[2]).isdigit()
        )


def stand_by(traces: Traces) -> tuple[int, int]:
    """Fork a process that cleans up if this one is killed, which closes a pipe between them.

    Returns
    -------
    int
        The process id of the new process.
    int
        Descriptor to write :data:`DONE` to when there is nothing left to clean up.
    """
    end, ours = os.pipe()
    if second := os.fork():
        os.close(end)
        return second, ours
    try:
        os.setsid()
        os.close(ours)
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        with contextlib.suppress(Exception):  # the node works without it
            leftovers.say(leftovers.sweep(tempfile.gettempdir()))
        if os.read(end, 1) != DONE:
            traces.kill_group()
            traces.remove()
    finally:
        os._exit(0)


def remove(directory: str) -> None:
    """Remove a directory, even while processes that are being killed still write to it."""
    for _ in range(20):
        shutil.rmtree(directory, ignore_errors=True)
        if not os.path.exists(directory):
            return
        time.sleep(0.05)
