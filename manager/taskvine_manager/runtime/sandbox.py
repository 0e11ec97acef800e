"""The sandbox of a task: a private directory with the files that its app declares. It is removed after the task."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from typing import Any

MOST_LEFT = 11
"""Most names to report of files that a task leaves behind: one more than is shown, to know whether there are others."""
_MOST_LOOKED_AT = 1000
_directory: str | None = None


def use(directory: str | None) -> None:
    """Set the sandbox for the arguments that are decoded next; None if the task has none."""
    global _directory
    _directory = directory


def locate(make: Callable[[str], Any], url: str, state: dict[str, Any]) -> Any:
    """Make the File of an argument that is in the sandbox. The File was pickled as a call of this function.

    Its ``local_path`` becomes absolute, because the task runs in another directory.
    """
    file = make(url)
    file.__dict__.update(state)
    if _directory is not None:
        file.local_path = os.path.join(_directory, file.local_path)
    return file


def inside(name: str) -> str:
    """Return the path of a file in the sandbox. It was pickled as a call of this function."""
    return name if _directory is None else os.path.join(_directory, name)


def left_in(directory: str, declared: Iterable[str] = ()) -> tuple[str, ...]:
    """Return the files in a sandbox that are neither declared nor in a declared folder.

    Returns
    -------
    tuple of str
        Relative paths, sorted, at most :data:`MOST_LEFT`.
    """
    known = {os.path.normpath(name) for name in declared}
    found: list[str] = []
    folders = [""]
    looked_at = 0
    while folders and looked_at < _MOST_LOOKED_AT:
        folder = folders.pop()
        try:
            with os.scandir(os.path.join(directory, folder)) as entries:
                for entry in entries:
                    looked_at += 1
                    name = os.path.join(folder, entry.name)
                    if name in known or looked_at > _MOST_LOOKED_AT:
                        continue
                    if entry.is_dir(follow_symlinks=False):
                        folders.append(name)
                    else:
                        found.append(name)
        except OSError:  # the task may have removed the folder or its permissions
            continue
    return tuple(sorted(found)[:MOST_LEFT])
