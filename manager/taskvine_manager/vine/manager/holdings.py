"""The core's view of results and temp files.

A small result is kept here, encoded, and sent with the arguments of the tasks that read it. Everything else is a temp
file in TaskVine.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator

from taskvine_manager.runtime import failure
from taskvine_manager.runtime.payload import Payload
from taskvine_manager.vine.manager.events import Adopt, Discard, Drop, Instruction, Lost, Prune, Release
from taskvine_manager.vine.manager.records import HOME, Flight, TempFile


class Holdings:
    """Results, temp files, and requests for files that do not exist yet.

    Parameters
    ----------
    say : callable
        Takes instructions for the shell.
    is_needed : callable
        Whether an unfinished task reads a file.
    """

    def __init__(self, say: Callable[[Instruction], None], is_needed: Callable[[str], bool]) -> None:
        self._say = say
        self._is_needed = is_needed
        self._unwanted: set[str] = set()
        self._asked: dict[str, list[int]] = {}
        self._pruned: dict[str, TempFile] = {}
        self._readers: Counter[str] = Counter()  # of results that are in files, by what may have to be recreated
        self._unread: dict[str, Payload] = {}  # such results that only a recovery may read
        self.values: dict[str, Payload] = {}
        self.temps: dict[str, TempFile] = {}
        self.stored = 0
        """Total size of all temp files in bytes, each counted once."""
        self.most_stored = 0

    def expect(
        self,
        name: str,
        flight: Flight,
        reads: tuple[str, ...],
        reads_by_path: tuple[str, ...] = (),
        *,
        recoverable: bool,
        replicas: int = 0,
    ) -> None:
        """Note that a flight will create a temp file from others, in place of an earlier flight that did not.

        Parameters
        ----------
        name : str
            Name of the temp file.
        flight : Flight
            The flight that creates it.
        reads, reads_by_path : tuple of str
            Temp files that the flight reads, and results whose files it reads where they are. They are kept until all
            temp files of the flight are gone, so that these can be recreated.
        recoverable : bool
            Whether it may be recreated.
        replicas : int
            Number of replicas; 0 for the number that the tuning parameters set.
        """
        if name in self.temps:
            self.remove(name)
        self.temps[name] = TempFile(flight=flight, recoverable=recoverable, replicas=replicas)
        flight.temps += 1
        if not (flight.reads or flight.reads_by_path):
            flight.reads, flight.reads_by_path = reads, reads_by_path
            for each in reads:
                self.temps[each].readers += 1
            self._readers.update(reads_by_path)

    def made(self, name: str, size: int, node: str) -> None:
        """Note that a temp file exists."""
        temp = self.temps[name]
        temp.size, temp.node = size, node
        self._count(size)

    def adopt(self, name: str, path: str, size: int) -> None:
        """Make a temp file of a large result that is on the manager's machine."""
        self.temps[name] = TempFile(size, HOME)
        self._count(size)
        self._say(Adopt(name, path))

    def _count(self, size: int) -> None:
        self.stored += size
        self.most_stored = max(self.most_stored, self.stored)

    def find(self, name: str) -> TempFile | None:
        """Return a temp file, including one that is kept only to recreate others."""
        return self.temps.get(name) or self._pruned.get(name)

    def remove(self, name: str) -> None:
        """Remove a temp file, if there is one; keep the means to recreate it while other files may need it."""
        temp = self.temps.pop(name, None)
        if temp is None:
            return
        self.stored -= temp.size
        if temp.readers:
            self._pruned[name] = temp
            self._say(Prune(name))
        else:
            self._drop([(name, temp)])

    def land(self, flight: Flight) -> None:
        """Finish a flight; its inputs are released with the last of the files that it created."""
        flight.landed = True
        if not flight.temps:
            self._drop(self._release(flight))

    def _drop(self, left: list[tuple[str, TempFile]]) -> None:
        while left:  # a chain of them may be as long as a workflow
            name, temp = left.pop()
            self._say(Drop(name))
            if (flight := temp.flight) is not None:
                flight.temps -= 1
                if not flight.temps and flight.landed:
                    left += self._release(flight)

    def _release(self, flight: Flight) -> list[tuple[str, TempFile]]:
        """Release the inputs of a flight; return the files that were kept only for it."""
        self._say(Release(flight.number))
        reads, flight.reads = flight.reads, ()
        by_path, flight.reads_by_path = flight.reads_by_path, ()
        for name in by_path:
            self._readers[name] -= 1
            if not self._readers[name]:
                del self._readers[name]
                if name in self._unread:
                    self._say(Discard(self._unread.pop(name)))
        freed = []
        for name in reads:
            temp = self.find(name)
            if temp is not None:
                temp.readers -= 1
                if not temp.readers and self._pruned.pop(name, None) is not None:
                    freed.append((name, temp))
        return freed

    def forget(self, name: str) -> bool:
        """Note that the user will not ask for a file again; return whether it is removed.

        If it is not, call :meth:`tidy` when no task reads it any more.
        """
        self._unwanted.add(name)
        temp = self.temps.get(name)
        is_made = name in self.values or (temp is not None and temp.node)
        return bool(is_made) and self.tidy(name)

    def tidy(self, name: str) -> bool:
        """Remove a file or result that neither the user nor any task will read; return whether it was removed."""
        if name not in self._unwanted or self._is_needed(name):
            return False
        self._unwanted.discard(name)
        if name in self.values:
            value = self.values.pop(name)
            if name in self._readers:
                self._unread[name] = value
            else:
                self._say(Discard(value))
        self.remove(name)
        return True

    def ask(self, name: str, request: int) -> None:
        """Keep a request for a file that does not exist yet."""
        self._asked.setdefault(name, []).append(request)

    def asked(self, name: str) -> list[int]:
        """Return the requests for a file that exists now, and forget them."""
        return self._asked.pop(name, [])

    def abandon(self, name: str) -> None:
        """Note that a file will not be created after all."""
        self.remove(name)
        self._unwanted.discard(name)
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
