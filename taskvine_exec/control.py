"""Methods of the executor that ask the manager about the run, or change it."""

from __future__ import annotations

import os
import threading
import time
from typing import TYPE_CHECKING, Any

from parsl.app.futures import DataFuture
from parsl.data_provider.files import File

from taskvine_exec import config
from taskvine_exec.errors import ExecutorShutDown
from taskvine_exec.insight import graph as graph_module
from taskvine_exec.results.node_files import NodeFiles
from taskvine_exec.run import Run
from taskvine_exec.session import Session
from taskvine_exec.submission.temp_files import TempFiles
from taskvine_exec.submitter import Submitter
from taskvine_manager.record import read_record
from taskvine_tune.tuning import Source as Parameters
from taskvine_tune.tuning import TuneParameters

if TYPE_CHECKING:
    import networkx

    from taskvine_exec.results.proxies import References


class ControlExecutor:
    """Base class of the executor with ``fetch``, ``forget``, ``stats``, ``graph`` and ``tune``."""

    label: str
    bad_state_is_set: bool
    _session: Session
    _submitter: Submitter
    _node_files: NodeFiles
    _temp_files: TempFiles
    _references: References | None
    _run: Run | None
    _settings: config.EngineSettings
    _tuning: TuneParameters
    _tuning_lock: threading.Lock

    def fetch(self, file: File | DataFuture, path: str | os.PathLike[str], timeout: float | None = None) -> str:
        """Copy a ``taskvinetemp`` file from its node to a local path.

        Waits for the task that makes the file.

        Parameters
        ----------
        file : File or DataFuture
            The file. A DataFuture means the version that its task makes, a File the latest version.
        path : path-like
            Where to write the file. Missing directories are created.
        timeout : float, optional
            Seconds to wait at most.

        Returns
        -------
        str
            The absolute path of the local file.

        Raises
        ------
        FileNotFoundError
            If no task makes the file, or it has been forgotten.
        FileLost
            If no replica is left and the file cannot be recreated.
        concurrent.futures.TimeoutError
            If the file is not available in time.
        Exception
            Any exception of the task that makes the file.
        """
        until = None if timeout is None else time.monotonic() + timeout
        version = self._temp_files.version(file)
        self._temp_files.producer(version).result(timeout)
        return self._node_files.copy(version, path, until)

    def forget(self, file: File | DataFuture | Any) -> None:
        """Remove a ``taskvinetemp`` file from all nodes.

        Call it when the tasks that read the file have ended: others may fail with FileLost.

        Parameters
        ----------
        file : File, DataFuture or Proxy
            The file. A DataFuture means the version that its task makes, a File all versions of its name. With
            ``results='reference'``, a proxy means its result. A proxy that was used already keeps its value.

        Raises
        ------
        FileNotFoundError
            If no task of this executor makes the file.
        """
        if self._references is not None and (result := self._references.forget(file)) is not None:
            versions = [result]
        else:
            versions = self._temp_files.versions(file)
            for version in versions:
                self._temp_files.forget(version)
        self._session.say("forget", versions)

    def stats(self, timeout: float | None = 10.0) -> dict[str, Any]:
        """Return statistics of the run so far.

        | name | meaning |
        |---|---|
        | ``tasks_done`` | tasks that ended |
        | ``tasks_pending`` | tasks that have not ended |
        | ``tasks_waiting`` | pending tasks that wait for files of other tasks |
        | ``tasks_recovered`` | tasks run again to recreate lost files |
        | ``tasks_retried`` | tasks run again because their node was lost |
        | ``nodes`` | nodes now |
        | ``libraries`` | dict of the number of nodes on which each named library runs now |
        | ``bytes_between_nodes`` | bytes of transfers between nodes; always 0 with TaskVine |
        | ``inputs_read`` | bytes of user files that were read; with TaskVine, all bytes that its manager sent |
        | ``bytes_stored`` | bytes of temp files and results on all nodes now |
        | ``bytes_stored_at_most`` | largest value of ``bytes_stored`` |
        | ``arguments_stored`` | bytes of large arguments stored now |
        | ``arguments_shared`` | bytes of large arguments that were not stored, because equal ones were |
        | ``replicas`` | dict of the nodes that hold each temp file or result |
        | ``makespan`` | seconds from the first submission to the latest end of a task |
        | ``tasks_returned`` | tasks that nodes gave back before starting them (embedded engine only) |
        | ``nodes_killed`` | nodes killed by ``executor.loss-interval`` (embedded engine only) |
        | ``files_evicted`` | replicas evicted from full nodes (embedded engine only) |

        Parameters
        ----------
        timeout : float, optional
            Seconds to wait for the manager at most.

        Returns
        -------
        dict
            The statistics by name.
        """
        answer: dict[str, Any] = self._session.ask("stats", timeout=timeout)
        buffers = self._submitter.buffers
        return {**answer, "arguments_stored": buffers.stored(), "arguments_shared": buffers.shared}

    def graph(self, path: str | os.PathLike[str] | None = None, timeout: float | None = 30.0) -> networkx.DiGraph:
        """Return the run so far as a graph of tasks and the files between them.

        Vertices are tasks and files. ``taskvine_exec.insight.graph.build`` lists their names and attributes.

        Parameters
        ----------
        path : path-like, optional
            File to write the graph to, as DOT (``.dot`` or ``.gv``) or GraphML (``.graphml``).
        timeout : float, optional
            Seconds to wait for the manager at most.

        Returns
        -------
        networkx.DiGraph
            A new graph. After shutdown it is built from the record in the log directory.

        Raises
        ------
        ValueError
            If the path has another suffix.
        ExecutorNotStarted
            If the executor has not been started.
        ExecutorShutDown
            If the executor has been shut down and had no run directory for its logs.
        OSError
            If the file cannot be written.
        """
        if path is not None:
            graph_module.check_suffix(path)
        live = None
        if not self._session.is_over and not self.bad_state_is_set:
            live = self._session.ask("graph", timeout=timeout)
        if self._run is None or (live is None and not os.path.exists(self._run.places.record)):
            raise ExecutorShutDown(label=self.label)
        made = graph_module.build(read_record(self._run.places.record), live)
        if path is not None:
            graph_module.write(made, path)
        return made

    def tune(self, parameters: Parameters) -> None:
        """Set tuning parameters of the running executor, effective at the next scheduling cycle.

        Parameters
        ----------
        parameters : dict, TuneParameters, or path
            As ``tune_parameters`` of ``TaskVineManagerConfig``. Other parameters keep their values.

        Raises
        ------
        parsl.errors.ConfigurationError
            If a parameter is not valid or cannot change after the start, or if parameters contradict each other or the
            number of nodes. Nothing is changed then.
        """
        link = self._session.link()
        with self._tuning_lock:  # _tuning must match the last message to the manager
            self._tuning, given = config.retuned(parameters, self._settings, self._tuning)
            link.patience.tune(given)
            link.say("tune", given)
