"""What is left to clean when a process could not clean up after itself."""

from __future__ import annotations

import os
import select
import signal
import time

from taskvine_manager.runtime import keeper

TOKEN = "TASKVINE_EXEC_RUN"
"""Environment variable that the processes of a run inherit; its value is the run's private directory."""
CONNECT = "--connect"
"""Option of a node that names the same directory: one started by a provider, or by hand, inherits no token."""

_ROUNDS = 20
_KEEPERS_SECONDS = keeper.TERM_SECONDS + keeper.LAST_SECONDS + 0.25
"""Time for keepers to end what is theirs, and for resource trackers to remove what they track."""


def kill_group(group: int) -> None:
    """Kill a process group, if it is still there."""
    try:
        os.killpg(group, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        pass


def start_time(pid: int) -> int | None:
    """When a process was started, in the system's ticks: two processes of one id differ in it. None: it is not known,
    or there is no such process."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return int(file.read().rpartition(b")")[2].split()[19])
    except (OSError, IndexError, ValueError):
        return None


def is_alive(pid: int) -> bool:
    """Whether there is a process of this id, and it has not ended."""
    try:
        os.kill(pid, 0)
        with open(f"/proc/{pid}/stat", "rb") as file:
            return file.read().rpartition(b")")[2].split()[:1] not in ([b"Z"], [b"X"])  # not waited for yet
    except ProcessLookupError:
        return False
    except OSError:  # another user's, or a system without these files
        return True


def is_stopped(pid: int) -> bool:
    """Whether a process is stopped by a signal, as by SIGSTOP; not where a debugger holds it."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return file.read().rpartition(b")")[2].split()[:1] == [b"T"]
    except OSError:
        return False


def ends(pid: int, seconds: float) -> bool:
    """Wait for the end of a process for so many seconds at most; say whether it has ended.

    One that was killed a moment ago may take some time to end.
    """
    if not hasattr(os, "pidfd_open"):
        return not is_alive(pid)
    try:
        descriptor = os.pidfd_open(pid)
    except OSError:  # there is none, or the system does not let us watch it
        return not is_alive(pid)
    try:
        return bool(select.select([descriptor], [], [], seconds)[0])
    finally:
        os.close(descriptor)


def strays(directory: str, node: str | None = None) -> list[int]:
    """Process ids of a run, whoever their parent has become.

    Parameters
    ----------
    directory : str
        The run's private directory.
    node : str, optional
        Only what one node has started.
    """
    import psutil

    found = []
    for process in psutil.process_iter():
        if process.pid == os.getpid():
            continue
        try:
            environment = process.environ()
            if environment.get(TOKEN) == directory:
                ours = node is None or environment.get(TOKEN + "_NODE") == node
            else:
                ours = node is None and _connects(process.cmdline(), directory)
            if ours and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process.pid)
        except (psutil.Error, OSError):
            continue  # not ours to read, hence not ours
    return found


def _connects(command: list[str], directory: str) -> bool:
    return CONNECT in command and directory in command[command.index(CONNECT) + 1 :][:1]


def kill_strays(directory: str, node: str | None = None, grace: float = 0.0) -> list[int]:
    """Kill what :func:`strays` finds until there is no more, for it may have had children meanwhile.

    Keepers are told to end what is theirs, which need not carry the run's variable; they and processes that go last by
    themselves are killed only if they take too long.

    Parameters
    ----------
    directory, node : str
        As for :func:`strays`.
    grace : float
        Seconds to wait for it to end by itself.

    Returns
    -------
    list of int
        What was killed.
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
                _kill(pid)
        killed.extend(pid for pid in found if pid not in killed)
        time.sleep(0.01)
        found = strays(directory, node)
    return killed


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        pass
