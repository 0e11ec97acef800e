"""Harm to the processes of a run: processes are killed, stopped, or stopped and continued."""

from __future__ import annotations

import os
import random
import signal
import threading
from contextlib import suppress
from typing import Any

import psutil

PAUSE_SECONDS = 0.5
"""Seconds after which a stopped process is continued."""
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
"""By engine. On TaskVine, one library process serves all calls of a worker."""
FATAL = ("kill node", "stop node", "kill launcher", "kill worker", "kill group", "stop worker")
"""Ways that end the node."""
ONCE = ("kill library", "stop library")
"""Ways used at most once in a run: a call whose library died twice is given up."""
_LAST_WORDS = "the end of a library\n" * 20


def do(how: str, node: dict[str, Any], rng: random.Random) -> None:
    """Harm a node, or a process on it, in one of the :data:`WAYS`.

    Parameters
    ----------
    how : str
        The way.
    node : dict
        An entry of ``executor.nodes``.
    rng : random.Random
        Chooses among similar processes.
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
    """Return the process that serves a node's calls: TaskVine's library, or ours. Slots are its children and look like
    it.
    """
    below = node.children(recursive=True)
    supervisors = [child for child in below if _is_supervisor(child.pid)]
    alike = supervisors or [child for child in below if "library" in child.cmdline()]
    return next(child for child in alike if child.ppid() not in {other.pid for other in alike})


def _is_supervisor(pid: int) -> bool:
    return any("supervise" in word for word in psutil.Process(pid).cmdline()[:3])


def _slots(node: psutil.Process) -> list[int]:
    """Return the processes that run calls: the children of keepers."""
    keepers = [child for child in node.children(recursive=True) if child.name() == "taskvine-keeper"]
    return sorted(child.pid for keeper in keepers for child in keeper.children()[:1])


def _speak(pid: int) -> None:
    """Write to the output and the error stream of a process."""
    for descriptor in (1, 2):
        with open(f"/proc/{pid}/fd/{descriptor}", "a") as stream:
            stream.write(_LAST_WORDS)
