"""Files of simulated nodes and their transfers, which take simulated time; the files have no bytes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from taskvine_manager.scheduling.events import Event, FileCached, InputCached, InputCopy, Replica
from taskvine_tune.simulation.model import Cluster
from taskvine_tune.simulation.network import Clock, Network, Port

__all__ = ["LARGE", "Came", "Files", "Surroundings"]

LARGE = "large"
"""Stands for the path of every result that stays on its node."""


class Surroundings(Protocol):
    """The environment of a node."""

    clock: Clock
    network: Network
    manager: Port
    cluster: Cluster
    inline_limit: int
    most_calls: int
    input_sizes: dict[str, int]

    def say(self, event: Event) -> None:
        """Send an event to the manager, which takes time."""

    def port(self, node: str) -> Port | None:
        """Return the port of an existing node, or of the manager for the relay's name; None if there is none."""

    def holds(self, node: str, file: str) -> bool:
        """Return whether an existing node has a file."""

    def ran(self, seconds: float, *, again: bool) -> None:
        """Count the seconds for which a task has run."""

    def fetched(self, source: str, size: int) -> None:
        """Count bytes that were fetched from a source."""


Came = Callable[[str | None], None]
"""Called when a file has come, with None, or cannot come, with the kind of the failure."""


@dataclass(eq=False, slots=True)
class Coming:
    """A file that is being transferred to a node from another, and who is told of it."""

    source: str
    size: int
    waiting: list[Came]
    started: float = 0.0


class Files(dict[str, int]):
    """The files on a node and their bytes, and those that are on their way to it.

    Parameters
    ----------
    node
        The node's name.
    port
        The node's port.
    disk
        Most bytes that they may take.
    around
        The node's environment.
    is_alive
        Returns whether the node has not been lost.
    arrived
        Called after a file has come, and everybody has been told.
    """

    def __init__(
        self,
        node: str,
        port: Port,
        disk: float,
        around: Surroundings,
        is_alive: Callable[[], bool],
        arrived: Callable[[], None],
    ) -> None:
        super().__init__()
        self._node = node
        self._port = port
        self._disk = disk
        self._used = 0
        self._around = around
        self._is_alive = is_alive
        self._arrived = arrived
        self._coming: dict[str, Coming] = {}
        self._inputs: dict[str, list[Came] | None] = {}  # users' files; None for those that are here

    def checked(self, name: str) -> str:
        """Return what stands for the path of a file that is here."""
        if name not in self:
            raise FileNotFoundError(name)
        return LARGE

    def fits(self, size: int) -> bool:
        """Return whether so many bytes more have space."""
        return self._used + size <= self._disk

    def store(self, name: str, size: int) -> None:
        """Add a file that was made here."""
        self._used += size - self.get(name, 0)
        self[name] = size

    def drop(self, name: str) -> None:
        """Remove a file, if it is here."""
        self._used -= self.pop(name, 0)

    # --- temp files and results ---

    def bring(self, file: str, source: Replica, came: Came) -> None:
        """Fetch a file from another machine; the request takes one latency."""
        if (coming := self._coming.get(file)) is not None:
            coming.waiting.append(came)
            return
        coming = Coming(source.node, source.size, [came])
        if file in self:
            coming.size = self[file]
            self._here(file, coming)
            return
        self._coming[file] = coming
        if not self.fits(source.size):
            self._failed(file, coming, "disk-full")
            return
        self._used += source.size
        self._around.clock.after(self._around.cluster.latency, self._asked, file, coming)

    def _asked(self, file: str, coming: Coming) -> None:
        if not self._is_alive() or self._coming.get(file) is not coming:
            return
        around = self._around
        port = around.port(coming.source)
        if port is None or not around.holds(coming.source, file):
            self._used -= coming.size
            self._failed(file, coming, "file-lost")
            return
        coming.started = around.clock.now
        around.network.begin(
            port, self._port, coming.size, lambda: self._came(file, coming), lambda: self._cut_off(file, coming)
        )

    def _came(self, file: str, coming: Coming) -> None:
        del self._coming[file]
        self[file] = coming.size
        self._around.fetched(coming.source, coming.size)
        self._here(file, coming, self._around.clock.now - coming.started)
        self._arrived()

    def _here(self, file: str, coming: Coming, seconds: float = 0.0) -> None:
        self._around.say(FileCached(self._node, file, coming.size, None, 1, seconds, False, coming.source))
        for came in coming.waiting:
            came(None)

    def _cut_off(self, file: str, coming: Coming) -> None:
        if self._is_alive() and self._coming.get(file) is coming:
            self._used -= coming.size
            self._failed(file, coming, "file-lost")

    def _failed(self, file: str, coming: Coming, kind: str) -> None:
        del self._coming[file]
        for came in coming.waiting:
            came(kind)

    # --- users' files ---

    def bring_input(self, path: str, copy: InputCopy | None, came: Came) -> None:
        """Fetch a user's file from another node that has it, or from the manager."""
        waiting = self._inputs.setdefault(path, [])
        if waiting is None:
            came(None)
            return
        waiting.append(came)
        if len(waiting) > 1:
            return  # it is being transferred already
        around = self._around
        size = around.input_sizes.get(path, 0)
        port = around.port(copy.node) if copy is not None else None

        def here() -> None:
            self._inputs[path] = None
            around.fetched("user", size) if port is None or copy is None else around.fetched(copy.node, size)
            around.say(InputCached(self._node, path, size, path, (1,)))
            for each in waiting:
                each(None)
            self._arrived()

        def read() -> None:
            if self._is_alive():
                around.network.begin(around.manager, self._port, size, here, _never)

        if port is None:
            around.clock.after(around.cluster.latency, read)
        else:
            around.network.begin(port, self._port, size, here, read)  # the user's own file always exists


def _never() -> None:
    raise AssertionError("the manager is never cut off")
