"""TaskVine's debug log, as tools that read it expect it: without the tasks that made the manager return.

``port`` has TaskVine return by tasks that it hands back without having sent them anywhere. taskvine-report-tool takes
such an end for a broken log and stops reading, and there are more of them than of tasks that did something. They are
left out when the manager ends; of a manager that was killed, or whose log is large, by hand::

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
"""Bytes of a log that are looked through when a manager ends, in less than a second; a larger one is left as it is."""

_CHANGE = re.compile(rb"Task (\d+) state change: (\w+) \(\d+\) to (\w+) \(")
_MISSED = re.compile(rb"task (\d+) does not match any submitted library ")


def unsent(lines: Iterable[bytes]) -> set[int]:
    """Tasks that ended without ever having been sent to a worker."""
    found: set[int] = set()
    sent: set[int] = set()  # and came back: others cannot be handed back unsent
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
    """Lines of a log but for those about some tasks, and for changes of state that readers do not know."""
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
    """Leave them out of the log that a manager has written, which must have ended.

    Parameters
    ----------
    directory : str
        The manager's, ``vine-NUMBER``.
    at_most : float
        Bytes that the log may have; one that is longer is left as it is.

    Raises
    ------
    OSError
        If there is no log, or no room for another.
    """
    path = os.path.join(directory, "vine-logs", "debug")
    if os.path.getsize(path) > at_most:
        logger.info("%s is long: before reading it with other tools, python -m %s %s", path, __name__, directory)
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
