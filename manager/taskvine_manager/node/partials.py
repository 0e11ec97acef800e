"""Files that are being written. They get their names when they are whole, by renaming."""

from __future__ import annotations

import contextlib
import itertools
import os
from collections.abc import Iterator

from taskvine_manager.runtime.removal import remove

_numbers = itertools.count()


@contextlib.contextmanager
def partial(target: str) -> Iterator[str]:
    """Yield a path beside ``target`` at which to write it; afterwards, remove what has not been renamed."""
    # Short, because the target's name may already have the greatest length that is allowed.
    path = os.path.join(os.path.dirname(target), f".{os.getpid()}-{next(_numbers)}.partial")
    try:
        yield path
    finally:
        remove(path)
