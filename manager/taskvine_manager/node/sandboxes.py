"""Directories of single tasks: each holds the task's sandbox, and the files through which an L1 task is run."""

from __future__ import annotations

import itertools
import os

from taskvine_manager.node.calls import Call
from taskvine_manager.node.loop import Loop
from taskvine_manager.runtime import failure
from taskvine_manager.runtime.removal import remove
from taskvine_manager.runtime.sandbox import left_in


class Sandboxes:
    """The tasks' directories on a node.

    Parameters
    ----------
    directory : str
        Their parent directory.
    loop : Loop
        Its threads remove them.
    in_place : bool
        Whether tasks run in a directory of the user, which has other files, too.
    """

    def __init__(self, directory: str, loop: Loop, *, in_place: bool) -> None:
        self._directory = directory
        self._loop = loop
        self._in_place = in_place
        self._numbers = itertools.count()

    def assign(self, call: Call) -> None:
        """Give a task the path of its directory.

        It is a new one each time: a task that was given back may return before its old directory is removed.
        """
        call.directory = os.path.join(self._directory, f"t{call.invocation.number}-{next(self._numbers)}")

    def left(self, call: Call) -> tuple[str, ...]:
        """Return the undeclared files of a task, as in :class:`~taskvine_manager.wire.messages.Completion`.

        If the task has a sandbox, it must still exist.
        """
        left = call.left
        if call.directory is not None and not self._in_place:
            uses = (*call.invocation.inputs, *call.invocation.outputs)
            left = left_in(path(call), [use.name for use in uses if use.kind != "value"])
        return (call.profile.name, *left) if left else ()

    def remove(self, directory: str) -> None:
        """Remove the directory of a task, in a thread."""
        self._loop.in_background(remove, directory)


def path(call: Call) -> str:
    """Return the path of the sandbox in a task's directory."""
    return os.path.join(str(call.directory), "sandbox")


def make(call: Call) -> bytes | None:
    """Make a task's directory and its sandbox; return the failure record if that is not possible."""
    try:
        os.makedirs(path(call), mode=0o700)
    except OSError as error:
        return cannot_make(call, error)
    return None


def cannot_make(call: Call, error: Exception) -> bytes:
    """Return the failure record of a task whose sandbox cannot be made or filled."""
    reason = f"no sandbox can be made: {failure.describe(error)}"
    return failure.lost("disk-full", reason, path=str(call.directory))
