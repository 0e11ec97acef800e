"""The executor class for ``parsl.Config``."""

from __future__ import annotations

import copy
import dataclasses
import errno
import gc
import itertools
import logging
import os
import shlex
import subprocess
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, InvalidStateError
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import parsl.executors.taskvine as upstream
import typeguard
from parsl.app.futures import DataFuture
from parsl.data_provider.file_noop import NoOpFileStaging
from parsl.data_provider.files import File
from parsl.data_provider.ftp import FTPInTaskStaging
from parsl.data_provider.http import HTTPInTaskStaging
from parsl.data_provider.zip import ZipFileStaging
from parsl.errors import ConfigurationError, OptionalModuleMissing
from parsl.executors.errors import BadStateException
from parsl.monitoring.radios.base import RadioConfig
from parsl.providers import LocalProvider
from parsl.providers.base import ExecutionProvider
from parsl.utils import RepresentationMixin

from taskvine_exec import config, engines, launch
from taskvine_exec.blocks import BlockExecutor
from taskvine_exec.config import TaskVineFactoryConfig, TaskVineManagerConfig
from taskvine_exec.errors import (
    ArgumentNotSerializable,
    DiskFull,
    ExecutorNotStarted,
    ExecutorShutDown,
    FileLost,
    ManagerLost,
    TaskCancelled,
    WorkerLaunchFailed,
    from_record,
    is_interruption,
)
from taskvine_exec.insight import graph as graph_module
from taskvine_exec.link import ManagerLink
from taskvine_exec.parsl_hooks import containers, frames
from taskvine_exec.parsl_hooks.files import staging as staging_files
from taskvine_exec.parsl_hooks.resolver import DAG_RESOLVER
from taskvine_exec.radio import TaskVineRadio, read_message
from taskvine_exec.results import keeping
from taskvine_exec.results.advice import WorkingDirectories, about_left
from taskvine_exec.results.failures import FailureQueue, dependency_error
from taskvine_exec.results.futures import TaskFuture, settle
from taskvine_exec.submission import resources
from taskvine_exec.submission.buffers import Buffers
from taskvine_exec.submission.files import FilePlan, NestedFiles, has_files
from taskvine_exec.submission.functions import FunctionCache, FunctionReference, encode_arguments, encode_scalars
from taskvine_exec.submission.resources import ResourceSpecification
from taskvine_exec.submission.staging import Over, TaskVineTempStaging, TempFiles, version_of
from taskvine_exec.values import Edge, Kept, Place, Value, Where, collect
from taskvine_manager import cleanup
from taskvine_manager.node import hardware, leftovers, staging
from taskvine_manager.node.copying import deliver
from taskvine_manager.node.replicas import Source, check, is_lost
from taskvine_manager.record import read_record
from taskvine_manager.runtime import failure, headroom, mapping, payload, search_path
from taskvine_manager.vine import seals
from taskvine_manager.wire.messages import L1, Completion, FileUse, Invocation, Profile
from taskvine_tune.environment import REPORT_VARIABLE, RunReport
from taskvine_tune.tuning import Source as Parameters

if TYPE_CHECKING:
    import networkx

    from taskvine_exec.results.proxies import References

logger = logging.getLogger(__name__)

_STOP_SECONDS = 5.0
AT_ONCE = 4
"""Up to this number of pending tasks, the submitting thread sends a new task itself: there is no batch to wait for, and
the link's thread need not wake up."""
_ADDRESS_SECONDS = 30.0
"""Time limit for the manager to report where it listens, counted from its start."""
_HOME_SECONDS = 60.0
"""Time limit at shutdown for bringing home results that are on other machines or were lost."""
_TRIES = 10
"""Number of times to look for a readable replica of a file."""


class TaskVineExecutor(BlockExecutor, RepresentationMixin):
    """Parsl executor for workflows of many short tasks and large intermediate data, on one machine or a cluster.

    Apps run as function calls in a warm library (L2, the default) or as tasks in fresh Python processes (L1). With
    ``DAG_RESOLVER`` as the Config's ``dependency_resolver``, large results stay on the nodes that made them, and tasks
    run where their inputs are.

    Every field of :class:`TaskVineManagerConfig` and :class:`TaskVineFactoryConfig` may also be given to the executor
    by name.

    Parameters
    ----------
    label : str
        Name of the executor within its Config.
    worker_launch_method : {'provider', 'factory', 'manual'}
        How nodes are started: in blocks of a Parsl provider, by the engine's factory (between ``min_workers`` and
        ``max_workers``), or by hand with the command in :attr:`launch_cmd`.
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
        only providers of this machine. Default: one block of a :class:`~parsl.providers.LocalProvider`.
    storage_access : list of Staging, optional
        Staging providers. Default: files in place, http and ftp inside the task, and zip. ``taskvinetemp`` files always
        work.
    remote_monitoring_radio : RadioConfig, optional
        Radio for monitoring messages. Default: :class:`~taskvine_exec.TaskVineRadio`, which sends them with the
        results.
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
    working_directory : {'submit', 'sandbox'}, optional
        Where apps run. 'submit': in your program's current directory at the executor's start. Nodes must see it under
        the same path. Relative paths are files there. 'sandbox': each call in a private directory with the files that
        its app declares. The directory is removed after the call. Default: 'submit' if all nodes are on this machine or
        ``shared_fs`` is set, otherwise 'sandbox'.
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
        self._references = _references() if results == "reference" else None
        manager, factory = config.with_overrides(
            config.own_manager_config(manager_config), config.own_factory_config(factory_config), settings
        )
        self.manager_config = manager
        self.factory_config = factory
        if worker_launch_method != "provider":
            provider = None
        elif provider is None:
            provider = LocalProvider(init_blocks=1, max_blocks=1)
        else:
            provider = _own_copy(provider)
        self._engine, self._engine_reason = engines.choose(engine, factory.worker_executable)
        self._settings: config.EngineSettings
        if self._engine == "taskvine":
            self._settings = config.vine_settings(
                manager,
                factory,
                function_exec_mode=function_exec_mode,
                worker_launch_method=worker_launch_method,
                provider=provider,
                ssl=ssl,
                inline_limit=inline_limit,
                batching=batching,
            )
        else:
            self._settings = config.embedded_settings(
                manager,
                factory,
                function_exec_mode=function_exec_mode,
                worker_launch_method=worker_launch_method,
                provider=provider,
                inline_limit=inline_limit,
            )
        super().__init__(provider=provider)
        self._tuning = self._settings.tuning
        self._tuning_lock = threading.Lock()
        self._temp_files = TempFiles()
        self.storage_access = _storage(storage_access, self._temp_files)
        self.remote_monitoring_radio = remote_monitoring_radio or TaskVineRadio()
        self.working_dir: str | None = None  # Parsl's http and ftp staging read it
        self._default_run_dir = self.run_dir
        self._mode = resources.normalise_mode(function_exec_mode)
        self._state_lock = threading.Lock()
        self._over = False
        self._over_reason = ""
        self._link: ManagerLink | None = None
        self._manager: subprocess.Popen[bytes] | None = None
        self._numbers = itertools.count()
        self._profile_numbers = itertools.count()
        self._profile_lock = threading.Lock()
        self._waiting = 0
        self._kept = Kept()
        self._warned_of: set[str] = set()
        self._failures = FailureQueue(self._fail_now)
        self._values: weakref.WeakValueDictionary[str, Value] = weakref.WeakValueDictionary()
        self._results_kept = threading.Event()
        self._buffers = Buffers()
        self._begun = time.monotonic()
        self._sweeper: threading.Thread | None = None

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
        if self._over:
            raise ExecutorShutDown(label=self.label)
        if self._link is not None:
            return
        self._choose_directory()
        super().start()  # type: ignore[no-untyped-call]
        logger.info(
            "executor %s: using the %s engine (engine=%r): %s",
            self.label,
            self._engine,
            self.engine,
            self._engine_reason,
        )
        # Without a DFK there is no run directory. Logs are then removed at shutdown.
        chosen = self.run_id is not None or self.run_dir != self._default_run_dir
        log = self._settings.vine_log_dir or (os.path.join(self.run_dir, self.label) if chosen else None)
        # TaskVine's workers move results into their caches, and a move out of memory is a copy.
        in_memory = self._engine == "embedded"
        headroom.keep_to(hardware.memory_group())
        self._places = places = launch.make_places(log, in_memory=in_memory)
        mapping.keep_spare()
        self._claim = leftovers.claim(places.base, places.base, "")
        try:
            path = search_path.of_this_process()
            self._functions = FunctionCache(places.spool, path, partial(_retire, weakref.ref(self)))
            directory = self._directories.start if self._directories.in_place else None
            launch.write_configs(places, self._settings, path, directory)
            self._manager_started = time.monotonic()
            self._manager, end = launch.start_manager(places, self._claim)
            self._link = ManagerLink(
                end,
                self._manager,
                self._on_message,
                self._on_manager_death,
                lambda: bool(self._tasks),
                responsive=self._engine == "embedded",
            )
            self._link.patience.tune(self._settings.tune_parameters)
        except BaseException:
            if self._manager is not None:
                self._manager.kill()
                self._manager.wait()
            staging.remove_run(places.base)
            os.close(self._claim)
            raise
        self._link.start()
        _started.add(self)
        provider = self.provider
        if provider is not None and hasattr(provider, "script_dir"):
            script_dir = provider.script_dir
            if script_dir is None or not launch.survives_shell(str(script_dir)):
                provider.script_dir = places.scripts
        self._start_blocks()
        launch.remove_leftovers(places, self.label)  # while nodes start

    def _choose_directory(self) -> None:
        """Choose whether apps run in the program's current directory."""
        in_place = config.working_directory(self.working_directory, self._settings) == "submit"
        directory: str | None = None
        try:
            directory = os.getcwd()
        except OSError as error:
            what = f"the current directory of this program cannot be used: {error.strerror}"
            if self.working_directory == "submit":
                raise ConfigurationError(
                    f"working_directory='submit', but {what}. Change to a directory that exists, or give 'sandbox'."
                ) from error
            if in_place:
                logger.warning("executor %s: apps run in private directories, because %s", self.label, what)
        self._directories = WorkingDirectories(directory, in_place and directory is not None)

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
        if self._link is None:
            raise ExecutorNotStarted(label=self.label)
        return shlex.join(self._node_command())

    def _get_launch_command(self, block_id: str) -> str:
        return shlex.join(self._node_command("--block", block_id))

    def _node_command(self, *options: str) -> list[str]:
        if isinstance(self._settings, config.VineSettings):
            assert self._manager is not None
            deadline = self._manager_started + _ADDRESS_SECONDS  # one deadline for all blocks
            command = launch.vine_command(self._places, self._settings, self._manager.poll, deadline)
            return [*command[:3], *options, *command[3:]]  # the last arguments are the worker's
        return [*launch.node_command(self._places.base, self._settings), *options]

    @property
    def workers_per_node(self) -> int | float:
        """The number of calls that a node runs at a time."""
        nodes = self._nodes
        return launch.slots_of(self._settings, nodes[0]["cores"] if nodes else None)

    def _running_link(self) -> ManagerLink:
        """Return the link to the manager, or raise if the executor takes no tasks."""
        if self._over:
            raise ExecutorShutDown(label=self.label, reason=self._over_reason)
        if self._link is None:
            raise ExecutorNotStarted(label=self.label)
        if self._executor_bad_state.is_set():
            raise self._bad_state()
        return self._link

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
            recoverable.
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
        link = self._running_link()
        specification = resources.parse(resource_specification)
        function = self._functions.reference(func)
        name = getattr(func, "__name__", function.name)
        if type(name) is not str:
            name = function.name
        profile = function.profiles.get((specification, name))
        if profile is None:
            profile = self._new_profile(function, specification, name, link)
        number = next(self._numbers)
        future = TaskFuture(number, time.time())
        plan = self._plan_files(args, kwargs, future) if has_files(args, kwargs) else None
        if plan is not None:
            args, kwargs = plan.args, plan.kwargs
        values: Sequence[Value] = ()
        edges: Sequence[Edge] = ()
        arguments: payload.Payload | None = encode_scalars(args, kwargs, self._settings.inline_limit)
        if arguments is None:
            arguments, values, edges, plan = self._encode(args, kwargs, plan, future, name)
            future.needs = values
        self._tasks[number] = future
        try:
            record = frames.launched() if self.run_id is not None else None
            if plan is None and not values and not self._keeps_result(record):
                link.submit(Invocation(number, profile, arguments), at_once=len(self._tasks) <= AT_ONCE)
            else:
                self._send(link, future, Invocation(number, profile, arguments), record, plan, values, edges)
        except BaseException as error:  # such as Ctrl-C: the caller gets no future
            self._tasks.pop(number, None)
            _set_exception(future, error)
            raise
        if self._blockless:
            self._attention.set()
        if self._over:  # the executor ended meanwhile, and may have missed this task
            self._fail_all(self._shutdown_error)
        elif self._executor_bad_state.is_set():
            self._fail_all(self._bad_state_error)
        return future

    def _send(
        self,
        link: ManagerLink,
        future: TaskFuture,
        invocation: Invocation,
        record: dict[str, Any] | None,
        plan: FilePlan | None,
        values: Sequence[Value],
        edges: Sequence[Edge],
    ) -> None:
        """Send a call that has files, reads results of other tasks, or keeps its result on nodes."""
        number = invocation.number
        inputs = [*(plan.inputs if plan else ()), *(FileUse("value", "", value.number) for value in values)]
        outputs = [*(plan.outputs if plan else ())]
        if self._keeps_result(record):
            value = Value.unattended(number) if record is None else Value.of(record["app_fu"])
            future.value = value
            outputs.append(FileUse("value", "", value.number))
        invocation = invocation._replace(inputs=tuple(inputs), outputs=tuple(outputs))
        link.submit(invocation, at_once=len(self._tasks) <= AT_ONCE)
        consumer = number if record is None else record["id"]
        if plan is not None:
            self._follow_producers(number, consumer, plan)
        if record is not None and edges:
            record["app_fu"].add_done_callback(partial(_let_go, edges))
        for value in values:
            value.when_settled(partial(self._value_settled, number, consumer))

    def _encode(
        self, args: tuple[Any, ...], kwargs: dict[str, Any], plan: FilePlan | None, future: TaskFuture, name: str
    ) -> tuple[payload.Payload, list[Value], list[Edge], FilePlan | None]:
        """Encode the arguments of a call, and collect the results of other calls and the files in them.

        Raises
        ------
        ArgumentNotSerializable, DiskFull
            If the arguments cannot be pickled or stored. ``future`` fails with the same error, for tasks that wait for
            its outputs.
        """
        nested = NestedFiles(plan, partial(self._plan_files, (), {}, future))
        encode = encode_arguments if self._references is None else self._references.encode
        spool, limit = self._places.spool, self._settings.inline_limit
        try:
            arguments, values, edges = staging_files(nested, collect, encode, args, kwargs, spool, limit, self._buffers)
        except BaseException as error:  # the arguments' own methods run here, and may raise anything
            if nested.error is not None:
                _set_exception(future, nested.error)
                raise nested.error from None
            refusal: DiskFull | ArgumentNotSerializable
            if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
                reason = f"the arguments of {name} cannot be stored: {error.strerror}"
                refusal = DiskFull(task_id=future.parsl_executor_task_id, reason=reason, path=error.filename or spool)
            else:
                reason = _unresolved(args, kwargs) or failure.describe(error)
                refusal = ArgumentNotSerializable(task_id=future.parsl_executor_task_id, reason=reason, subject=name)
            _set_exception(future, refusal)
            if is_interruption(error):
                raise
            raise refusal from error
        return arguments, values, edges, nested.plan

    def _keeps_result(self, record: dict[str, Any] | None) -> bool:
        """Tell whether the result of a task is kept for other tasks to read."""
        if record is None:
            return self._references is not None
        if record["memoize"] or record["join"]:
            return False
        return self._references is not None or record["dfk"].dependency_resolver is DAG_RESOLVER

    def _plan_files(self, args: tuple[Any, ...], kwargs: dict[str, Any], future: TaskFuture) -> FilePlan:
        task = f"t{future.parsl_executor_task_id}"
        shared, storage = self._settings.shared_fs, self.storage_access
        try:
            return FilePlan(
                args,
                kwargs,
                files=self._temp_files,
                task=task,
                producer=future,
                shared_fs=shared,
                storage=storage,
                streams_travel=not getattr(self._settings, "local", True),
                directory=self._directories.start,
                in_place=self._directories.in_place,
            )
        except BaseException as error:
            if is_interruption(error) or isinstance(error, Exception):
                _set_exception(future, error)  # for tasks that wait for its outputs
                raise
            reason = f"its files cannot be examined: {failure.describe(error)}"
            refusal = ArgumentNotSerializable(task_id=future.parsl_executor_task_id, reason=reason)
            _set_exception(future, refusal)
            raise refusal from error

    def _new_profile(
        self, function: FunctionReference, specification: ResourceSpecification, name: str, link: ManagerLink
    ) -> int:
        with self._profile_lock:
            known = function.profiles.get((specification, name))
            if known is not None:
                return known
            number = next(self._profile_numbers)
            mode = specification.mode or self._mode
            shown = name.encode("utf-8", "backslashreplace").decode()  # a lone surrogate cannot be sent
            category = specification.category or (shown if self._settings.autocategory else "parsl-default")
            profile = Profile(
                number,
                function.key,
                shown,
                mode,
                self._share(specification.cores, self._settings.library_cores, mode),
                self._share(specification.memory, self._settings.library_memory, mode),
                self._share(specification.disk, self._settings.library_disk, mode),
                specification.gpus,
                specification.priority,
                category,
                specification.recoverable,
                specification.running_time_min,
            )
            # The manager keeps the function until _retire says that no more tasks will call it.
            functions = [] if function.profiles else [(function.key, function.encoded)]
            function.encoded = b""
            link.define(functions, [profile])
            function.profiles[specification, name] = number
            return number

    def _share(self, asked: float | None, library: float | None, mode: str) -> float | None:
        """Return a call's amount of a resource: its request, or a slot's share of the library."""
        if asked is not None or library is None or mode == L1:
            return asked
        return library / (self._settings.slots or 1)

    def _follow_producers(self, number: int, consumer: int, plan: FilePlan) -> None:
        """Fail a task if a task that makes its input fails for good. An edge names a future, not one attempt."""
        for use in plan.inputs:
            if use.kind == "temp" and use.source not in self._temp_files.made:
                producer = self._temp_files.producer(use.source)
                producer.add_done_callback(partial(self._producer_done, use.source, number, consumer))

    def _value_settled(self, number: int, consumer: int, value: Value) -> None:
        if value.error is not None:
            self._fail(number, dependency_error(value.error, value.producer, consumer))

    def _producer_done(self, version: str, number: int, consumer: int, producer: Future[Any]) -> None:
        over = Over(producer)
        if (error := over.exception()) is not None:
            self._fail(number, dependency_error(error, over.tid, consumer))
        elif version not in self._temp_files.made:
            reason = f"the task that should make {version} has ended without it (its result may be memoized)"
            self._fail(number, FileLost(task_id=number, reason=reason, name=version))

    def _fail(self, number: int, error: Exception) -> None:
        """Fail a task, and then the tasks that depend on it."""
        self._failures.add(number, error)

    def _fail_now(self, number: int, error: Exception) -> None:
        future = self._tasks.pop(number, None)
        if future is not None and self._link is not None:
            self._link.say("cancel", [number])
            _set_exception(future, error)

    # --- messages from the manager (in the link's thread) ---

    def _on_message(self, kind: str, *rest: Any) -> Iterator[None] | None:
        if kind == "done":
            self._now_waiting(rest[1])
            return self._complete(rest[0])
        if kind == "radio":
            if self.monitoring_messages is not None:
                for message in filter(None, map(read_message, rest[0])):
                    self.monitoring_messages.put(message)
        elif kind == "waiting":
            self._now_waiting(rest[0])
        elif kind == "nodes":
            self._nodes_are(list(rest[0]))
        elif kind == "drained":
            self._block_drained(rest[0])
        elif kind == "notice":
            logger.warning("executor %s: %s", self.label, rest[0])
        elif kind == "broken":
            self.set_bad_state_and_fail_all(ManagerLost(task_id=None, reason=rest[0]))
        elif kind == "nodes-fail":
            self.set_bad_state_and_fail_all(WorkerLaunchFailed(reason=rest[0], stderr=rest[1]))
        else:
            logger.error("the manager sent a message of the unknown kind %r", kind)
        return None

    def _now_waiting(self, count: int) -> None:
        self._waiting = count
        if self._blockless and count < 0:  # lost files must be recreated, and there is no node
            self._attention.set()

    def _complete(self, completions: tuple[tuple[Any, ...], ...]) -> Iterator[None]:
        unread: list[str] = []
        proxy = None if self._references is None else self._references.proxy
        for item in completions:
            completion = Completion(*item)
            if completion.left:
                self._say_left(completion)
            for version, _, _ in completion.made:
                self._temp_files.made.add(version)
            future = self._tasks.pop(completion.number, None)
            if isinstance(future, TaskFuture):
                future.needs = ()
                if future.value is not None and isinstance(completion.body, str):
                    self._values[future.value.number] = future.value  # before a callback can end the run
                try:
                    settle(future, completion, self._load, proxy, self._directories)
                except BaseException:  # concurrent.futures catches only Exceptions of callbacks
                    logger.exception("a callback of task %d's future raised an exception", completion.number)
                if future.value is not None and completion.outcome == failure.RETURNED:
                    self._release(future.value, sum(size for _, size, _ in completion.made), unread)
            yield
        if unread and self._link is not None:
            self._link.say("forget", unread)

    def _say_left(self, completion: Completion) -> None:
        """Warn of files that an app wrote without declaring them, once per app."""
        app, *files = completion.left
        level = logging.DEBUG if app in self._warned_of else logging.WARNING
        self._warned_of.add(app)
        logger.log(level, "executor %s: %s", self.label, about_left(app, files, completion.node))

    def _release(self, value: Value, size: int, unread: list[str]) -> None:
        """Have the manager forget a result as soon as nobody can read it there."""
        if value.place is Place.HOME and not value.has_edges:
            unread.append(value.number)  # later readers get it from this process
        else:
            value.when_gone(partial(_forget_value, weakref.ref(self), size))
            self._kept.add(size)

    def _load(self, value: Value, timeout: float | None) -> Any:
        """Load a result from a node. A lost result is recreated."""
        until = None if timeout is None else time.monotonic() + timeout
        for _ in range(_TRIES):
            where = value.where
            if where is None:  # Value.load tries again with the new loader
                raise ExecutorShutDown(label=self.label)
            found = keeping.read(where, value)
            if found is None:
                answer = self._locate(value.number, where, _left(until))
                if isinstance(answer, Where):
                    value.where = answer
                    continue
                found = payload.Frames(answer)
            return keeping.load(found, value)
        raise FileLost(task_id=value.producer, reason="none of its replicas could be read", name=value.number)

    def _locate(self, file: str, spoiled: Where | None, timeout: float | None) -> Where | bytes:
        """Ask the manager where a file is, and report the replica that could not be read.

        Raises
        ------
        FileLost
            If no replica is left and the file cannot be recreated.
        ExecutorShutDown
            If the executor has ended. All unread results have then been given another way to be loaded.
        """
        if self._over:
            self._results_kept.wait(timeout)
        link = self._running_link()
        if spoiled is not None:
            link.say("spoiled", spoiled.node, file, spoiled.stamp)
        return _understood(self._ask("locate", file, timeout=timeout))

    def _keep_results(self, link: ManagerLink) -> None:
        """Keep finished results that are not read yet readable without the manager and its nodes."""

        def locate(file: str, spoiled: Where | None, seconds: float) -> Future[Any]:
            if spoiled is not None:
                link.say("spoiled", spoiled.node, file, spoiled.stamp)
            return link.ask("locate", file, timeout=seconds)

        def unread() -> list[Value]:
            values = list(self._values.values())
            return [value for value in values if value.place is Place.NODES and not value.is_read]

        try:
            if unread():
                gc.collect()  # futures and their task records are reference cycles: drop those not in use
                keeping.Keeper(locate, _understood, _HOME_SECONDS).keep(unread())
        except Exception:
            logger.exception("executor %s: unread results cannot be kept after shutdown", self.label)
        finally:
            self._results_kept.set()

    takes_edges = True
    """Tells DAG_RESOLVER that it may leave edges in the arguments of this executor's tasks."""

    def _on_manager_death(self, status: int) -> None:
        how = f"it was killed by signal {-status}" if status < 0 else f"it exited with status {status}"
        if self._link is not None and self._link.silent:
            how = f"it was killed, because {self._link.silent}"
        said = launch.tail(self._places.manager_output) or f"see {self._places.log}"
        self.set_bad_state_and_fail_all(ManagerLost(task_id=None, reason=f"{how}; {said}"))
        # In another thread, because sweeping is slow and this thread completes futures. Not a daemon: the program may
        # end now without a shutdown, and must wait for the sweep.
        self._sweeper = threading.Thread(target=self._sweep, name="TaskVine-Sweeper", daemon=False)
        try:
            self._sweeper.start()
        except RuntimeError:  # the interpreter is shutting down
            self._sweeper = None
            self._sweep()

    def _sweep(self) -> None:
        cleanup.kill_strays(self._places.base, grace=1.0)
        staging.remove_run(self._places.base)

    def set_bad_state_and_fail_all(self, exception: Exception) -> None:
        """Fail all pending tasks, and every later submission. Of several exceptions, the first is kept."""
        if not self._executor_bad_state.is_set():
            logger.error("executor %s cannot go on: %s", self.label, exception)
            self._executor_exception = exception
            self._executor_bad_state.set()
        self._fail_all(self._bad_state_error)

    def _bad_state_error(self, number: int) -> Exception:
        error = self._executor_exception
        if isinstance(error, ManagerLost):
            return dataclasses.replace(error, task_id=number)
        return self._bad_state()

    def _bad_state(self) -> BadStateException:
        bad = BadStateException(self, self._executor_exception)
        bad.args = (str(bad),)  # the DFK logs each error, and would log the whole executor with it
        return bad

    def _shutdown_error(self, number: int) -> Exception:
        return TaskCancelled(task_id=number, reason="the executor shut down")

    def _fail_all(self, error: Callable[[int], Exception]) -> None:
        numbers: list[Any] = list(self._tasks)
        futures = [(number, self._tasks.pop(number, None)) for number in numbers]
        if self._link is not None and numbers and not self._over:
            self._link.say("cancel", numbers)
        for number, future in futures:
            if future is not None:
                _set_exception(future, error(number))

    # --- files and statistics ---

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
        version = self._version(file)
        self._temp_files.producer(version).result(timeout)
        target = os.path.abspath(path)
        os.makedirs(os.path.dirname(target), exist_ok=True)
        spoiled = None
        for _ in range(_TRIES):
            where = self._locate(version, spoiled, _left(until))
            assert isinstance(where, Where)  # only results are sent inside messages
            try:
                check(Source(*where[1:]))
                deliver(where.path, target, seals.check(where.path) if self._engine == "taskvine" else None)
            except OSError as error:
                if not isinstance(error, seals.Cut) and not is_lost(error, where.path):
                    raise
                spoiled = where  # its node has just left, or the file was written to: try another replica
                continue
            return target
        raise FileLost(task_id=None, reason="none of its replicas could be read", name=version)

    def forget(self, file: File | DataFuture | Any) -> None:
        """Remove a ``taskvinetemp`` file from all nodes.

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
            if self._link is not None:
                self._link.say("forget", [result])
            return
        if isinstance(file, DataFuture) or version_of(file) is not None:
            versions = [self._version(file)]
        else:
            versions = self._temp_files.versions(file)
        for version in versions:
            self._temp_files.forget(version)
        if self._link is not None:
            self._link.say("forget", versions)

    def _version(self, file: File | DataFuture) -> str:
        if isinstance(file, DataFuture):
            bound = version_of(file.file_obj)
            return bound if bound is not None else self._temp_files.consume(file.file_obj.cleancopy(), file.tid)
        bound = version_of(file)
        return bound if bound is not None else self._temp_files.consume(file.cleancopy())

    def stats(self, timeout: float | None = 10.0) -> dict[str, Any]:
        """Return statistics of the run so far.

        ============================ ==================================================================================
        ``tasks_done``               tasks that ended
        ``tasks_pending``            tasks that have not ended
        ``tasks_waiting``            pending tasks that wait for files of other tasks
        ``tasks_recovered``          tasks run again to recreate lost files
        ``tasks_retried``            tasks run again because their node was lost
        ``nodes``                    nodes now
        ``bytes_between_nodes``      bytes of transfers between nodes; always 0 with TaskVine
        ``inputs_read``              bytes of user files that were read; with TaskVine, all bytes that its manager sent
        ``bytes_stored``             bytes of temp files and results on all nodes now
        ``bytes_stored_at_most``     largest value of ``bytes_stored``
        ``arguments_stored``         bytes of large arguments stored now
        ``arguments_shared``         bytes of large arguments that were not stored, because equal ones were
        ``replicas``                 dict of the nodes that hold each temp file or result
        ``makespan``                 seconds from the first submission to the latest end of a task
        ``tasks_returned``           tasks that nodes gave back before starting them (embedded engine only)
        ``nodes_killed``             nodes killed by ``executor.loss-interval`` (embedded engine only)
        ``files_evicted``            replicas evicted from full nodes (embedded engine only)
        ============================ ==================================================================================

        Parameters
        ----------
        timeout : float, optional
            Seconds to wait for the manager at most.

        Returns
        -------
        dict
            The statistics by name.
        """
        answer: dict[str, Any] = self._ask("stats", timeout=timeout)
        return {**answer, "arguments_stored": self._buffers.stored(), "arguments_shared": self._buffers.shared}

    def graph(self, path: str | os.PathLike[str] | None = None, timeout: float | None = 30.0) -> networkx.DiGraph:
        """Return the run so far as a graph of tasks and the files between them.

        Vertices of tasks are named by the executor's number of the task (an int, ``parsl_executor_task_id``). Vertices
        of temp files, and of results that other tasks may read, are named by a str. Edges lead from files to the tasks
        that read them, and from tasks to the files that they make. Attributes are str or numbers. Unknown ones are
        missing.

        =================== ====================================================================================
        of tasks
        =================== ====================================================================================
        ``kind``            ``"invocation"``
        ``name``            name of the function
        ``category``        as in the resource specification
        ``mode``            ``"L1"`` or ``"L2"``
        ``state``           ``"waiting"``, ``"ready"``, ``"assigned"`` or ``"done"``; ``"unknown"`` if the manager
                            was killed before the task ended
        ``outcome``         of a task that is done: ``"returned"``, ``"raised"``, ``"lost"`` or ``"cancelled"``
        ``reason``          of a lost task: the kind of failure, such as ``"node-lost"``
        ``submitted``       time at which the manager received the task, in seconds since the epoch
        ``dispatched``      time at which its node began to launch it, in seconds since the epoch
        ``started``         time at which its function was entered, in seconds since the epoch
        ``seconds``         run time of its function
        ``node``            node that runs or ran the task; empty for none
        ``attempts``        number of attempts
        ``argument_bytes``  encoded size of its arguments
        ``result_bytes``    encoded size of its result, or of its failure
        =================== ====================================================================================

        =================== ====================================================================================
        of files
        =================== ====================================================================================
        ``kind``            ``"temp file"`` or ``"result"``
        ``name``            name of the vertex
        ``state``           ``"pending"``, ``"there"``, or ``"gone"`` (made, and then removed or lost)
        ``size``            bytes
        ``places``          names of the nodes that hold it, separated by commas; ``"manager"`` for a small result
        =================== ====================================================================================

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
        if not self._over and not self.bad_state_is_set:
            live = self._ask("graph", timeout=timeout)
        elif self._link is None or not os.path.exists(self._places.record):
            raise ExecutorShutDown(label=self.label)
        made = graph_module.build(read_record(self._places.record), live)
        if path is not None:
            graph_module.write(made, path)
        return made

    def _ask(self, kind: str, *rest: Any, timeout: float | None) -> Any:
        try:
            return self._running_link().ask(kind, *rest, timeout=timeout).result(timeout)
        except ConnectionError:
            self._running_link()  # raises a more precise error
            raise

    def tune(self, parameters: Parameters) -> None:
        """Set tuning parameters of the running executor, effective at the next scheduling cycle.

        Parameters
        ----------
        parameters : dict, TuneParameters, or path
            As ``tune_parameters`` of :class:`TaskVineManagerConfig`. Other parameters keep their values.

        Raises
        ------
        parsl.errors.ConfigurationError
            If a parameter is not valid or cannot change after the start, or if parameters contradict each other or the
            number of nodes. Nothing is changed then.
        """
        link = self._running_link()
        with self._tuning_lock:  # _tuning must match the last message to the manager
            self._tuning, given = config.retuned(parameters, self._settings, self._tuning)
            link.patience.tune(given)
            link.say("tune", given)

    def outstanding(self) -> int:
        """Return the number of tasks that run or could run, including those that recreate lost files.

        At least 1 while a task waits, so that a long chain asks for one block.
        """
        total = len(self._tasks)
        return max(total - self._waiting, 1 if total else 0)

    def _drain_block(self, block: str) -> None:
        if self._link is not None:
            self._link.say("drain", block)

    # --- end ---

    def shutdown(self) -> None:
        """End the run. Tasks that have not ended fail with TaskCancelled.

        No process, socket or private directory remains. Finished results stay readable for as long as their futures
        live.
        """
        with self._state_lock:
            if self._over:
                return
            self._over = True
        link, manager = self._link, self._manager
        if link is not None and manager is not None:
            self._stop_watching()
            report = self._report(link) if os.environ.get(REPORT_VARIABLE) else None
            # First, because a callback in the link's thread may wait for one of these futures.
            self._fail_all(self._shutdown_error)
            self._keep_results(link)
            serving = {node["block"] for node in self._nodes}
            if not link.stop(_STOP_SECONDS + launch.leaving_seconds(self._settings)):
                logger.error("executor %s: its manager did not stop in time and is killed", self.label)
                manager.kill()
                manager.wait()
            link.close()
            if report is not None:
                self._write(report)
            self._end_blocks(serving)
            if self._sweeper is not None:
                self._sweeper.join(_STOP_SECONDS)
            self._sweep()
            os.close(self._claim)
        super().shutdown()

    def _leave_to_parent(self) -> None:
        """Count as shut down, in a forked child: the run belongs to the parent, whose threads do not exist here."""
        self._state_lock = threading.Lock()
        self._over = True
        self._over_reason = "this process was forked from the one that started it"

    def _report(self, link: ManagerLink) -> RunReport | None:
        """Return the report that ``taskvine-tune sweep`` asks for."""
        try:
            stats = link.ask("stats").result(_STOP_SECONDS)
        except Exception:  # the manager was lost, which is reported elsewhere
            return None
        return RunReport(
            wall_seconds=time.monotonic() - self._begun,
            bytes_moved=stats["bytes_between_nodes"],
            storage_peak_bytes=stats["bytes_stored_at_most"],
            reexecutions=stats["tasks_recovered"] + stats["tasks_retried"],
            makespan_seconds=stats["makespan"],
            losses=stats.get("nodes_killed"),
        )

    def _write(self, report: RunReport) -> None:
        try:
            report.write()
        except OSError as error:
            logger.error("executor %s: the report of the run cannot be written: %s", self.label, error)


_started: weakref.WeakSet[TaskVineExecutor] = weakref.WeakSet()


def _leave_all_to_parent() -> None:
    for executor in list(_started):
        executor._leave_to_parent()


os.register_at_fork(after_in_child=_leave_all_to_parent)


def _own_copy(provider: ExecutionProvider) -> ExecutionProvider:
    """Copy a provider and its job table, because the DFK and the executor set attributes of providers."""
    own = copy.copy(provider)
    if hasattr(own, "resources"):
        own.resources = dict(own.resources)
    return own


def _storage(given: list[Any] | None, files: TempFiles) -> list[Any]:
    own = TaskVineTempStaging()
    own.bind(files)
    others = [NoOpFileStaging(), FTPInTaskStaging(), HTTPInTaskStaging(), ZipFileStaging()]
    if given is not None:
        others = [provider for provider in given if not isinstance(provider, TaskVineTempStaging)]
    return [own, *others]


def _set_exception(future: Future[Any], error: BaseException) -> None:
    """Fail a future, unless it is done. Exceptions of its callbacks are logged."""
    try:
        future.set_exception(error)
    except InvalidStateError:
        pass
    except BaseException:  # concurrent.futures catches only Exceptions of callbacks
        logger.exception("a callback of a task's future raised an exception")


def _references() -> References:
    try:
        from taskvine_exec.results.proxies import References
    except ImportError as error:
        hint = f"results='reference' needs proxystore ({error}): pip install 'taskvine-exec[proxystore]'"
        raise OptionalModuleMissing(["proxystore"], hint) from error
    return References()


def _unresolved(args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
    """Say where in the arguments of a task a future was left, or return an empty string."""
    named = [(f"args[{number}]", value) for number, value in enumerate(args)]
    for name, value in [*named, *kwargs.items()]:
        if (place := containers.where(name, value)) is not None:
            return (
                f"{place} is a future that was not replaced by its result. Pass futures as arguments or as items of "
                "inputs, or set dependency_resolver=DAG_RESOLVER, which also replaces futures in lists, tuples, sets, "
                "dicts and dataclasses"
            )
    return ""


def _left(until: float | None) -> float | None:
    return None if until is None else max(0.0, until - time.monotonic())


def _understood(answer: Any) -> Where | bytes:
    """Return the place of a file, or a small result itself, from the manager's answer; raise an error it reports."""
    if isinstance(answer, bytes):
        return answer
    if len(answer) == 1:
        record = payload.decode(answer[0])
        raise from_record(record.pop("kind"), None, {key: item for key, item in record.items() if item is not None})
    return Where(*answer)


def _let_go(edges: Sequence[Edge], consumer: Future[Any]) -> None:
    """Drop a finished task's references to the results that it read: its record may live long."""
    for edge in edges:
        edge.let_go()


def _retire(reference: weakref.ref[TaskVineExecutor], profiles: list[int], size: int) -> None:
    """Tell the manager that no more tasks will call a function."""
    executor = reference()
    if executor is not None and executor._link is not None and not executor._over:
        executor._link.retire(profiles, size)


def _forget_value(reference: weakref.ref[TaskVineExecutor], size: int, number: str) -> None:
    executor = reference()
    if executor is not None:
        executor._kept.gone(size)
        if executor._link is not None:
            executor._link.say("forget", [number])
