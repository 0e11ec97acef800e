"""The executor class for ``parsl.Config``.

:class:`TaskVineExecutor` has Parsl's interface and the public methods. Its parts do the work, and each owns its state:

=============== ===================================================================================================
Session         whether tasks are taken; the way to the manager
Run             directories, the manager's process, and the link to it
Submitter       from app calls to messages for the manager
PendingTasks    futures of tasks that have not ended, and their failures
Completions     from the manager's messages to completed futures
NodeFiles       results and temp files on nodes: located, loaded, copied home, kept at the end
ControlExecutor base class: files on nodes, statistics, the graph, tuning
BulkExecutor    base class: ``map`` and ``submit_many``
BlockExecutor   base class: nodes, and blocks of a provider
=============== ===================================================================================================

Any thread may call the public methods. The link's thread calls :meth:`TaskVineExecutor._on_message`, which completes
futures, and :meth:`TaskVineExecutor._on_manager_death`. The watcher's thread looks after blocks. No lock is held while
futures are completed. The one lock here keeps calls of ``tune`` in the order of their messages.
"""

from __future__ import annotations

import logging
import os
import shlex
import socket
import subprocess
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import parsl.executors.taskvine as upstream
import typeguard
from parsl.dataflow.futures import AppFuture
from parsl.errors import OptionalModuleMissing
from parsl.executors.errors import BadStateException
from parsl.monitoring.radios.base import RadioConfig
from parsl.providers import LocalProvider
from parsl.providers.base import ExecutionProvider
from parsl.utils import RepresentationMixin

from taskvine_exec import config, engines, launch
from taskvine_exec.blocks import providers
from taskvine_exec.blocks.executor import BlockExecutor, Told
from taskvine_exec.bulk.calls import BulkExecutor
from taskvine_exec.bulk.dependent import DependentCalls
from taskvine_exec.bulk.sender import Tasks, tasks_of
from taskvine_exec.config import TaskVineFactoryConfig, TaskVineManagerConfig
from taskvine_exec.control import ControlExecutor
from taskvine_exec.errors import ExecutorNotStarted, ExecutorShutDown, ManagerLost, WorkerLaunchFailed
from taskvine_exec.link import ManagerLink
from taskvine_exec.parsl_hooks import frames, launching, lock, switches
from taskvine_exec.parsl_hooks.collector import Pace
from taskvine_exec.radio import TaskVineRadio, read_message
from taskvine_exec.results.completions import Completions
from taskvine_exec.results.futures import TaskFuture
from taskvine_exec.results.node_files import NodeFiles
from taskvine_exec.results.pending import PendingTasks
from taskvine_exec.run import Run, working_directories
from taskvine_exec.session import Session
from taskvine_exec.submission.files import FileRules
from taskvine_exec.submission.remote import staging_providers
from taskvine_exec.submission.temp_files import TempFiles
from taskvine_exec.submitter import Submitter
from taskvine_exec.values import Value
from taskvine_manager.runtime import payload, search_path
from taskvine_tune.environment import REPORT_VARIABLE

if TYPE_CHECKING:
    from taskvine_exec.results.proxies import References

logger = logging.getLogger(__name__)


class TaskVineExecutor(ControlExecutor, BulkExecutor, BlockExecutor, RepresentationMixin):
    """Parsl executor for workflows of many short tasks and large intermediate data, on one machine or a cluster.

    Apps run as function calls in a warm library (L2, the default) or as tasks in fresh Python processes (L1). With
    ``DAG_RESOLVER`` as the Config's ``dependency_resolver``, large results stay on the nodes that made them, and tasks
    run where their inputs are.

    Every field of ``TaskVineManagerConfig`` and ``TaskVineFactoryConfig`` may also be given to the executor by name.

    Parameters
    ----------
    label : str
        Name of the executor within its Config.
    worker_launch_method : {'provider', 'factory', 'manual'}
        How nodes are started: in blocks of a Parsl provider, by the engine's factory (between ``min_workers`` and
        ``max_workers``), or by hand with the command in ``launch_cmd``.
    function_exec_mode : {'serverless', 'regular', 'L2', 'L1'}
        Default mode of apps. 'serverless' or 'L2': function calls in a warm library. 'regular' or 'L1': tasks in fresh
        Python processes. An app's resource specification overrides it.
    manager_config : TaskVineManagerConfig, optional
        This package's class or Parsl's. It is copied.
    factory_config : TaskVineFactoryConfig, optional
        This package's class or Parsl's. It is copied. Its cores, memory, disk and gpus set the size of nodes under
        every launch method.
    provider : ExecutionProvider, optional
        Provider that starts blocks, for ``worker_launch_method='provider'``. It is copied. The embedded engine takes
        only providers of this machine. Default: one block of a ``LocalProvider``.
    storage_access : list of Staging, optional
        Staging providers, asked in this order. Default: files in place. ``taskvinetemp`` files always work, and so do
        remote files (``https://``, ``s3://`` and others) that none of these providers takes.
    remote_monitoring_radio : RadioConfig, optional
        Radio for monitoring messages. Default: ``TaskVineRadio``, which sends them with the results.
    engine : {'auto', 'embedded', 'taskvine'}
        'auto' chooses TaskVine if ``ndcctools`` can be imported and the worker program is on PATH, and otherwise the
        embedded engine. The log says which engine was chosen and why.
    ssl : bool or tuple of str
        True: TLS between TaskVine's manager and workers, with a key made for the run. A tuple: the paths of your own
        key and certificate. TaskVine engine only.
    batching : bool
        Whether several short calls may be sent as one TaskVine task. TaskVine engine only.
    inline_limit : int
        Size threshold in encoded bytes between inline values and files, for arguments and results. At most 65,536.
        Large results that other tasks may read stay on the node that made them.
    results : {'value', 'reference'}
        With 'reference', results larger than ``inline_limit`` are ``proxystore.proxy.Proxy`` objects. The value stays
        on its nodes, is fetched when first used, and is passed by reference to other apps of this executor. Apps with
        ``cache=True`` return values.
    working_directory : 'submit' or 'sandbox', optional
        Where apps run. 'submit': in your program's current directory at the executor's start. Nodes must see it under
        the same path. Relative paths are files there. 'sandbox': each call in a private directory with the files that
        its app declares. The directory is removed after the call. Default: 'submit' if all nodes are on this machine or
        ``shared_fs`` is set, otherwise 'sandbox'.
    libraries : dict, optional
        Further libraries by name, each a dict with the keys of ``library_config``. A call runs in the library that
        ``"library"`` in its resource specification names. Other calls need none of these libraries' resources.
    available_accelerators : int or list of str, optional
        Names of the gpus of a node, as HighThroughputExecutor takes them, or their number. Default: the gpus that the
        batch system has granted, or else all that the node finds.
    gpu_memory : int, optional
        Memory of each gpu in MB. Default: what the driver says.
    cpu_affinity : str
        How tasks are bound to CPUs: ``'none'``, ``'block'``, ``'block-reverse'``, ``'alternating'`` or a list such as
        ``'list:0-1:2-3'``, as for HighThroughputExecutor.
    **settings
        Fields of the two configuration classes.

    Raises
    ------
    parsl.errors.ConfigurationError
        If a value is not valid, or the engine does not support it.
    parsl.errors.OptionalModuleMissing
        If ``engine='taskvine'`` and ``ndcctools`` is not installed, or ``results='reference'`` and proxystore is not
        installed. The message has the install command.
    TypeError
        If a setting does not exist. The message names the nearest one that does.
    """

    @typeguard.typechecked
    def __init__(
        self,
        label: str = "TaskVineExecutor",
        worker_launch_method: Literal["provider", "factory", "manual"] = "provider",
        function_exec_mode: Literal["regular", "serverless", "L1", "L2"] = "serverless",
        manager_config: TaskVineManagerConfig | upstream.TaskVineManagerConfig | None = None,
        factory_config: TaskVineFactoryConfig | upstream.TaskVineFactoryConfig | None = None,
        provider: ExecutionProvider | None = None,
        storage_access: list[Any] | None = None,
        remote_monitoring_radio: RadioConfig | None = None,
        *,
        engine: Literal["auto", "embedded", "taskvine"] = "auto",
        ssl: bool | tuple[str, str] = False,
        batching: bool = True,
        inline_limit: int = payload.INLINE_LIMIT,
        results: Literal["value", "reference"] = "value",
        working_directory: config.WorkingDirectory | None = None,
        libraries: dict[str, dict[str, Any]] | None = None,
        available_accelerators: int | list[str] | tuple[str, ...] | None = None,
        gpu_memory: int | None = None,
        cpu_affinity: str = "none",
        **settings: Any,
    ) -> None:
        self.label = label
        self.worker_launch_method = worker_launch_method
        self.function_exec_mode = function_exec_mode
        self.engine = engine
        self.ssl = ssl
        self.batching = batching
        self.inline_limit = inline_limit
        self.results = results
        self.working_directory = working_directory
        self.libraries = config.own_libraries(libraries)
        self.available_accelerators = available_accelerators
        self.gpu_memory = gpu_memory
        self.cpu_affinity = cpu_affinity
        self._references = _references() if results == "reference" else None
        manager, factory = config.with_overrides(manager_config, factory_config, settings)
        self.manager_config = manager
        self.factory_config = factory
        if worker_launch_method != "provider":
            provider = None
        elif provider is None:
            provider = LocalProvider(init_blocks=1, max_blocks=1)
        else:
            provider = providers.own_copy(provider)
        self._engine, self._engine_reason = engines.choose(engine, factory.worker_executable)
        resolve: Callable[..., config.EngineSettings] = config.embedded_settings
        if self._engine == "taskvine":
            resolve = partial(config.vine_settings, ssl=ssl, batching=batching)
        self._settings = resolve(
            manager,
            factory,
            function_exec_mode=function_exec_mode,
            worker_launch_method=worker_launch_method,
            provider=provider,
            inline_limit=inline_limit,
            libraries=self.libraries,
            hardware=config.Hardware(available_accelerators, gpu_memory, cpu_affinity),
        )
        super().__init__(provider=provider)
        self._tuning = self._settings.tuning
        self._tuning_lock = threading.Lock()
        self._temp_files = TempFiles()
        self.storage_access = staging_providers(storage_access, self._temp_files)
        self.remote_monitoring_radio = remote_monitoring_radio or TaskVineRadio()
        self.working_dir: str | None = None  # Parsl's http and ftp staging read it
        self._default_run_dir = self.run_dir
        self._session = Session(label, self._bad_state)
        self._pending = PendingTasks(self._tasks, partial(self._session.say, "cancel"))
        self._node_files = NodeFiles(label, self._session, sealed=self._engine == "taskvine")
        self._pace = Pace(self._tasks)
        self._kernel: weakref.ref[Any] | None = None  # until it has launched a task
        self._run: Run | None = None
        self._begun = time.monotonic()

    # --- start ---

    def start(self) -> None:
        """Start the manager and the first nodes, without waiting for nodes to join.

        Raises
        ------
        RunDirNotWritable
            If logs cannot be written under ``run_dir``.
        ExecutorShutDown
            If the executor has been shut down. An executor cannot be restarted.
        parsl.errors.ConfigurationError
            If ``working_directory='submit'`` and the program's current directory has been removed.
        """
        if self._session.is_over:
            raise ExecutorShutDown(label=self.label)
        if self._run is not None:
            return
        settings, session = self._settings, self._session
        directories = working_directories(self.working_directory, settings, self.label)
        super().start()  # type: ignore[no-untyped-call]
        how = f"using the {self._engine} engine (engine={self.engine!r}): {self._engine_reason}"
        logger.info("executor %s: %s", self.label, how)
        switches.mention(self.label)
        if (kernel := frames.starting()) is not None:
            lock.replace(kernel)
            self._pace.count(kernel)
            self._kernel = weakref.ref(kernel)
        # Without a DFK there is no run directory. Logs are then removed at shutdown.
        under_dfk = self.run_id is not None
        chosen = under_dfk or self.run_dir != self._default_run_dir
        log = settings.vine_log_dir or (os.path.join(self.run_dir, self.label) if chosen else None)
        path = search_path.of_this_process()
        directory = directories.start if directories.in_place else None
        run = Run(self.label, settings, log, path, directory, self._connect)
        self._run = run
        files = FileRules(
            temp_files=self._temp_files,
            shared_fs=settings.shared_fs,
            storage=self.storage_access,
            streams_travel=not settings.local,
            directory=directories.start,
            in_place=directories.in_place,
        )
        self._submitter = Submitter(
            session,
            run.link,
            self._pending,
            settings,
            run.places.spool,
            path,
            files,
            self._references,
            under_dfk,
        )
        proxy = None if self._references is None else self._references.proxy
        self._completions = Completions(
            self.label, session, self._pending, self._node_files, self._temp_files, directories, proxy
        )
        session.begin(run.link)
        run.link.start()
        _started.add(self)
        self._start_blocks(run.places.scripts)
        launch.remove_leftovers(run.places, self.label)  # while nodes start

    def _connect(self, end: socket.socket, manager: subprocess.Popen[bytes]) -> ManagerLink:
        return ManagerLink(
            end,
            manager,
            self._on_message,
            self._on_manager_death,
            lambda: bool(self._tasks),
            self._pace.look,
            responsive=self._engine == "embedded",
        )

    @property
    def settings(self) -> config.EngineSettings:
        """The settings that its engine gets, with all defaults filled in."""
        return self._settings

    @property
    def run(self) -> Run:
        """The current run, or the last one: its directories (``places``), and its manager's process (``manager``).

        Raises
        ------
        ExecutorNotStarted
            If the executor has not been started.
        """
        if self._run is None:
            raise ExecutorNotStarted(label=self.label)
        return self._run

    @property
    def launch_cmd(self) -> str:
        """The shell command that starts a node of this executor by hand.

        Raises
        ------
        ExecutorNotStarted
            If the executor has not been started.
        WorkerLaunchFailed
            If TaskVine's manager has ended, or does not say where it listens.
        """
        return shlex.join(self.run.node_command())

    def _get_launch_command(self, block_id: str) -> str:
        return shlex.join(self.run.node_command("--block", block_id))

    @property
    def workers_per_node(self) -> int | float:
        """The number of calls that a node runs at a time."""
        nodes = self.nodes
        return launch.slots_of(self._settings, nodes[0]["cores"] if nodes else None)

    # --- tasks ---

    def submit(
        self, func: Callable[..., Any], resource_specification: dict[str, Any], *args: Any, **kwargs: Any
    ) -> TaskFuture:
        """Submit one call.

        Parameters
        ----------
        func : callable
            The function. cloudpickle must be able to pickle it.
        resource_specification : dict
            Keys cores, memory (MB), disk (MB), gpus, priority, running_time_min (s), category, function_exec_mode,
            recoverable, library.
        *args, **kwargs
            The call's arguments.

        Returns
        -------
        TaskFuture
            The call's future. Its ``parsl_executor_task_id`` is the executor's number of the task.

        Raises
        ------
        InvalidResourceSpecification
            If a key is unknown or a value out of bounds.
        FunctionNotSerializable, ArgumentNotSerializable
            If the call cannot be pickled.
        DiskFull
            If no space is left for large arguments.
        ExecutorNotStarted, ExecutorShutDown
            If the executor is not running.
        BadStateException
            If the executor has failed, for example because its manager was lost.
        """
        self._session.link()  # raises an exception if the session is not open
        if self._kernel is not None:
            launching.replace(self._kernel())
            self._kernel = None
        return self._watched(self._submitter.submit(func, resource_specification, args, kwargs))

    def _watched(self, future: TaskFuture) -> TaskFuture:
        """Make sure that a task which was just submitted runs or fails."""
        if self._blockless:
            self._look_now()
        if not self._session.is_open:  # it ended meanwhile, and may have missed this task
            self._pending.fail_all(self._session.error)
        return future

    def _bulk_tasks(self, function: Callable[..., Any], specification: dict[str, Any] | None, *, spread: bool) -> Tasks:
        self._session.link()
        return tasks_of(
            self._submitter,
            function,
            specification,
            spread=spread,
            check=self._session.link,
            watched=self._watched,
            cancel=self._pending.fail,
            slots=lambda: int(self.workers_per_node) * max(1, len(self.nodes)),
        )

    def dependent_calls(self) -> DependentCalls:
        self._session.link()
        return DependentCalls(self._submitter, self._session.link, self._watched, self._pending.fail_all)

    @staticmethod
    def edge_to(future: AppFuture) -> Any:
        """Return what stands for a task's result in the arguments of another task. DAG_RESOLVER calls this."""
        return Value.of(future).argument()

    # --- messages from the manager (in the link's thread) ---

    def _on_message(self, kind: str, *rest: Any) -> Iterator[None] | None:
        handler = self._handlers.get(kind)
        if handler is None:
            logger.error("the manager sent a message of the unknown kind %r", kind)
            return None
        return handler(self, *rest)

    def _on_done(self, completions: tuple[tuple[Any, ...], ...], waiting: int) -> Iterator[None]:
        self._on_waiting(waiting)
        return self._completions.complete(completions)

    def _on_waiting(self, waiting: int) -> None:
        self._pending.waiting = waiting
        if self._blockless and waiting < 0:  # a lost file must be recreated, but there is no node
            self._look_now()

    def _on_radio(self, messages: list[Any]) -> None:
        if self.monitoring_messages is not None:
            for message in filter(None, map(read_message, messages)):
                self.monitoring_messages.put(message)

    def _on_notice(self, text: str) -> None:
        logger.warning("executor %s: %s", self.label, text)

    def _on_broken(self, reason: str) -> None:
        self.set_bad_state_and_fail_all(ManagerLost(task_id=None, reason=reason))

    def _on_nodes_fail(self, reason: str, stderr: str) -> None:
        self.set_bad_state_and_fail_all(WorkerLaunchFailed(reason=reason, stderr=stderr))

    _handlers: ClassVar[dict[str, Callable[..., Iterator[None] | None]]] = {
        "done": _on_done,
        "waiting": _on_waiting,
        "radio": _on_radio,
        "nodes": BlockExecutor._nodes_are,
        "drained": BlockExecutor._block_drained,
        "notice": _on_notice,
        "broken": _on_broken,
        "nodes-fail": _on_nodes_fail,
    }

    def _on_manager_death(self, status: int) -> None:
        assert self._run is not None
        self.set_bad_state_and_fail_all(ManagerLost(task_id=None, reason=self._run.how_manager_ended(status)))
        self._run.clean_up_soon()  # later, because this thread completes futures

    # --- failures ---

    def set_bad_state_and_fail_all(self, exception: Exception) -> None:
        """Fail all pending tasks, and every later submission. Of several exceptions, the first is kept."""
        if not self._executor_bad_state.is_set():
            logger.error("executor %s cannot go on: %s", self.label, exception)
            self._executor_exception = exception
            self._executor_bad_state.set()
            self._session.fail(exception)
            self._pace.end()
        self._pending.fail_all(self._session.error)

    def _bad_state(self) -> BadStateException:
        bad = BadStateException(self, self._executor_exception)
        bad.args = (str(bad),)  # the DFK logs each error, and would log the whole executor with it
        bad.__cause__ = self._executor_exception
        return bad

    # --- tasks and blocks ---

    def outstanding(self) -> int:
        """Return the number of tasks that run or could run, including those that recreate lost files.

        At least 1 while a task waits, so that a long chain asks for one block.
        """
        return self._pending.outstanding()

    def _drain_block(self, block: str) -> None:
        self._session.say("drain", block)

    def _tell_blocks(self, blocks: list[Told]) -> None:
        self._session.say("blocks", blocks)

    # --- end ---

    def shutdown(self) -> None:
        """End the run. Tasks that have not ended fail with TaskCancelled.

        No process, socket or private directory remains. Finished results stay readable for as long as their futures
        live.
        """
        if not self._session.end():
            return
        run = self._run
        if run is not None:
            self._stop_watching()
            if os.environ.get(REPORT_VARIABLE):
                run.write_report(time.monotonic() - self._begun)
            # First, because a callback in the link's thread may wait for one of these futures.
            self._pending.fail_all(self._session.error)
            self._node_files.keep(run.link)
            serving = self._nodes.blocks()
            run.stop_manager()
            self._end_blocks(serving)
            self._pace.end()
            run.remove()
        super().shutdown()


_started: weakref.WeakSet[TaskVineExecutor] = weakref.WeakSet()


def _leave_all_to_parent() -> None:
    for executor in list(_started):
        executor._session.leave_to_parent()


os.register_at_fork(after_in_child=_leave_all_to_parent)


def _references() -> References:
    try:
        from taskvine_exec.results.proxies import References
    except ImportError as error:
        hint = f"results='reference' needs proxystore ({error}): pip install 'taskvine-exec[proxystore]'"
        raise OptionalModuleMissing(["proxystore"], hint) from error
    return References()
