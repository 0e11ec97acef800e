"""Clean up after processes that could not do so themselves."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import time

from taskvine_manager.runtime import keeper

TOKEN = "TASKVINE_EXEC_RUN"
"""Environment variable that the processes of a run inherit. Its value is the run's private directory."""
CONNECT = "--connect"
"""Option of a node that names the same directory. Nodes started by a provider or by hand do not inherit the token."""

_ROUNDS = 20
_KEEPERS_SECONDS = keeper.TERM_SECONDS + keeper.LAST_SECONDS + 0.25
"""Time for keepers to end their tasks' processes, and for resource trackers to remove what they track."""


def kill_group(group: int) -> None:
    """Kill a process group, if it still exists."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, signal.SIGKILL)


def start_time(pid: int) -> int | None:
    """Return the start time of a process in system ticks, which distinguishes two processes with the same id. Return
    None if it is unknown or there is no such process."""
    fields = keeper.status(pid)
    return int(fields[19]) if len(fields) > 19 else None


def is_alive(pid: int) -> bool:
    """Whether a process with this id exists and has not ended."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:  # another user's process
        return True
    return keeper.status(pid)[:1] not in ([b"Z"], [b"X"])  # ended, but not reaped


def is_stopped(pid: int) -> bool:
    """Whether a signal such as SIGSTOP has stopped a process; False for one that a debugger holds."""
    return keeper.status(pid)[:1] == [b"T"]


def ends(pid: int, seconds: float) -> bool:
    """Wait at most ``seconds`` for the end of a process; return whether it has ended.

    A process that was just killed may take some time to end. Where it cannot be watched, do not wait.
    """
    if not hasattr(os, "pidfd_open"):
        return not is_alive(pid)
    try:
        descriptor = os.pidfd_open(pid)
    except OSError:  # there is no such process, or it cannot be watched
        return not is_alive(pid)
    try:
        return bool(select.select([descriptor], [], [], seconds)[0])
    finally:
        os.close(descriptor)


def strays(directory: str, node: str | None = None) -> list[int]:
    """Return the ids of a run's processes, orphans included.

    Parameters
    ----------
    directory : str
        The run's private directory.
    node : str, optional
        Return only processes that this node started.
    """
    import psutil

    found = []
    for process in psutil.process_iter():
        if process.pid == os.getpid():
            continue
        try:
            environment = process.environ()
            if not environment and process.exe():  # it may be executing its program just now: this comes last
                time.sleep(0.001)
                environment = process.environ()
            if environment.get(TOKEN) == directory:
                ours = node is None or environment.get(TOKEN + "_NODE") == node
            else:
                ours = node is None and _connects(process.cmdline(), directory)
            if ours and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process.pid)
        except (psutil.Error, OSError):
            continue  # it cannot be read, so it is not ours
    return found


def _connects(command: list[str], directory: str) -> bool:
    return CONNECT in command and directory in command[command.index(CONNECT) + 1 :][:1]


def kill_strays(directory: str, node: str | None = None, grace: float = 0.0) -> list[int]:
    """Kill the processes that :func:`strays` finds, and search again until none is left.

    Keepers are told to end their tasks' processes, which may lack the run's variable. Keepers and processes that end
    last by themselves are killed only if they take too long.

    Parameters
    ----------
    directory, node : str
        As for :func:`strays`.
    grace : float
        Seconds to wait for the processes to end by themselves.

    Returns
    -------
    list of int
        Ids of the processes that were found after this time.
    """
    killed: list[int] = []
    told: set[int] = set()
    patience = time.monotonic() + grace
    while (found := strays(directory, node)) and time.monotonic() < patience:
        time.sleep(0.01)
    patience = time.monotonic() + _KEEPERS_SECONDS
    rounds = 0
    while found and rounds < _ROUNDS:
        late = time.monotonic() > patience
        rounds += late
        kept = {pid for one in filter(keeper.is_keeper, found) for pid in keeper.descendants(one)}
        for pid in found:
            if late:
                keeper.kill_trees([pid])
            elif keeper.is_keeper(pid):
                if pid not in told:
                    told.add(pid)
                    keeper.end(pid)
            elif pid not in kept and not keeper.goes_last(pid):
                keeper.kill(pid)
        killed.extend(pid for pid in found if pid not in killed)
        time.sleep(0.01)
        found = strays(directory, node)
    return killed
