"""The search path of modules: nodes import from the same places as the user's process, in the same order.

The user's process reads its search path (:func:`of_this_process`). A process that runs tasks starts with the same path
(:func:`start`). A function that was submitted after ``sys.path`` had changed carries the new path (:class:`OnPath`).
Each task runs with the path at its submission (:func:`use`).
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Iterator
from importlib.machinery import ModuleSpec, PathFinder
from typing import Any, NamedTuple


class SearchPath(NamedTuple):
    """``sys.path`` of a process, with absolute entries, and the prefix of its interpreter.

    ``imported`` lists modules that an entry hides now, but that the process had imported from a later entry: ``(name,
    entry)``.
    """

    entries: tuple[str, ...]
    prefix: str
    imported: tuple[tuple[str, str], ...] = ()


class OnPath(NamedTuple):
    """A pickled function that must be loaded and called with a ``sys.path`` other than that of the start."""

    path: SearchPath
    body: bytes


def of_this_process() -> SearchPath:
    """Return the present search path of this process."""
    texts: list[Any] = list(sys.path)  # it may hold other objects than strings, which Python ignores
    entries = tuple(dict.fromkeys(os.path.abspath(entry) for entry in texts if isinstance(entry, str)))
    return SearchPath(entries, sys.prefix, tuple(_hidden(entries)))


def _hidden(entries: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    """Yield imported modules that an earlier entry with a module of the same name hides now.

    Only entries before the standard library are checked, because these are the user's.
    """
    import sysconfig  # imported here, because every process imports this module, but few need sysconfig

    standard = {os.path.abspath(sysconfig.get_path(name)) for name in ("stdlib", "platstdlib")}
    for count, entry in enumerate(entries):
        if entry in standard:
            return
        for name in _modules_in(entry):
            module = sys.modules.get(name)
            file = getattr(module, "__file__", None)
            if isinstance(file, str):
                place = os.path.dirname(os.path.abspath(file))
                place = os.path.dirname(place) if hasattr(module, "__path__") else place
                if place in entries[count + 1 :]:
                    yield name, place


def _modules_in(entry: str) -> set[str]:
    try:
        names = os.listdir(entry)
    except OSError:  # an archive, or a path that does not exist
        return set()
    known = {name.partition(".")[0] for name in names if name.endswith((".py", ".so"))}
    return known | {name for name in names if name in sys.modules and _is_package(os.path.join(entry, name))}


def _is_package(path: str) -> bool:
    return os.path.exists(os.path.join(path, "__init__.py"))


class _Imported:
    """A finder for hidden modules, in the places where the user's process had found them."""

    def __init__(self, places: dict[str, str]) -> None:
        self._places = places

    def find_spec(self, name: str, path: object = None, target: object = None) -> ModuleSpec | None:
        """Find a module, as any finder in ``sys.meta_path`` does."""
        place = self._places.get(name)
        return None if place is None else PathFinder.find_spec(name, [place])


def merged(path: SearchPath, own: list[str], prefix: str) -> list[str]:
    """Merge the search path of the user's process with that of another process.

    Parameters
    ----------
    path : SearchPath
        Search path of the user's process.
    own : list of str
        ``sys.path`` of the other process.
    prefix : str
        Prefix of the other process's interpreter. If it is another interpreter, as in an ``env_pack``, its own packages
        come first, because the user's may be for another version of Python.
    """
    first, last = (path.entries, own) if prefix == path.prefix else (own, path.entries)
    return list(dict.fromkeys([*first, *last]))


_own: list[str] = []
_start: SearchPath | None = None
_current: SearchPath | None = None


def start(path: SearchPath) -> None:
    """Use the search path that the user's process had when its executor was started."""
    global _own, _start
    _own, _start = sys.path.copy(), path
    _switch(path)


def use(path: SearchPath | None) -> None:
    """Use the search path that the user's process had when a task was submitted; None for that of the start."""
    wanted = path or _start
    if wanted is not _current and wanted is not None and wanted != _current:
        _switch(wanted)


def _switch(path: SearchPath) -> None:
    global _current
    sys.path[:] = merged(path, _own, sys.prefix)
    sys.meta_path[:] = [finder for finder in sys.meta_path if type(finder) is not _Imported]
    if path.imported and path.prefix == sys.prefix:
        sys.meta_path.insert(0, _Imported(dict(path.imported)))
    _current = path
    importlib.invalidate_caches()


class Watch:
    """Detects changes of ``sys.path`` since the executor was started.

    Parameters
    ----------
    path : SearchPath
        Search path at the start.
    """

    def __init__(self, path: SearchPath) -> None:
        self._start = path
        self._seen: list[object] = []
        self._directory = ""
        self.changed: SearchPath | None = None
        """The present search path, if it differs from that of the start; else None."""
        self.look()

    def look(self) -> bool:
        """Check the search path; return whether :attr:`changed` has changed since the last check."""
        if sys.path == self._seen and (not self._directory or self._directory == _directory()):
            return False
        self._seen = list(sys.path)
        relative = any(isinstance(entry, str) and not os.path.isabs(entry) for entry in self._seen)
        self._directory = _directory() if relative else ""
        before, now = self.changed, of_this_process()
        self.changed = now if now != self._start else None
        return before != self.changed


def _directory() -> str:
    try:
        return os.getcwd()
    except FileNotFoundError:
        return "gone"
