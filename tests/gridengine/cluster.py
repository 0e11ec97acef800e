"""A real Grid Engine on this machine: ``python tests/gridengine/cluster.py`` starts one until Ctrl-C.

It runs in a network namespace with only a loopback interface, because Grid Engine's daemons listen on all interfaces.
The only node is an execution daemon on another machine, see ``machines``. It has the host name of the login machine,
because an execution daemon's port is the same on all hosts.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path
from typing import ClassVar

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT)]  # when this file is run as a program

from tests.machines import ISOLATE, LOGIN, Machines, absent, run_as_program  # noqa: E402

HOST = LOGIN.partition(".")[0]
"""Name of the one host."""
QUEUE = "main.q"
_LIBRARY = Path("/usr/lib/gridengine")
_RESOURCES = Path("/usr/share/gridengine/util/resources")
_PROGRAMS = ("sge_qmaster", "sge_execd", "qsub", "qstat", "qdel", "qconf", "unshare", "nsenter", "ip")
_SECONDS = 30.0
"""Time limit of a command of the batch system."""

_BOOTSTRAP = """
admin_user none
default_domain none
ignore_fqdn true
spooling_method classic
spooling_lib libspoolc
spooling_params {common};{qmaster}
binary_path /usr/sbin
qmaster_spool_dir {qmaster}
security_mode none
listener_threads 2
worker_threads 2
scheduler_threads 1
"""
_CONFIGURATION = {"min_uid": "0", "min_gid": "0", "administrator_mail": "none", "load_report_time": "00:00:05"}
"""Differences to Debian's configuration: root may submit jobs."""
_SCHEDULER = {"schedule_interval": "0:0:2", "flush_submit_sec": "1", "flush_finish_sec": "1"}
"""The scheduler looks at jobs more often than every 15 seconds, the default."""
_QUEUE = {
    "qname": QUEUE,
    "hostlist": HOST,
    "shell": "/bin/bash",
    "tmpdir": "/tmp",
    "qtype": "BATCH",
    "load_thresholds": "NONE",
    "pe_list": "smp",
}
_PARALLEL = {
    "pe_name": "smp",
    "slots": "999",
    "user_lists": "NONE",
    "xuser_lists": "NONE",
    "start_proc_args": "NONE",
    "stop_proc_args": "NONE",
    "allocation_rule": "$pe_slots",
    "control_slaves": "FALSE",
    "job_is_first_task": "TRUE",
    "urgency_slots": "min",
    "accounting_summary": "FALSE",
    "qsort_args": "NONE",
}
"""The parallel environment that TaskVine's factory asks for."""


def missing() -> str | None:
    """Return why no cluster can be started here; None if one can."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return "a Grid Engine in namespaces needs root on Linux"
    if lacking := absent(_PROGRAMS):
        packages = "gridengine-master gridengine-exec gridengine-client iproute2"
        return f"not installed: {', '.join(lacking)} (Debian: apt-get install {packages})"
    if subprocess.run(["unshare", "-m", "-p", "-u", "-n", "-f", "true"], capture_output=True, check=False).returncode:
        return "namespaces cannot be made here (unshare -m -p -u -n)"
    return None


class Cluster(Machines):
    """A Grid Engine of this machine.

    Parameters
    ----------
    slots : int
        Jobs that the node runs at a time.
    """

    SYSTEM: ClassVar[str] = "gridengine"
    VARIABLE: ClassVar[str] = "SGE_ROOT"
    OWN: ClassVar[tuple[str, ...]] = ("sge_execd", "sge_shepherd")
    ENTER: ClassVar[tuple[str, ...]] = ("--mount", "--pid", "--uts", "--net")

    def __init__(self, slots: int = 4) -> None:
        super().__init__(["n1"])
        self.slots = slots
        self.root = self.base / "root"

    @property
    def variables(self) -> dict[str, str]:
        """Environment variables by which programs find this cluster."""
        ports = {"SGE_QMASTER_PORT": "6444", "SGE_EXECD_PORT": "6445"}
        return {self.VARIABLE: str(self.root), "SGE_CELL": "default", **ports}

    def ask(self, *arguments: str, seconds: float = _SECONDS) -> str:
        """Run a command on the login machine and return its output, stripped."""
        return super().ask(*self.command(*arguments, directory=self.home), seconds=seconds)

    def queue(self) -> list[str]:
        """Return the jobs that have not ended: number, state, name."""
        rows = [line.split() for line in self.ask("qstat").splitlines()[2:]]
        return [f"{row[0]} {row[4]} {row[2]}" for row in rows]

    def jobs(self, state: str = "") -> list[str]:
        """Return the numbers of jobs that have not ended, or of those in one state."""
        rows = [line.split() for line in self.queue()]
        return [number for number, its, _ in rows if state in ("", its)]

    def cancel(self, *jobs: str) -> None:
        """End jobs."""
        self.ask("qdel", *jobs)

    def start(self) -> None:
        """Start both daemons and wait until the node can run jobs."""
        hosts = f"127.0.0.1 {LOGIN} {HOST}\n127.0.0.1 localhost\n"
        self._lay_out("root", "qmaster", "qmaster/job_scripts", "execd", hosts=hosts)
        common = self.root / "default" / "common"
        common.mkdir(parents=True)
        architecture = subprocess.check_output([_RESOURCES.parent / "arch"], text=True).strip()
        for name in ("bin", "lib", "utilbin"):
            (self.root / name).mkdir()
            (self.root / name / architecture).symlink_to(_LIBRARY)
        (self.root / "util").symlink_to(_RESOURCES.parent)
        qmaster = self.base / "qmaster"
        (common / "bootstrap").write_text(_BOOTSTRAP.format(common=common, qmaster=qmaster))
        (common / "act_qmaster").write_text(f"{HOST}\n")
        own = {**_CONFIGURATION, "execd_spool_dir": str(self.base / "execd")}
        default = (_RESOURCES.parents[1] / "default-configuration").read_text()
        (self.base / "etc" / "configuration").write_text(_changed(default, own))
        self._start_login((*ISOLATE[:-2], "--net", *ISOLATE[-2:]), f"hostname {HOST}; ip link set lo up\n")
        self._await("the login machine", lambda: self.ask("hostname") == HOST)
        self.ask(str(_LIBRARY / "spoolinit"), "classic", "libspoolc", f"{common};{qmaster}", "init")
        for what, value in (
            ("configuration", self.base / "etc" / "configuration"),
            ("complexes", _RESOURCES / "centry"),
            ("usersets", _RESOURCES / "usersets"),
            ("managers", "root"),
        ):
            self.ask(str(_LIBRARY / "spooldefaults"), what, str(value))
        self._start("qmaster", *self.command("env", "SGE_ND=1", "sge_qmaster", directory=self.base))
        self._await("sge_qmaster", lambda: bool(self.ask("qconf", "-sh")))
        self.ask("qconf", "-as", HOST)
        self._configure("-Msconf", _changed(self.ask("qconf", "-ssconf"), _SCHEDULER))
        self._configure("-Ap", _changed("", _PARALLEL))
        own = {**_QUEUE, "slots": str(self.slots)}
        self._configure("-Aq", _changed(self.ask("qconf", "-sq"), own))
        (name,) = self.names
        enter = (*self.command(directory="/")[:2], "--net", "--uts")
        self._start(name, *enter, *ISOLATE, self._machine(name) + "SGE_ND=1 exec sge_execd\n")
        self._await("sge_execd", lambda: self.ask("qstat", "-f", "-qs", "u") == "" and self._has_load())

    def _has_load(self) -> bool:
        """Whether the node has reported to the master."""
        return self.ask("qhost", "-h", HOST).splitlines()[-1].split()[1] != "-"

    def _configure(self, option: str, text: str) -> None:
        file = self.base / "etc" / option.strip("-")
        file.write_text(text)
        self.ask("qconf", option, str(file))


def _changed(settings: str, changes: dict[str, str]) -> str:
    """Settings, one on a line, with some of them replaced."""
    lines = [line for line in settings.splitlines() if line.split(maxsplit=1)[:1] not in [[name] for name in changes]]
    return "\n".join([*lines, *(f"{name} {value}" for name, value in changes.items())]) + "\n"


def main() -> None:
    """Run a cluster until the user ends it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--slots", type=int, default=4)
    options = parser.parse_args()
    if reason := missing():
        sys.exit(reason)
    run_as_program(Cluster(options.slots))


if __name__ == "__main__":
    main()
