"""The executor: what a user puts into a ``parsl.Config``."""

from __future__ import annotations

import contextlib
import copy
import itertools
import logging
import os
import pickle
import shlex
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from functools import partial
from typing import Any, Literal

import parsl.executors.taskvine as upstream
import typeguard
from parsl.app.futures import DataFuture
from parsl.data_provider.file_noop import NoOpFileStaging
from parsl.data_provider.files import File
from parsl.data_provider.ftp import FTPInTaskStaging
from parsl.data_provider.http import HTTPInTaskStaging
from parsl.data_provider.zip import ZipFileStaging
from parsl.dataflow.errors import DependencyError
from parsl.executors.errors import BadStateException
from parsl.executors.status_handling import BlockProviderExecutor
from parsl.jobs.states import TERMINAL_STATES
from parsl.monitoring.radios.base import RadioConfig
from parsl.providers import LocalProvider
from parsl.providers.base import ExecutionProvider
from parsl.utils import RepresentationMixin

import taskvine_manager
from taskvine_exec import config, resources
from taskvine_exec.config import TaskVineFactoryConfig, TaskVineManagerConfig
from taskvine_exec.errors import (
    ArgumentNotSerializable,
    ExecutorNotStarted,
    ExecutorShutDown,
    FileLost,
    ManagerLost,
    RunDirNotWritable,
    TaskCancelled,
)
from taskvine_exec.files import FilePlan, has_files
from taskvine_exec.functions import FunctionCache, FunctionReference, encode_arguments
from taskvine_exec.link import ManagerLink
from taskvine_exec.radio import TaskVineRadio
from taskvine_exec.resources import ResourceSpecification
from taskvine_exec.results import TaskFuture, settle
from taskvine_exec.staging import TaskVineTempStaging, TempFiles, version_of
from taskvine_manager import sweep
from taskvine_manager.embedded import hardware, staging
from taskvine_manager.embedded.engine import EmbeddedConfig
from taskvine_manager.messages import L1, L2, Completion, Invocation, Profile
from taskvine_manager.runtime import payload

logger = logging.getLogger(__name__)

_PROGRAM = os.path.join(os.path.dirname(os.path.abspath(taskvine_manager.__file__)), "__main__.py")
_STOP_SECONDS = 5.0
_SOCKET_PATH_LIMIT = 60
"""Longest directory, in characters, in which the sockets' paths stay within the 104 to 108 bytes that systems allow."""


class TaskVineExecutor(BlockProviderExecutor, RepresentationMixin):
    """Runs Parsl apps as TaskVine tasks and function calls, on one machine with the embedded engine.

    Every field of :class:`TaskVineManagerConfig` and :class:`TaskVineFactoryConfig` may also be given to the executor
    itself, by name.

    Parameters
    ----------
    label : str
        Name of the executor within its Config.
    worker_launch_method : {'provider', 'factory', 'manual'}
        Whether nodes are started in blocks of a Parsl provider, by a factory of the engine's own between
        ``min_workers`` and ``max_workers``, or by hand (``launch_cmd`` is what to type).
    function_exec_mode : {'serverless', 'regular', 'L2', 'L1'}
        How an app runs whose resource specification does not say: as a function call in a warm library, or as a task
        in a fresh Python process.
    manager_config : TaskVineManagerConfig, optional
        Ours or upstream's; copied.
    factory_config : TaskVineFactoryConfig, optional
        Ours or upstream's; copied. Its cores, memory, disk and gpus size the nodes under every launch method.
    provider : ExecutionProvider, optional
        A provider of this machine; copied. Default: one block of a :class:`~parsl.providers.LocalProvider`.
    storage_access : list of Staging, optional
        Staging providers. ``taskvinetemp`` files are always understood. Default: files in place, http and ftp inside
        the task, zip.
    remote_monitoring_radio : RadioConfig, optional
        How monitoring messages travel. Default: with the results.
    engine : {'auto', 'embedded', 'taskvine'}
        ``'auto'`` takes the embedded engine for now; ``'taskvine'`` is not there yet.
    **settings
        Fields of the two configuration classes.

    Raises
    ------
    parsl.errors.ConfigurationError
        If a value is out of bounds, or asks for what the engine cannot do.
    NotImplementedError
        For ``engine='taskvine'``.
    TypeError
        For a setting that does not exist; the message names the nearest one that does.
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
        **settings: Any,
    ) -> None:
        if engine == "taskvine":
            raise NotImplementedError("engine='taskvine' is not there yet: use engine='embedded'")
        self.label = label
        self.worker_launch_method = worker_launch_method
        self.function_exec_mode = function_exec_mode
        self.engine = engine
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
        self._settings = config.embedded_settings(
            manager,
            factory,
            function_exec_mode=function_exec_mode,
            worker_launch_method=worker_launch_method,
            provider=provider,
        )
        super().__init__(provider=provider, block_error_handler=True)
        self._temp_files = TempFiles()
        self.storage_access = _storage(storage_access, self._temp_files)
        self.remote_monitoring_radio = remote_monitoring_radio or TaskVineRadio()
        self.working_dir: str | None = None  # Parsl's http and ftp staging read it
        self._default_run_dir = self.run_dir
        self._mode = resources.normalise_mode(function_exec_mode)
        self._state_lock = threading.Lock()
        self._started = False
        self._over = False
        self._link: ManagerLink | None = None
        self._manager: subprocess.Popen[bytes] | None = None
        self._base = ""
        self._log = ""
        self._numbers = itertools.count()
        self._profiles: dict[tuple[str, ResourceSpecification, str], int] = {}
        self._sent_functions: set[str] = set()
        self._profile_lock = threading.Lock()
        self._waiting = 0
        self._nodes: list[dict[str, Any]] = []
        self._nodes_changed = threading.Condition()
        self._unaccounted_blocks = 0
        self._helpers: list[threading.Thread] = []

    # --- beginning ---

    def start(self) -> None:
        """Start the manager, and the first nodes beside it: neither waits for the other, and nothing here for them.

        Raises
        ------
        RunDirNotWritable
            If no logs can be written under ``run_dir``.
        """
        super().start()
        logger.info("executor %s: the embedded engine runs it (engine=%r)", self.label, self.engine)
        self._make_directories()
        self._functions = FunctionCache(self._spool)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            listener.bind(os.path.join(self._base, "manager.sock"))
            listener.listen(128)
            self._write_configs()
            with open(os.path.join(self._log, "manager.out"), "ab") as output:
                self._manager = subprocess.Popen(
                    [sys.executable, _PROGRAM, "manager", self._base, str(listener.fileno()), str(os.getpid())],
                    pass_fds=(listener.fileno(),),
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    env={**os.environ, sweep.TOKEN: self._base},
                    start_new_session=True,  # Ctrl-C in the user's terminal is the user's program's to handle
                )
        except BaseException:
            shutil.rmtree(self._base, ignore_errors=True)
            raise
        finally:
            listener.close()
        address = f"ipc://{self._base}/link.sock"
        self._link = ManagerLink(address, self._manager, self._on_message, self._on_manager_death)
        self._link.start()
        self._started = True
        if self.provider is not None:
            self._unaccounted_blocks = self.provider.init_blocks
            if self.provider.init_blocks:
                super().scale_out_facade(self.provider.init_blocks)

    def _make_directories(self) -> None:
        root = tempfile.gettempdir()
        if len(root) > _SOCKET_PATH_LIMIT or shlex.quote(root) != root:
            root = "/tmp"
        self._base = tempfile.mkdtemp(prefix="taskvine-", dir=root)  # 0700, as mkdtemp makes it
        self._spool = os.path.join(self._base, "spool")
        for name in ("spool", "nodes", "scripts", "log"):
            os.mkdir(os.path.join(self._base, name), 0o700)
        # Without a DFK nobody has chosen a run directory: logs are then kept as long as the executor.
        chosen = self.run_id is not None or self.run_dir != self._default_run_dir
        self._log = os.path.join(self.run_dir, self.label) if chosen else os.path.join(self._base, "log")
        try:
            os.makedirs(self._log, exist_ok=True)
            with tempfile.TemporaryFile(dir=self._log):
                pass
        except OSError as error:
            shutil.rmtree(self._base, ignore_errors=True)
            raise RunDirNotWritable(path=self._log, reason=str(error)) from error
        provider = self.provider
        if provider is not None and hasattr(provider, "script_dir"):
            script_dir = provider.script_dir
            # LocalProvider's shell lines do not survive a path with spaces.
            if script_dir is None or shlex.quote(str(script_dir)) != str(script_dir):
                provider.script_dir = os.path.join(self._base, "scripts")

    def _write_configs(self) -> None:
        settings = self._settings
        context = None
        if settings.context is not None:
            import cloudpickle

            made = (settings.context, settings.context_args, settings.context_kwargs)
            context = payload.encode(made, self._spool, cloudpickle.dumps)
        nodes = {
            "log": self._log,
            "program": _PROGRAM,
            "source_root": os.path.dirname(os.path.dirname(_PROGRAM)),
            "sys_path": [os.path.abspath(entry) for entry in sys.path],
            "env_vars": settings.env_vars,
            "env_pack": settings.env_pack,
            "init_command": settings.init_command,
            "slots": settings.slots,
            "context": context,
            "context_scope": settings.context_scope,
            "serverless": self._mode == L2,
        }
        _write(os.path.join(self._base, "node.config"), nodes)
        by_factory = self.worker_launch_method == "factory"
        engine = EmbeddedConfig(
            max_retries=settings.max_retries,
            uniform=self.worker_launch_method != "manual",
            wait_for_nodes=settings.wait_for_workers or 0,
            tune=settings.tune_parameters,
            factory_command=tuple(self._node_command(timeout=True)) if by_factory else (),
            min_nodes=settings.min_workers,
            max_nodes=settings.max_workers,
        )
        _write(os.path.join(self._base, "manager.config"), {"engine": engine, "log": self._log})

    def _node_command(self, *, timeout: bool = False) -> list[str]:
        settings = self._settings
        command = [sys.executable, _PROGRAM, "node", "--connect", self._base]
        sizes = {
            "--cores": settings.node_cores,
            "--memory": settings.node_memory,
            "--disk": settings.node_disk,
            "--gpus": settings.node_gpus,
            "--timeout": settings.worker_timeout if timeout else None,
        }
        for option, value in sizes.items():
            if value is not None:
                command += [option, str(value)]
        return command

    @property
    def launch_cmd(self) -> str:
        """The command that starts a node of this executor by hand; to be had once the executor is started."""
        if not self._started:
            raise ExecutorNotStarted(label=self.label)
        return shlex.join(self._node_command())

    # --- tasks ---

    def submit(
        self, func: Callable[..., Any], resource_specification: dict[str, Any], *args: Any, **kwargs: Any
    ) -> TaskFuture:
        """Send one call on its way.

        Parameters
        ----------
        func : callable
            Anything that cloudpickle can pickle.
        resource_specification : dict
            Keys cores, memory (MB), disk (MB), gpus, priority, running_time_min (s), category, function_exec_mode.
        *args, **kwargs
            Of the call.

        Returns
        -------
        TaskFuture
            Its ``parsl_executor_task_id`` is the executor's number of the task.

        Raises
        ------
        InvalidResourceSpecification
            If a key is unknown or a value out of bounds.
        FunctionNotSerializable, ArgumentNotSerializable
            If the call cannot be pickled.
        ExecutorNotStarted, ExecutorShutDown
            If the executor is not running.
        """
        if self._executor_bad_state.is_set():
            raise BadStateException(self, self._executor_exception)
        link = self._link
        if link is None or self._over:
            raise ExecutorShutDown(label=self.label) if self._over else ExecutorNotStarted(label=self.label)
        specification = resources.parse(resource_specification)
        function = self._functions.reference(func)
        name = getattr(func, "__name__", function.name)
        profile = self._profiles.get((function.key, specification, name))
        if profile is None:
            profile = self._new_profile(function, specification, name, link)
        number = next(self._numbers)
        future = TaskFuture(number, time.time())
        plan = None
        if has_files(args, kwargs):
            shared = self._settings.shared_fs
            plan = FilePlan(args, kwargs, files=self._temp_files, task=f"t{number}", producer=future, shared_fs=shared)
            args, kwargs = plan.args, plan.kwargs
        try:
            arguments = encode_arguments(args, kwargs, self._spool)
        except Exception as error:
            reason = f"{type(error).__name__}: {error}"
            raise ArgumentNotSerializable(task_id=number, reason=reason, subject=name) from error
        future.arguments = arguments
        self._tasks[number] = future
        if plan is None:
            link.submit(Invocation(number, profile, arguments))
        else:
            link.submit(Invocation(number, profile, arguments, tuple(plan.inputs), tuple(plan.outputs)))
            self._follow_producers(number, plan)
        if self._over or self._executor_bad_state.is_set():  # it ended meanwhile, and may have missed this one
            self._fail_all(TaskCancelled(reason="the executor ended as it was submitted"))
        return future

    def _new_profile(
        self, function: FunctionReference, specification: ResourceSpecification, name: str, link: ManagerLink
    ) -> int:
        with self._profile_lock:
            key = (function.key, specification, name)
            known = self._profiles.get(key)
            if known is not None:
                return known
            number = len(self._profiles)
            mode = specification.mode or self._mode
            category = specification.category or (name if self._settings.autocategory else "parsl-default")
            profile = Profile(
                number,
                function.key,
                name,
                mode,
                self._share(specification.cores, self._settings.library_cores, mode),
                self._share(specification.memory, self._settings.library_memory, mode),
                self._share(specification.disk, self._settings.library_disk, mode),
                specification.gpus,
                specification.priority,
                category,
            )
            functions = []
            if function.key not in self._sent_functions:
                self._sent_functions.add(function.key)
                functions.append((function.key, function.encoded))
            link.define(functions, [profile])
            self._profiles[key] = number
            return number

    def _share(self, asked: float | None, library: float | None, mode: str) -> float | None:
        """What a call gets: what it asks for, else a slot's share of its library."""
        if asked is not None or library is None or mode == L1:
            return asked
        return library / (self._settings.slots or 1)

    def _follow_producers(self, number: int, plan: FilePlan) -> None:
        """Fail a task with the task that was to make its input: an edge names its future, not one try of it."""
        for use in plan.inputs:
            if use.kind == "temp" and use.source not in self._temp_files.made:
                producer = self._temp_files.producer(use.source)
                producer.add_done_callback(partial(self._producer_done, use.source, number))

    def _producer_done(self, version: str, consumer: int, producer: Future[Any]) -> None:
        error = producer.exception()
        if error is not None:
            tid = getattr(producer, "tid", getattr(producer, "parsl_executor_task_id", None))
            self._fail(consumer, DependencyError([(error, f"task {tid}")], consumer))
        elif version not in self._temp_files.made:
            reason = f"the task that was to make {version} is over (memoized, perhaps) and did not make it"
            self._fail(consumer, FileLost(task_id=consumer, reason=reason, name=version))

    def _fail(self, number: int, error: Exception) -> None:
        future = self._tasks.pop(number, None)
        if future is not None and self._link is not None:
            self._link.say("cancel", [number])
            _set_exception(future, error)

    # --- what the manager says (the link's thread) ---

    def _on_message(self, kind: str, *rest: Any) -> Iterator[None] | None:
        if kind == "done":
            self._waiting = rest[1]
            return self._complete(rest[0])
        if kind == "radio":
            if self.monitoring_messages is not None:
                for said in rest[0]:
                    self.monitoring_messages.put(pickle.loads(said))
        elif kind == "nodes":
            with self._nodes_changed:
                self._nodes = list(rest[0])
                self._nodes_changed.notify_all()
        elif kind == "drained":
            self._help(self._cancel_block, rest[0])
        elif kind == "broken":
            self.set_bad_state_and_fail_all(ManagerLost(task_id=-1, reason=rest[0]))
        else:
            logger.error("the manager said %r, which nobody knows", kind)
        return None

    def _complete(self, completions: tuple[tuple[Any, ...], ...]) -> Iterator[None]:
        for item in completions:
            completion = Completion(*item)
            for version, _ in completion.made:
                self._temp_files.made.add(version)
            future = self._tasks.pop(completion.number, None)
            if isinstance(future, TaskFuture):
                payload.discard(future.arguments)
                settle(future, completion)
            yield

    def _on_manager_death(self, status: int) -> None:
        how = f"was killed by signal {-status}" if status < 0 else f"exited with status {status}"
        log = os.path.join(self._log, "manager.out")
        reason = f"the manager process {how}; {_tail(log) or f'see {self._log}'}"
        self.set_bad_state_and_fail_all(ManagerLost(task_id=-1, reason=reason))
        self._help(self._sweep)

    def _sweep(self) -> None:
        sweep.kill_strays(self._base)
        staging.remove(self._base)

    def _help(self, action: Callable[..., Any], *args: Any) -> None:
        """Do something that takes time, away from the thread that completes futures."""
        helper = threading.Thread(target=action, args=args, name="TaskVine-Helper", daemon=True)
        self._helpers.append(helper)
        helper.start()

    def set_bad_state_and_fail_all(self, exception: Exception) -> None:
        """Fail what is running and what comes later, at once."""
        logger.error("executor %s cannot go on: %s", self.label, exception)
        self._executor_exception = exception
        self._executor_bad_state.set()
        self._fail_all(exception if isinstance(exception, ManagerLost) else BadStateException(self, exception))

    def _fail_all(self, error: Exception) -> None:
        numbers: list[Any] = list(self._tasks)
        futures = [(number, self._tasks.pop(number, None)) for number in numbers]
        if self._link is not None:
            self._link.say("cancel", numbers)
        for _, future in futures:
            if future is not None:
                _set_exception(future, error)

    # --- files and facts ---

    def fetch(self, file: File | DataFuture, path: str | os.PathLike[str], timeout: float | None = None) -> str:
        """Bring a ``taskvinetemp`` file home.

        Parameters
        ----------
        file : File or DataFuture
            A DataFuture stands for the version its task makes, a File for the latest; it is waited for.
        path : path-like
            Where to write it.
        timeout : float, optional
            Seconds to wait at most.

        Returns
        -------
        str
            The path.

        Raises
        ------
        FileLost
            If no replica is left.
        Exception
            Whatever its task raised.
        """
        version = self._version(file)
        self._temp_files.producer(version).result(timeout)
        if self._link is None or self._over:
            raise ExecutorShutDown(label=self.label)
        source = self._link.ask("locate", version).result(timeout)
        target = os.path.abspath(path)
        try:
            if source is None:
                raise FileNotFoundError(version)
            os.makedirs(os.path.dirname(target), exist_ok=True)
            partial_path = f"{target}.{os.getpid()}.partial"
            shutil.copyfile(source, partial_path)
            os.replace(partial_path, target)
        except FileNotFoundError as error:
            raise FileLost(task_id=-1, reason="no replica is left", name=version) from error
        return target

    def forget(self, file: File | DataFuture) -> None:
        """Remove a ``taskvinetemp`` file from all nodes: nobody will ask for it again."""
        version = self._version(file)
        self._temp_files.forget(version)
        if self._link is not None:
            self._link.say("forget", [version])

    def _version(self, file: File | DataFuture) -> str:
        if isinstance(file, DataFuture):
            bound = version_of(file.file_obj)
            return bound if bound is not None else self._temp_files.consume(file.file_obj.cleancopy(), file.tid)
        bound = version_of(file)
        return bound if bound is not None else self._temp_files.consume(file.cleancopy())

    def stats(self, timeout: float | None = 10.0) -> dict[str, Any]:
        """Counts since the start: ``tasks_done``, ``tasks_pending``, ``tasks_waiting``, ``nodes``,
        ``bytes_between_nodes``, and ``replicas`` (nodes by temp file)."""
        if self._link is None:
            raise ExecutorNotStarted(label=self.label)
        answer: dict[str, Any] = self._link.ask("stats").result(timeout)
        return answer

    def tune(self, parameters: Mapping[str, float]) -> None:
        """Set TaskVine tuning parameters of the running executor, by their names."""
        if self._link is None:
            raise ExecutorNotStarted(label=self.label)
        self._link.say("tune", {name.replace("_", "-"): value for name, value in parameters.items()})

    @property
    def nodes(self) -> list[dict[str, Any]]:
        """The nodes there are: name, cores, memory (MB), disk (MB), gpus, block, pid, directory."""
        return list(self._nodes)

    def wait_for_nodes(self, count: int, timeout: float | None = None) -> bool:
        """Wait until at least ``count`` nodes have joined; say whether they have."""
        with self._nodes_changed:
            return self._nodes_changed.wait_for(lambda: len(self._nodes) >= count, timeout)

    # --- blocks ---

    def _get_launch_command(self, block_id: str) -> str:
        return shlex.join([*self._node_command(), "--block", block_id])

    def scale_out_facade(self, n: int) -> list[str]:
        """Launch blocks. Those that ``start`` launched stand for the first that Parsl's strategy asks for."""
        if self._unaccounted_blocks and threading.current_thread().name.startswith("JobStatusPoller"):
            launched, self._unaccounted_blocks = self._unaccounted_blocks, 0
            n -= launched
            if n <= 0:
                return []
        blocks: list[str] = super().scale_out_facade(n)
        return blocks

    def scale_in(self, blocks: int, max_idletime: float | None = None) -> list[str]:
        """Let blocks go, the youngest first: at once for the caller; behind that, what they run finishes, what only
        they hold is copied, and then they are cancelled."""
        if self._link is None:
            return []
        active = [block for block, status in self._status.items() if status.state not in TERMINAL_STATES]
        chosen = active[len(active) - min(blocks, len(active)) :]
        for block in chosen:
            self._link.say("drain", block)
        return chosen

    def _cancel_block(self, block: str) -> None:
        job = self.blocks_to_job_id.get(block)
        if job is not None and not self._over:
            self._cancel_jobs([job])

    def _cancel_jobs(self, jobs: list[str]) -> None:
        assert self.provider is not None
        try:
            states = self.provider.status(jobs)
            running = [job for job, status in zip(jobs, states, strict=True) if status.state not in TERMINAL_STATES]
            if running:
                self.provider.cancel(running)
        except Exception:
            logger.exception("blocks of executor %s could not be cancelled", self.label)

    def outstanding(self) -> int:
        """Tasks that run or could run; at least 1 while any waits, so that a long chain asks for one block."""
        total = len(self._tasks)
        return max(total - self._waiting, 1) if total else 0

    @property
    def workers_per_node(self) -> int | float:
        """Function slots of a node."""
        settings = self._settings
        if settings.slots:
            return settings.slots
        nodes = self._nodes
        cores = nodes[0]["cores"] if nodes else settings.node_cores or hardware.cores()
        return max(1, int(cores))

    # --- end ---

    def shutdown(self) -> None:
        """End everything: tasks that have not ended get TaskCancelled, and no process, socket or directory remains."""
        with self._state_lock:
            if self._over:
                return
            self._over = True
        link, manager = self._link, self._manager
        if link is None or manager is None:
            super().shutdown()
            return
        ended = link.stop(_STOP_SECONDS)
        if not ended:
            logger.error("executor %s: its manager did not stop in time and is killed", self.label)
            manager.kill()
            manager.wait()
        self._fail_all(TaskCancelled(reason="the executor shut down"))
        if self.provider is not None and self.blocks_to_job_id:
            self._cancel_jobs(list(self.blocks_to_job_id.values()))
        for helper in self._helpers:
            helper.join(_STOP_SECONDS)
        self._sweep()
        super().shutdown()


def _own_copy(provider: ExecutionProvider) -> ExecutionProvider:
    """A copy whose job table is its own: the DFK and the executor set attributes of what they are given."""
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


def _set_exception(future: Future[Any], error: Exception) -> None:
    with contextlib.suppress(Exception):  # done already, or its callback's own fault
        future.set_exception(error)


def _write(path: str, value: object) -> None:
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        pickle.dump(value, file)


def _tail(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read()[-2000:]
    except OSError:
        return ""
