"""Tasks in the core, and their states.

A :class:`Task` goes through these states::

    WAITING   -> READY      all its input files exist
    WAITING   -> UNFIT      the same, but it fits none of the present nodes; larger ones may join
    WAITING   -> DONE       cancelled, an input file is lost, or no node can ever hold it
    READY     -> ASSIGNED   a node has room for it, and TaskVine gets its parcel
    READY     -> DONE       cancelled, an input file is lost, or no node can ever hold it
    UNFIT     -> READY      a node that can hold it has joined
    UNFIT     -> DONE       cancelled, or an input file is lost
    ASSIGNED  -> READY      it runs again: its node was lost, or could not read an input file
    ASSIGNED  -> UNFIT      the same, but it fits none of the present nodes
    ASSIGNED  -> EXAMINED   its node gave it up: the node is asked which input files it has
    ASSIGNED  -> DONE       it ended, was cancelled, or was lost once too often
    EXAMINED  -> READY      it runs again: missing input files are sent again or recreated
    EXAMINED  -> UNFIT      the same, but it fits none of the present nodes
    EXAMINED  -> DONE       cancelled, an input file is lost, or it was lost once too often
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from typing import NamedTuple

from taskvine_manager.scheduling.checking import IllegalTransition, Story, tell
from taskvine_manager.wire.messages import L1, Invocation, Library, Profile


class State(enum.Enum):
    """The state of a task."""

    WAITING = "waiting"
    READY = "ready"
    UNFIT = "unfit"
    ASSIGNED = "assigned"
    EXAMINED = "examined"
    DONE = "done"

    __hash__ = object.__hash__  # Enum hashes the name in Python code


TRANSITIONS: dict[State, frozenset[State]] = {
    State.WAITING: frozenset({State.READY, State.UNFIT, State.DONE}),
    State.READY: frozenset({State.ASSIGNED, State.DONE}),
    State.UNFIT: frozenset({State.READY, State.DONE}),
    State.ASSIGNED: frozenset({State.READY, State.UNFIT, State.EXAMINED, State.DONE}),
    State.EXAMINED: frozenset({State.READY, State.UNFIT, State.DONE}),
    State.DONE: frozenset(),
}
"""The states that a task can reach from each state."""


class Need(NamedTuple):
    """Resources, memory and disk in MB; and the named library that a task runs in, which has some of its own.

    ``gpu_memory`` is what it needs of each gpu, in MB. A node counts both as a number of its gpus.
    """

    cores: float
    memory: float = 0.0
    disk: float = 0.0
    gpus: float = 0.0
    library: Library | None = None
    gpu_memory: float = 0.0


RESOURCES = Need._fields[:4]
"""Names of the resources."""


@dataclass(slots=True, eq=False)
class Task:
    """A task in the core.

    ``need`` are the resources that it is counted with: one core if the user asked for nothing. ``alone`` is whether it
    must not share a parcel, ``suspect`` whether it may have brought a worker down. ``attempts`` counts its attempts
    that were charged, and ``renewals`` those that failed because a node had lost an input. ``parcel`` is the number of
    the last parcel that it was sent in, 0 if there is none. ``story`` is None unless the core checks itself.
    """

    invocation: Invocation
    profile: Profile
    sequence: int
    story: Story | None = None
    need: Need = field(init=False)
    alone: bool = field(init=False)
    state: State = State.WAITING
    attempts: int = 0
    renewals: int = 0
    suspect: bool = False
    parcel: int = 0

    def __post_init__(self) -> None:
        profile, invocation = self.profile, self.invocation
        cores = 1.0 if profile.cores is None else profile.cores
        library = profile.library
        memory = 0.0 if library is not None and library.memory is not None else profile.memory or 0.0
        self.need = Need(
            cores, memory, profile.disk or 0.0, float(profile.gpus or 0), library, profile.gpu_memory or 0.0
        )
        self.alone = (
            profile.mode == L1
            or any(self.need[1:4])
            or self.need.gpu_memory > 0
            or any(use.kind != "value" for use in (*invocation.inputs, *invocation.outputs))
        )

    def move(self, state: State, node: str = "") -> None:
        """Change to another state, if the table allows it; ``node`` is the node that it is assigned to."""
        if state not in TRANSITIONS[self.state]:
            raise IllegalTransition(
                f"task {self.invocation.number} ({self.profile.name}): {self.state.name} -> {state.name}, "
                f"parcel {self.parcel}, {self.attempts} charged attempts, {self.renewals} renewals, "
                f"{tell(self.story)}"
            )
        if self.story is not None:
            self.story.add(self.state, state, node)
        self.state = state
