"""A real Slurm on this machine: ``python tests/slurm/cluster.py --nodes 3`` starts one until Ctrl-C.

Each node is a slurmd in mount, PID and UTS namespaces with its own ``/tmp`` and ``/dev/shm``. A node sees of the login
machine's files what a cluster would share: the home directory, this project and its environment. All daemons listen on
loopback with free ports, and munged has a private key and socket, so that several clusters do not disturb each other.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import os
import secrets
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "manager")]  # where this file is run as a program

from taskvine_manager import cleanup  # noqa: E402

LOGIN = "login1.example.org"
"""A name of the login machine that nodes and user programs resolve."""
PRIVATE = ("/tmp", "/dev/shm")
"""Directories that each node has for itself."""
_PROGRAMS = ("slurmctld", "slurmd", "munged", "sbatch", "squeue", "scancel", "sinfo", "scontrol", "unshare", "nsenter")
_ACCOUNTING_PROGRAMS = ("slurmdbd", "sacct", "sacctmgr", "mariadbd", "mariadb", "mariadb-install-db")
_PATH = os.pathsep.join(["/usr/sbin", "/sbin"])
_START_SECONDS = 60.0
KILL_WAIT = 10
"""Seconds between SIGTERM and SIGKILL of a job that is cancelled."""

_MACHINE = """
set -e
mount --make-rprivate /
{keep}
mount --bind {tmp} /tmp
mount -t tmpfs -o size=1500m,mode=1777 tmpfs /dev/shm
{restore}
mount --bind {hosts} /etc/hosts
"""
_NODE = """
hostname {name}
exec env -i PATH={path} HOME={home} SLURM_CONF={conf} slurmd -D -N {name}
"""
# bash adopts what users' programs leave behind, and reaps it.
_LOGIN = """
while :; do sleep 3600 & wait; done
"""
_ISOLATE = ("unshare", "-m", "-p", "-u", "-f", "--mount-proc", "--kill-child", "bash", "-c")
"""A shell with private mounts, processes and host name; it ends with all that it has started."""

_CONF = """
ClusterName=local
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ctld}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
# A job that is requeued waits until the credentials of its first run have expired.
AuthInfo=socket={munge},cred_expire=20
CryptoType=crypto/munge
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
CommunicationParameters=NoInAddrAny,NoCtldInAddrAny
ReturnToService=2
# Nodes have the size that this file says, whatever the machine has.
SlurmdParameters=config_overrides
SlurmctldPidFile={base}/run/slurmctld.pid
SlurmdPidFile={base}/run/slurmd.%n.pid
SlurmdSpoolDir={base}/spool/%n
StateSaveLocation={base}/state
SlurmctldLogFile={base}/log/slurmctld
SlurmdLogFile={base}/log/slurmd.%n
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=2,bf_interval=2
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
JobAcctGatherType=jobacct_gather/none
KillWait={kill_wait}
OverTimeLimit=0
MinJobAge=300
{accounting}
{nodes}
PartitionName=compute Nodes={names} Default=YES MaxTime=INFINITE State=UP DefMemPerCPU=1000
"""

_DATABASE_CONF = """
AuthType=auth/munge
AuthInfo=socket={munge}
DbdHost=localhost
DbdPort={dbd}
SlurmUser=root
LogFile={base}/log/slurmdbd
PidFile={base}/run/slurmdbd.pid
StorageType=accounting_storage/mysql
StorageHost=127.0.0.1
StoragePort={database}
StorageUser=slurm
StoragePass={password}
StorageLoc=slurm_acct_db
CommunicationParameters=NoInAddrAny
"""


def missing(*, accounting: bool) -> str | None:
    """Why no cluster can be started here, if it cannot."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return "a Slurm cluster in namespaces needs root on Linux"
    programs = _PROGRAMS + (_ACCOUNTING_PROGRAMS if accounting else ())
    if absent := [name for name in programs if shutil.which(name, path=_search_path()) is None]:
        packages = "slurm-wlm munge" + (" slurmdbd mariadb-server" if accounting else "")
        return f"not installed: {', '.join(absent)} (Debian: apt-get install {packages})"
    if subprocess.run(["unshare", "-m", "-p", "-u", "-f", "true"], capture_output=True, check=False).returncode:
        return "namespaces cannot be made here (unshare -m -p -u)"
    return None


class Cluster:
    """A Slurm cluster of this machine.

    Parameters
    ----------
    nodes : int
        Number of nodes; for Slurm, each has 32 cores and 128,000 MB.
    accounting : bool
        Whether slurmdbd keeps accounts. If not, ``sacct`` fails, as on many clusters.
    """

    def __init__(self, nodes: int = 3, *, accounting: bool = True) -> None:
        self.names = [f"n{number + 1}" for number in range(nodes)]
        self.accounting = accounting
        # Not below /tmp, which nodes do not share.
        self.base = Path(tempfile.mkdtemp(prefix="taskvine-slurm-", dir="/var/tmp"))
        self.home = self.base / "home"
        self.conf = self.base / "etc" / "slurm.conf"
        self._munge = self.base / "munge" / "socket"
        self._hosts = self.base / "etc" / "hosts"
        self._daemons: list[tuple[str, subprocess.Popen[bytes]]] = []

    # --- for user programs ---

    @property
    def environment(self) -> dict[str, str]:
        """Environment of a user's program on the login machine."""
        return {
            **os.environ,
            "PATH": os.pathsep.join([os.path.dirname(sys.executable), _search_path()]),
            "SLURM_CONF": str(self.conf),
            "HOME": str(self.home),
            "TMPDIR": "/tmp",
        }

    def command(self, *arguments: str, directory: str | os.PathLike[str]) -> list[str]:
        """Command line of a user's program on the login machine: the program is a child of what this starts."""
        login = next(daemon for name, daemon in self._daemons if name == LOGIN)
        (init,) = psutil.Process(login.pid).children()
        there = ["sh", "-c", 'cd "$0" && exec "$@"', os.fspath(directory)]
        return ["nsenter", f"--target={init.pid}", "--mount", "--pid", *there, *arguments]

    def _machine(self, name: str) -> str:
        """Script that shows a new mount namespace what one machine of the cluster sees."""
        hold = self.base / "hold" / name
        keep, restore = [f"mount -t tmpfs tmpfs {self.base / 'hold'}", f"mkdir {hold}"], []
        for number, path in enumerate(_shared()):
            held, seen = shlex.quote(str(hold / str(number))), shlex.quote(path)
            keep.append(f"mkdir {held}; mount --bind {seen} {held}")
            restore.append(f"mkdir -p {seen}; mount --bind {held} {seen}")
        return _MACHINE.format(keep="\n".join(keep), restore="\n".join(restore), tmp=self._tmp(name), hosts=self._hosts)

    def _tmp(self, name: str) -> Path:
        """The temporary directory of a machine."""
        return self.base / "machines" / name / "tmp"

    def ask(self, *arguments: str, seconds: float = 30) -> str:
        """Run a command of Slurm's and return its output, without blanks around it."""
        done = subprocess.run(
            arguments, env=self.environment, capture_output=True, text=True, check=False, timeout=seconds
        )
        if done.returncode:
            raise RuntimeError(f"{shlex.join(arguments)} failed: {done.stderr.strip()}")
        return done.stdout.strip()

    def queue(self) -> list[str]:
        """Jobs that have not ended: number, state, name."""
        return self.ask("squeue", "--noheader", "--format=%i %t %j").splitlines()

    def jobs(self, state: str = "R,PD,S,CG") -> list[str]:
        """Numbers of jobs in some states."""
        return self.ask("squeue", "--noheader", "--format=%i", f"--states={state}").split()

    def scratch(self) -> list[str]:
        """Paths that runs have left in the temporary directories of nodes and of the login machine."""
        roots = [self._tmp(name) for name in ("login", *self.names)]
        return [str(path) for root in roots for path in root.iterdir() if path.name.startswith(("taskvine-", "tv-"))]

    def processes(self) -> list[psutil.Process]:
        """Processes of jobs on the nodes, whatever they have become, and of runs on the login machine."""
        daemons = {daemon.pid for _, daemon in self._daemons}
        found = [each for each in psutil.process_iter() if each.pid not in daemons and self._is_run(each)]
        for name, daemon in self._daemons:
            if name in self.names:
                with contextlib.suppress(psutil.NoSuchProcess):
                    found += psutil.Process(daemon.pid).children(recursive=True)
        return [each for each in dict.fromkeys(found) if not _is_slurms(each)]

    def _is_run(self, process: psutil.Process) -> bool:
        try:
            return process.environ().get("SLURM_CONF") == str(self.conf) and cleanup.TOKEN in process.environ()
        except (psutil.Error, OSError):
            return False

    def clear_scratch(self) -> None:
        """Remove what :meth:`scratch` finds, so that one test's failure is not the next one's."""
        for path in self.scratch():
            if os.path.islink(path) or not os.path.isdir(path):
                os.unlink(path)
            else:
                shutil.rmtree(path, ignore_errors=True)

    # --- its life ---

    def __enter__(self) -> Cluster:
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Start all daemons and wait until all nodes are idle."""
        for name in ("etc", "log", "run", "spool", "state", "db", "munge", "home", "hold"):
            (self.base / name).mkdir()
        self.base.chmod(0o755)
        for name in ("login", *self.names):
            self._tmp(name).mkdir(parents=True)
            self._tmp(name).chmod(0o1777)
        lines = [f"127.0.0.1 {LOGIN} {' '.join(self.names)}\n"]
        self._hosts.write_text(Path("/etc/hosts").read_text() + "".join(lines))
        self._start_munge()
        host = socket.gethostname().split(".")[0]
        controller, *ports = _free_ports(1 + len(self.names))
        nodes = [
            f"NodeName={name} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} CPUs=32 Boards=1 SocketsPerBoard=1 "
            f"CoresPerSocket=32 ThreadsPerCore=1 RealMemory=128000"
            for name, port in zip(self.names, ports, strict=True)
        ]
        accounting = self._start_accounting() if self.accounting else "AccountingStorageType=accounting_storage/none"
        self.conf.write_text(
            _CONF.format(
                host=host,
                ctld=controller,
                munge=self._munge,
                base=self.base,
                kill_wait=KILL_WAIT,
                accounting=accounting,
                nodes="\n".join(nodes),
                names=",".join(self.names),
            )
        )
        if self.accounting:
            self._start("slurmdbd", "slurmdbd", "-D")
            self._await("slurmdbd", lambda: self.ask("sacctmgr", "-n", "list", "cluster") is not None)
            self.ask("sacctmgr", "-i", "add", "cluster", "local")
        self._start("slurmctld", "slurmctld", "-D")
        self._start(LOGIN, *_ISOLATE, self._machine("login") + _LOGIN)
        for name in self.names:
            self._start_node(name)
        self._await("slurmctld and slurmd", lambda: self._idle() == set(self.names))

    def _idle(self) -> set[str]:
        return set(self.ask("sinfo", "-h", "-N", "-t", "idle", "-o", "%N").split())

    def _start_munge(self) -> None:
        key = self.base / "munge" / "key"
        with open(os.open(key, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o400), "wb") as file:
            file.write(secrets.token_bytes(1024))
        options = {"key-file": key, "socket": self._munge}
        options |= {name: self.base / "munge" / name.split("-")[0] for name in ("log-file", "pid-file", "seed-file")}
        self._start("munged", "munged", "--foreground", "--force", *(f"--{name}={at}" for name, at in options.items()))
        self._await("munged", self._munge.exists)

    def _start_accounting(self) -> str:
        database, dbd = _free_ports(2)
        directory, at = self.base / "db", self.base / "run" / "db"
        common = ["--no-defaults", "--user=root", f"--datadir={directory}"]
        with (self.base / "log" / "db-install").open("wb") as log:
            install = ["mariadb-install-db", *common, "--skip-test-db", "--auth-root-authentication-method=normal"]
            subprocess.run(install, env=self.environment, stdout=log, stderr=log, check=True)
        address = ["--bind-address=127.0.0.1", f"--port={database}", f"--socket={at}", f"--pid-file={at}.pid"]
        self._start("mariadbd", "mariadbd", *common, *address, "--innodb-buffer-pool-size=64M")
        client = ("mariadb", "--no-defaults", "-u", "root", "-S", str(at), "-e")
        self._await("mariadbd", lambda: self.ask(*client, "select 1") is not None)
        password = secrets.token_hex(8)
        self.ask(
            *client,
            f"create database slurm_acct_db; create user slurm@'127.0.0.1' identified by '{password}'; "
            f"create user slurm@localhost identified by '{password}'; "
            "grant all on slurm_acct_db.* to slurm@localhost; grant all on slurm_acct_db.* to slurm@'127.0.0.1'",
        )
        conf = self.base / "etc" / "slurmdbd.conf"
        conf.touch(0o600)
        conf.write_text(
            _DATABASE_CONF.format(munge=self._munge, dbd=dbd, base=self.base, database=database, password=password)
        )
        where = f"AccountingStorageHost=localhost\nAccountingStoragePort={dbd}\nAccountingStoragePass={self._munge}"
        return f"AccountingStorageType=accounting_storage/slurmdbd\n{where}"

    def _start_node(self, name: str) -> None:
        script = self._machine(name) + _NODE.format(
            name=name, path=f"/usr/local/bin:/usr/bin:/bin:{_PATH}", home=self.home, conf=self.conf
        )
        self._start(name, *_ISOLATE, script)

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
        """End all daemons, and every process of the nodes with them; remove the cluster's directory."""
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


def _is_slurms(process: psutil.Process) -> bool:
    """Whether a process is Slurm's own, or gone."""
    try:
        return process.status() == psutil.STATUS_ZOMBIE or process.name() in ("slurmd", "slurmstepd")
    except psutil.NoSuchProcess:
        return True


def _search_path() -> str:
    return os.pathsep.join(filter(None, [os.environ.get("PATH"), _PATH]))


def _shared() -> list[str]:
    """Paths below the private directories that nodes must see nevertheless."""
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


def _free_ports(count: int) -> list[int]:
    """Ports of loopback that nobody uses now."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [int(each.getsockname()[1]) for each in sockets]


def main() -> None:
    """Run a cluster until the user ends it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--nodes", type=int, default=3)
    parser.add_argument("--no-accounting", action="store_true", help="without slurmdbd: sacct fails")
    options = parser.parse_args()
    if reason := missing(accounting=not options.no_accounting):
        sys.exit(reason)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())
    with Cluster(options.nodes, accounting=not options.no_accounting) as cluster:
        print(f"export SLURM_CONF={cluster.conf} HOME={cluster.home}")
        print("A shell of the login machine:", shlex.join(cluster.command("bash", directory=cluster.home)), flush=True)
        with contextlib.suppress(KeyboardInterrupt):
            signal.pause()


if __name__ == "__main__":
    main()
