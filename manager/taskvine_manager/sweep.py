"""What is left to clean when a process could not clean up after itself."""

from __future__ import annotations

import os
import signal

TOKEN = "TASKVINE_EXEC_RUN"
"""Environment variable that every process of a run inherits; its value is the run's private directory."""


def kill_group(group: int) -> None:
    """Kill a process group, if it is still there."""
    try:
        os.killpg(group, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        pass


def strays(directory: str, node: str | None = None) -> list[int]:
    """Process ids that carry a run's token, whoever their parent has become.

    Parameters
    ----------
    directory : str
        The run's private directory.
    node : str, optional
        Only those of one node.
    """
    import psutil

    found = []
    for process in psutil.process_iter():
        if process.pid == os.getpid():
            continue
        try:
            environment = process.environ()
        except (psutil.Error, OSError):
            continue  # not ours to read, hence not ours
        if environment.get(TOKEN) == directory and (node is None or environment.get(TOKEN + "_NODE") == node):
            found.append(process.pid)
    return found


def kill_strays(directory: str, node: str | None = None) -> list[int]:
    """Kill what :func:`strays` finds; return the process ids."""
    found = strays(directory, node)
    for pid in found:
        try:
            os.kill(pid, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            pass
    return found
