"""The nodes of an executor that have joined."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any


class Nodes:
    """The nodes that are there now, as dicts, and where the last node of each block was.

    The link's thread replaces the list. Any thread may read it, or wait for a number of nodes. The condition's lock
    protects only this wait.
    """

    def __init__(self) -> None:
        self._now: Sequence[dict[str, Any]] = ()
        self._changed = threading.Condition()
        self._places: dict[str, str] = {}

    def become(self, nodes: Sequence[dict[str, Any]]) -> None:
        """Replace the nodes that are there."""
        with self._changed:
            self._now = nodes
            self._changed.notify_all()
        self._places.update((node["block"], f"{node['directory']} (node {node['name']})") for node in nodes)

    def now(self) -> Sequence[dict[str, Any]]:
        """Return the nodes that are there."""
        return self._now

    def wait(self, count: int, timeout: float | None) -> bool:
        """Wait until at least ``count`` nodes are there; return whether they are, after at most ``timeout`` seconds."""
        with self._changed:
            return self._changed.wait_for(lambda: len(self._now) >= count, timeout)

    def blocks(self) -> set[str]:
        """Return the blocks that have nodes now."""
        return {node["block"] for node in self._now}

    def last_place(self, block: str) -> str | None:
        """Describe the directory of a block's last node; None if none has joined."""
        return self._places.get(block)
