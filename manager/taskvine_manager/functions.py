"""The functions that the manager keeps, each for as long as a task may need it.

The user's process sends a function once, and says later that it will submit no more tasks with it. Tasks may still be
waiting then, and finished tasks may have to run again to recreate lost files. All of them have a
:class:`~taskvine_manager.wire.messages.Profile`, and all profiles of one function share one key object. When the last
of them is gone, so is the key object, and the function can be forgotten.
"""

from __future__ import annotations

import contextlib
import os
import sys
import weakref
from collections import deque
from typing import Any, NamedTuple

from taskvine_manager.runtime import release
from taskvine_manager.runtime.payload import Payload
from taskvine_manager.wire.messages import Profile


class Key(str):
    """A function's key that can be weakly referenced; ``plain`` is the same text as a plain string."""

    __slots__ = ("__weakref__", "plain")
    plain: str

    def __reduce__(self) -> tuple[Any, ...]:
        return str, (self.plain,)


def plain(key: str) -> str:
    """Return a key as a plain string, which does not keep the function; all copies share one string object."""
    return key.plain if isinstance(key, Key) else key


class Gone(NamedTuple):
    """A function that no task needs any more, and the numbers of its profiles."""

    key: str
    encoded: Payload
    profiles: tuple[int, ...]


class _Kept:
    """An encoded function, the numbers of its profiles, and the key object that they share."""

    __slots__ = ("encoded", "key", "name", "numbers")

    def __init__(self, name: str, encoded: Payload) -> None:
        self.name = name
        self.encoded = encoded
        self.numbers: tuple[int, ...] = ()
        self.key: weakref.KeyedRef[str, Key] | None = None


class Functions:
    """Encoded functions by key."""

    def __init__(self) -> None:
        self._kept: dict[str, _Kept] = {}
        self._most = 0
        self._ended: deque[weakref.KeyedRef[str, Key]] = deque()
        self.memory = release.Memory()

    def __getitem__(self, key: str) -> Payload:
        return self._kept[key].encoded

    def __contains__(self, key: str) -> bool:
        return key in self._kept

    def __len__(self) -> int:
        return len(self._kept)

    def define(self, key: str, encoded: Payload) -> None:
        """Keep a function. A known function stays as it is, because nodes may be about to read its file."""
        kept = self._kept.get(key)
        if kept is None:
            self._kept[key] = _Kept(key, encoded)
            self._most = max(self._most, len(self._kept))
        elif encoded != kept.encoded:
            remove(encoded)

    def hold(self, profile: Profile) -> Profile:
        """Return the profile to give to tasks, which keeps its function.

        Raises
        ------
        KeyError
            If the function has not been defined.
        """
        kept = self._kept[profile.function]
        key = None if kept.key is None else kept.key()
        if key is None:
            key = Key(kept.name)
            key.plain = kept.name
            kept.key = weakref.KeyedRef(key, self._ended.append, kept.name)
        kept.numbers += (profile.number,)
        name, mode, category = map(sys.intern, (profile.name, profile.mode, profile.category))
        return profile._replace(function=key, name=name, mode=mode, category=category)

    def gone(self) -> list[Gone]:
        """Forget the functions that no profile names any more, and remove their files; return these functions."""
        found = []
        while self._ended:
            ended = self._ended.popleft()
            kept = self._kept.get(ended.key)
            if kept is None or kept.key is not ended:  # already forgotten, or in use again
                continue
            del self._kept[kept.name]
            found.append(Gone(kept.name, kept.encoded, kept.numbers))
            self.memory.freed(len(kept.encoded))
            remove(kept.encoded)
        if len(self._kept) < self._most // 8:
            self._kept, self._most = dict(self._kept), len(self._kept)  # a dict never shrinks by itself
        return found


def remove(encoded: Payload) -> None:
    """Remove the file of a function, if it has one. Unlike files of results it is not reused: it may be large."""
    if isinstance(encoded, str):
        with contextlib.suppress(OSError):
            os.unlink(encoded)
