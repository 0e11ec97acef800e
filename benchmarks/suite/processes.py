"""Processor time and memory of a measurement's processes, by role."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from typing import NamedTuple

import psutil

from benchmarks import apart

MAIN = "user, main thread"
LAUNCHING = "user, the DFK's launching thread"
RESULTS = "user, thread of results"
OTHER_THREADS = "user, other threads"


class Usage(NamedTuple):
    """Resources that a process has used: seconds of processor time, and bytes that it does not share."""

    seconds: float
    bytes: int


def roles() -> dict[int, str]:
    """Return the roles of this measurement's other processes by process id."""
    found = {}
    # Children too: HighThroughputExecutor's interchange overwrites its environment, and the mark, with a title.
    started = {process.pid for process in psutil.Process().children(recursive=True)}
    for process in started | set(apart.marked(os.environ[apart.MARK])):
        with contextlib.suppress(psutil.Error):
            if process != os.getpid():
                found[process] = _role(psutil.Process(process))
    return found


def _role(process: psutil.Process) -> str:
    command = process.cmdline()
    for position, word in enumerate(command):
        name = os.path.basename(word)
        if word.endswith("taskvine_manager/__main__.py") or word == "taskvine_manager":
            kind = command[position + 1]
            if kind == "library":
                parent = process.parent()
                return "slots" if parent is not None and parent.cmdline() == command else "library"
            return {"node": "node", "manager": "manager"}.get(kind, kind)
        if "interchange" in name:  # interchange.py, or its title
            return "interchange"
        if name == "process_worker_pool.py":
            parent = process.parent()
            return "workers" if parent is not None and parent.cmdline() == command else "worker pool"
        if name in ("vine_worker", "vine_factory"):
            return name
    return "launchers" if command and os.path.basename(command[0]) in ("bash", "sh") else "workers"


def seconds() -> dict[str, float]:
    """Return processor time so far by role; for this process, by kind of thread."""
    used: dict[str, float] = {}
    names = {thread.native_id: thread for thread in threading.enumerate()}
    for thread in os.listdir("/proc/self/task"):
        role = _thread_role(names.get(int(thread)))
        used[role] = used.get(role, 0.0) + _thread_seconds(os.getpid(), thread)
    for process, role in roles().items():
        with contextlib.suppress(OSError):
            spent = sum(_thread_seconds(process, thread) for thread in os.listdir(f"/proc/{process}/task"))
            used[role] = used.get(role, 0.0) + spent
    return used


def _thread_role(thread: threading.Thread | None) -> str:
    if thread is threading.main_thread():
        return MAIN
    known = {"Task-Launch": LAUNCHING, "TaskVine-Link": RESULTS, "HTEX-Result-Queue-Thread": RESULTS}
    name = "" if thread is None else thread.name
    return next((role for start, role in known.items() if name.startswith(start)), OTHER_THREADS)


def _thread_seconds(process: int, thread: str) -> float:
    # In ns; /proc/.../stat counts only ticks of 10 ms.
    with contextlib.suppress(OSError), open(f"/proc/{process}/task/{thread}/schedstat", encoding="ascii") as file:
        return int(file.read().split()[0]) / 1e9
    return 0.0


def memory() -> dict[str, int]:
    """Return the bytes that would be free if the processes ended (unique set size), by role."""
    used = {"user": psutil.Process().memory_full_info().uss}
    for process, role in roles().items():
        with contextlib.suppress(psutil.Error):
            used[role] = used.get(role, 0) + psutil.Process(process).memory_full_info().uss
    return used


def growth(before: dict[str, float], after: dict[str, float]) -> dict[str, float]:
    """Return the growth of each role; processes that have ended in between are not counted."""
    return {role: max(0.0, used - before.get(role, 0.0)) for role, used in after.items()}


def settled(limit: float = 60.0) -> None:
    """Wait until everything but this process's main thread uses less than a twentieth of a processor."""
    deadline = time.monotonic() + limit
    begin, before = time.monotonic(), _others()
    while time.monotonic() < deadline:
        time.sleep(0.3)
        now, used = time.monotonic(), _others()
        if (used - before) / (now - begin) < 0.05:
            return
        begin, before = now, used
    raise TimeoutError(f"processes of the measurement were still busy after {limit:g} s")


def _others() -> float:
    return sum(used for role, used in seconds().items() if role != MAIN)
