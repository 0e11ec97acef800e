"""Limits on the cores and memory of a node, set by control groups and batch systems.

The functions here are pure: they get the contents of files and environment variables as arguments.
:mod:`taskvine_manager.node.hardware` applies them to the current process. A limit that cannot be read or is invalid is
ignored.

Slurm sets memory limits in the environment. The others set control groups, or nothing. PBS sets ``NCPUS``;
``PBS_RESC_MEM`` is set by hooks of some sites.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import NamedTuple

Read = Callable[[str], str | None]
"""Returns the contents of a file; None if it cannot be read."""
MEGABYTE = 2**20
_UNLIMITED = 1 << 60
"""Bytes from which a limit counts as none: without a limit, control groups of version 1 report the largest multiple of
the page size."""
_UNITS = {"": 1, "b": 1, "k": 2**10, "m": 2**20, "g": 2**30, "t": 2**40}


class Limit(NamedTuple):
    """A number of cores, or megabytes of memory (2**20 bytes), and the source of this limit."""

    amount: float
    source: str


class Group(NamedTuple):
    """The directory of a control group, and its version."""

    path: str
    version: int


def read(path: str) -> str | None:
    """Return the contents of a system file; None if it cannot be read."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read()
    except OSError:
        return None


def smallest(first: Limit, *others: Limit) -> Limit:
    """Return the smallest limit; the first, if several are equal."""
    return min((first, *others), key=lambda limit: limit.amount)


# --- control groups ---


def groups(controller: str, cgroup: str, mountinfo: str) -> list[Group]:
    """Return the control groups of a process: its own first, then those that contain it.

    Parameters
    ----------
    controller : str
        ``"memory"`` or ``"cpu"``. Version 2 has one hierarchy for all of them.
    cgroup, mountinfo : str
        Contents of ``/proc/PID/cgroup`` and ``/proc/PID/mountinfo``.
    """
    paths: dict[str, str] = {}
    for line in cgroup.splitlines():
        _, _, rest = line.partition(":")
        names, colon, path = rest.partition(":")
        if colon:
            paths.update(dict.fromkeys(names.split(","), path))
    found: list[Group] = []
    for line in mountinfo.splitlines():
        mount, dash, kind = (part.split() for part in line.partition(" - "))
        if not dash or len(mount) < 5 or not kind:
            continue
        if kind[0] == "cgroup2":
            name, version = "", 2
        elif kind[0] == "cgroup" and controller in kind[-1].split(","):
            name, version = controller, 1
        else:
            continue
        if name in paths:
            around = _upwards(_unescaped(mount[4]), _unescaped(mount[3]), paths[name])
            found += (Group(each, version) for each in around)
    return found


def _upwards(point: str, root: str, path: str) -> Iterator[str]:
    """Yield directories from a group's own up to the mount point, where the hierarchy below ``root`` is visible."""
    inside = path[len(root.rstrip("/")) :] if path == root or path.startswith(root.rstrip("/") + "/") else ""
    names = [name for name in inside.split("/") if name]
    if ".." in names:  # outside the part of the hierarchy that this process sees
        names = []
    for count in range(len(names), -1, -1):
        yield "/".join([point.rstrip("/"), *names[:count]]) or "/"


def _unescaped(word: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), word)


def memory_limits(found: Iterable[Group], read: Read) -> list[Limit]:
    """Return the memory limit of each control group that has one."""
    limits = []
    for path, version in found:
        name = os.path.join(path, "memory.max" if version == 2 else "memory.limit_in_bytes")
        limit = _count(read(name))
        if limit is not None and 0 < limit < _UNLIMITED:
            limits.append(Limit(limit / MEGABYTE, name))
    return limits


def cpu_limits(found: Iterable[Group], read: Read) -> list[Limit]:
    """Return the CPU quota, in cores, of each control group that has one. (Affinity says which cores it may use.)"""
    limits = []
    for path, version in found:
        if version == 2:
            name = os.path.join(path, "cpu.max")
            words = (read(name) or "").split()
        else:
            name = os.path.join(path, "cpu.cfs_quota_us")
            words = f"{read(name) or ''} {read(os.path.join(path, 'cpu.cfs_period_us')) or ''}".split()
        quota, period = (_count(word) for word in words) if len(words) == 2 else (None, None)
        if quota and period and quota > 0 and period > 0:
            limits.append(Limit(quota / period, name))
    return limits


def _count(text: str | None) -> int | None:
    try:
        return int(text or "")
    except ValueError:
        return None


# --- batch systems ---


def job_cores(environment: Mapping[str, str], hosts: str = "", host: str = "") -> list[Limit]:
    """Return the cores of this node that a batch system has given to its job.

    Parameters
    ----------
    environment : mapping of str to str
        Environment variables.
    hosts : str
        Contents of Grid Engine's ``PE_HOSTFILE``: a line with name and slots for each host of the job.
    host : str
        Name of this host.
    """
    found = [*_slurm_cores(environment)]
    if "PBS_JOBID" in environment:
        found += _numbers(environment, "NCPUS", "PBS_NCPUS", "PBS_NUM_PPN")
    if "JOB_ID" in environment:  # Grid Engine
        lines = [line.split() for line in hosts.splitlines() if len(line.split()) > 1]
        ours = [words for words in lines if words[0].partition(".")[0] == host.partition(".")[0]]
        shares = [int(words[1]) for words in ours if words[1].isdigit()]
        if shares:
            found.append(Limit(float(sum(shares)), "PE_HOSTFILE"))
        elif environment.get("NHOSTS", "1") == "1":
            found += _numbers(environment, "NSLOTS")
    return [limit for limit in found if limit.amount > 0]


def job_memory(environment: Mapping[str, str]) -> list[Limit]:
    """Return the memory of this node that a batch system has given to its job."""
    found = []
    if "SLURM_JOB_ID" in environment:  # in MB; 0 means the node's whole memory
        found += _numbers(environment, "SLURM_MEM_PER_NODE")
        cores = [limit.amount for limit in _slurm_share(environment)]
        for name, counts in (
            ("SLURM_MEM_PER_CPU", cores),
            ("SLURM_MEM_PER_GPU", [limit.amount for limit in _numbers(environment, "SLURM_GPUS_ON_NODE")]),
        ):
            found += [
                Limit(limit.amount * count, name) for limit in _numbers(environment, name) for count in counts[:1]
            ]
    if "PBS_JOBID" in environment:
        match = re.fullmatch(r"(\d+)\s*([bkmgt]?)b?", environment.get("PBS_RESC_MEM", "").strip().lower())
        if match:
            found.append(Limit(int(match[1]) * _UNITS[match[2]] / MEGABYTE, "PBS_RESC_MEM"))
    return [limit for limit in found if limit.amount > 0]


def _slurm_cores(environment: Mapping[str, str]) -> list[Limit]:
    if "SLURM_JOB_ID" not in environment:
        return []
    found = _slurm_share(environment)
    for limit in _numbers(environment, "SLURM_CPUS_PER_TASK"):
        # In a step, Slurm starts one such process for each task. A batch script runs once, for all of them.
        tasks = 1.0 if "SLURM_STEP_ID" in environment else _of_node(environment, "SLURM_TASKS_PER_NODE") or 1.0
        found.append(limit._replace(amount=limit.amount * tasks))
    return found


def _slurm_share(environment: Mapping[str, str]) -> list[Limit]:
    """Return the number of cores that Slurm reports for this node."""
    found = _numbers(environment, "SLURM_CPUS_ON_NODE")
    if not found and (count := _of_node(environment, "SLURM_JOB_CPUS_PER_NODE")):
        found.append(Limit(count, "SLURM_JOB_CPUS_PER_NODE"))
    return found


def _of_node(environment: Mapping[str, str], name: str) -> float | None:
    """Return this node's value from a compressed list for all nodes in a Slurm variable, such as ``72(x2),36``."""
    counts: list[int] = []
    for item in environment.get(name, "").split(","):
        match = re.fullmatch(r"(\d+)(?:\(x(\d+)\))?", item.strip())
        if match is None:
            return None
        counts += [int(match[1])] * min(int(match[2] or 1), 1 << 16)
    place = _count(environment.get("SLURM_NODEID", "0")) or 0
    return float(counts[place]) if 0 <= place < len(counts) else None


def _numbers(environment: Mapping[str, str], *names: str) -> list[Limit]:
    """Return the limits from variables that hold a number above 0."""
    values = ((name, environment.get(name, "").strip()) for name in names)
    return [Limit(float(value), name) for name, value in values if re.fullmatch(r"\d{1,15}", value) and int(value)]


# --- kills ---


class Kill(NamedTuple):
    """A kill for lack of memory: the control group (or ``"the machine"``) that ran out of it, its limit in MB, and its
    highest known use in MB (0 if unknown)."""

    group: str
    limit_mb: float
    used_mb: float


class Kills:
    """A detector of processes in this control group that the system kills for lack of memory.

    The system counts these kills, but does not say which process it has killed. A process that died by SIGKILL is
    assumed to be one of them if the count rose at most :data:`WINDOW` seconds before.

    Parameters
    ----------
    found : list of Group
        Control groups for memory, this process's own first. Its children are in the same groups.
    machine_mb : float
        Memory of the machine.
    read : callable
        Reads a file.
    """

    WINDOW = 2.0
    """Most seconds between a rise of the count and the death of a process."""

    def __init__(self, found: list[Group], machine_mb: float, read: Read = read) -> None:
        self._groups = found
        self._machine_mb = machine_mb
        self._read = read
        self._seen = self._count()
        self._risen: float | None = None

    def look(self, now: float) -> None:
        """Read the count; ``now`` is in seconds, of any clock."""
        count = self._count()
        if count is not None and self._seen is not None and count > self._seen:
            self._risen = now
        self._seen = count

    def explain(self, now: float) -> Kill | None:
        """Return the reason why a process has just died by SIGKILL; None if that was not lack of memory."""
        self.look(now)
        if self._risen is None or now - self._risen > self.WINDOW:
            return None
        limits = memory_limits(self._groups, self._read)
        if not limits:
            return Kill("the machine", self._machine_mb, 0.0)
        limit = smallest(*limits)
        group = os.path.dirname(limit.source)
        return Kill(group, limit.amount, self._used(group) / MEGABYTE)

    def _used(self, group: str) -> int:
        for name in ("memory.peak", "memory.max_usage_in_bytes", "memory.current"):
            if (used := _count(self._read(os.path.join(group, name)))) is not None:
                return used
        return 0

    def _count(self) -> int | None:
        for path, version in self._groups:  # a group without a count is skipped: those around it count its kills too
            said = self._read(os.path.join(path, "memory.events" if version == 2 else "memory.oom_control")) or ""
            if match := re.search(r"^oom_kill (\d+)$", said, re.MULTILINE):
                return int(match[1])
        return None
