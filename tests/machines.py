"""A batch system on this machine: the common parts of the suites that start a real one.

Each of its machines has mount, PID and UTS namespaces with its own ``/tmp`` and ``/dev/shm``. Machines
share with this one the files that a cluster would share: the home directory, this project and its environment.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from abc import abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar, TypeVar

import psutil

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "manager")]  # when a cluster is run as a program

from taskvine_manager import cleanup  # noqa: E402

LOGIN = "login1.example.org"
"""A name of the login machine that nodes and user programs resolve."""
PRIVATE = ("/tmp", "/dev/shm")
"""Directories that each machine has privately."""
SBIN = os.pathsep.join(["/usr/sbin", "/sbin"])
_START_SECONDS = 60.0

_MACHINE = """
set -e
mount --make-rprivate /
{keep}
mount --bind {tmp} /tmp
mount -t tmpfs -o size=1500m,mode=1777 tmpfs /dev/shm
{restore}
mount --bind {hosts} /etc/hosts
"""
# bash adopts and reaps the processes that users' programs leave.
_LOGIN = """
while :; do sleep 3600 & wait; done
"""
ISOLATE = ("unshare", "-m", "-p", "-u", "-f", "--mount-proc", "--kill-child", "bash", "-c")
"""A shell with private mounts, processes and host name. All its processes end with it."""
_Self = TypeVar("_Self", bound="Machines")


class Machines:
    """A batch system, its nodes and its login machine.

    Parameters
    ----------
    names : list of str
        The nodes.
    """

    SYSTEM: ClassVar[str]
    """Name of the batch system."""
    VARIABLE: ClassVar[str]
    """Environment variable of all programs that names their cluster."""
    OWN: ClassVar[tuple[str, ...]]
    """Names of the batch system's processes that run on nodes."""
    ENTER: ClassVar[tuple[str, ...]] = ("--mount", "--pid")
    """Namespaces of the login machine that a user's program enters."""

    def __init__(self, names: list[str]) -> None:
        self.names = names
        # Not below /tmp, which nodes do not share.
        self.base = Path(tempfile.mkdtemp(prefix=f"taskvine-{self.SYSTEM}-", dir="/var/tmp"))
        self.home = self.base / "home"
        self._hosts = self.base / "etc" / "hosts"
        self._daemons: list[tuple[str, subprocess.Popen[bytes]]] = []

    # --- the parts that differ between batch systems ---

    @property
    @abstractmethod
    def variables(self) -> dict[str, str]:
        """Environment variables by which programs find this cluster."""

    @abstractmethod
    def start(self) -> None:
        """Start all daemons and wait until all nodes are idle."""

    @abstractmethod
    def queue(self) -> list[str]:
        """Return the jobs that have not ended, with their states."""

    @abstractmethod
    def jobs(self) -> list[str]:
        """Return the numbers of jobs that have not ended."""

    @abstractmethod
    def cancel(self, *jobs: str) -> None:
        """End jobs."""

    # --- for user programs ---

    @property
    def environment(self) -> dict[str, str]:
        """Return the environment of a user's program on the login machine."""
        return {
            **os.environ,
            "PATH": os.pathsep.join([os.path.dirname(sys.executable), search_path()]),
            "HOME": str(self.home),
            "TMPDIR": "/tmp",
            **self.variables,
        }

    def command(self, *arguments: str, directory: str | os.PathLike[str]) -> list[str]:
        """Return the command line of a user's program on the login machine. The program is a child of its process."""
        login = next(daemon for name, daemon in self._daemons if name == LOGIN)
        init = next(iter(psutil.Process(login.pid).children()), None)
        if init is None:
            raise RuntimeError("the login machine has not started")
        there = ["sh", "-c", 'cd "$0" && exec "$@"', os.fspath(directory)]
        return ["nsenter", f"--target={init.pid}", *self.ENTER, *there, *arguments]

    def _machine(self, name: str) -> str:
        """Return the script that shows a new mount namespace the files of one machine."""
        hold = self.base / "hold" / name
        keep, restore = [f"mount -t tmpfs tmpfs {self.base / 'hold'}", f"mkdir {hold}"], []
        for number, path in enumerate(_shared()):
            held, seen = shlex.quote(str(hold / str(number))), shlex.quote(path)
            keep.append(f"mkdir {held}; mount --bind {seen} {held}")
            restore.append(f"mkdir -p {seen}; mount --bind {held} {seen}")
        return _MACHINE.format(keep="\n".join(keep), restore="\n".join(restore), tmp=self._tmp(name), hosts=self._hosts)

    def _tmp(self, name: str) -> Path:
        """Return the temporary directory of a machine."""
        return self.base / "machines" / name / "tmp"

    def ask(self, *arguments: str, seconds: float = 30) -> str:
        """Run a command of the batch system and return its output, stripped."""
        done = subprocess.run(
            arguments, env=self.environment, capture_output=True, text=True, check=False, timeout=seconds
        )
        if done.returncode:
            raise RuntimeError(f"{shlex.join(arguments)} failed: {done.stderr.strip() or done.stdout.strip()}")
        return done.stdout.strip()

    def scratch(self) -> list[str]:
        """Return the paths that runs have left in the temporary directories of nodes and of the login machine."""
        roots = [self._tmp(name) for name in ("login", *self.names)]
        return [str(path) for root in roots for path in root.iterdir() if path.name.startswith(("taskvine-", "tv-"))]

    def processes(self) -> list[psutil.Process]:
        """Return all processes of jobs on the nodes, and of runs on the login machine."""
        daemons = {daemon.pid for _, daemon in self._daemons}
        found = [each for each in psutil.process_iter() if each.pid not in daemons and self._is_run(each)]
        for name, daemon in self._daemons:
            if name in self.names:
                with contextlib.suppress(psutil.NoSuchProcess):
                    found += psutil.Process(daemon.pid).children(recursive=True)
        return [each for each in dict.fromkeys(found) if not self._is_own(each)]

    def _is_run(self, process: psutil.Process) -> bool:
        try:
            return (
                process.environ().get(self.VARIABLE) == self.variables[self.VARIABLE]
                and cleanup.TOKEN in process.environ()
            )
        except (psutil.Error, OSError):
            return False

    def _is_own(self, process: psutil.Process) -> bool:
        """Whether a process belongs to the batch system, or has ended."""
        try:
            return process.status() == psutil.STATUS_ZOMBIE or process.name() in self.OWN
        except psutil.NoSuchProcess:
            return True

    def clear_scratch(self) -> None:
        """Remove what :meth:`scratch` finds, so that a failed test does not fail the next one."""
        for path in self.scratch():
            if os.path.islink(path) or not os.path.isdir(path):
                os.unlink(path)
            else:
                shutil.rmtree(path, ignore_errors=True)

    # --- its life ---

    def __enter__(self: _Self) -> _Self:
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _lay_out(self, *directories: str, hosts: str) -> None:
        """Make the directories of the cluster and its machines, and the host table that its machines see."""
        for name in ("etc", "home", "hold", "log", *directories):
            (self.base / name).mkdir()
        self.base.chmod(0o755)
        for name in ("login", *self.names):
            self._tmp(name).mkdir(parents=True)
            self._tmp(name).chmod(0o1777)
        self._hosts.write_text(hosts)

    def _start_login(self, isolate: tuple[str, ...] = ISOLATE, script: str = "") -> None:
        self._start(LOGIN, *isolate, self._machine("login") + script + _LOGIN)

    def _start(self, name: str, *command: str) -> None:
        with (self.base / "log" / f"{name}.out").open("wb") as log:
            daemon = subprocess.Popen(
                command,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self._daemons.append((name, daemon))

    def _await(self, what: str, ready: Callable[[], bool]) -> None:
        deadline = time.monotonic() + _START_SECONDS
        while True:
            with contextlib.suppress(RuntimeError):
                if ready():
                    return
            dead = [name for name, daemon in self._daemons if daemon.poll() is not None]
            if dead or time.monotonic() > deadline:
                logs = [path for path in (self.base / "log").iterdir() if path.stat().st_size]
                tails = "\n".join(f"{path.name}: {path.read_text(errors='replace')[-1000:]}" for path in sorted(logs))
                raise RuntimeError(f"{what} did not start; ended: {dead or 'none'}\n{tails}")
            time.sleep(0.1)

    def stop(self) -> None:
        """End all daemons and all processes of the nodes; remove the cluster's directory."""
        for _, daemon in reversed(self._daemons):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(daemon.pid, signal.SIGTERM)
        for _, daemon in reversed(self._daemons):
            try:
                daemon.wait(5)
            except subprocess.TimeoutExpired:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(daemon.pid, signal.SIGKILL)
                daemon.wait()
        self._daemons.clear()
        shutil.rmtree(self.base, ignore_errors=True)


def search_path() -> str:
    """Return the directories where programs are searched for, also those of administrators."""
    return os.pathsep.join(filter(None, [os.environ.get("PATH"), SBIN]))


def _shared() -> list[str]:
    """Return the paths below the private directories that nodes must see."""
    needed = [str(ROOT), sys.prefix, sys.base_prefix]
    worker = shutil.which("vine_worker")
    if worker is not None:
        needed.append(os.path.dirname(os.path.dirname(os.path.realpath(worker))))
    spec = importlib.util.find_spec("ndcctools")
    if spec is not None and spec.origin is not None:
        needed.append(os.path.dirname(os.path.dirname(spec.origin)))
    paths = [os.path.realpath(path) for path in needed]
    private = {path for path in paths if path.startswith(tuple(f"{root}/" for root in PRIVATE))}
    return sorted(path for path in private if not any(path.startswith(f"{other}/") for other in private))


def absent(programs: tuple[str, ...]) -> list[str]:
    """Return those of some programs that are not installed."""
    return [name for name in programs if shutil.which(name, path=search_path()) is None]


def run_as_program(cluster: Machines) -> None:
    """Run a cluster until the user ends it."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())
    with cluster:
        print(
            "export", " ".join(f"{name}={value}" for name, value in cluster.variables.items()), f"HOME={cluster.home}"
        )
        print("A shell of the login machine:", shlex.join(cluster.command("bash", directory=cluster.home)), flush=True)
        with contextlib.suppress(KeyboardInterrupt):
            signal.pause()
