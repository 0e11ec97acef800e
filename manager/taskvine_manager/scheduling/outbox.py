"""The instructions that follow from one event, collected from all parts of the scheduler."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from taskvine_manager.record.events import Event as Recorded
from taskvine_manager.scheduling.events import (
    Answer,
    Discard,
    Drop,
    Fetch,
    Finish,
    Full,
    Instruction,
    Kill,
    Record,
    Relay,
    Release,
    Run,
    RunAgain,
)
from taskvine_manager.wire.messages import Completion

# RunAgain comes after Finish: a task that has just ended may run again if its files were evicted at once.
# Record comes after Finish, too: readers of a record see the end of a task before what follows from it.
_ORDER = (Finish, RunAgain, Record, Kill, Drop, Fetch, Discard, Run, Answer, Full, Release)
_PLACES: dict[type, int] = {kind: place for place, kind in enumerate(_ORDER)}
_PLACES[Relay] = _PLACES[Fetch]
_I = TypeVar("_I", bound=Instruction)


class Outbox:
    """Collects instructions until they are taken together; one that can hold several tasks or files is extended.

    Parameters
    ----------
    details : bool
        Whether to collect details for the record of the run.
    """

    def __init__(self, *, details: bool) -> None:
        self.details: list[Recorded] | None = [] if details else None
        """The details so far, to add to; None if there shall be none."""
        self._instructions: list[Instruction] = []
        self._open: dict[tuple[Callable[..., Any], tuple[str, ...]], Any] = {}

    def add(self, instruction: Instruction) -> None:
        """Add a whole instruction."""
        self._instructions.append(instruction)

    def _extend(self, kind: Callable[..., _I], *node: str) -> _I:
        """Return the instruction of a kind, for one node if it is named, to add to it."""
        instruction: _I | None = self._open.get((kind, node))
        if instruction is None:
            instruction = self._open[kind, node] = kind(*node)
            self._instructions.append(instruction)
        return instruction

    def finish(self, completion: Completion) -> None:
        """Tell the user's process how a task ended."""
        self._extend(Finish).completions.append(completion)

    def run_again(self, number: int) -> None:
        """Report that a task that had returned is run again."""
        self._extend(RunAgain).numbers.append(number)

    def kill(self, node: str, number: int) -> None:
        """Have a node end a task."""
        self._extend(Kill, node).numbers.append(number)

    def drop(self, node: str, file: str) -> None:
        """Have a node, or the :data:`RELAY`, remove a temp file."""
        self._extend(Drop, node).files.append(file)

    def discard(self, encoded: object) -> None:
        """Have the file of a task's arguments or result removed, if they are in a file."""
        if isinstance(encoded, str):
            self._extend(Discard).paths.append(encoded)

    def run(self, node: str) -> Run:
        """Return the instruction that sends tasks to a node, to add to it."""
        return self._extend(Run, node)

    def take(self) -> list[Instruction]:
        """Remove and return all instructions, in the order in which they must be carried out."""
        instructions, self._instructions = self._instructions, []
        self._open.clear()
        if self.details:
            instructions.append(Record(self.details.copy()))
            self.details.clear()
        return sorted(instructions, key=lambda instruction: _PLACES[type(instruction)])
