"""What is done to the processes of a run while it works: kills, stops, and stops that end again."""

from __future__ import annotations

import os
import random
import signal
import threading
from contextlib import suppress
from typing import Any

import psutil

PAUSE_SECONDS = 0.5
"""How long a process is stopped that goes on after that."""
WAYS = {
    "embedded": (
        *("kill node", "stop node", "pause node"),
        *("kill library", "stop library", "pause library", "pause slot", "pause manager"),
    ),
    "taskvine": (
        *("kill launcher", "kill worker", "kill group", "kill library"),
        *("stop worker", "stop library", "pause worker", "pause library", "pause slot", "pause manager"),
    ),
}
"""By engine. A library of TaskVine's is what serves all calls of a worker."""
FATAL = ("kill node", "stop node", "kill launcher", "kill worker", "kill group", "stop worker")
"""Those that a node does not outlive."""
ONCE = ("kill library", "stop library")
"""Of these there is one in a run at most: a call whose library died twice is given up."""
_LAST_WORDS = "the end of a library\n" * 20


def do(how: str, node: dict[str, Any], rng: random.Random) -> None:
    """Do one of :data:`WAYS` to a node, or to what runs on it.

    Parameters
    ----------
    how : str
        What to do, and to what.
    node : dict
        As of ``executor.nodes``.
    rng : random.Random
        Chooses among processes that are alike.
    """
    with suppress(psutil.Error, ProcessLookupError, StopIteration, IndexError):  # it has ended already
        verb, _, whom = how.partition(" ")
        process = psutil.Process(node["pid"])
        pid = _find(whom, process, rng)
        if how == "kill library" and _is_supervisor(pid):
            _speak(pid)
        if how == "kill group":
            os.killpg(pid, signal.SIGKILL)
        else:
            os.kill(pid, signal.SIGKILL if verb == "kill" else signal.SIGSTOP)
        if verb == "pause":
            threading.Timer(PAUSE_SECONDS, _go_on, [pid]).start()


def _find(whom: str, node: psutil.Process, rng: random.Random) -> int:
    if whom == "manager":
        return next(child.pid for child in psutil.Process().children() if "manager" in child.cmdline())
    if whom in ("worker", "group"):
        return int(_worker(node).pid)
    if whom == "library":
        return int(_library(node).pid)
    return rng.choice(_slots(node)) if whom == "slot" else int(node.pid)


def _go_on(pid: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGCONT)


def _worker(launcher: psutil.Process) -> psutil.Process:
    return next(child for child in launcher.children() if child.name() == "vine_worker")


def _library(node: psutil.Process) -> psutil.Process:
    """What serves the calls of a node: TaskVine's library, or else ours; slots look like it and are its children."""
    below = node.children(recursive=True)
    supervisors = [child for child in below if _is_supervisor(child.pid)]
    alike = supervisors or [child for child in below if "library" in child.cmdline()]
    return next(child for child in alike if child.ppid() not in {other.pid for other in alike})


def _is_supervisor(pid: int) -> bool:
    return any("supervise" in word for word in psutil.Process(pid).cmdline()[:3])


def _slots(node: psutil.Process) -> list[int]:
    """Processes that run calls: what keepers keep."""
    keepers = [child for child in node.children(recursive=True) if child.name() == "taskvine-keeper"]
    return sorted(child.pid for keeper in keepers for child in keeper.children()[:1])


def _speak(pid: int) -> None:
    """Write to a process's output and error."""
    for descriptor in (1, 2):
        with open(f"/proc/{pid}/fd/{descriptor}", "a") as stream:
            stream.write(_LAST_WORDS)
