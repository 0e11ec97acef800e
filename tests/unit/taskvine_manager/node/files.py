"""Files for the tests of a cache."""

from __future__ import annotations

import os
from pathlib import Path

from taskvine_manager.node.cache import Cache
from taskvine_manager.node.replicas import Source


class Files:
    """A cache of 100 bytes, and files to put into it."""

    def __init__(self, path: Path) -> None:
        self.home = path / "home"
        self.directory = path / "cache"
        self.home.mkdir()
        self.directory.mkdir()
        self.cache = Cache(str(self.directory), 100)

    def write(self, name: str, size: int, letter: str | None = None) -> str:
        """Write a file of the user or of a task."""
        path = self.home / name
        path.write_text((letter or name[0]) * size)
        return str(path)

    def obtain(self, name: str, size: int, letter: str | None = None) -> str:
        """Cache a file of the user, use it and release it."""
        cached = self.cache.obtain(self.write(name, size, letter))
        self.cache.unpin(cached)
        return cached

    def adopt(self, name: str, size: int) -> None:
        self.cache.adopt(name, self.write("made", size, name[0]))

    def source(self, name: str, size: int, letter: str | None = None) -> Source:
        """Describe a replica on another node."""
        path = self.write(name, size, letter)
        return Source(path, size, os.stat(path).st_ctime_ns)

    def on_disk(self) -> dict[str, int]:
        return {entry.name: entry.stat().st_size for entry in os.scandir(self.directory)}

    def read(self, name: str) -> str:
        return Path(self.cache.path(name)).read_text()


def pins(cache: Cache, name: str) -> int:
    """Remove the pins of an input; return how many there were."""
    for count in range(10):
        if cache.make_room():
            return count
        cache.unpin(name)
    raise AssertionError(f"{name} is not there, or has many pins")
