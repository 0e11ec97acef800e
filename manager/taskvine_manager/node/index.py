"""What a cache holds: names, sizes, pins, and the space that is left within a quota.

:class:`Index` is pure and not thread-safe: :class:`~taskvine_manager.node.cache.Cache` moves the bytes.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from typing import NamedTuple


class Entry(NamedTuple):
    """A cached file."""

    size: int
    stamp: int
    """Its change time when it was published, in ns."""
    is_temp: bool
    """Whether it is a temp file; otherwise, it is an input of a user."""
    target: str | None = None
    """Its bytes' path, if the cache holds a link to them."""


class Index:
    """Files and their sizes, in the order of their last uses.

    Only inputs that nobody is copying are evicted, least recently used first. Temp files are left to the scheduler,
    because a temp file may be the only replica.
    """

    def __init__(self, quota: float) -> None:
        self._quota = quota
        self._entries: OrderedDict[str, Entry] = OrderedDict()
        self._pins: Counter[str] = Counter()
        self._held = 0
        self._reserved = 0

    @property
    def used(self) -> int:
        """Bytes that the files take, including reserved ones."""
        return self._held + self._reserved

    def __contains__(self, name: str) -> bool:
        return name in self._entries

    def get(self, name: str) -> Entry | None:
        """Return a file's entry, if it is there."""
        return self._entries.get(name)

    def size(self, name: str) -> int:
        """Return a file's size in bytes; 0 if it is not there."""
        return entry.size if (entry := self._entries.get(name)) is not None else 0

    def has_input_of(self, size: int) -> bool:
        """Return whether any input has this size."""
        return any(entry.size == size and not entry.is_temp for entry in self._entries.values())

    def add(self, name: str, entry: Entry) -> Entry | None:
        """Add a file, as the one that was used last; return the entry that it replaces, if there is one."""
        replaced = self.remove(name)
        self._entries[name] = entry
        self._held += entry.size
        return replaced

    def remove(self, name: str) -> Entry | None:
        """Remove and return a file's entry, if it is there."""
        entry = self._entries.pop(name, None)
        if entry is not None:
            self._held -= entry.size
        return entry

    def touch(self, name: str) -> None:
        """Make a file the one that was used last."""
        self._entries.move_to_end(name)

    def pin(self, name: str) -> None:
        """Protect a file from eviction until it has been unpinned as often as it was pinned."""
        self._pins[name] += 1

    def unpin(self, name: str) -> None:
        """Remove one pin."""
        self._pins[name] -= 1
        if self._pins[name] <= 0:
            del self._pins[name]

    # --- space ---

    def reserve(self, size: int) -> None:
        """Count bytes of files that are being added; a negative size gives them back."""
        self._reserved += size

    def grow(self, quota: float) -> bool:
        """Set a larger quota; return whether it is larger than before."""
        grows = quota > self._quota
        self._quota = max(quota, self._quota)
        return grows

    def evictable(self) -> list[str]:
        """Return the files that can be evicted, least recently used first."""
        return [name for name, entry in self._entries.items() if not entry.is_temp and name not in self._pins]

    @property
    def available(self) -> float:
        """Bytes that can be had by eviction of all evictable files."""
        return self._quota - self.used + sum(map(self.size, self.evictable()))

    def victims(self, size: int) -> list[str] | None:
        """Return the files to evict so that ``size`` bytes are free; None if no eviction frees enough."""
        excess = self.used + size - self._quota
        victims = []
        if excess > 0:
            for name in self.evictable():
                victims.append(name)
                excess -= self.size(name)
                if excess <= 0:
                    break
        return victims if excess <= 0 else None

    def may_have(self, size: int) -> bool:
        """Return whether ``size`` bytes may become available when files are unpinned and reservations end."""
        pinned = sum(entry.size for name in self._pins if (entry := self.get(name)) and not entry.is_temp)
        return self.available + pinned + self._reserved >= size
