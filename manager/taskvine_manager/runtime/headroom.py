"""What memory a control group has left: files in memory count against it, and the system kills processes of a group
that has none.

Linux charges a file in memory to the group of the process that writes it.
"""

from __future__ import annotations

from typing import NamedTuple


class Group(NamedTuple):
    """The control group whose limit on memory this process reaches first.

    Parameters
    ----------
    statistics : str
        Path of its ``memory.stat``.
    version : int
        Of control groups: 1 or 2.
    limit : int
        Bytes that it may use.
    """

    statistics: str
    version: int
    limit: int


_FIELDS = {1: rb"^total_(?:rss|shmem) (\d+)$", 2: rb"^(?:anon|shmem) (\d+)$"}
"""What cannot be given back: memory of processes, and files in memory. Copies of files on disk are dropped when memory
is short (https://docs.kernel.org/admin-guide/cgroup-v2.html#memory)."""
_group: Group | None = None


def keep_to(group: tuple[str, int, int] | None) -> None:
    """Set this process's group; None if no limit is known."""
    global _group
    _group = None if group is None else Group(*group)


def allows(size: int) -> bool:
    """Whether a file in memory of so many bytes leaves half of the group's memory to processes."""
    if _group is None:
        return True
    try:
        with open(_group.statistics, "rb", buffering=0) as file:
            said = file.read(1 << 16)
    except OSError:  # the group is gone, or hidden
        return True
    import re  # here, since every L1 task imports this module, and few are limited

    used = sum(int(number) for number in re.findall(_FIELDS[_group.version], said, re.MULTILINE))
    return used + size <= _group.limit // 2
