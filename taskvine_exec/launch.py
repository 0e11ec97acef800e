"""The start of an executor: the run's directories, the configuration files in them, and the manager."""

from __future__ import annotations

import contextlib
import functools
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
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from parsl.errors import ConfigurationError

import taskvine_manager
from taskvine_exec import addresses, passwords
from taskvine_exec.blocks.providers import survives_shell
from taskvine_exec.config import EngineSettings, LibrarySettings, VineSettings, facts
from taskvine_exec.errors import RunDirNotWritable, WorkerLaunchFailed
from taskvine_manager import cleanup
from taskvine_manager.embedded.engine import EmbeddedConfig
from taskvine_manager.node import hardware, leftovers, staging
from taskvine_manager.node.config import LibraryConfig, NodeConfig
from taskvine_manager.node.deaths import tail
from taskvine_manager.patience import Limits
from taskvine_manager.runtime import payload, pickling
from taskvine_manager.runtime.search_path import SearchPath
from taskvine_manager.wire.messages import L2

logger = logging.getLogger(__name__)

PROGRAM = os.path.join(os.path.dirname(os.path.abspath(taskvine_manager.__file__)), "__main__.py")
"""Path of the program of managers, nodes and workers."""
_SOCKET_PATH_LIMIT = 60
"""Most characters of a directory with sockets in it. Systems allow 104 to 108 bytes for the path of a socket."""


@dataclass(frozen=True)
class Places:
    """Directories of one run.

    Parameters
    ----------
    base : str
        Private to the run and removed at its end. Holds the log directory too, unless the user has chosen another.
    log : str
        Directory of the processes' logs.
    record : str
        File in the log directory that records what happened in the run.
    """

    base: str
    log: str
    record: str

    @functools.cached_property
    def spool(self) -> str:
        """Directory for values that are too large for a message."""
        return os.path.join(self.base, "spool")

    @property
    def scripts(self) -> str:
        """Directory for a provider's submit scripts."""
        return os.path.join(self.base, "scripts")

    @property
    def password(self) -> str:
        """File with the password that TaskVine's manager and workers share."""
        return os.path.join(self.base, "vine.password")

    @property
    def manager_output(self) -> str:
        """File with the output of the manager's standard streams."""
        return os.path.join(self.log, "manager.out")


def make_places(log: str | None, *, in_memory: bool = True) -> Places:
    """Make the directories of a run.

    Parameters
    ----------
    log : str or None
        Directory for logs; None for one that is removed with the run.
    in_memory : bool
        Whether to make a directory in memory too, for large values.

    Raises
    ------
    RunDirNotWritable
        If the log directory is not writable. The other directories are removed first.
    """
    root = tempfile.gettempdir()
    if len(root) > _SOCKET_PATH_LIMIT or not survives_shell(root):
        root = "/tmp"
    base = tempfile.mkdtemp(prefix="taskvine-", dir=root)  # mkdtemp sets mode 0700
    for name in ("spool", "nodes", "scripts", "log"):
        os.mkdir(os.path.join(base, name), 0o700)
    if in_memory:
        staging.keep_in_memory(base)
    log = os.path.abspath(log or os.path.join(base, "log"))
    try:
        os.makedirs(log, exist_ok=True)
        return Places(base, log, _new_record(log))
    except OSError as error:
        staging.remove_run(base)
        raise RunDirNotWritable(path=log, reason=str(error)) from error


def _new_record(log: str) -> str:
    """Make a new empty file for the record of a run; other runs may log to the same directory."""
    path, numbers = os.path.join(log, "record.msgpack"), itertools.count(2)
    while True:
        try:
            os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
            return path
        except FileExistsError:
            path = os.path.join(log, f"record-{next(numbers)}.msgpack")


def write_configs(places: Places, settings: EngineSettings, path: SearchPath, directory: str | None) -> None:
    """Write the configurations of the manager and the nodes.

    ``path`` is where nodes import modules from. Apps run in ``directory``, or in sandboxes if that is None.
    """
    libraries = tuple(
        LibraryConfig(
            library.described(name),
            library.import_modules,
            _context(library, places),
            library.context_scope,
            library.start_timeout,
        )
        for name, library in settings.libraries.items()
    )
    nodes = NodeConfig(
        base=places.base,
        log=places.log,
        program=PROGRAM,
        python_version=sys.version_info[:2],
        source_root=os.path.dirname(os.path.dirname(PROGRAM)),
        directory=directory,
        sys_path=path,
        env_vars=settings.env_vars,
        env_pack=settings.env_pack,
        init_command=settings.init_command,
        slots=settings.slots,
        inline_limit=settings.inline_limit,
        import_modules=settings.import_modules,
        context=_context(settings, places),
        context_scope=settings.context_scope,
        start_timeout=settings.start_timeout,
        serverless=settings.function_exec_mode == L2,
        tune=settings.tune_parameters,
        user=os.getpid(),
        libraries=libraries,
        accelerators=settings.accelerators,
        gpu_memory=settings.gpu_memory,
        cpu_affinity=settings.cpu_affinity,
    ).checked()
    by_factory = settings.worker_launch_method == "factory"
    if isinstance(settings, VineSettings):
        _write(os.path.join(places.base, "manager.config"), _vine_config(places, settings, nodes))
        return
    engine = EmbeddedConfig(
        max_retries=settings.max_retries,
        uniform=settings.worker_launch_method != "manual",
        wait_for_nodes=settings.wait_for_workers or 0,
        tune=settings.tune_parameters,
        factory_command=tuple(node_command(places.base, settings, leave_when_idle=True)) if by_factory else (),
        factory_log=os.path.join(places.log, "factory.out"),
        min_nodes=settings.min_workers if by_factory else 0,
        max_nodes=settings.max_workers if by_factory else 0,
        per_node=slots_of(settings),
        peer_transfers=settings.enable_peer_transfers,
    )
    _write(os.path.join(places.base, "node.config"), nodes)
    _write(os.path.join(places.base, "manager.config"), _manager_config(places, settings, engine))


def _manager_config(places: Places, settings: EngineSettings, engine: Any) -> dict[str, Any]:
    return {"engine": engine, "log": places.log, "record": places.record, "facts": facts(settings)}


def _context(settings: EngineSettings | LibrarySettings, places: Places) -> payload.Payload | None:
    """Encode the context of a library."""
    if settings.context is None:
        return None
    return payload.encode(
        (settings.context, settings.context_args, settings.context_kwargs), places.spool, pickling.dumps
    )


def _vine_config(places: Places, settings: VineSettings, nodes: NodeConfig) -> dict[str, Any]:
    # Imported here because only executors of the TaskVine engine need it.
    from taskvine_manager.vine.manager.config import VineConfig

    try:
        if settings.password_file in (None, passwords.default_path()):
            passwords.make(settings.password_file or places.password)
    except OSError as error:
        raise ConfigurationError(f"the password file cannot be made: {error}. Give project_password_file") from error
    # Paths on this machine: each node writes the bytes to its own file.
    nodes = nodes._replace(
        **_with_body(nodes.context),
        libraries=tuple(library._replace(**_with_body(library.context)) for library in nodes.libraries),
    ).checked()
    by_factory = settings.worker_launch_method == "factory"
    submits = by_factory and not settings.local
    scratch = factory_scratch(places, settings) if submits else ""
    engine = VineConfig(
        max_retries=settings.max_retries,
        uniform=settings.worker_launch_method != "manual",
        slots=slots_of(settings),
        tune=settings.tune_parameters,
        nodes=nodes,
        python=sys.executable,
        port=settings.port,
        name=settings.project_name,
        password_file=settings.password_file or places.password,
        ssl=settings.ssl,
        log=places.log,
        local=settings.local,
        this_machine=stays_here(settings),
        admission_command=(sys.executable, PROGRAM, "admit"),
        batching=settings.batching,
        peer_transfers=settings.enable_peer_transfers,
        wait_for_nodes=settings.wait_for_workers or 0,
        address=address_for_workers(settings),
        factory_command=tuple(factory_command(places, settings, scratch)) if submits else (),
        factory_scratch=scratch,
        node_command=tuple(_vine_worker(places, settings)) if by_factory and settings.local else (),
        min_nodes=settings.min_workers,
        max_nodes=settings.max_workers,
        idle_timeout=settings.worker_timeout,
    )
    return _manager_config(places, settings, engine)


def _with_body(context: payload.Payload | None) -> dict[str, Any]:
    """Return the fields of a context: as it is, or with the content of its file."""
    if not isinstance(context, str):
        return {"context": context}
    with open(context, "rb") as file:
        return {"context": None, "context_body": file.read()}


def stays_here(settings: VineSettings) -> bool:
    """Whether all workers connect to this machine's loopback interface."""
    if os.environ.get("CCTOOLS_IP_MODE", "IPV4") != "IPV4":  # TaskVine's workers may then resolve localhost to ::1
        return False
    address = settings.address or "localhost"
    return settings.local and (address == "localhost" or address.startswith("127."))


def factory_command(places: Places, settings: VineSettings, scratch: str) -> list[str]:
    """Return the command of ``vine_factory``, without the manager's address."""
    beside = [os.path.dirname(worker_program(settings)), os.environ.get("PATH", os.defpath)]
    factory = shutil.which("vine_factory", path=os.pathsep.join(filter(None, beside))) or "vine_factory"
    password = settings.password_file or places.password
    for what, path in (("scratch_dir", scratch), ("project_password_file", password)):
        if not survives_shell(path):
            raise ConfigurationError(
                f"vine_factory cannot use the path {path!r}: it has a character that needs quotes. Give another {what}"
            )
    options: dict[str, object] = {
        # vine_factory documents "sge" as another name of "uge", but refuses it.
        "--batch-type": "uge" if settings.batch_type == "sge" else settings.batch_type,
        "--worker-binary": shutil.which(os.path.expanduser(settings.worker)),
        "--scratch-dir": scratch,
        "--min-workers": settings.min_workers,
        "--max-workers": settings.max_workers,
        "--workers-per-cycle": settings.workers_per_cycle,
        "--timeout": settings.worker_timeout,
        "--factory-timeout": settings.factory_timeout,
        "--password": password,
        **_worker_sizes(settings),
        "--condor-requirements": settings.condor_requirements,
        "--batch-options": settings.batch_options,
        "--poncho-env": settings.python_env,
    }
    if settings.python_env is None:  # nodes use this interpreter
        from taskvine_manager.vine.manager import batch

        script = os.path.join(places.base, batch.SCRIPT)
        batch.write_script(script, sys.executable, PROGRAM)
        options |= {"--wrapper": f"sh ./{batch.SCRIPT}", "--wrapper-input": script}
    if settings.project_name is None:  # do not report to TaskVine's public catalog server
        options["--catalog"] = "127.0.0.1:1"
    command = [factory, "--parent-death", "--single-shot"]  # no other manager will listen at this address
    command += [f"{option}={value}" for option, value in options.items() if value is not None]
    if settings.ssl:
        command.append("--ssl")
    if settings.worker_options:
        command.append(f"--extra-options={settings.worker_options}")
    return command


def leaving_seconds(settings: EngineSettings) -> float:
    """Return how many more seconds the manager may need to end, because ``vine_factory`` cancels its jobs first."""
    if not isinstance(settings, VineSettings) or settings.local or settings.worker_launch_method != "factory":
        return 0.0
    from taskvine_manager.vine.manager import batch

    return batch.END_SECONDS


def factory_scratch(places: Places, settings: VineSettings) -> str:
    """Make a directory for the jobs of ``vine_factory``, on a file system that nodes see.

    It is in ``scratch_dir``; or else in the user's log directory; or else in the current directory.
    """
    private = os.path.commonpath([places.base, places.log]) == places.base
    parent = settings.scratch_dir or (os.getcwd() if private else places.log)
    try:
        os.makedirs(parent, exist_ok=True)
        return tempfile.mkdtemp(prefix="factory-", dir=parent)
    except OSError as error:
        raise RunDirNotWritable(path=parent, reason=str(error)) from error


def worker_program(settings: VineSettings) -> str:
    """Return the worker program: its path if workers run on this machine, or else the name that the user gave."""
    given = os.path.expanduser(settings.worker)
    return (shutil.which(given) or given) if settings.local else given


def vine_command(places: Places, settings: VineSettings, ended: Callable[[], int | None], deadline: float) -> list[str]:
    """Wait until TaskVine's manager listens; return the command that starts a worker.

    Parameters
    ----------
    places : Places
        The run's directories.
    settings : VineSettings
        The executor's settings.
    ended : callable
        Returns the manager's exit status, or None while it runs.
    deadline : float
        Time of the monotonic clock, in seconds, until which to wait for the manager.

    Raises
    ------
    WorkerLaunchFailed
        If the manager has ended, or does not listen in time.
    """
    while True:
        status = ended()  # read before the file: a manager that has ended may have written the file first
        with contextlib.suppress(FileNotFoundError), open(os.path.join(places.base, "vine.address")) as file:
            return [*_vine_worker(places, settings), address_for_workers(settings), file.read()]
        if status is not None:
            how = f"was killed by signal {-status}" if status < 0 else f"exited with status {status}"
            trouble = f"{how} before it listened for workers"
        elif time.monotonic() > deadline:
            trouble = "has not said where it listens"
        else:
            time.sleep(0.005)  # it listens some tenths of a second after its start
            continue
        reason = f"TaskVine's manager {trouble}; see {places.log}"
        raise WorkerLaunchFailed(reason=reason, stderr=tail(places.manager_output))


def address_for_workers(settings: VineSettings) -> str:
    """Return the address of this machine for workers: the user's, ``localhost``, or one found for other machines."""
    if settings.address is not None:
        return settings.address
    if settings.local or settings.worker_launch_method == "manual":
        return "localhost"
    return addresses.of_this_machine()


def _vine_worker(places: Places, settings: VineSettings) -> list[str]:
    """Return the command of one worker, without the manager's address."""
    command = [sys.executable, PROGRAM, "worker", cleanup.CONNECT, places.base]
    command += ["--package", taskvine_manager.VERSION, "--user", f"{socket.gethostname()}:{os.getpid()}"]
    command += ["--executable", worker_program(settings), "--parent-death", "--single-shot"]
    command += ["--password", settings.password_file or places.password]
    patience = Limits()
    patience.tune(settings.tune_parameters)
    command += ["--patience", str(patience.timeout if patience.interval else 0)]
    command += ["--idle-timeout", "10000000"]  # a worker ends with its block
    command += _given(_worker_sizes(settings))
    if settings.ssl:
        command.append("--ssl")
    elif settings.project_name is None and not stays_here(settings):
        command.append("--direct")
    return [*command, *shlex.split(settings.worker_options)]


def _worker_sizes(settings: VineSettings) -> dict[str, object]:
    """Return the options of TaskVine's programs for the size of a node. They take whole MB only."""
    return {
        "--cores": settings.node_cores,
        "--memory": settings.node_memory and int(settings.node_memory),
        "--disk": settings.node_disk and int(settings.node_disk),
        "--gpus": settings.node_gpus,
    }


def _given(options: dict[str, Any]) -> list[str]:
    """Return the options that are not None, as words of a command."""
    return [word for option, value in options.items() if value is not None for word in (option, str(value))]


def _write(path: str, value: object) -> None:
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        pickle.dump(value, file)


def slots_of(settings: EngineSettings, cores: float | None = None) -> int:
    """Return how many tasks a node runs at once: its configured slots, or else one for each core."""
    return settings.slots or max(1, int(cores or settings.node_cores or hardware.cores()))


def node_command(base: str, settings: EngineSettings, *, leave_when_idle: bool = False) -> list[str]:
    """Return the command that starts a node of the embedded engine."""
    options = {
        "--cores": settings.node_cores,
        "--memory": settings.node_memory,
        "--disk": settings.node_disk,
        "--gpus": settings.node_gpus,
        "--timeout": settings.worker_timeout if leave_when_idle else None,
    }
    return [sys.executable, PROGRAM, "node", cleanup.CONNECT, base, *_given(options)]


def start_manager(places: Places, claim: int) -> tuple[subprocess.Popen[bytes], socket.socket]:
    """Start the manager; return its process and the user's end of the link to it.

    Nodes may connect from now on, because the socket exists before the process that serves it. The manager inherits
    ``claim``, the descriptor that marks the run's directory as in use.
    """
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    with theirs, socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        try:
            listener.bind(os.path.join(places.base, "manager.sock"))
            listener.listen(128)
            descriptors = (listener.fileno(), theirs.fileno())
            with open(places.manager_output, "ab") as output:
                process = subprocess.Popen(
                    [sys.executable, PROGRAM, "manager", places.base, *map(str, descriptors), str(os.getpid())],
                    pass_fds=(*descriptors, claim),
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    env={**os.environ, cleanup.TOKEN: places.base},
                    start_new_session=True,  # Ctrl-C in the terminal goes only to the user's program
                )
        except BaseException:
            ours.close()
            raise
    return process, ours


def remove_leftovers(places: Places, label: str) -> None:
    """Start a thread that removes what killed runs of this user have left on this machine."""

    def remove() -> None:
        for path in leftovers.sweep(os.path.dirname(places.base)):
            logger.info("executor %s: removed %s, left behind by a killed run", label, path)

    threading.Thread(target=remove, name="TaskVine-Leftovers", daemon=True).start()
