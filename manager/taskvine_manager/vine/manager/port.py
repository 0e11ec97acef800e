"""TaskVine's manager, driven by events: the only module that imports ``ndcctools``.

TaskVine's ``wait`` takes whole seconds, sleeps up to one second inside, and neither sends nor receives anything if its
timeout is zero. It is therefore called only when there is something to do. Sentinels make it return as soon as that is
done: they are tasks for a library that does not exist, which TaskVine returns at once. While there is nothing to do,
the manager's loop sleeps on the descriptors of TaskVine's connections.
"""

from __future__ import annotations

import importlib
import logging
import os
import subprocess
import sys
from collections.abc import Iterable
from typing import Any

from taskvine_manager.parameters.taskvine import PREFER_DISPATCH
from taskvine_manager.vine.manager import listening, logs
from taskvine_manager.vine.manager.config import VineConfig

logger = logging.getLogger(__name__)

SENTINEL_LIBRARY = "taskvine-exec-sentinel"
FIRST = 1e300
"""Priority of tasks that must come before all others."""
LONG = 3600
"""Timeout of a wait in seconds; a sentinel ends it long before."""


def load() -> Any:
    """Import ``ndcctools.taskvine``.

    Raises
    ------
    ImportError
        If it is not installed.
    """
    # It imports dask, if installed, for a part that is not used here; that takes longer than everything else.
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
        ``ndcctools.taskvine``, or its replacement in a test.
    config : VineConfig
        Settings of the engine.
    ssl : tuple of str or None
        Paths of key and certificate.
    """

    def __init__(self, vine: Any, config: VineConfig, ssl: tuple[str, str] | None) -> None:
        self._vine = vine
        self._config = config
        self._logs = os.path.join(config.log, f"vine-{os.getpid()}")
        template = os.path.basename(self._logs)
        before = os.umask(0o077)  # otherwise everybody could read its directories
        try:
            self.manager = vine.Manager(
                port=config.port, name=config.name, run_info_path=config.log, run_info_template=template, ssl=ssl
            )
        finally:
            os.umask(before)
        self.port = int(self.manager.port)
        """Port at which TaskVine listens."""
        self._listens = listening.descriptor_at(self.port)
        if self._listens is not None:
            listening.guard(self._listens)
        self._pending: Any = None
        if config.password_file is not None:
            self.manager.set_password_file(config.password_file)

    def listen_on_loopback(self, *, same_port: bool) -> None:
        """Make TaskVine accept connections of this machine only, at the same port or at any free one.

        Raises
        ------
        OSError
            If another process has taken the port meanwhile.
        RuntimeError
            If TaskVine's listening socket is not found.
        """
        if self._listens is None:
            raise RuntimeError("TaskVine's listening socket is not found among the descriptors of the manager")
        fixed = same_port and self._config.port != 0
        self.port = listening.move(self._listens, self.port if same_port else 0, fixed=fixed)

    def tune(self, parameter: str, value: float) -> None:
        """Set a tuning parameter; log one that this TaskVine does not know."""
        if self.manager.tune(parameter, value) == -1:
            logger.warning("TaskVine knows no tuning parameter %r", parameter)

    # --- files and tasks ---

    def task(self, command: str, library: str) -> Any:
        """Create a function call."""
        task = self._vine.Task(command)
        task.set_library_required(library)
        return task

    def spread(self, task: Any) -> None:
        """Place a task where most resources are free, instead of where its files are."""
        cvine = self._vine.cvine  # Task.set_scheduler looks up constants that do not exist
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
        """Remove files everywhere."""
        for file in files:
            self.manager.undeclare_file(file)

    def replicas(self, file: Any) -> int:
        """Return how many workers have a file."""
        return int(self.manager.get_file_replica_count(file))

    @property
    def recoveries(self) -> int:
        """Tasks that TaskVine ran again for lost temp files."""
        return int(self.manager.stats.tasks_recovery)

    # --- cycles ---

    def turn(self) -> Any | None:
        """Make TaskVine receive and send what is pending, without waiting.

        Returns
        -------
        Task or None
            A task that has ended, in which case TaskVine may have more to do; None once it has nothing more. If the
            sentinel has not come back, it ends a later turn.
        """
        if self._pending is None:
            self._pending = self._sentinel()
        # The wait must not time out: the next one would then begin with a sleep of a second.
        task = self.manager.wait(LONG)
        if task is self._pending:
            self._pending = None
            return None
        return task

    def housekeeping(self) -> list[Any]:
        """Make TaskVine accept connections, replicate and send keepalives; return the tasks that ended meanwhile.

        TaskVine does this only when it has no ended task to return. If it prefers dispatching, and has a task to
        dispatch, it does one more round even with an ended task. After that it stops as long as it has another ended
        task to return.
        """
        ended = list(iter(self.turn, None)) if self._pending is not None else []
        waiting = self._vine.Task("sentinel")
        waiting.add_feature(SENTINEL_LIBRARY)  # no worker has this feature
        waiting.set_priority(-FIRST)
        self.manager.submit(waiting)
        sentinels = [self._sentinel(), self._sentinel()]
        self.tune(PREFER_DISPATCH.name, 1)
        try:
            task = self.manager.wait(LONG)
        finally:
            self.tune(PREFER_DISPATCH.name, 0)
            self.manager.cancel_by_task_id(waiting.id)
        while True:
            if task in sentinels:
                sentinels.remove(task)
            elif task is not None:
                ended.append(task)
            if not sentinels:
                return ended
            task = self.manager.wait(LONG)

    def _sentinel(self) -> Any:
        sentinel = self._vine.Task("sentinel")
        sentinel.set_library_required(SENTINEL_LIBRARY)
        sentinel.set_priority(FIRST)
        self.manager.submit(sentinel)
        return sentinel

    def sockets(self) -> set[tuple[int, int]]:
        """Return the descriptors of the manager's connections and listening socket, with their inodes.

        The inodes are needed because the number of a closed descriptor is reused.
        """
        return {(descriptor, inode) for descriptor, inode, _ in listening.sockets_at(self.port)}

    def workers(self) -> list[dict[str, Any]]:
        """Return TaskVine's status of each worker."""
        said: list[dict[str, Any]] = self.manager.status("workers") or []
        return said

    def close(self) -> None:
        """Release the workers, and end."""
        self.manager.workers_shutdown(0)
        self.manager._free()  # the destructor, which may never be called otherwise
        try:
            logs.clean(self._logs, logs.AT_MOST)
        except OSError as error:
            logger.warning("TaskVine's log is left as it is: %s", error)


def make_key(directory: str) -> tuple[str, str]:
    """Create a key on an elliptic curve and its certificate; TaskVine's own RSA key takes two seconds.

    Raises
    ------
    RuntimeError
        If ``openssl`` is missing or fails.
    """
    key, certificate = os.path.join(directory, "vine.key"), os.path.join(directory, "vine.cert")
    os.close(os.open(key, os.O_WRONLY | os.O_CREAT, 0o600))
    curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"]
    files = ["-keyout", key, "-out", certificate]
    command = ["openssl", "req", "-x509", *curve, "-nodes", "-batch", "-days", "365", *files]
    try:
        subprocess.run(command, check=True, stdin=subprocess.DEVNULL, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise RuntimeError(f"openssl cannot create a TLS key: {getattr(error, 'stderr', None) or error!r}") from error
    return key, certificate
