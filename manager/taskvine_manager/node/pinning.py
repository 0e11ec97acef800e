"""The CPUs that processes of tasks are bound to (``cpu_affinity``). Pure: no sockets, processes or clocks.

The CPUs of a node are divided into groups, one for each task that runs at a time, as HighThroughputExecutor does for
its workers. A task that asks for the cores of several slots gets several groups.
"""

from __future__ import annotations

import math
from collections.abc import Container, Iterable, Sequence

NONE, BLOCK, BLOCK_REVERSE, ALTERNATING = "none", "block", "block-reverse", "alternating"
LIST = "list:"
"""Prefix of a list of groups, such as ``list:0-1,8:2-3,9``."""
ALLOWED = f"{NONE!r}, {BLOCK!r}, {BLOCK_REVERSE!r}, {ALTERNATING!r}, or a list such as 'list:0-1:2-3'"
_MOST = 1 << 16
"""More CPUs than any machine has."""


def groups(setting: str, available: Iterable[int], slots: int) -> list[tuple[int, ...]]:
    """Return the groups of CPUs of a node; none if tasks are not bound.

    Parameters
    ----------
    setting : str
        One of HighThroughputExecutor's values.
    available : iterable of int
        The CPUs that the node may use.
    slots : int
        Tasks that the node runs at a time. With fewer CPUs than slots, several slots share a group.

    Raises
    ------
    ValueError
        If the setting is none of these values, or names no CPU of the node for one of the groups.
    """
    cpus = sorted(available)
    if setting == NONE:
        return []
    if setting.startswith(LIST):
        listed = [tuple(cpu for cpu in group if cpu in cpus) for group in parse(setting)]
        for number, group in enumerate(listed):
            if not group:
                raise ValueError(f"group {number} of {setting!r} has none of the CPUs that the node may use: {cpus}")
        return listed
    count = min(slots, len(cpus))
    size = len(cpus) // count
    blocks = [tuple(cpus[size * number : size * (number + 1)]) for number in range(count)]
    if setting == BLOCK:
        return blocks
    if setting == BLOCK_REVERSE:
        return blocks[::-1]
    if setting == ALTERNATING:
        return [tuple(cpus[number::count]) for number in range(count)]
    raise ValueError(f"must be {ALLOWED}")


def parse(setting: str) -> list[tuple[int, ...]]:
    """Return the groups of a list of CPUs, such as ``list:0-1,8:2-3,9``.

    Raises
    ------
    ValueError
        If it is malformed.
    """
    found = []
    for group in setting.removeprefix(LIST).split(":"):
        cpus: list[int] = []
        for part in group.split(","):
            first, is_range, last = part.partition("-")
            if not (first.isdecimal() and (last.isdecimal() if is_range else True)):
                raise ValueError(f"must be {ALLOWED}")
            low, high = int(first), int(last or first)
            if not low <= high < _MOST:
                raise ValueError(f"must be {ALLOWED}, with ranges of CPUs up to {_MOST - 1}")
            cpus += range(low, high + 1)
        found.append(tuple(dict.fromkeys(cpus)))
    return found


class Cpus:
    """The groups of CPUs of a node, and how many tasks use each.

    Parameters
    ----------
    found : sequence of tuple of int
        The groups; none if tasks are not bound.
    cores : float
        Cores that one group counts as: those of a slot.
    """

    def __init__(self, found: Sequence[tuple[int, ...]] = (), cores: float = 1.0) -> None:
        self._groups = tuple(found)
        self._cores = cores
        self._tasks = [0] * len(self._groups)

    def pick(self, cores: float) -> tuple[int, ...]:
        """Choose the groups of a task with so many cores: those with the fewest tasks."""
        count = min(len(self._groups), max(1, math.ceil(cores / self._cores - 1e-9)))
        return tuple(sorted(sorted(range(len(self._groups)), key=self._tasks.__getitem__)[:count]))

    def load(self, chosen: Iterable[int]) -> int:
        """Return how many tasks use the fullest of these groups."""
        return max((self._tasks[number] for number in chosen), default=0)

    def change(self, chosen: Iterable[int], by: int) -> None:
        """Count ``by`` more tasks in these groups."""
        for number in chosen:
            self._tasks[number] += by

    def cpus(self, chosen: Iterable[int]) -> tuple[int, ...]:
        """Return the CPUs of these groups; none if tasks are not bound."""
        return tuple(sorted({cpu for number in chosen for cpu in self._groups[number]}))


def variables(cpus: Sequence[int], chosen: Container[str] = ()) -> dict[str, str]:
    """Return environment variables that bind the threads of OpenMP to these CPUs, except those in ``chosen``, which the
    user has set."""
    if not cpus:
        return {}
    listed = ",".join(map(str, cpus))
    made = {"GOMP_CPU_AFFINITY": listed, "KMP_AFFINITY": f"explicit,proclist=[{listed}]"}
    return {name: value for name, value in made.items() if name not in chosen}
