"""Processor time and memory of what takes part in a measurement, by what it does."""

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
    """What somebody has used: seconds of processor time, bytes that nobody else shares."""

    seconds: float
    bytes: int


def roles() -> dict[int, str]:
    """What the processes of this measurement do, by process id; this one is not among them."""
    found = {}
    # A process that gives itself a title, as HighThroughputExecutor's interchange does, writes it over its environment.
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
    """Processor time so far, by role; that of this process by thread."""
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
    # In ns; the times in stat are counted in ticks of 10 ms.
    with contextlib.suppress(OSError), open(f"/proc/{process}/task/{thread}/schedstat", encoding="ascii") as file:
        return int(file.read().split()[0]) / 1e9
    return 0.0


def memory() -> dict[str, int]:
    """Bytes that would be free if it ended (unique set size), by role."""
    used = {"user": psutil.Process().memory_full_info().uss}
    for process, role in roles().items():
        with contextlib.suppress(psutil.Error):
            used[role] = used.get(role, 0) + psutil.Process(process).memory_full_info().uss
    return used


def growth(before: dict[str, float], after: dict[str, float]) -> dict[str, float]:
    """What has come to be used in between; of processes that have ended nothing is known."""
    return {role: max(0.0, used - before.get(role, 0.0)) for role, used in after.items()}


def settled(limit: float = 60.0) -> None:
    """Wait until nobody computes any more: less than a twentieth of the time, but for the thread that looks."""
    deadline = time.monotonic() + limit
    begin, before = time.monotonic(), _others()
    while time.monotonic() < deadline:
        time.sleep(0.3)
        now, used = time.monotonic(), _others()
        if (used - before) / (now - begin) < 0.05:
            return
        begin, before = now, used
    raise TimeoutError(f"somebody was still computing after {limit:g} s")


def _others() -> float:
    return sum(used for role, used in seconds().items() if role != MAIN)
