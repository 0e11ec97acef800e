"""What an executor does before anything runs: directories, what its processes read in them, and the manager."""

from __future__ import annotations

import contextlib
import itertools
import os
import pickle
import shlex
import socket
import subprocess
import sys
import tempfile
from dataclasses import dataclass

import cloudpickle

import taskvine_manager
from taskvine_exec.config import EmbeddedSettings
from taskvine_exec.errors import RunDirNotWritable
from taskvine_manager import sweep
from taskvine_manager.embedded import hardware, staging
from taskvine_manager.embedded.engine import EmbeddedConfig
from taskvine_manager.messages import L2
from taskvine_manager.runtime import payload

_PROGRAM = os.path.join(os.path.dirname(os.path.abspath(taskvine_manager.__file__)), "__main__.py")
MEMORY_VARIABLE = "TASKVINE_EXEC_MEMORY"
"""Environment variable: a directory in memory where large results are made while it has room to spare. Nothing: none;
Linux's ``/dev/shm`` where it is not set."""
_LEAST_MEMORY = 1 << 30
"""Bytes: containers often have one of 64 MB, which is not worth the trouble."""
_SOCKET_PATH_LIMIT = 60
"""Longest directory, in characters, in which the sockets' paths stay within the 104 to 108 bytes that systems allow."""


@dataclass(frozen=True)
class Places:
    """Directories of one run.

    Parameters
    ----------
    base : str
        Private to the run and removed at its end; holds the others unless the user has chosen where logs go.
    log : str
        What the processes say.
    record : str
        File with what happened, among the logs.
    """

    base: str
    log: str
    record: str

    @property
    def spool(self) -> str:
        """For values that are too large for a message."""
        return os.path.join(self.base, "spool")

    @property
    def scripts(self) -> str:
        """For a provider's submit scripts."""
        return os.path.join(self.base, "scripts")

    @property
    def manager_output(self) -> str:
        """What the manager writes to its standard streams."""
        return os.path.join(self.log, "manager.out")


def make_places(log: str | None) -> Places:
    """Make the directories of a run.

    Parameters
    ----------
    log : str or None
        Where to log; None for a directory that goes with the run.

    Raises
    ------
    RunDirNotWritable
        If nothing can be written there; nothing is left behind.
    """
    root = tempfile.gettempdir()
    if len(root) > _SOCKET_PATH_LIMIT or not survives_shell(root):
        root = "/tmp"
    base = tempfile.mkdtemp(prefix="taskvine-", dir=root)  # 0700, as mkdtemp makes it
    for name in ("spool", "nodes", "scripts", "log"):
        os.mkdir(os.path.join(base, name), 0o700)
    if (fast := _in_memory()) is not None:
        os.symlink(fast, os.path.join(base, "spool", payload.FAST))
    log = os.path.abspath(log or os.path.join(base, "log"))
    try:
        os.makedirs(log, exist_ok=True)
        return Places(base, log, _new_record(log))
    except OSError as error:
        staging.remove_run(base)
        raise RunDirNotWritable(path=log, reason=str(error)) from error


def _in_memory() -> str | None:
    """A private directory on a file system in memory, where there is one of some size."""
    directory = os.environ.get(MEMORY_VARIABLE, "/dev/shm")
    try:
        there = os.statvfs(directory)
        if there.f_blocks * there.f_frsize < _LEAST_MEMORY:
            return None
        return tempfile.mkdtemp(prefix="taskvine-", dir=directory)
    except OSError:
        return None


def _new_record(log: str) -> str:
    """Make an empty file of its own for the record of a run: others may have logged to the same directory."""
    for number in itertools.count(1):
        path = os.path.join(log, "record.msgpack" if number == 1 else f"record-{number}.msgpack")
        with contextlib.suppress(FileExistsError):
            os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
            return path
    raise AssertionError("unreachable")


def survives_shell(path: str) -> bool:
    """Whether a path can stand in a shell command without quotes, which Parsl's providers do not set."""
    return shlex.quote(path) == path


def write_configs(places: Places, settings: EmbeddedSettings) -> None:
    """Write what the manager and the nodes are to know."""
    context = None
    if settings.context is not None:
        made = (settings.context, settings.context_args, settings.context_kwargs)
        context = payload.encode(made, places.spool, cloudpickle.dumps)
    nodes = {
        "log": places.log,
        "program": _PROGRAM,
        "source_root": os.path.dirname(os.path.dirname(_PROGRAM)),
        "sys_path": [os.path.abspath(entry) for entry in sys.path],
        "env_vars": settings.env_vars,
        "env_pack": settings.env_pack,
        "init_command": settings.init_command,
        "slots": settings.slots,
        "inline_limit": settings.inline_limit,
        "context": context,
        "context_scope": settings.context_scope,
        "serverless": settings.function_exec_mode == L2,
        "user": os.getpid(),
    }
    by_factory = settings.worker_launch_method == "factory"
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
    _write(os.path.join(places.base, "manager.config"), {"engine": engine, "log": places.log, "record": places.record})


def _write(path: str, value: object) -> None:
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        pickle.dump(value, file)


def slots_of(settings: EmbeddedSettings, cores: float | None = None) -> int:
    """Calls that a node runs at once: its function slots where they are configured, else one for each core."""
    return settings.slots or max(1, int(cores or settings.node_cores or hardware.cores()))


def node_command(base: str, settings: EmbeddedSettings, *, leave_when_idle: bool = False) -> list[str]:
    """The command that starts a node."""
    command = [sys.executable, _PROGRAM, "node", sweep.CONNECT, base]
    sizes = {
        "--cores": settings.node_cores,
        "--memory": settings.node_memory,
        "--disk": settings.node_disk,
        "--gpus": settings.node_gpus,
        "--timeout": settings.worker_timeout if leave_when_idle else None,
    }
    for option, value in sizes.items():
        if value is not None:
            command += [option, str(value)]
    return command


def start_manager(places: Places) -> subprocess.Popen[bytes]:
    """Start the manager. Nodes may connect from now on: the socket is there before the process that serves it."""
    with contextlib.closing(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)) as listener:
        listener.bind(os.path.join(places.base, "manager.sock"))
        listener.listen(128)
        with open(places.manager_output, "ab") as output:
            return subprocess.Popen(
                [sys.executable, _PROGRAM, "manager", places.base, str(listener.fileno()), str(os.getpid())],
                pass_fds=(listener.fileno(),),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env={**os.environ, sweep.TOKEN: places.base},
                start_new_session=True,  # Ctrl-C in the user's terminal is the user's program's to handle
            )
