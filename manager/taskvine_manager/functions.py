"""The functions that the manager keeps, each for as long as a task may need it.

The user's process sends a function once and says later that it will submit no more tasks with it. Tasks may still be
waiting then, and tasks that are over may have to run again for files that were lost. All of them have a
:class:`~taskvine_manager.wire.messages.Profile`, and all profiles of one function share one key object. When the last
of them is gone, so is the key object, and the function can be forgotten.
"""

from __future__ import annotations

import contextlib
import os
import weakref
from collections import deque
from typing import Any, NamedTuple

from taskvine_manager.runtime import release
from taskvine_manager.runtime.payload import Payload
from taskvine_manager.wire.messages import Profile


class Key(str):
    """A function's key, whose end can be noticed."""

    __slots__ = ("__weakref__",)

    def __reduce__(self) -> tuple[Any, ...]:
        return str, (str(self),)


class Gone(NamedTuple):
    """A function that no task needs any more, and the numbers of the profiles that it had."""

    key: str
    encoded: Payload
    profiles: tuple[int, ...]


class Functions:
    """Encoded functions by key."""

    def __init__(self) -> None:
        self._encoded: dict[str, Payload] = {}
        self._numbers: dict[str, list[int]] = {}
        self._keys: weakref.WeakValueDictionary[str, Key] = weakref.WeakValueDictionary()
        self._ended: deque[str] = deque()
        self.memory = release.Memory()

    def __getitem__(self, key: str) -> Payload:
        return self._encoded[key]

    def __contains__(self, key: str) -> bool:
        return key in self._encoded

    def __len__(self) -> int:
        return len(self._encoded)

    def define(self, key: str, encoded: Payload) -> None:
        """Keep a function; one that is known stays as it is, since nodes may be about to read it."""
        if key not in self._encoded:
            self._encoded[key] = encoded
        elif encoded != self._encoded[key]:
            remove(encoded)

    def hold(self, profile: Profile) -> Profile:
        """The profile to give to tasks: it keeps its function."""
        name = str(profile.function)
        key = self._keys.get(name)
        if key is None:
            key = self._keys[name] = Key(name)
            weakref.finalize(key, self._ended.append, name).atexit = False
        self._numbers.setdefault(name, []).append(profile.number)
        return profile._replace(function=key)

    def gone(self) -> list[Gone]:
        """The functions that no profile names any more; they are forgotten here, and their files removed."""
        found = []
        while self._ended:
            name = self._ended.popleft()
            if name in self._keys or name not in self._encoded:  # it has been sent again, or is known to be gone
                continue
            encoded = self._encoded.pop(name)
            found.append(Gone(name, encoded, tuple(self._numbers.pop(name))))
            self.memory.freed(len(encoded))
            remove(encoded)
        return found


def remove(encoded: Payload) -> None:
    """Remove the file of a function. It is not kept for another use, as those of results are: it may be large."""
    if isinstance(encoded, str):
        with contextlib.suppress(OSError):
            os.unlink(encoded)
