"""The core's view of results and temp files.

A small result is kept here, encoded, and sent with the arguments of the tasks that read it. Everything else is a temp
file in TaskVine.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from taskvine_manager.record import events as recorded
from taskvine_manager.runtime import failure
from taskvine_manager.runtime.payload import Payload
from taskvine_manager.vine.manager.events import (
    HOME,
    Adopt,
    Discard,
    Drop,
    Lost,
    Prune,
    Release,
    Renew,
    Say,
)
from taskvine_manager.vine.manager.sent import SentParcel


@dataclass(eq=False)
class TempFile:
    """A temp file, and the means to recreate it.

    ``node`` is the name of one node that has it, empty until it is created. ``rescue`` is the address of a node that is
    to copy it, and ``gone`` whether it is lost for good. ``readers`` counts the parcels that would read it if they ran
    again. ``replicas`` is the number of nodes on which the user wants it, 0 for TaskVine's usual number. ``copies``
    holds the addresses of the nodes that were sent a copy.
    """

    size: int = 0
    node: str = ""
    recoverable: bool = True
    rescue: str = ""
    gone: bool = False
    readers: int = 0
    replicas: int = 0
    copies: set[str] = field(default_factory=set)
    parcel: SentParcel | None = None


class Holdings:
    """Results, temp files, and requests for files that do not exist yet.

    Parameters
    ----------
    say : callable
        Takes instructions for the shell.
    readers : callable
        Returns the unfinished tasks that read a file.
    removed : callable
        Called with each file that is removed because nothing will read it.
    details : list, optional
        Takes events for the record of the run.
    """

    def __init__(
        self,
        say: Say,
        readers: Callable[[str], list[int]],
        removed: Callable[[str], object],
        details: list[recorded.Event] | None = None,
    ) -> None:
        self._say = say
        self._details = details
        self._readers_of = readers
        self._removed = removed
        self.unwanted: set[str] = set()
        """Files that the user will not ask for again, but that tasks still read or produce."""
        self.requests: dict[str, list[int]] = {}
        """The user's requests for files that do not exist yet."""
        self.values: dict[str, Payload] = {}
        self.temps: dict[str, TempFile] = {}
        self.pruned: dict[str, TempFile] = {}
        """Temp files without bytes, which are kept only to recreate others."""
        self.readers_by_path: Counter[str] = Counter()
        """Number of parcels that would read a result in a file if they ran again."""
        self.unread: dict[str, Payload] = {}
        """Such results that nothing else will read."""
        self.stored = 0
        """Total size of all temp files in bytes, each counted once."""
        self.most_stored = 0

    def expect(self, name: str, sent: SentParcel, *, recoverable: bool, replicas: int = 0) -> None:
        """Note that a parcel will create a temp file, in place of an earlier parcel that did not.

        What the parcel reads is kept until all its temp files are gone, so that these can be recreated.

        Parameters
        ----------
        name : str
            Name of the temp file.
        sent : SentParcel
            The parcel that creates it.
        recoverable : bool
            Whether it may be recreated.
        replicas : int
            Number of replicas; 0 for the number that the tuning parameters set.
        """
        if name in self.temps:
            self.remove(name)
        self.temps[name] = TempFile(parcel=sent, recoverable=recoverable, replicas=replicas)
        if not sent.temps:
            for each in sent.reads:
                self.temps[each].readers += 1
            self.readers_by_path.update(sent.reads_by_path)
        sent.temps += 1

    def made(self, name: str, size: int, node: str) -> None:
        """Note that a temp file exists."""
        temp = self.temps[name]
        temp.size, temp.node = size, node
        self._count(size)
        self._note(recorded.Made(name, node, size))

    def adopt(self, name: str, path: str, size: int) -> None:
        """Make a temp file of a large result that is on the manager's machine."""
        self.remove(name)
        self.temps[name] = TempFile(size, HOME)
        self._count(size)
        self._note(recorded.Made(name, recorded.MANAGER, size))
        self._say(Adopt(name, path))

    def keep(self, name: str, value: Payload) -> None:
        """Keep a result here, and not as a temp file."""
        self.remove(name)
        self.values[name] = value
        self._note(recorded.Made(name, recorded.MANAGER, len(value) if isinstance(value, bytes) else 0))

    def _note(self, event: recorded.Event) -> None:
        if self._details is not None:
            self._details.append(event)

    def _count(self, size: int) -> None:
        self.stored += size
        self.most_stored = max(self.most_stored, self.stored)

    def find(self, name: str) -> TempFile | None:
        """Return a temp file, including one that is kept only to recreate others."""
        return self.temps.get(name) or self.pruned.get(name)

    def remove(self, name: str) -> None:
        """Remove a temp file, if there is one; keep the means to recreate it while other files may need it."""
        temp = self.temps.pop(name, None)
        if temp is None:
            return
        self.stored -= temp.size
        if temp.node:
            self._note(recorded.Dropped(name, "", "unneeded"))
        if temp.readers:
            self.pruned[name] = temp
            self._say(Prune(name))
        else:
            self._drop([(name, temp)])

    def release(self, sent: SentParcel) -> None:
        """Note that a parcel has ended; its inputs are released with the last of the files that it created."""
        sent.ended = True
        if not sent.temps:
            self._drop(self._release(sent))

    def _drop(self, left: list[tuple[str, TempFile]]) -> None:
        while left:  # a chain of them may be as long as a workflow
            name, temp = left.pop()
            self._say(Drop(name))
            if (parcel := temp.parcel) is not None:
                parcel.temps -= 1
                if not parcel.temps and parcel.ended:
                    left += self._release(parcel)

    def _release(self, sent: SentParcel) -> list[tuple[str, TempFile]]:
        """Release the inputs of a parcel; return the files that were kept only for it."""
        self._say(Release(sent.number))
        reads, sent.reads = sent.reads, ()
        by_path, sent.reads_by_path = sent.reads_by_path, ()
        for name in by_path:
            self.readers_by_path[name] -= 1
            if not self.readers_by_path[name]:
                del self.readers_by_path[name]
                if name in self.unread:
                    self._say(Discard(self.unread.pop(name)))
        freed = []
        for name in reads:
            temp = self.find(name)
            if temp is not None:
                temp.readers -= 1
                if not temp.readers and self.pruned.pop(name, None) is not None:
                    freed.append((name, temp))
        return freed

    def forget(self, name: str) -> None:
        """Note that the user will not ask for a file again, and remove it if nothing else needs it.

        Call :meth:`tidy` when a task that reads or creates it has ended.
        """
        self.unwanted.add(name)
        self.tidy(name)

    def tidy(self, name: str) -> None:
        """Remove a file or result that neither the user nor any task will read, unless it is still being created."""
        if name not in self.unwanted or not self.is_there(name) or self._readers_of(name):
            return
        self.unwanted.discard(name)
        if name in self.values:
            value = self.values.pop(name)
            if name in self.readers_by_path:
                self.unread[name] = value
            else:
                self._say(Discard(value))
        self.remove(name)
        self._note(recorded.Forgotten([name]))
        self._removed(name)

    def is_there(self, name: str) -> bool:
        """Return whether a file or result has been created."""
        temp = self.temps.get(name)
        return name in self.values or (temp is not None and bool(temp.node))

    def ask(self, name: str, request: int) -> None:
        """Keep a request for a file that does not exist yet."""
        self.requests.setdefault(name, []).append(request)

    def asked(self, name: str) -> list[int]:
        """Return the requests for a file that exists now, and forget them."""
        return self.requests.pop(name, [])

    def abandon(self, name: str) -> None:
        """Note that a file will not be created after all."""
        self.remove(name)
        self.unwanted.discard(name)
        for request in self.asked(name):
            self._say(Lost(request, self.lost_record(name)))

    def lost_record(self, name: str) -> bytes:
        """Return the failure record of a file that cannot be read."""
        temp = self.temps.get(name)
        if temp is None or not temp.gone:
            return failure.lost("file-lost", f"{name} is on no node", name=name)
        reason = f"{name} was lost with node {temp.node}, and must not be recreated"
        return failure.lost("file-lost", reason, node=temp.node, name=name)

    def only_on(self, node: str) -> list[tuple[str, TempFile]]:
        """Return the temp files known only on this node; TaskVine also counts replicas that are being transferred."""
        return [(name, temp) for name, temp in self.temps.items() if temp.node == node]

    def irreplaceable(self) -> Iterator[str]:
        """Yield the existing temp files that must not be recreated."""
        return (name for name, temp in self.temps.items() if temp.node and not temp.recoverable and not temp.gone)

    # --- recovery ---

    def lose(self, name: str) -> bool:
        """Note that a temp file that must not be recreated is lost; return whether it was still needed."""
        temp = self.temps.get(name)
        if temp is not None:
            temp.gone = True
            self._note(recorded.Lost(name, temp.node))
        return temp is not None

    def renew(self, name: str) -> None:
        """Make TaskVine send a file again or recreate it, because a node has lost or spoiled its replica."""
        temp = self.find(name)
        self._say(Renew(name, temp is None or temp.recoverable or temp.node == HOME))

    def lineage(self, name: str) -> tuple[int, tuple[str, ...]] | None:
        """Return the parcel that would recreate a temp file, and the temp files that it reads; None if none would."""
        temp = self.find(name)
        return (temp.parcel.number, temp.parcel.reads) if temp is not None and temp.parcel is not None else None

    def given(self, name: str) -> list[str]:
        """Return the user's files that TaskVine reads to recreate a temp file."""
        temp = self.find(name)
        if temp is None or temp.parcel is None:
            return []
        return [each for each in temp.parcel.given if self.find(each) is None]
