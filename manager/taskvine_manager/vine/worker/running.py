"""Parcels whose tasks run on a node; pure."""

from __future__ import annotations

import os
from typing import Any, NamedTuple

from taskvine_manager.vine import parcels
from taskvine_manager.vine.parcels import Answer, Parcel
from taskvine_manager.vine.seals import Inode
from taskvine_manager.vine.worker.pipe import FunctionCall
from taskvine_manager.wire.messages import Completion

PATIENCE = 0.020
"""Seconds that a result waits for the others of its parcel before it is sent without them."""


class DirectCall(NamedTuple):
    """A parcel that came over the direct connection, and awaits its answer there; it has no sandbox."""

    number: int
    sandbox: str = ""


Request = FunctionCall | DirectCall
"""What awaits an answer."""


class RunningParcel:
    """A parcel of tasks in progress.

    Parameters
    ----------
    parcel : Parcel
        The parcel.
    call : FunctionCall or DirectCall
        The call that brought it, and awaits an answer.
    tasks : set of int
        Numbers of the parcel's tasks.
    """

    def __init__(self, parcel: Parcel, call: Request, tasks: set[int]) -> None:
        self.number = parcel.number
        self.call: Request | None = call
        """The call that awaits an answer, if there is one at the moment."""
        self._sandbox = call.sandbox
        self._staged = parcel.staged or {}
        self._sizes = parcel.sizes or {}
        self._brief = parcel.brief
        self._open = tasks
        self._done: list[Completion] = []
        self._files: dict[str, Inode] = {}
        self._left: dict[str, bytes] = {}
        self._since = 0.0
        self._failed = False

    def has(self, name: str) -> bool:
        """Return whether TaskVine brings a file, or takes it (``>name``)."""
        return name in self._staged

    def path(self, name: str) -> str:
        """Return the path of such a file."""
        return os.path.join(self._sandbox, self._staged[name])

    def least_size(self, name: str) -> int:
        """Return the least size of a user's file in bytes."""
        return self._sizes.get(name, 0)

    def end(
        self, completion: Completion, now: float, files: dict[str, Inode], left: dict[str, bytes], *, failed: bool
    ) -> None:
        """Add the result of a task, and its files as in an Answer; ``failed`` is whether TaskVine must not look for
        the outputs."""
        if not self._done:
            self._since = now
        self._open.discard(completion.number)
        self._done.append(completion)
        self._files |= files
        self._left |= left
        self._failed = self._failed or failed

    def collect(self, call: Request, now: float) -> None:
        """Let a call await the next results."""
        self.call, self._since = call, now

    def wait(self, now: float) -> float | None:
        """Return the seconds until an answer is due; None if nothing is due without further results."""
        if self.call is None or (self._open and not self._done):
            return None
        if not self._open:
            return 0.0
        # An answer ends the function call, which removes the sandbox and its staged files.
        return None if self._staged else max(0.0, self._since + PATIENCE - now)

    def answer(
        self,
        node: str,
        radio: tuple[bytes, ...],
        libraries: tuple[str, ...] | None = None,
        steps: tuple[tuple[Any, ...], ...] = (),
    ) -> tuple[Request, Answer, int | None]:
        """Answer the call with the results so far.

        Returns
        -------
        call : FunctionCall or DirectCall
            The call that has awaited them.
        answer : Answer
            The results; none if they do not fit and must be collected.
        status : int or None
            Whether the call's output files are there, if there are any: 0, or else 1.
        """
        assert self.call is not None
        call, self.call = self.call, None
        answer = Answer(
            node,
            tuple(self._done),
            bool(self._open),
            radio=radio,
            files=self._files or None,
            left=self._left or None,
            libraries=libraries,
            steps=steps,
        )
        if self._brief and not parcels.to_output(answer)[1]:
            self._brief = False
            return call, Answer(node, open=True), None
        self._done, self._files, self._left = [], {}, {}
        has_outputs = any(name.startswith(">") for name in self._staged)
        return call, answer, int(self._failed) if has_outputs else None
