"""The user's files that tasks read: which nodes have a copy, and which may get one now."""

from __future__ import annotations

import itertools
from collections import defaultdict
from dataclasses import dataclass, field

from taskvine_manager.record import events as recorded
from taskvine_manager.scheduling.events import RELAY, InputCached, InputCopy, Stamp
from taskvine_manager.scheduling.nodes import LOOKED_AT
from taskvine_manager.scheduling.tables import Tables
from taskvine_manager.scheduling.transfers import Transfers


@dataclass
class Input:
    """A user's file that tasks read.

    ``copies`` maps nodes to the names and stamps of their copies. ``coming`` maps nodes that are fetching one to its
    source: another node, or :data:`RELAY` for the user's file itself.
    """

    copies: dict[str, tuple[str, Stamp]] = field(default_factory=dict)
    coming: dict[str, str] = field(default_factory=dict)


class Inputs:
    """The user's files, by path."""

    def __init__(self, tables: Tables, transfers: Transfers) -> None:
        self.read = 0
        """Bytes read from the files themselves, and not from copies."""
        self.by_path: defaultdict[str, Input] = defaultdict(Input)
        self._nodes, self._tuning, self._transfers = tables.nodes, tables.tuning, transfers
        self._details = tables.outbox.details

    def source(self, path: str, name: str) -> InputCopy | bool:
        """Return where a node gets a file from: a copy, the file itself or its own copy (True), or nowhere now (False).

        Only a limited number of nodes read the file itself at a time. With peer transfers, nodes read copies instead
        once there is one.
        """
        known = self.by_path[path]
        if name in known.copies or name in known.coming:
            return True
        limit = self._tuning.worker_source_max_transfers
        if self._transfers.peers:
            for holder in itertools.islice(known.copies, 4 * LOOKED_AT):
                if self._nodes[holder].sending < limit:
                    return InputCopy(holder, *known.copies[holder])
            if known.copies:
                return False
        return sum(source == RELAY for source in known.coming.values()) < self._tuning.file_source_max_transfers

    def start(self, path: str, name: str, copy: InputCopy | bool) -> None:
        """Record that a node is fetching a file."""
        known = self.by_path[path]
        if name not in known.copies and name not in known.coming:
            known.coming[name] = copy.node if isinstance(copy, InputCopy) else RELAY
            if isinstance(copy, InputCopy):
                self._transfers.count(copy.node, 1)
            if self._details is not None:
                self._details.append(recorded.InputStarted(path, name, known.coming[name] or recorded.FILES))

    def cached(self, event: InputCached) -> None:
        """Record that a node has a file, or failed to get it."""
        known = self.by_path[event.path]
        was_read = known.coming.get(event.node) == RELAY
        self._end(known, event.node)
        if self._details is not None and event.node in self._nodes:
            self._details.append(recorded.InputEnded(event.path, event.node, event.size, bool(event.name)))
        if event.node in self._nodes and event.name:
            if was_read:
                self.read += event.size
            elif event.node not in known.copies:
                self._transfers.measure(event.size)
            known.copies[event.node] = (event.name, event.stamp)

    def leave(self, name: str) -> None:
        """Forget the copies of a node that has left."""
        for known in self.by_path.values():
            known.copies.pop(name, None)
            self._end(known, name)

    def _end(self, known: Input, name: str) -> None:
        source = known.coming.pop(name, RELAY)
        if source != RELAY:
            self._transfers.count(source, -1)
