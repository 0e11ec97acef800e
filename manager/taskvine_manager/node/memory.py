"""Enforcement of the memory limits that users set for tasks."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from typing import TYPE_CHECKING

from taskvine_manager.node.calls import Call
from taskvine_manager.runtime import failure, keeper

if TYPE_CHECKING:
    import psutil

INTERVAL = 0.1
"""Seconds between checks of the tasks that have a limit."""


def enforce(running: Iterable[tuple[int, Call]]) -> None:
    """Kill the tasks whose processes use more memory than their limit.

    A task's memory is its unique set size: pages that a slot shares with its library do not count. It is expensive to
    read, so it is read only when the resident size, which includes shared pages, exceeds the limit.

    Parameters
    ----------
    running : iterable of (int, Call)
        Process id of each keeper, and its task.
    """
    limited = [(pid, call) for pid, call in running if call.profile.memory is not None and call.kill_record is None]
    for pid, call in limited:
        limit = call.profile.memory or 0.0
        processes = _members(pid)
        used = sum(_read(process, unique=False) for process in processes)
        if used > limit:
            used = sum(_read(process, unique=True) for process in processes)
        if used > limit:
            reason = f"while it ran {call.profile.name}"
            call.kill_record = failure.lost("memory", reason, limit_mb=float(limit), used_mb=used)
            keeper.end(pid)


def _members(pid: int) -> list[psutil.Process]:
    """Return a task's processes: those below its keeper. The process of a starting L1 task has no keeper yet."""
    import psutil

    found = []
    for member in [*keeper.descendants(pid), *([] if keeper.is_keeper(pid) else [pid])]:
        with contextlib.suppress(psutil.Error):
            found.append(psutil.Process(member))
    return found


def _read(process: psutil.Process, *, unique: bool) -> float:
    import psutil

    try:
        held = process.memory_full_info().uss if unique else process.memory_info().rss
    except psutil.Error:
        return 0.0
    return float(held) / 2**20
