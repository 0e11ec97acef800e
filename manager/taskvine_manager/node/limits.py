"""Limits on the cores and memory of a node, set by control groups and batch systems.

The functions here take what files and environment variables hold, and are pure; :mod:`taskvine_manager.node.hardware`
has them read this process's own. A limit that cannot be read, or makes no sense, is none.

Batch systems say little of memory in the environment: Slurm does, the others set control groups or nothing. PBS sets
``NCPUS``; ``PBS_RESC_MEM`` is set by hooks of some sites.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import NamedTuple

Read = Callable[[str], str | None]
"""Returns what a file holds; None if it cannot be read."""
MEGABYTE = 2**20
_UNLIMITED = 1 << 60
"""Bytes: what version 1 of control groups says where there is no limit is the largest number of whole pages."""
_UNITS = {"": 1, "b": 1, "k": 2**10, "m": 2**20, "g": 2**30, "t": 2**40}


class Limit(NamedTuple):
    """A number of cores, or megabytes of memory (2**20 bytes), and where it was found."""

    amount: float
    source: str


class Group(NamedTuple):
    """A directory of control groups, and the version of them."""

    path: str
    version: int


def read(path: str) -> str | None:
    """What a file of the system holds; None if it cannot be read."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read()
    except OSError:
        return None


def smallest(first: Limit, *others: Limit) -> Limit:
    """The limit that holds: the smallest, and of equal ones the first."""
    return min((first, *others), key=lambda limit: limit.amount)


# --- control groups ---


def groups(controller: str, cgroup: str, mountinfo: str) -> list[Group]:
    """The control groups that a process is in, its own first, then those that contain it.

    Parameters
    ----------
    controller : str
        ``"memory"`` or ``"cpu"``. Version 2 has one hierarchy for all of them.
    cgroup, mountinfo : str
        What ``/proc/PID/cgroup`` and ``/proc/PID/mountinfo`` hold.
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
    """Directories from a group's own up to the mount point, which shows the hierarchy from ``root`` on."""
    inside = path[len(root.rstrip("/")) :] if path == root or path.startswith(root.rstrip("/") + "/") else ""
    names = [name for name in inside.split("/") if name]
    if ".." in names:  # it is outside of what this process sees of the hierarchy
        names = []
    for count in range(len(names), -1, -1):
        yield "/".join([point.rstrip("/"), *names[:count]]) or "/"


def _unescaped(word: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), word)


def memory_limits(found: Iterable[Group], read: Read) -> list[Limit]:
    """Memory that each control group may use, where it is limited."""
    limits = []
    for path, version in found:
        name = os.path.join(path, "memory.max" if version == 2 else "memory.limit_in_bytes")
        limit = _count(read(name))
        if limit is not None and 0 < limit < _UNLIMITED:
            limits.append(Limit(limit / MEGABYTE, name))
    return limits


def cpu_limits(found: Iterable[Group], read: Read) -> list[Limit]:
    """Cores that each control group may use, where its time on them is limited. (Which ones: see affinity.)"""
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
    """Cores of this node that a batch system has given to its job.

    Parameters
    ----------
    environment : mapping of str to str
        Environment variables.
    hosts : str
        What Grid Engine's ``PE_HOSTFILE`` holds: a line with name and slots for each host of the job.
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
    """Memory of this node that a batch system has given to its job."""
    found = []
    if "SLURM_JOB_ID" in environment:  # in MB; 0 is all that the node has
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
        # In a step, each task is a process like this one; a batch script stands for all that are to be started.
        tasks = 1.0 if "SLURM_STEP_ID" in environment else _of_node(environment, "SLURM_TASKS_PER_NODE") or 1.0
        found.append(limit._replace(amount=limit.amount * tasks))
    return found


def _slurm_share(environment: Mapping[str, str]) -> list[Limit]:
    """Cores that Slurm counts for this node."""
    found = _numbers(environment, "SLURM_CPUS_ON_NODE")
    if not found and (count := _of_node(environment, "SLURM_JOB_CPUS_PER_NODE")):
        found.append(Limit(count, "SLURM_JOB_CPUS_PER_NODE"))
    return found


def _of_node(environment: Mapping[str, str], name: str) -> float | None:
    """What a variable of Slurm's says of this node: it lists all of them in brief, as in ``72(x2),36``."""
    counts: list[int] = []
    for item in environment.get(name, "").split(","):
        match = re.fullmatch(r"(\d+)(?:\(x(\d+)\))?", item.strip())
        if match is None:
            return None
        counts += [int(match[1])] * min(int(match[2] or 1), 1 << 16)
    place = _count(environment.get("SLURM_NODEID", "0")) or 0
    return float(counts[place]) if 0 <= place < len(counts) else None


def _numbers(environment: Mapping[str, str], *names: str) -> list[Limit]:
    """Variables that hold a number above 0."""
    values = ((name, environment.get(name, "").strip()) for name in names)
    return [Limit(float(value), name) for name, value in values if re.fullmatch(r"\d{1,15}", value) and int(value)]


# --- kills ---


class Kill(NamedTuple):
    """A kill for lack of memory: which control group lacked it (or ``"the machine"``), and in MB what it may use and
    what it has used at most, 0 where that is not known."""

    group: str
    limit_mb: float
    used_mb: float


class Kills:
    """Notices when the system kills a process of this control group for lack of memory.

    The system counts such kills, and does not say which process it has killed. The death of a process by SIGKILL is
    attributed to lack of memory if the count has gone up within :data:`WINDOW`.

    Parameters
    ----------
    found : list of Group
        Control groups for memory, this process's own first. Its children are in the same.
    machine_mb : float
        Memory of the machine.
    read : callable
        Reads a file.
    """

    WINDOW = 2.0
    """Seconds between the rise of the count and the death of a process, at most."""

    def __init__(self, found: list[Group], machine_mb: float, read: Read = read) -> None:
        self._groups = found
        self._machine_mb = machine_mb
        self._read = read
        self._seen = self._count()
        self._risen: float | None = None

    def look(self, now: float) -> None:
        """Read the count; ``now`` is in seconds of any clock."""
        count = self._count()
        if count is not None and self._seen is not None and count > self._seen:
            self._risen = now
        self._seen = count

    def explain(self, now: float) -> Kill | None:
        """Say what has killed a process that died by SIGKILL just now; None if it was not lack of memory."""
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
        for path, version in self._groups:  # where this one's own has no count, those around it count it too
            said = self._read(os.path.join(path, "memory.events" if version == 2 else "memory.oom_control")) or ""
            if match := re.search(r"^oom_kill (\d+)$", said, re.MULTILINE):
                return int(match[1])
        return None
