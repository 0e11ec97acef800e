"""The contract that every engine keeps with the manager's loop."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from taskvine_manager.runtime.payload import Payload
from taskvine_manager.wire.messages import Completion, Invocation, Profile

Watch = Callable[[int, Callable[[], None]], None]
"""Register a file descriptor with the loop: the callback runs when it is readable."""


class NodesFail(Exception):
    """No node can be had; ``stderr`` is the end of what the last one said."""

    def __init__(self, reason: str, stderr: str) -> None:
        super().__init__(reason)
        self.reason = reason
        self.stderr = stderr


class Outlet(Protocol):
    """Where an engine says what happened; the loop brings it to the user's process."""

    def done(self, completions: list[Completion]) -> None:
        """Invocations ended."""

    def again(self, numbers: list[int], reason: str) -> None:
        """Invocations that had a node, or were over, are to be run once more."""

    def notice(self, text: str) -> None:
        """Something is to be known by the user, and may need him."""

    def radio(self, said: list[bytes]) -> None:
        """Monitoring messages came from nodes."""

    def nodes(self, nodes: list[dict[str, Any]]) -> None:
        """A node joined or left; these are there now."""

    def drained(self, block: str) -> None:
        """The nodes of a block have been let go."""

    def located(self, request: int, answer: Any) -> None:
        """Where a file is: ``(node, path, bytes, stamp)``, its encoded bytes, or ``(failure record,)``."""


class Engine(Protocol):
    """Runs invocations on nodes. Every method returns at once; what comes of it goes to the :class:`Outlet`."""

    def submit(
        self, functions: list[tuple[str, Payload]], profiles: list[Profile], invocations: list[Invocation]
    ) -> None:
        """Take invocations, and the functions and profiles that are new with them."""

    def cancel(self, numbers: tuple[int, ...]) -> None:
        """Drop or kill invocations; nothing more is said of them."""

    def forget(self, files: tuple[str, ...]) -> None:
        """Remove temp files everywhere."""

    def retire(self, profiles: tuple[int, ...]) -> None:
        """Take no more invocations with these profiles; forget their functions when no task needs them."""

    def drain(self, block: str) -> None:
        """Let the nodes of a block finish, save what only they have, and let them go."""

    def locate(self, request: int, file: str) -> None:
        """Say where a temp file or result can be read, by :meth:`Outlet.located`; what was lost is made again first."""

    def spoiled(self, node: str, file: str, stamp: int) -> None:
        """A node's replica with this stamp cannot be read, or is not what was put there."""

    def tune(self, parameters: dict[str, float]) -> None:
        """Set tuning parameters by their TaskVine names."""

    def stats(self) -> dict[str, Any]:
        """Counts since the start."""

    def snapshot(self) -> dict[str, Any]:
        """What there is now.

        Returns
        -------
        dict
            ``tasks``: for each invocation that is not over, its number, state (``"waiting"``, ``"ready"`` or
            ``"assigned"``), node (empty if it has none) and attempts that were charged to it. ``files``: for each temp
            file and retained result that is there, its name, size in bytes, and the places that hold it: nodes, or
            ``"manager"``.
        """

    @property
    def waiting(self) -> int:
        """Invocations that wait for files of others, less those that run again for them: what asks for no room now."""

    @property
    def tasks(self) -> int:
        """Invocations that are not over, those that make again what was lost included."""

    def tick(self) -> float | None:
        """Do what is due by time; return the seconds until something is due again, or None."""

    def stop(self) -> None:
        """Tell every node to go."""

    @property
    def stopped(self) -> bool:
        """Whether all nodes are gone."""

    def kill(self) -> None:
        """End what did not go when told."""
