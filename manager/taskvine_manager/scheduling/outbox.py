"""The instructions that follow from one event, collected from all parts of the scheduler."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from taskvine_manager.scheduling.events import (
    Answer,
    Discard,
    Drop,
    Fetch,
    Finish,
    Full,
    Instruction,
    Kill,
    Relay,
    Release,
    Run,
    RunAgain,
)
from taskvine_manager.wire.messages import Completion

# RunAgain comes after Finish: a task that has just ended may run again if its files were evicted at once.
_ORDER = (Finish, RunAgain, Kill, Drop, Fetch, Discard, Run, Answer, Full, Release)
_PLACES: dict[type, int] = {kind: place for place, kind in enumerate(_ORDER)}
_PLACES[Relay] = _PLACES[Fetch]
_I = TypeVar("_I", bound=Instruction)


class Outbox:
    """Collects instructions until they are taken together; one that can hold several tasks or files is extended."""

    def __init__(self) -> None:
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

    def discard(self, arguments: object) -> None:
        """Have the file of a task's arguments removed, if they are in a file."""
        if isinstance(arguments, str):
            self._extend(Discard).paths.append(arguments)

    def run(self, node: str) -> Run:
        """Return the instruction that sends tasks to a node, to add to it."""
        return self._extend(Run, node)

    def take(self) -> list[Instruction]:
        """Remove and return all instructions, in the order in which they must be carried out."""
        instructions, self._instructions = self._instructions, []
        self._open.clear()
        return sorted(instructions, key=lambda instruction: _PLACES[type(instruction)])
