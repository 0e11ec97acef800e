"""The keeper of a slot or an L1 task: its parent process, which ends all processes that it has started.

::

    library or node ── keeper ── slot or L1 task ── its children

Programs may leave the process group of their parent, outlive it, and clear their environment. Linux hands orphans to
the nearest *child subreaper* above them. The keeper is a subreaper, so every process that its task has started is and
stays its descendant. The keeper ends them all when the task's process ends, when it is told to (:func:`end`), or when
its own parent ends. Then it ends itself with the task's exit status.

The keeper leads the process group. The task's process leads no group, so it may call :func:`os.setsid`.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # works on numbers; signal makes an enum of each
import contextlib
import ctypes
import os
import signal
import sys
import time
from collections.abc import Callable, Collection, Iterable
from typing import NoReturn

NAME = "taskvine-keeper"
"""A keeper's name in the process list. Linux allows at most 15 characters."""
TERM_SECONDS = 0.25
"""Seconds from SIGTERM to SIGKILL for processes that a task has left behind."""
LAST_SECONDS = 1.5
"""Seconds for processes that end by themselves after all others (see :data:`_LAST`)."""
GIVE_UP_SECONDS = 10.0
"""Seconds after which processes that SIGKILL does not end are left alone: another user's, or stuck in the kernel."""
_LAST = (b"resource_tracker", b"taskvine_manager/__main__.py\0manager\0")
"""Parts of command lines of processes that end by themselves. Resource trackers of multiprocessing and loky remove
shared memory and temporary folders when the last process that uses them has ended. The manager of an executor that the
task has started removes its private directory when the task's process has ended."""
_ORDER = signal.SIGRTMIN + 6
"""The signal that tells a keeper to end. Other programs do not use it, which matters because ``kill 0`` in a task's
shell reaches its keeper too."""
_ALL = frozenset(_signal.valid_signals()) - {signal.SIGKILL, signal.SIGSTOP}
_LEFT = frozenset({signal.SIGPIPE, signal.SIGXFSZ, signal.SIGTTIN, signal.SIGTTOU})
"""Signals that get no handler: Python ignores the first two and resets them in children. A handler of the others would
cause an endless loop."""
_PR_SET_PDEATHSIG = 1
_PR_SET_NAME = 15
_PR_GET_NAME = 16
_PR_SET_CHILD_SUBREAPER = 36


def keep(parent: int) -> None:
    """Fork. The child returns and becomes the task's process; the parent becomes the keeper and never returns.

    Parameters
    ----------
    parent : int
        Process id of the library or node. When it ends, the keeper ends its task.
    """
    mask = _signal.pthread_sigmask(signal.SIG_SETMASK, _ALL)
    if os.getpgrp() != os.getpid():
        os.setpgid(0, 0)
    adopt_orphans()
    die_with(parent, _ORDER)
    name = ctypes.create_string_buffer(16)
    _prctl(_PR_GET_NAME, name)
    _prctl(_PR_SET_NAME, NAME.encode())
    keeper = os.getpid()
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # before the fork: this discards a signal that is pending
    task = os.fork()
    if task:
        _watch(task)
    _prctl(_PR_SET_NAME, name)
    die_with(keeper, signal.SIGKILL)
    _signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def _watch(task: int) -> NoReturn:
    """Wait until the task's process ends, or kill it when told to; then end all descendants and exit."""
    status: int = signal.SIGKILL
    try:
        os.chdir("/")
        _close_descriptors()
        ended: dict[int, int] = {}
        while task not in ended:
            if signal.sigwaitinfo({signal.SIGCHLD, _ORDER}).si_signo == _ORDER:
                os.kill(task, signal.SIGKILL)
            ended.update(_reap_all())
        if _has_children():
            end_children(lambda seconds: signal.sigtimedwait({signal.SIGCHLD}, seconds))
        status = ended[task]
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        _exit_like(status)


def _close_descriptors() -> None:
    # The keeper has inherited the task's descriptors, and other processes wait for the task to close them. The standard
    # streams stay open, so that the keeper can report its own failure.
    for descriptor in map(int, os.listdir("/proc/self/fd")):
        if descriptor > 2:
            with contextlib.suppress(OSError):  # that of the listing itself is closed already
                os.close(descriptor)


def _exit_like(status: int) -> NoReturn:
    if os.WIFSIGNALED(status):
        import resource

        number = os.WTERMSIG(status)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # the task may have written a core file; one is enough
        if number != signal.SIGKILL:
            _signal.signal(number, _signal.SIG_DFL)
        _signal.pthread_sigmask(signal.SIG_UNBLOCK, {number})
        os.kill(os.getpid(), number)
    os._exit(os.WEXITSTATUS(status))


def adopt_orphans() -> None:
    """Make this process a child subreaper: the kernel makes it the parent of descendants whose parent has ended."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def die_with(parent: int, number: int) -> None:
    """Ask the kernel to send this process a signal when its parent ends."""
    _prctl(_PR_SET_PDEATHSIG, number)
    if os.getppid() != parent:
        os._exit(1)


def _prctl(option: int, argument: object) -> None:
    ctypes.CDLL(None).prctl(option, argument, 0, 0, 0)


# --- signals ---


def fresh_signals() -> None:
    """Set the signal handlers and the signal mask of a Python process that inherits none."""
    for number in _ALL:
        if _signal.getsignal(number) not in (_signal.SIG_DFL, None):  # None: set by faulthandler or a C library
            _signal.signal(number, _signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    _signal.pthread_sigmask(signal.SIG_SETMASK, ())


def disregard(*numbers: int) -> None:
    """Handle these signals, and those that this process inherited as ignored, by a function that does nothing.

    Programs that this process starts would inherit an ignored signal. A signal with a handler has its default there.
    """
    for number in _ALL:
        if number in numbers or (number not in _LEFT and _signal.getsignal(number) == _signal.SIG_IGN):
            _signal.signal(number, lambda *_: None)
    _signal.pthread_sigmask(signal.SIG_SETMASK, ())


# --- ends ---


def end(pid: int) -> None:
    """Tell a keeper to end its task; if the process is not a keeper yet, kill its process group."""
    try:
        if is_keeper(pid):
            os.kill(pid, _ORDER)
            os.kill(pid, signal.SIGCONT)  # the task may have stopped its whole group
            return
        try:
            os.killpg(pid, signal.SIGKILL)
        except ProcessLookupError:
            os.kill(pid, _ORDER)  # a slot's process that leads no group yet: the signal kills it or stays pending
    except (ProcessLookupError, PermissionError):
        pass


def is_keeper(pid: int) -> bool:
    """Whether a process is a keeper."""
    return _read(f"/proc/{pid}/comm").strip() == NAME.encode()


def goes_last(pid: int) -> bool:
    """Whether a process ends by itself after all others, and should get time for that."""
    command = _read(f"/proc/{pid}/cmdline")
    return any(mark in command for mark in _LAST)


def end_children(
    wait: Callable[[float], object] = time.sleep, term: float = TERM_SECONDS, spare: Collection[int] = ()
) -> None:
    """End all descendants of this process, which must adopt orphans; return when none is left.

    Keepers are told to end their own descendants. All other processes get SIGTERM, and later SIGKILL if they have not
    ended. Processes that end by themselves after all others get time for that.

    Parameters
    ----------
    wait : callable
        Waits the given number of seconds, or less if a child ends.
    term : float
        Seconds between SIGTERM and SIGKILL.
    spare : collection of int
        Children to leave alone.
    """
    begun = time.monotonic()
    told: set[int] = set()
    last_since: float | None = None
    while (now := time.monotonic()) < begun + GIVE_UP_SECONDS:
        reap(spare)
        left = [pid for pid in children(os.getpid()) if pid not in spare]
        if not left and (spare or not _has_children()):
            return
        last = [pid for pid in left if is_keeper(pid) or goes_last(pid)]
        if len(last) < len(left):
            last_since = None
            late = now >= begun + term
            for pid in set(left) - set(last) - (set() if late else told):
                told.add(pid)
                kill(pid, signal.SIGKILL if late else signal.SIGTERM)
        for pid in last:
            if pid not in told and is_keeper(pid):
                told.add(pid)
                end(pid)
        if len(last) == len(left):
            last_since = last_since or now
            if now > last_since + LAST_SECONDS + (term if any(map(is_keeper, last)) else 0.0):
                kill_trees(last)
        wait(0.002)


def _has_children() -> bool:
    # The list in children() may miss a child while others end; waitid does not.
    try:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return False
    return True


def kill(pid: int, number: int = signal.SIGKILL) -> None:
    """Send a signal to a process, if it still exists and belongs to this user."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(pid, number)


def kill_trees(roots: Iterable[int]) -> None:
    """Kill processes and all their descendants; keepers are killed after the processes that they keep."""
    for root in roots:
        below = descendants(root)
        for pid in [*(pid for pid in below if not is_keeper(pid)), *filter(is_keeper, below), root]:
            kill(pid)


def reap(spare: Collection[int] = ()) -> None:
    """Collect the exit status of children that have ended: orphans that this process has adopted."""
    for pid in children(os.getpid()):
        if pid not in spare:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, os.WNOHANG)


def _reap_all() -> Iterable[tuple[int, int]]:
    with contextlib.suppress(ChildProcessError):
        while True:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if not pid:
                return
            yield pid, status


# --- the tree of processes ---


def descendants(pid: int) -> list[int]:
    """Return the process ids of all descendants of a process, parents before their children."""
    found: list[int] = []
    level = [pid]
    while level:
        level = [child for parent in level for child in children(parent) if child not in found]
        found += level
    return found


def children(pid: int) -> list[int]:
    """Return the process ids of a process's children, zombies included."""
    try:
        lists = [_read(f"/proc/{pid}/task/{thread}/children") for thread in os.listdir(f"/proc/{pid}/task")]
    except OSError:
        return []
    # Kernels without CONFIG_PROC_CHILDREN do not list the children of a process.
    if any(lists) or os.path.exists(f"/proc/self/task/{os.getpid()}/children"):
        return [int(child) for listed in lists for child in listed.split()]
    return children_by_parent(pid)


def children_by_parent(pid: int) -> list[int]:
    """Return the process ids of a process's children, from the parent of each process of the machine."""
    found = []
    for name in os.listdir("/proc"):
        if name.isdigit():
            fields = status(int(name))
            if len(fields) > 1 and int(fields[1]) == pid:
                found.append(int(name))
    return found


def status(pid: int) -> list[bytes]:
    """Return the fields of ``/proc/PID/stat`` after the name: the state first; none if there is no such process."""
    return _read(f"/proc/{pid}/stat").rpartition(b")")[2].split()


def _read(path: str) -> bytes:
    try:
        with open(path, "rb", buffering=0) as file:
            return file.read()
    except OSError:  # it has ended
        return b""
