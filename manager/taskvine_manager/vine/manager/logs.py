"""TaskVine's debug log without sentinels, as tools that read it expect it.

``port`` makes TaskVine return by tasks, the sentinels, that TaskVine hands back unsent. taskvine-report-tool takes such
a task for a broken log and stops reading, and there are more sentinels than other tasks. They are removed from the log
when the manager ends. If the manager was killed, or its log is large, remove them by hand::

    python -m taskvine_manager.vine.manager.logs RUN_DIR/LABEL/vine-NUMBER
"""

from __future__ import annotations

import logging
import os
import re
import sys
from collections.abc import Iterable, Iterator

logger = logging.getLogger(__name__)

AT_MOST = 64 * 2**20
"""Largest log, in bytes, that is cleaned when a manager ends, in less than a second; a larger one is left as it is."""

_CHANGE = re.compile(rb"Task (\d+) state change: (\w+) \(\d+\) to (\w+) \(")
_MISSED = re.compile(rb"task (\d+) does not match any submitted library ")


def unsent(lines: Iterable[bytes]) -> set[int]:
    """Return the tasks that ended without ever being sent to a worker."""
    found: set[int] = set()
    sent: set[int] = set()  # and READY again: only these look like unsent tasks
    for line in lines:
        if b" state change: READY " in line or b" to READY (" in line:
            change = _CHANGE.search(line)
            if change is None:
                continue
            if change[2] == b"READY" and change[3] == b"RETRIEVED" and int(change[1]) not in sent:
                found.add(int(change[1]))
            elif change[2] != b"INITIAL" and change[3] == b"READY":
                sent.add(int(change[1]))
    return found


def without(tasks: set[int], lines: Iterable[bytes]) -> Iterator[bytes]:
    """Yield the lines of a log, except those about some tasks and state changes that readers do not know."""
    for line in lines:
        about = None
        if b" state change: " in line:
            about = _CHANGE.search(line)
            if about is not None and about[2] == b"READY" and about[3] == b"RETRIEVED":
                continue
        elif b" does not match any submitted library " in line:
            about = _MISSED.search(line)
        if about is None or int(about[1]) not in tasks:
            yield line


def clean(directory: str, at_most: float = float("inf")) -> None:
    """Remove the tasks that were never sent from a manager's log, after the manager has ended.

    Parameters
    ----------
    directory : str
        The manager's directory, ``vine-NUMBER``.
    at_most : float
        Size in bytes up to which the log is cleaned; a larger one is left as it is.

    Raises
    ------
    OSError
        If there is no log, or no disk space for another.
    """
    path = os.path.join(directory, "vine-logs", "debug")
    if os.path.getsize(path) > at_most:
        logger.info("%s is long: before you read it with other tools, run python -m %s %s", path, __name__, directory)
        return
    with open(path, "rb") as log:
        tasks = unsent(log)
        log.seek(0)
        with open(path + ".new", "wb", opener=_private) as cleaned:
            cleaned.writelines(without(tasks, log))
    os.replace(path + ".new", path)


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


if __name__ == "__main__":
    for each in sys.argv[1:]:
        clean(each)
