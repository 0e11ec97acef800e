"""How the processes that run tasks are started: their shell, their directory and their log."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Collection, Iterator
from typing import BinaryIO

SHELL = "/bin/bash"
INIT_FAILED = 97
"""Exit status of the shell if ``init_command`` fails."""


# The user's command may end the shell (exit), be invalid, or read the script's arguments (source activate).
_INIT_SCRIPT = f"""
trap 'exit {INIT_FAILED}' EXIT
_taskvine_init=$1
_taskvine_command=("${{@:2}}")
set --
eval "$_taskvine_init" || exit
trap - EXIT
exec "${{_taskvine_command[@]}}"
"""


def with_init(init_command: str, command: list[str]) -> list[str]:
    """Return a command that runs the user's ``init_command`` and then ``command``, in one shell."""
    if not init_command:
        return command
    return [SHELL, "-c", _INIT_SCRIPT, "bash", init_command, *command]


def start_directory(directory: str | None, own: str) -> str:
    """Return where a process for tasks starts: in the user's directory, if there is one that this node sees."""
    return directory if directory is not None and os.access(directory, os.X_OK) else own


@contextlib.contextmanager
def bound_to(cpus: Collection[int]) -> Iterator[None]:
    """Bind this thread to some CPUs, so that the processes that it starts are; if there are none, change nothing."""
    if not cpus:
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cpus)
    try:
        yield
    finally:
        with contextlib.suppress(OSError):  # some of them were taken away meanwhile
            os.sched_setaffinity(0, before)


def open_log(path: str) -> BinaryIO:
    """Open a log to append to; if it cannot be opened, open the null device, because logs are optional."""
    try:
        return open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600), "ab")
    except OSError:
        return open(os.devnull, "ab")
