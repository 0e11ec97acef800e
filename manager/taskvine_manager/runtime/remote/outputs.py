"""Remote outputs of the current task: written to a temporary directory, and sent away once the task has succeeded.

The arguments of a task register its remote outputs while they are decoded. Each gets its own directory, so that
outputs with equal names do not meet.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from taskvine_manager.runtime import failure
from taskvine_manager.runtime.removal import remove

_paths: dict[str, str] = {}
"""Paths of the outputs of the current task, by URL."""


def locate(make: Callable[[str], Any], url: str, name: str, state: dict[str, Any]) -> Any:
    """Make the File of an argument that is a remote output. The File was pickled as a call of this function."""
    if url not in _paths:
        import tempfile  # imported here, because every L1 task imports this module

        _paths[url] = os.path.join(tempfile.mkdtemp(prefix="output-"), name)
    file = make(url)
    file.__dict__.update(state)
    file.local_path = _paths[url]
    return file


def send() -> bytes | None:
    """Send the outputs of a task that has succeeded; return the failure record of the first that cannot be sent."""
    try:
        for url, path in _paths.items():
            if (record := _send(path, url)) is not None:
                return record
    finally:
        discard()
    return None


def _send(path: str, url: str) -> bytes | None:
    from taskvine_manager.runtime.remote import addresses, transfer

    if not os.path.exists(path):
        return failure.lost("output-missing", "the task ended without it", path=addresses.shown(url))
    if not os.path.isfile(path):
        return failure.lost("remote-output", "it is not a file", url=addresses.shown(url))
    try:
        transfer.put(path, url)
    except failure.Lost as lost:
        return lost.record
    return None


def discard() -> None:
    """Remove the outputs of the current task."""
    while _paths:
        remove(os.path.dirname(_paths.popitem()[1]))


def expected() -> bool:
    """Whether the current task has remote outputs."""
    return bool(_paths)
