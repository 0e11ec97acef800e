"""The memory that a control group has left.

Linux charges a file in memory to the control group of the process that writes it, and kills processes of a group that
has no memory left.
"""

from __future__ import annotations

from typing import NamedTuple


class Group(NamedTuple):
    """The control group whose memory limit this process would reach first.

    Parameters
    ----------
    statistics : str
        Path of its ``memory.stat``.
    version : int
        Version of control groups, 1 or 2.
    limit : int
        Memory limit in bytes.
    """

    statistics: str
    version: int
    limit: int


_FIELDS = {1: rb"^total_(?:rss|shmem) (\d+)$", 2: rb"^(?:anon|shmem) (\d+)$"}
"""Memory that the kernel cannot reclaim: memory of processes, and files in memory. It drops cached pages of files on
disk when memory is short (https://docs.kernel.org/admin-guide/cgroup-v2.html#memory)."""
_group: Group | None = None


def keep_to(group: tuple[str, int, int] | None) -> None:
    """Set this process's group; None if no limit is known."""
    global _group
    _group = None if group is None else Group(*group)


def allows(size: int) -> bool:
    """Whether at least half of the group's memory stays free after writing a file of ``size`` bytes to memory."""
    if _group is None:
        return True
    try:
        with open(_group.statistics, "rb", buffering=0) as file:
            said = file.read(1 << 16)
    except OSError:  # the group is gone, or hidden
        return True
    import re  # imported here, because every L1 task imports this module, but few are limited

    used = sum(int(number) for number in re.findall(_FIELDS[_group.version], said, re.MULTILINE))
    return used + size <= _group.limit // 2
