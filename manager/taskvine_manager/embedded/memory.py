"""Memory limits of running tasks: asked for by the user, enforced here."""

from __future__ import annotations

import os
from collections.abc import Iterable

from taskvine_manager import sweep
from taskvine_manager.embedded.slots import Call
from taskvine_manager.runtime import failure

INTERVAL = 0.1
"""Seconds between looks at the tasks that have a limit."""


def enforce(running: Iterable[tuple[int, Call]]) -> bool:
    """Kill the tasks whose processes hold more memory than they asked for.

    What a task holds is the memory that is its own (unique set size): the pages that a slot shares with its library
    are nobody's in particular. That is dear to read, so it is read only once the resident size, which includes them,
    is over the limit.

    Parameters
    ----------
    running : iterable of (int, Call)
        Process groups and the task that each runs.

    Returns
    -------
    bool
        Whether any of them has a limit.
    """
    limited = False
    for group, call in running:
        limit = call.profile.memory
        if limit is None or call.kill_record is not None:
            continue
        limited = True
        used = _group_memory(group, limit)
        if used > limit:
            reason = f"{call.profile.name}: it held {used:.0f} MB of memory, and had asked for {limit:.0f}"
            call.kill_record = failure.lost("memory", reason, limit_mb=float(limit), used_mb=used)
            sweep.kill_group(group)
    return limited


def _group_memory(group: int, limit: float) -> float:
    import psutil

    try:
        leader = psutil.Process(group)
        members = [leader, *(child for child in leader.children(recursive=True) if _in_group(child.pid, group))]
    except psutil.Error:
        return 0.0
    resident = sum(_read(member, unique=False) for member in members)
    if resident <= limit:
        return resident
    return sum(_read(member, unique=True) for member in members)


def _in_group(pid: int, group: int) -> bool:
    try:
        return os.getpgid(pid) == group
    except ProcessLookupError:
        return False


def _read(process: object, *, unique: bool) -> float:
    import psutil

    assert isinstance(process, psutil.Process)
    try:
        held = process.memory_full_info().uss if unique else process.memory_info().rss
    except psutil.Error:
        return 0.0
    return float(held) / 2**20
