"""The keeper of a slot or an L1 task: the process above it that ends whatever it has started.

::

    library or node ── keeper ── slot or L1 task ── its children

Programs leave the process group of their parent, outlive it, and clear their environment. Linux hands such orphans to
the nearest *child subreaper* above them. The keeper is one, so every process that its task has started is its
descendant, and stays one. When the task's process ends, when the keeper is told to (:func:`end`), or when the keeper's
own parent ends, it ends them all, and then itself in the same way as its task: its status is the task's.

The keeper leads the process group, and the task's process leads nothing: it may call :func:`os.setsid`.
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
"""What the system shows as a keeper's name (15 characters are the most it takes)."""
TERM_SECONDS = 0.25
"""Time for processes that a task has left behind to act on SIGTERM before they are killed."""
LAST_SECONDS = 1.5
"""Time for processes that end by themselves after all others (see :data:`_LAST`)."""
GIVE_UP_SECONDS = 10.0
"""Time after which processes that SIGKILL does not end are left alone: those of other users, or stuck in the kernel."""
_LAST = (b"resource_tracker", b"taskvine_manager/__main__.py\0manager\0")
"""Marks of command lines. Resource trackers of multiprocessing and loky remove what processes left in memory and in
temporary folders, once the last process that uses them has ended; the manager of an executor that the task has
started removes its private directory, once the task's process has ended."""
_ORDER = signal.SIGRTMIN + 6
"""Tells a keeper to end. A number that programs do not use: ``kill 0`` in a task's shell reaches its keeper too."""
_ALL = frozenset(_signal.valid_signals()) - {signal.SIGKILL, signal.SIGSTOP}
_LEFT = frozenset({signal.SIGPIPE, signal.SIGXFSZ, signal.SIGTTIN, signal.SIGTTOU})
"""Signals that Python ignores and resets in children by itself, and those that a handler would make it loop for."""
_PR_SET_PDEATHSIG = 1
_PR_SET_NAME = 15
_PR_GET_NAME = 16
_PR_SET_CHILD_SUBREAPER = 36


def keep(parent: int) -> None:
    """Fork: the child returns and is to be the task's process, its parent becomes the keeper and never returns.

    Parameters
    ----------
    parent : int
        Process id of the library or node, at whose end the keeper ends its task.
    """
    if sys.platform != "linux":
        die_with(parent, signal.SIGKILL)
        return
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
    """Wait for the end of the task's process or the order to end it; then end everything below, and exit."""
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
    # The task's, which others wait to see closed. Streams are left to report a failure of the keeper itself.
    for descriptor in map(int, os.listdir("/proc/self/fd")):
        if descriptor > 2:
            with contextlib.suppress(OSError):  # the listing's own
                os.close(descriptor)


def _exit_like(status: int) -> NoReturn:
    if os.WIFSIGNALED(status):
        import resource

        number = os.WTERMSIG(status)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # the task has left one, if any
        if number != signal.SIGKILL:
            _signal.signal(number, _signal.SIG_DFL)
        _signal.pthread_sigmask(signal.SIG_UNBLOCK, {number})
        os.kill(os.getpid(), number)
    os._exit(os.WEXITSTATUS(status))


def adopt_orphans() -> None:
    """Have the kernel make this process the parent of descendants whose parent has ended."""
    if sys.platform == "linux":
        _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def die_with(parent: int, number: int) -> None:
    """Have the kernel send this process a signal when its parent ends (Linux; elsewhere, sockets that close say so)."""
    if sys.platform == "linux":
        _prctl(_PR_SET_PDEATHSIG, number)
    if os.getppid() != parent:
        os._exit(1)


def _prctl(option: int, argument: object) -> None:
    ctypes.CDLL(None).prctl(option, argument, 0, 0, 0)


# --- signals ---


def fresh_signals() -> None:
    """Give this process the signal dispositions and the mask that Python has in a process which inherits none."""
    for number in _ALL:
        if _signal.getsignal(number) not in (_signal.SIG_DFL, None):  # None: faulthandler's, or of a C library
            _signal.signal(number, _signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for name in ("SIGPIPE", "SIGXFSZ"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    _signal.pthread_sigmask(signal.SIG_SETMASK, ())


def disregard(*numbers: int) -> None:
    """Do nothing at these signals, nor at those that this process was started to ignore; its children inherit none.

    An ignored signal stays ignored in programs that are started, a handled one has its default there.
    """
    for number in _ALL:
        if number in numbers or (number not in _LEFT and _signal.getsignal(number) == _signal.SIG_IGN):
            _signal.signal(number, _nothing)
    _signal.pthread_sigmask(signal.SIG_SETMASK, ())


def _nothing(number: int, frame: object) -> None:
    pass


# --- ends ---


def end(pid: int) -> None:
    """Tell a keeper to end its task; kill the process group of what has not become a keeper yet."""
    try:
        if is_keeper(pid):
            os.kill(pid, _ORDER)
            os.kill(pid, signal.SIGCONT)  # the task may have stopped its whole group
            return
        try:
            os.killpg(pid, signal.SIGKILL)
        except ProcessLookupError:
            os.kill(pid, _ORDER)  # a slot's that leads no group yet: the signal kills it, or waits for it
    except (ProcessLookupError, PermissionError):
        pass


def is_keeper(pid: int) -> bool:
    """Whether a process is a keeper."""
    return _read(f"/proc/{pid}/comm").strip() == NAME.encode()


def goes_last(pid: int) -> bool:
    """Whether a process ends by itself when all others have, and is to have time for that."""
    command = _read(f"/proc/{pid}/cmdline")
    return any(mark in command for mark in _LAST)


def end_children(
    wait: Callable[[float], object] = time.sleep, term: float = TERM_SECONDS, spare: Collection[int] = ()
) -> None:
    """End every process below this one, which adopts orphans; return when none is left.

    Keepers end what is theirs. Others get SIGTERM, and SIGKILL if they do not act on it. Those that end by themselves
    after all others have some time for it.

    Parameters
    ----------
    wait : callable
        Waits for so many seconds, or less if a child ends.
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
            for pid in set(left) - set(last):
                _terminate(pid, told, kill=now >= begun + term)
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
    # The list may miss a child while others end; this does not.
    try:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return False
    return True


def _terminate(pid: int, told: set[int], *, kill: bool) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        if kill:
            os.kill(pid, signal.SIGKILL)
        elif pid not in told:
            told.add(pid)
            os.kill(pid, signal.SIGTERM)


def kill_trees(roots: Iterable[int]) -> None:
    """Kill processes and all that descends from them, keepers after what is theirs."""
    for root in roots:
        below = descendants(root)
        for pid in [*(pid for pid in below if not is_keeper(pid)), *filter(is_keeper, below), root]:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)


def reap(spare: Collection[int] = ()) -> None:
    """Forget children that have ended: orphans that this process has adopted."""
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
    """Process ids of all that descends from a process, parents before their children."""
    found: list[int] = []
    level = [pid]
    while level:
        level = [child for parent in level for child in children(parent) if child not in found]
        found += level
    return found


def children(pid: int) -> list[int]:
    """Process ids of a process's children, those included that have ended and nobody has waited for."""
    try:
        lists = [_read(f"/proc/{pid}/task/{thread}/children") for thread in os.listdir(f"/proc/{pid}/task")]
    except OSError:
        return []
    if any(lists) or _has_lists():
        return [int(child) for listed in lists for child in listed.split()]
    return _children_by_parent(pid)


def _has_lists() -> bool:
    # Kernels without CONFIG_PROC_CHILDREN do not say what children a process has.
    return os.path.exists(f"/proc/self/task/{os.getpid()}/children")


def _children_by_parent(pid: int) -> list[int]:
    found = []
    for name in os.listdir("/proc"):
        if name.isdigit():
            after_name = _read(f"/proc/{name}/stat").rpartition(b")")[2].split()
            if len(after_name) > 1 and int(after_name[1]) == pid:
                found.append(int(name))
    return found


def _read(path: str) -> bytes:
    try:
        with open(path, "rb", buffering=0) as file:
            return file.read()
    except OSError:  # it has ended
        return b""
