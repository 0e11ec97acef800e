"""A real Slurm on this machine: ``python tests/slurm/cluster.py --nodes 3`` starts one until Ctrl-C.

Each node is a slurmd on another machine, see ``machines``. All daemons listen on loopback with free ports, and
munged has a private key and socket, so that several clusters do not disturb each other.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import secrets
import socket
import subprocess
import sys
from pathlib import Path
from typing import ClassVar

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT)]  # when this file is run as a program

from tests.machines import ISOLATE, LOGIN, SBIN, Machines, absent, run_as_program  # noqa: E402

_PROGRAMS = ("slurmctld", "slurmd", "munged", "sbatch", "squeue", "scancel", "sinfo", "scontrol", "unshare", "nsenter")
_ACCOUNTING_PROGRAMS = ("slurmdbd", "sacct", "sacctmgr", "mariadbd", "mariadb", "mariadb-install-db")
KILL_WAIT = 10
"""Seconds between SIGTERM and SIGKILL of a job that is cancelled."""

_NODE = """
hostname {name}
exec env -i PATH={path} HOME={home} SLURM_CONF={conf} slurmd -D -N {name}
"""
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
    """Return why no cluster can be started here; None if one can."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return "a Slurm cluster in namespaces needs root on Linux"
    programs = _PROGRAMS + (_ACCOUNTING_PROGRAMS if accounting else ())
    if lacking := absent(programs):
        packages = "slurm-wlm munge" + (" slurmdbd mariadb-server" if accounting else "")
        return f"not installed: {', '.join(lacking)} (Debian: apt-get install {packages})"
    if subprocess.run(["unshare", "-m", "-p", "-u", "-f", "true"], capture_output=True, check=False).returncode:
        return "namespaces cannot be made here (unshare -m -p -u)"
    return None


class Cluster(Machines):
    """A Slurm cluster of this machine.

    Parameters
    ----------
    nodes : int
        Number of nodes; for Slurm, each has 32 cores and 128,000 MB.
    accounting : bool
        Whether slurmdbd keeps accounts. If not, ``sacct`` fails, as on many clusters.
    """

    SYSTEM: ClassVar[str] = "slurm"
    VARIABLE: ClassVar[str] = "SLURM_CONF"
    OWN: ClassVar[tuple[str, ...]] = ("slurmd", "slurmstepd")

    def __init__(self, nodes: int = 3, *, accounting: bool = True) -> None:
        super().__init__([f"n{number + 1}" for number in range(nodes)])
        self.accounting = accounting
        self.conf = self.base / "etc" / "slurm.conf"
        self._munge = self.base / "munge" / "socket"

    @property
    def variables(self) -> dict[str, str]:
        """Environment variables by which programs find this cluster."""
        return {self.VARIABLE: str(self.conf)}

    def queue(self) -> list[str]:
        """Return the jobs that have not ended: number, state, name."""
        return self.ask("squeue", "--noheader", "--format=%i %t %j").splitlines()

    def jobs(self, state: str = "R,PD,S,CG") -> list[str]:
        """Return the numbers of jobs in some states."""
        return self.ask("squeue", "--noheader", "--format=%i", f"--states={state}").split()

    def cancel(self, *jobs: str) -> None:
        """End jobs."""
        self.ask("scancel", *jobs)

    def start(self) -> None:
        """Start all daemons and wait until all nodes are idle."""
        names = f"127.0.0.1 {LOGIN} {' '.join(self.names)}\n"
        self._lay_out("run", "spool", "state", "db", "munge", hosts=Path("/etc/hosts").read_text() + names)
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
        self._start_login()
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
        enforce = "AccountingStorageEnforce=associations,limits"
        return f"AccountingStorageType=accounting_storage/slurmdbd\n{where}\n{enforce}"

    def _start_node(self, name: str) -> None:
        script = self._machine(name) + _NODE.format(
            name=name, path=f"/usr/local/bin:/usr/bin:/bin:{SBIN}", home=self.home, conf=self.conf
        )
        self._start(name, *ISOLATE, script)


def _free_ports(count: int) -> list[int]:
    """Return unused ports of loopback."""
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
    run_as_program(Cluster(options.nodes, accounting=not options.no_accounting))


if __name__ == "__main__":
    main()
