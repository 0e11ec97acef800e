"""The functions and profiles that the manager has sent to a node, each kept for as long as a task here may need it."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable
from typing import Any

from taskvine_manager.node.calls import Call
from taskvine_manager.node.copying import copy
from taskvine_manager.node.libraries import Libraries
from taskvine_manager.node.slots import Slots
from taskvine_manager.runtime import release
from taskvine_manager.runtime.payload import Payload
from taskvine_manager.wire import messages
from taskvine_manager.wire.messages import Profile


class Functions:
    """Profiles by number, and the functions that slots and L1 tasks use.

    Parameters
    ----------
    encoded : dict of str to (bytes or str)
        The encoded functions, which slots and L1 tasks read.
    slots : Slots or Libraries
        Is told which functions to forget.
    directory : str or None
        Directory for copies of functions' files, if this node has to make any.
    """

    def __init__(self, encoded: dict[str, Payload], slots: Slots | Libraries, directory: str | None = None) -> None:
        self.profiles: dict[int, Profile] = {}
        self._encoded = encoded
        self._slots = slots
        self._directory = directory
        self._copied: set[str] = set()
        self._retired: set[str] = set()
        self.memory = release.Memory()

    def add(self, key: str, encoded: Payload) -> None:
        """Keep a function for later tasks."""
        self._retired.discard(key)
        self._encoded[key] = encoded

    def add_copy(self, key: str, path: str) -> None:
        """Keep a function whose file will be removed: copy it, unless there is a copy already."""
        assert self._directory is not None
        self._retired.discard(key)
        if key not in self._copied:
            kept = os.path.join(self._directory, key)
            copy(path, kept)
            self._copied.add(key)
            self.add(key, kept)

    def add_profiles(self, items: Iterable[tuple[Any, ...]]) -> None:
        """Keep the profiles of a message."""
        for item in items:
            profile = messages.profile(item)
            self.profiles[profile.number] = profile

    def retire(self, functions: Iterable[str], profiles: Iterable[int]) -> None:
        """Forget profiles that no later task will use, and let :meth:`forget` forget such functions."""
        for number in profiles:
            self.profiles.pop(number, None)
        self._retired.update(functions)

    def forget(self, calls: Iterable[Call]) -> None:
        """Forget retired functions, except those of tasks on this node."""
        if not self._retired or not (gone := self._retired - {call.profile.function for call in calls}):
            return
        self._retired -= gone
        self._slots.forget_functions(gone)
        self.memory.freed(sum(len(self._encoded.pop(key, b"")) for key in gone))
        for key in gone & self._copied:
            self._copied.discard(key)
            with contextlib.suppress(FileNotFoundError):
                os.unlink(os.path.join(str(self._directory), key))
