"""The parcels that TaskVine has, and the errands of those that run no task."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field

from taskvine_manager.vine.manager.batching import Room
from taskvine_manager.vine.manager.events import CACHED, Abort, Launch, Placed, Say, Staged
from taskvine_manager.vine.manager.fleet import VineNode
from taskvine_manager.vine.manager.tasks import Need, State, Task
from taskvine_manager.vine.parcels import Parcel
from taskvine_manager.wire.messages import Library


@dataclass(frozen=True)
class Greeting:
    """Errand: ask a worker's supervisor for its resources."""


@dataclass(frozen=True)
class Rescue:
    """Errand: make a node copy temp files that another node is about to lose."""

    files: tuple[str, ...]


@dataclass(frozen=True)
class Copy:
    """Errand: make one more node copy a temp file, because the user wants more replicas."""

    file: str


@dataclass(frozen=True)
class Fetch:
    """Errand: read a piece of a temp file that the user has asked for."""

    file: str


@dataclass(frozen=True)
class Probe:
    """Errand: read one input of a task on the node that gave the task up, to see if the node has it."""

    file: str
    case: Case


@dataclass(eq=False)
class Case:
    """Tasks that their node gave up; ``open`` counts the inputs to check, and ``bad`` lists the missing ones."""

    tasks: list[Task]
    open: int = 0
    bad: list[str] = field(default_factory=list)


Errand = Greeting | Rescue | Copy | Fetch | Probe
"""What a parcel without tasks is for."""


@dataclass(eq=False)
class SentParcel:
    """A parcel for which TaskVine has a TaskVine task, or a series of them: each collection of open results is another.

    ``room`` is the room of the node that it was placed on, and ``taken`` the resources counted there for it, None for a
    batch, whose ``library`` is counted there. ``pinned`` is the address of the node that it is tied to, and ``node``
    the address where it was last seen. ``temps`` counts the temp files that it creates or has created. Its inputs are
    released once it has ``ended`` and these files are gone: until then TaskVine may run it again to recreate them. The
    temp files that it ``reads``, the results that it names by path (``reads_by_path``) and the ``functions`` of its
    tasks are needed for as long. ``given`` maps those of its inputs that nodes cache to their kinds, by name or path.
    """

    number: int
    tasks: dict[int, Task] = field(default_factory=dict)
    room: Room | None = None
    taken: Need | None = None
    library: Library | None = None
    node: str | None = None
    pinned: str | None = None
    temps: int = 0
    ended: bool = False
    reads: tuple[str, ...] = ()
    reads_by_path: tuple[str, ...] = ()
    functions: tuple[str, ...] = ()
    given: dict[str, str] = field(default_factory=dict)
    errand: Errand | None = None

    @property
    def where(self) -> str | None:
        """Address of the node that it is on or goes to, if known."""
        return self.node or self.pinned

    def leave_room(self) -> None:
        """Count its resources on its node as free again."""
        if self.room is not None:
            if self.taken is None:
                self.room.batches -= 1
                self.room.leave(self.library)
            else:
                self.room.give(self.taken)
            self.room = None


class SentParcels:
    """The parcels that TaskVine has, by number.

    Parameters
    ----------
    say : callable
        Takes instructions for the shell.
    """

    def __init__(self, say: Say) -> None:
        self._say = say
        self._sent: dict[int, SentParcel] = {}
        self._numbers = itertools.count(1)

    def number(self) -> int:
        """Return the number of a new parcel."""
        return next(self._numbers)

    def __iter__(self) -> Iterator[SentParcel]:
        return iter(self._sent.values())

    def __len__(self) -> int:
        return len(self._sent)

    def get(self, number: int) -> SentParcel | None:
        """Return the parcel with this number, if TaskVine has it."""
        return self._sent.get(number)

    def of(self, task: Task) -> SentParcel | None:
        """Return the parcel that a task is in, if any."""
        return self._sent.get(task.parcel) if task.state is State.ASSIGNED else None

    def take(self, number: int) -> SentParcel | None:
        """Take a parcel whose TaskVine task has ended; None if it was withdrawn."""
        return self._sent.pop(number, None)

    def withdraw(self, sent: SentParcel) -> None:
        """Take a parcel back from TaskVine."""
        del self._sent[sent.number]
        self._say(Abort(sent.number))

    def tell(
        self, node: VineNode, parcel: Parcel, sent: SentParcel | None = None, inputs: tuple[Staged, ...] = ()
    ) -> None:
        """Send a parcel that runs no task to one node."""
        sent = sent or SentParcel(parcel.number)
        sent.pinned = node.address
        self.launch(sent, Launch(parcel, inputs, feature=node.name))

    def hello(self, node: VineNode, errand: Errand, files: tuple[Staged, ...] = (), *, brief: bool = False) -> None:
        """Send a node a parcel without content; TaskVine brings it the files first."""
        number = self.number()
        self.tell(node, Parcel("hello", number, brief=brief), SentParcel(number, errand=errand), files)

    def launch(self, sent: SentParcel, launch: Launch) -> None:
        """Give TaskVine a parcel."""
        sent.node = None
        sent.given = {staged.source: staged.kind for staged in launch.inputs if staged.kind in CACHED}
        self._sent[sent.number] = sent
        self._say(launch)

    def placed(self, event: Placed) -> None:
        """Note where TaskVine has sent parcels."""
        for number, node in event.nodes.items():
            if (sent := self._sent.get(number)) is not None:
                sent.node = node

    # --- what nodes have ---

    def lost(self, nodes: Collection[str]) -> list[SentParcel]:
        """Return the parcels whose node is none of these, given by address."""
        return [sent for sent in self if sent.where is not None and sent.where not in nodes]

    def is_busy(self, node: VineNode) -> bool:
        """Return whether a node runs tasks or copies files of a leaving node."""
        return any(
            node.address in (sent.node, sent.pinned) and (sent.tasks or isinstance(sent.errand, Rescue))
            for sent in self
        )

    def working(self) -> set[str | None]:
        """Return the addresses of the nodes that run tasks."""
        return {sent.node for sent in self if sent.tasks}

    def count_tasks(self) -> int:
        """Return how many tasks the parcels hold."""
        return sum(len(sent.tasks) for sent in self)

    def has_suspect(self) -> bool:
        """Return whether a task that may have brought a worker down is being retried."""
        return any(task.suspect for sent in self for task in sent.tasks.values())
