"""One run of an executor: its directories, its manager process, and the link to it.

The thread that starts the executor makes the run, and the thread that shuts it down ends it. In between, the link's
thread calls :meth:`Run.clean_up_soon` if the manager dies.
"""

from __future__ import annotations

import logging
import os
import socket
import subprocess
import threading
import time
from collections.abc import Callable

from parsl.errors import ConfigurationError

from taskvine_exec import config, launch
from taskvine_exec.config import EngineSettings, VineSettings
from taskvine_exec.link import ManagerLink
from taskvine_exec.results.advice import WorkingDirectories
from taskvine_manager import cleanup
from taskvine_manager.node import hardware, leftovers, staging
from taskvine_manager.node.deaths import tail
from taskvine_manager.runtime import headroom, mapping
from taskvine_manager.runtime.search_path import SearchPath
from taskvine_tune.environment import RunReport

logger = logging.getLogger(__name__)

_STOP_SECONDS = 5.0
_ADDRESS_SECONDS = 30.0
"""Time limit for the manager to report where it listens, counted from its start."""


class Run:
    """A run, from the start of its manager on.

    Parameters
    ----------
    label : str
        Label of the executor.
    settings : EngineSettings
        The executor's settings.
    log : str or None
        Directory for logs; None for one that is removed with the run.
    path : SearchPath
        Where nodes import modules from.
    directory : str or None
        Directory where apps run; None for sandboxes.
    connect : callable
        Makes the link from a socket that is connected to the manager, and the manager's process.

    Raises
    ------
    RunDirNotWritable
        If the log directory is not writable.
    """

    def __init__(
        self,
        label: str,
        settings: EngineSettings,
        log: str | None,
        path: SearchPath,
        directory: str | None,
        connect: Callable[[socket.socket, subprocess.Popen[bytes]], ManagerLink],
    ) -> None:
        self._label = label
        self._settings = settings
        headroom.keep_to(hardware.memory_group())  # results in memory leave room for the group's processes
        # TaskVine's workers move results into their caches, and a move out of memory is a copy.
        self.places = launch.make_places(log, in_memory=settings.engine == "embedded")
        mapping.keep_spare()  # a file descriptor, to map results when no others are left
        self._claim = leftovers.claim(self.places.base, self.places.base, "")
        self._cleaner: threading.Thread | None = None
        manager = None
        try:
            launch.write_configs(self.places, settings, path, directory)
            self._started = time.monotonic()
            manager, end = launch.start_manager(self.places, self._claim)
            self.manager = manager
            self.link = connect(end, manager)
            self.link.patience.tune(settings.tune_parameters)
        except BaseException:
            if manager is not None:
                manager.kill()
                manager.wait()
            staging.remove_run(self.places.base)
            os.close(self._claim)
            raise

    def node_command(self, *options: str) -> list[str]:
        """Return the command that starts a node, with additional options of ``taskvine-node``.

        Raises
        ------
        WorkerLaunchFailed
            If TaskVine's manager has ended, or does not say where it listens.
        """
        if isinstance(self._settings, VineSettings):
            deadline = self._started + _ADDRESS_SECONDS  # one deadline for all blocks
            command = launch.vine_command(self.places, self._settings, self.manager.poll, deadline)
            return [*command[:3], *options, *command[3:]]  # the last arguments are the worker's
        return [*launch.node_command(self.places.base, self._settings), *options]

    def how_manager_ended(self, status: int) -> str:
        """Describe the end of the manager that exited with a status, or was killed by a signal."""
        how = f"it was killed by signal {-status}" if status < 0 else f"it exited with status {status}"
        if self.link.silent:
            how = f"it was killed, because {self.link.silent}"
        said = tail(self.places.manager_output) or f"see {self.places.log}"
        return f"{how}; {said}"

    def write_report(self, wall_seconds: float) -> None:
        """Write the report that ``taskvine-tune sweep`` asks for."""
        try:
            stats = self.link.ask("stats").result(_STOP_SECONDS)
        except Exception:  # the manager was lost, which is reported elsewhere
            return
        report = RunReport(
            wall_seconds=wall_seconds,
            bytes_moved=stats["bytes_between_nodes"],
            storage_peak_bytes=stats["bytes_stored_at_most"],
            reexecutions=stats["tasks_recovered"] + stats["tasks_retried"],
            makespan_seconds=stats["makespan"],
            losses=stats.get("nodes_killed"),
        )
        try:
            report.write()
        except OSError as error:
            logger.error("executor %s: the report of the run cannot be written: %s", self._label, error)

    def stop_manager(self) -> None:
        """Tell the manager to end, and kill it if it does not end in time. Then close the link."""
        if not self.link.stop(_STOP_SECONDS + launch.leaving_seconds(self._settings)):
            logger.error("executor %s: its manager did not stop in time and is killed", self._label)
            self.manager.kill()
            self.manager.wait()
        self.link.close()

    def remove(self) -> None:
        """Remove remaining processes and the private directory."""
        if self._cleaner is not None:
            self._cleaner.join(_STOP_SECONDS)
        self._clean_up()
        os.close(self._claim)

    def clean_up_soon(self) -> None:
        """Remove remaining processes and the private directory in another thread, because that is slow."""
        # Not a daemon: the program may end now without a shutdown, and must wait for the sweep.
        self._cleaner = threading.Thread(target=self._clean_up, name="TaskVine-Cleaner", daemon=False)
        try:
            self._cleaner.start()
        except RuntimeError:  # the interpreter is shutting down
            self._cleaner = None
            self._clean_up()

    def _clean_up(self) -> None:
        cleanup.kill_strays(self.places.base, grace=1.0)
        staging.remove_run(self.places.base)


def working_directories(
    asked: config.WorkingDirectory | None, settings: EngineSettings, label: str
) -> WorkingDirectories:
    """Choose whether apps run in the program's current directory.

    Raises
    ------
    ConfigurationError
        If ``asked`` is 'submit' and the directory cannot be used.
    """
    in_place = config.working_directory(asked, settings) == "submit"
    directory: str | None = None
    try:
        directory = os.getcwd()
    except OSError as error:
        what = f"the current directory of this program cannot be used: {error.strerror}"
        if asked == "submit":
            raise ConfigurationError(
                f"working_directory='submit', but {what}. Change to a directory that exists, or give 'sandbox'."
            ) from error
        if in_place:
            logger.warning("executor %s: apps run in private directories, because %s", label, what)
    return WorkingDirectories(directory, in_place and directory is not None)
