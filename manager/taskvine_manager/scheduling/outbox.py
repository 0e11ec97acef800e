"""The instructions that follow from one event, collected from all parts of the scheduler."""

from __future__ import annotations

from collections.abc import Collection

from taskvine_manager.scheduling.events import (
    RELAY,
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


class Outbox:
    """Collects instructions until they are taken together.

    Parameters
    ----------
    nodes : collection of str
        The names of the nodes. Nothing is dropped from other ones.
    """

    def __init__(self, nodes: Collection[str]) -> None:
        self._nodes = nodes
        self._ended: list[Completion] = []
        self._again: list[int] = []
        self._kills: dict[str, list[int]] = {}
        self._drops: dict[str, list[str]] = {}
        self._copies: list[Fetch | Relay] = []
        self._discards: list[str] = []
        self._runs: dict[str, Run] = {}
        self._answers: list[Answer] = []
        self._full: list[Full] = []
        self._releases: list[str] = []

    def finish(self, completion: Completion) -> None:
        """Tell the user's process how a task ended."""
        self._ended.append(completion)

    def run_again(self, number: int) -> None:
        """Report that a task that had returned is run again."""
        self._again.append(number)

    def kill(self, node: str, number: int) -> None:
        """Have a node end a task."""
        self._kills.setdefault(node, []).append(number)

    def drop(self, node: str, file: str) -> None:
        """Have a node, or the :data:`RELAY`, remove a temp file."""
        self._drops.setdefault(node, []).append(file)

    def copy(self, order: Fetch | Relay) -> None:
        """Have a replica copied."""
        self._copies.append(order)

    def discard(self, arguments: object) -> None:
        """Have the file of a task's arguments removed, if they are in a file."""
        if isinstance(arguments, str):
            self._discards.append(arguments)

    def run(self, node: str) -> Run:
        """Return the instruction that sends tasks to a node, to add to it."""
        run = self._runs.get(node)
        if run is None:
            run = self._runs[node] = Run(node, [], {}, {}, {})
        return run

    def answer(self, answer: Answer) -> None:
        """Answer a request for a file."""
        self._answers.append(answer)

    def full(self, node: str, numbers: list[int]) -> None:
        """Tell a node that no space will be freed for the outputs of these tasks."""
        self._full.append(Full(node, numbers))

    def release(self, node: str) -> None:
        """Tell a draining node to leave."""
        self._releases.append(node)

    def take(self) -> list[Instruction]:
        """Remove and return all instructions, in the order in which they must be carried out."""
        instructions: list[Instruction] = []
        if self._ended:
            instructions.append(Finish(self._ended))
            self._ended = []
        if self._again:  # after Finish: a task that has just ended may run again if its files were evicted at once
            instructions.append(RunAgain(self._again))
            self._again = []
        if self._kills:
            instructions += [Kill(node, numbers) for node, numbers in self._kills.items()]
            self._kills = {}
        if self._drops:
            nodes = self._nodes
            instructions += [Drop(node, files) for node, files in self._drops.items() if node in nodes or node == RELAY]
            self._drops = {}
        if self._copies:
            instructions += self._copies
            self._copies = []
        if self._discards:
            instructions.append(Discard(self._discards))
            self._discards = []
        if self._runs:
            instructions += self._runs.values()
            self._runs = {}
        if self._answers:
            instructions += self._answers
            self._answers = []
        if self._full:
            instructions += self._full
            self._full = []
        if self._releases:
            instructions += [Release(node) for node in self._releases]
            self._releases = []
        return instructions
