"""Advice for a user whose task looked for a file, or left one, in a directory other than the program's."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from dataclasses import dataclass

from taskvine_manager.runtime.sandbox import MOST_LEFT


@dataclass(frozen=True)
class WorkingDirectories:
    """The directories in which an executor's tasks run.

    Parameters
    ----------
    start : str or None
        Directory of the user's program when the executor was started; None if it had been removed.
    in_place : bool
        Whether tasks run there instead of in sandboxes.
    """

    start: str | None
    in_place: bool

    def about_missing(self, missing: Sequence[str], ran_in: str, node: str) -> str | None:
        """Explain that a file which a task did not find is in the program's directory.

        Parameters
        ----------
        missing : sequence of str
            Relative paths that the task may have looked for. They did not exist where it ran.
        ran_in : str
            The directory where the task ran.
        node : str
            Name of the node.

        Returns
        -------
        str or None
            A note for the task's exception; None if the files are not in the program's directory either.
        """
        directories = [self.start]
        with contextlib.suppress(OSError):
            directories.append(os.getcwd())
        for directory in dict.fromkeys(directories):
            if directory is None or directory == ran_in:
                continue
            for name in missing:
                if os.path.exists(os.path.join(directory, name)):
                    return self._note(name, directory, ran_in, node)
        return None

    def _note(self, name: str, directory: str, ran_in: str, node: str) -> str:
        where = f"{name!r} exists in {directory}, but the task ran in {ran_in} on node {node}"
        if self.in_place:
            return (
                f"{where}. Tasks run in the directory in which the program was when the executor was started. Change "
                "directory before that, or use an absolute path."
            )
        return (
            f"{where}, a private directory that holds only the files that the app declares. To declare this one, pass "
            f"inputs=[File({name!r})] to the app, and let it open inputs[0].filepath. Or have apps run in the "
            "program's directory, with TaskVineExecutor(working_directory='submit'), if the nodes see it."
        )


def about_left(app: str, left: Sequence[str], node: str) -> str:
    """Describe the undeclared files that an app wrote in its private directory."""
    names = ", ".join(map(repr, left[: MOST_LEFT - 1])) + (" and others" if len(left) >= MOST_LEFT else "")
    return (
        f"app {app!r} wrote files that it does not declare: {names}. They were removed with the private directory that "
        f"it ran in (on node {node}). To keep a file, pass outputs=[File({left[0]!r})] to the app. Or have apps run in "
        "the program's directory, with TaskVineExecutor(working_directory='submit'), if the nodes see it."
    )
