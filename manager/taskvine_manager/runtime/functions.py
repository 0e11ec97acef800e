"""The functions that a process has loaded."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterable
from typing import Any

from taskvine_manager.runtime import payload, release, search_path


class Functions:
    """The functions that a process has loaded, by content hash."""

    def __init__(self) -> None:
        self._encoded: dict[str, payload.Payload] = {}
        self._loaded: dict[str, Callable[..., Any]] = {}
        self._paths: dict[str, search_path.SearchPath] = {}
        self._sizes: dict[str, int] = {}
        self._freed = 0

    def add(self, key: str, encoded: payload.Payload) -> None:
        """Keep an encoded function. The first task that needs it loads it."""
        self._encoded[key] = encoded

    def __contains__(self, key: str) -> bool:
        return key in self._encoded

    def __getitem__(self, key: str) -> Callable[..., Any]:
        return self._loaded[key]

    def __len__(self) -> int:
        """Return the number of loaded functions."""
        return len(self._loaded)

    def get(self, key: str) -> Callable[..., Any] | None:
        """Return a function if it is loaded, and switch to its search path."""
        function = self._loaded.get(key)
        if function is not None:
            search_path.use(self._paths.get(key))
        return function

    def load(self, key: str) -> Callable[..., Any]:
        """Load a function and import the modules that it needs."""
        encoded = self._encoded[key]
        size = payload.size(encoded)
        search_path.use(None)  # the previous task may have used another path
        function: Any = payload.decode(encoded)
        if isinstance(function, search_path.OnPath):
            self._paths[key] = function.path
            search_path.use(function.path)
            function = payload.Frames(function.body).load()
        self._loaded[key] = function
        self._encoded[key] = b""
        self._sizes[key] = size
        del function  # this frame may stay alive: see _answer of taskvine_manager.runtime.slot
        return self._loaded[key]

    def forget(self, keys: Iterable[str]) -> None:
        """Forget functions that no further task will call."""
        size = 0
        for key in keys:
            size += self._sizes.pop(key, 0) + len(self._encoded.pop(key, b""))
            self._loaded.pop(key, None)
            self._paths.pop(key, None)
        self._freed += size
        if self._freed >= release.ENOUGH:
            self._freed = 0
            gc.collect()  # functions refer to themselves through their globals
            # Dicts never shrink, so they are copied.
            self._encoded, self._loaded = dict(self._encoded), dict(self._loaded)
            self._paths, self._sizes = dict(self._paths), dict(self._sizes)
            release.trim()
