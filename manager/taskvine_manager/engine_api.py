"""The interface between an engine and the manager's loop."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from taskvine_manager.record.events import Event
from taskvine_manager.runtime.payload import Payload
from taskvine_manager.wire.messages import Completion, Invocation, Profile

Watch = Callable[[int, Callable[[], None]], None]
"""Registers a file descriptor with the loop, which calls the callback when it is readable."""


class NodesFail(Exception):
    """No node can be started; ``stderr`` is the end of the last one's output."""

    def __init__(self, reason: str, stderr: str) -> None:
        super().__init__(reason)
        self.reason = reason
        self.stderr = stderr


class Outlet(Protocol):
    """Receives what an engine reports; the loop forwards it to the user's process."""

    def done(self, completions: list[Completion]) -> None:
        """Report tasks that ended."""

    def run_again(self, numbers: list[int], reason: str) -> None:
        """Report tasks that are run again after they had a node or had ended."""

    def happened(self, events: list[Event]) -> None:
        """Report details for the record of the run."""

    def notice(self, text: str) -> None:
        """Report something that the user should know, and may have to act on."""

    def radio(self, said: list[bytes]) -> None:
        """Report monitoring messages from nodes."""

    def nodes(self, nodes: list[dict[str, Any]]) -> None:
        """Report all current nodes after one has joined or left."""

    def drained(self, block: str) -> None:
        """Report that the nodes of a draining block have left."""

    def located(self, request: int, answer: Any) -> None:
        """Report where a file is: ``(node, path, bytes, stamp)``, its encoded bytes, or ``(failure record,)``."""


class Engine(Protocol):
    """Runs tasks on nodes. Every method returns at once; the engine reports results to the :class:`Outlet`."""

    def submit(
        self, functions: list[tuple[str, Payload]], profiles: list[Profile], invocations: list[Invocation]
    ) -> None:
        """Accept tasks, with their new functions and profiles."""

    def cancel(self, numbers: tuple[int, ...]) -> None:
        """Drop or kill tasks; nothing more is reported about them."""

    def forget(self, files: tuple[str, ...]) -> None:
        """Remove temp files and results that the user needs no more, once no task needs them.

        Tasks that wait for one of these temp files may be lost (``file-lost``).
        """

    def retire(self, profiles: tuple[int, ...]) -> None:
        """Expect no more tasks with these profiles; forget their functions when no task needs them."""

    def drain(self, block: str) -> None:
        """Let the nodes of a block finish their tasks, copy the files that only they hold, and release them."""

    def locate(self, request: int, file: str) -> None:
        """Report where a temp file or result can be read (:meth:`Outlet.located`); recreate it first if it was lost."""

    def spoiled(self, node: str, file: str, stamp: int) -> None:
        """Handle a node's replica with this stamp that cannot be read, or differs from what was stored."""

    def tune(self, parameters: dict[str, float]) -> None:
        """Set tuning parameters, by name."""

    def stats(self) -> dict[str, Any]:
        """Return counts since the start."""

    def snapshot(self) -> dict[str, Any]:
        """Return the current tasks and files.

        Returns
        -------
        dict
            ``tasks``: the number, state (``"waiting"``, ``"ready"`` or ``"assigned"``), node (empty if it has none) and
            charged attempts of each unfinished task. ``files``: the name, size in bytes and holders (nodes or
            ``"manager"``) of each temp file and retained result that exists.
        """

    @property
    def waiting(self) -> int:
        """Number of tasks that need no slot now: those that wait for files, minus those that recreate such files."""

    @property
    def tasks(self) -> int:
        """Number of unfinished tasks, including those that recreate lost files."""

    def tick(self) -> float | None:
        """Do what is due; return the seconds until something is due again, or None."""

    def stop(self) -> None:
        """Tell every node to leave."""

    @property
    def stopped(self) -> bool:
        """Whether all nodes are gone."""

    def kill(self) -> None:
        """Kill the nodes that have not left."""
