"""TaskVine's manager, driven by events: the one module that imports ``ndcctools``.

TaskVine's ``wait`` takes whole seconds, sleeps up to one of them inside, and neither sends nor receives anything when
it is told not to wait. So it is called only when there is something to do, and made to return as soon as that is done,
by sentinels: tasks for a library that does not exist, which TaskVine hands back at once. While there is nothing to do,
the manager's loop sleeps on the descriptors of the connections that TaskVine holds.
"""

from __future__ import annotations

import importlib
import logging
import os
import socket
import stat
import subprocess
import sys
from collections.abc import Iterable
from typing import Any

from taskvine_manager.vine.manager import listening, logs

logger = logging.getLogger(__name__)

SENTINEL_LIBRARY = "taskvine-exec-sentinel"
FIRST = 1e300
"""Priority of what is to go before everything else."""
LONG = 3600
"""Seconds that a wait may take; a sentinel ends it long before."""


def load() -> Any:
    """Import ``ndcctools.taskvine``.

    Raises
    ------
    ImportError
        If it is not installed.
    """
    # It imports dask, if that is there, for a part of it that is not used here: that takes longer than all the rest.
    absent = "dask" not in sys.modules
    if absent:
        sys.modules["dask"] = None  # type: ignore[assignment]
    try:
        return importlib.import_module("ndcctools.taskvine")
    finally:
        if absent:
            del sys.modules["dask"]


class VinePort:
    """One TaskVine manager.

    Parameters
    ----------
    vine : module
        ``ndcctools.taskvine``, or what stands for it in a test.
    port : int
        To listen at; 0 for any free one.
    name : str or None
        Under which it reports itself to TaskVine's catalog server; None for not at all.
    directory : str
        Where its logs go, in a directory of their own.
    password_file : str or None
        Holds what workers must know.
    ssl : tuple of str or None
        Paths of key and certificate.
    tune : dict of str to float
        Tuning parameters.
    """

    def __init__(
        self,
        vine: Any,
        *,
        port: int,
        name: str | None,
        directory: str,
        password_file: str | None,
        ssl: tuple[str, str] | None,
        tune: dict[str, float],
    ) -> None:
        self._vine = vine
        self._logs = os.path.join(directory, f"vine-{os.getpid()}")
        before = os.umask(0o077)  # its directories are readable by everybody otherwise
        try:
            self.manager = vine.Manager(
                port=port, name=name, run_info_path=directory, run_info_template=os.path.basename(self._logs), ssl=ssl
            )
        finally:
            os.umask(before)
        self._asked = port
        self._port = int(self.manager.port)
        self._listens = listening.descriptor_at(self._port)
        if self._listens is not None:
            listening.guard_descriptor(self._listens)
        self._pending: Any = None
        if password_file is not None:
            self.manager.set_password_file(password_file)
        for parameter, value in tune.items():
            self.tune(parameter, value)

    @property
    def port(self) -> int:
        """Where TaskVine listens."""
        return self._port

    def listen_on_loopback(self, *, same_port: bool) -> None:
        """Have TaskVine accept connections of this machine only, at the same port or at any free one.

        Raises
        ------
        OSError
            If somebody else has taken the port meanwhile.
        RuntimeError
            If TaskVine's listening socket is not found.
        """
        if self._listens is None:
            raise RuntimeError("TaskVine's listening socket is not found among the descriptors of the manager")
        self._port = listening.move(self._listens, self._port if same_port else 0, fixed=same_port and self._asked != 0)

    def tune(self, parameter: str, value: float) -> None:
        """Set a tuning parameter; one that this TaskVine does not know is logged."""
        if self.manager.tune(parameter, value) == -1:
            logger.warning("TaskVine knows no tuning parameter %r", parameter)

    # --- files and tasks ---

    def buffer(self, data: bytes | None, *, cache: bool = False) -> Any:
        """Declare a file in memory; None for one that a task will write."""
        return self.manager.declare_buffer(data, cache=cache)

    def local(self, path: str, *, cache: bool = False) -> Any:
        """Declare a file of this machine."""
        return self.manager.declare_file(path, cache=cache)

    def temp(self) -> Any:
        """Declare a file that stays on workers."""
        return self.manager.declare_temp()

    def task(self, command: str, library: str) -> Any:
        """Make a function call."""
        task = self._vine.Task(command)
        task.set_library_required(library)
        return task

    def spread(self, task: Any) -> None:
        """Have a task placed where most is free, rather than where its files are."""
        cvine = self._vine.cvine  # Task.set_scheduler looks for its constants by names that they do not have
        cvine.vine_task_set_scheduler(task._task, cvine.VINE_SCHEDULE_WORST)

    def install(self, command: str, name: str, slots: int, inputs: Iterable[tuple[Any, str]]) -> None:
        """Install a library."""
        library = self._vine.LibraryTask(command, name)
        library.set_function_slots(slots)
        library.set_function_exec_mode_from_string("fork")
        for file, path in inputs:
            library.add_input(file, path)
        self.manager.install_library(library)

    def undeclare(self, files: Iterable[Any]) -> None:
        """Let files go, everywhere."""
        for file in files:
            self.manager.undeclare_file(file)

    def replicas(self, file: Any) -> int:
        """How many workers have a file."""
        return int(self.manager.get_file_replica_count(file))

    @property
    def recoveries(self) -> int:
        """Tasks that TaskVine has run again for temp files that were lost."""
        return int(self.manager.stats.tasks_recovery)

    @property
    def bytes_sent(self) -> int:
        """Bytes that the manager has sent to workers."""
        return int(self.manager.stats.bytes_sent)

    # --- cycles ---

    def turn(self) -> Any | None:
        """Have TaskVine receive what has come and send what there is to send, without waiting.

        Returns
        -------
        Task or None
            One that has ended: TaskVine then has not looked at everything yet. None once it has. A sentinel that has
            not come back ends a later turn.
        """
        if self._pending is None:
            self._pending = self._sentinel()
        # It must not run out of time: it would then sleep for a second at the beginning of the next.
        task = self.manager.wait(LONG)
        if task is self._pending:
            self._pending = None
            return None
        return task

    def housekeeping(self) -> list[Any]:
        """Have TaskVine do what it does when there is nothing else: accept connections, replicate, send keepalives.

        That comes after it has returned what it has, unless it is told to prefer dispatching, and has something to
        dispatch. Then it goes on for one more round with a task in hand, and stops after that as long as it has another
        one to return.
        """
        ended = list(iter(self.turn, None)) if self._pending is not None else []
        waiting = self._vine.Task("sentinel")
        waiting.add_feature(SENTINEL_LIBRARY)  # no worker has it
        waiting.set_priority(-FIRST)
        self.manager.submit(waiting)
        sentinels = [self._sentinel(), self._sentinel()]
        self.tune("prefer-dispatch", 1)
        try:
            first = self.manager.wait(LONG)
        finally:
            self.tune("prefer-dispatch", 0)
            self.manager.cancel_by_task_id(waiting.id)
        if first in sentinels:
            sentinels.remove(first)
        elif first is not None:
            ended.append(first)
        while sentinels:
            task = self.manager.wait(LONG)
            if task in sentinels:
                sentinels.remove(task)
            elif task is not None:
                ended.append(task)
        return ended

    def _sentinel(self) -> Any:
        sentinel = self._vine.Task("sentinel")
        sentinel.set_library_required(SENTINEL_LIBRARY)
        sentinel.set_priority(FIRST)
        self.manager.submit(sentinel)
        return sentinel

    def sockets(self) -> set[tuple[int, int]]:
        """Descriptors of the manager's connections, and of the socket that it listens at, with their inodes: the number
        of a descriptor that was closed is given out again."""
        found = set()
        for entry in os.listdir("/proc/self/fd"):
            descriptor = int(entry)
            try:
                status = os.fstat(descriptor)
                if not stat.S_ISSOCK(status.st_mode):
                    continue
                copy = socket.socket(fileno=os.dup(descriptor))
            except OSError:
                continue
            with copy:
                if copy.family in (socket.AF_INET, socket.AF_INET6) and copy.getsockname()[1] == self.port:
                    found.add((descriptor, status.st_ino))
        return found

    def workers(self) -> list[dict[str, Any]]:
        """What TaskVine knows of each worker."""
        said: list[dict[str, Any]] = self.manager.status("workers") or []
        return said

    def close(self) -> None:
        """Let the workers go, and end."""
        self.manager.workers_shutdown(0)
        self.manager._free()  # its destructor, which nothing else is sure to call
        try:
            logs.clean(self._logs, logs.AT_MOST)
        except OSError as error:
            logger.warning("TaskVine's log is left as it is: %s", error)


def make_key(directory: str) -> tuple[str, str]:
    """Make a key on an elliptic curve and a certificate for it, in no time; TaskVine's own RSA key takes two seconds.

    Raises
    ------
    RuntimeError
        If there is no ``openssl``, or it fails.
    """
    key, certificate = os.path.join(directory, "vine.key"), os.path.join(directory, "vine.cert")
    os.close(os.open(key, os.O_WRONLY | os.O_CREAT, 0o600))
    command = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:prime256v1",
        "-nodes",
        "-batch",
    ]
    try:
        subprocess.run(
            [*command, "-days", "365", "-keyout", key, "-out", certificate],
            check=True,
            stdin=subprocess.DEVNULL,
            capture_output=True,
        )
    except (OSError, subprocess.CalledProcessError) as error:
        raise RuntimeError(f"openssl makes no key for TLS: {getattr(error, 'stderr', None) or error!r}") from error
    return key, certificate
