"""Resources of the machine that a node may use."""

from __future__ import annotations

import math
import os
import socket
from collections.abc import Container

from taskvine_manager.node import limits
from taskvine_manager.node.limits import Limit, read, smallest
from taskvine_manager.runtime import headroom


def cores() -> int:
    """Return the number of cores that this process may use; the machine may have more."""
    return int(core_limit().amount)


def core_limit() -> Limit:
    """Return the whole cores that this process may use, at least one, and the source of this limit: affinity, a control
    group's CPU quota, or the batch system."""
    machine = Limit(float(len(os.sched_getaffinity(0))), "affinity")
    hosts = read(os.environ["PE_HOSTFILE"]) if "PE_HOSTFILE" in os.environ else None
    found = limits.job_cores(os.environ, hosts or "", socket.gethostname())
    chosen = smallest(machine, *limits.cpu_limits(_groups("cpu"), read), *found)
    return chosen._replace(amount=float(max(1, math.floor(chosen.amount + 1e-9))))


def memory() -> float:
    """Return the memory that this process may use, in MB (2**20 bytes); the machine may have more."""
    return memory_limit().amount


def memory_limit() -> Limit:
    """Return the memory that this process may use, in MB, and the source of this limit: the machine, a control group,
    or the batch system."""
    return smallest(
        Limit(machine_memory(), "the machine"),
        *limits.memory_limits(_groups("memory"), read),
        *limits.job_memory(os.environ),
    )


def memory_group() -> headroom.Group | None:
    """Return the control group whose memory limit this process reaches first; None if no group has a limit."""
    found = limits.memory_limits(_groups("memory"), read)
    if not found:
        return None
    limit = smallest(*found)
    version = 2 if limit.source.endswith("memory.max") else 1
    statistics = os.path.join(os.path.dirname(limit.source), "memory.stat")
    return headroom.Group(statistics, version, int(limit.amount * limits.MEGABYTE))


def kills() -> limits.Kills:
    """Return a detector of processes of this node that the system kills for lack of memory."""
    return limits.Kills(_groups("memory"), machine_memory())


def machine_memory() -> float:
    """Return the memory of the machine in MB (2**20 bytes)."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**20


def _groups(controller: str) -> list[limits.Group]:
    return limits.groups(controller, read("/proc/self/cgroup") or "", read("/proc/self/mountinfo") or "")


def disk(directory: str) -> float:
    """Return the free space of a directory's file system in MB (2**20 bytes)."""
    there = os.statvfs(directory)
    return there.f_bavail * there.f_frsize / 2**20


THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "BLIS_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
    "NUMEXPR_NUM_THREADS",
)


def thread_limits(count: float, chosen: Container[str] = ()) -> dict[str, str]:
    """Return environment variables that limit OpenMP and the usual BLAS libraries to a number of cores, except those in
    ``chosen``, which the user has set."""
    threads = str(max(1, int(count)))
    return {name: threads for name in THREAD_VARIABLES if name not in chosen}
