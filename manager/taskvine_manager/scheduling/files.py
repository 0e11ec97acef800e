"""Temp files and results as the scheduler knows them: where they are, who needs them, and how to recreate them.

A file's record is kept while one of these conditions holds, its bytes only while one of the first two holds:

- it is *wanted*: the user may ask for it;
- it has *consumers*: unfinished tasks read it;
- it has *dependants*: finished tasks that read it may have to run again.

Recovery relies on the dependants. A finished task with files is kept as their :class:`Origin`, and counts as a
dependant of its inputs while any of its files has a record. The records of a chain are therefore removed with its last
file, and no bytes are kept for them.

Sets of names are dicts without values here, because decisions must not depend on string hashes. They also save memory
where records dominate, as in long graphs: an empty set takes 216 bytes, an empty dict 64.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from taskvine_manager.wire.messages import Invocation, Profile


@dataclass(slots=True, eq=False)
class Origin:
    """A finished task that can be run again to recreate its files."""

    invocation: Invocation
    profile: Profile
    inputs: tuple[str, ...]
    seconds: float
    files: dict[str, None] = field(default_factory=dict)


@dataclass(slots=True, eq=False)
class File:
    """One temp file or result."""

    name: str
    size: int = 0
    depth: int = 0
    value: bytes | None = None
    """The encoded result itself, if it is small."""
    holders: dict[str, int] = field(default_factory=dict)
    """The stamp of the replica on each node."""
    coming: dict[str, None] = field(default_factory=dict)
    """Nodes that are fetching a replica."""
    relayed: int | None = None
    """The stamp of the copy in the manager's directory."""
    lost_with: str | None = None
    """The node that held the last replica, if the file is lost."""
    origin: Origin | None = None
    named: bool = False
    """Whether it is a temp file of the user's, and not a result."""
    recoverable: bool = True
    replicas: int = 0
    """Number of nodes that should hold it; 0 for the default number."""
    refused: dict[str, None] = field(default_factory=dict)
    """Nodes that failed to fetch it."""
    wanted: bool = True
    consumers: int = 0
    dependants: int = 0
    asked: list[int] = field(default_factory=list)
    """The user's requests that wait for it."""

    @property
    def is_there(self) -> bool:
        """Whether a copy of it exists."""
        return bool(self.holders) or self.value is not None or self.relayed is not None

    @property
    def is_needed(self) -> bool:
        """Whether its bytes must be kept."""
        return self.wanted or self.consumers > 0 or bool(self.asked)

    @property
    def was_made(self) -> bool:
        """Whether it exists or existed before."""
        return self.is_there or self.origin is not None or self.lost_with is not None


class FileTable(dict[str, File]):
    """Records of files by name. Reading creates those that are missing, except with :meth:`get`."""

    def __missing__(self, name: str) -> File:
        file = self[name] = File(name)
        return file

    def originate(self, origin: Origin, names: Iterable[str]) -> list[Origin]:
        """Record the origin of files; return their former origins that have no files left."""
        over = []
        if not origin.files:
            for name in origin.inputs:
                self[name].dependants += 1
        for name in names:
            file = self[name]
            if file.origin is not origin:
                over += self._part(file)
                file.origin = origin
                origin.files[name] = None
        return over

    def _part(self, file: File) -> list[Origin]:
        """Separate a file from its origin; return the origin if it has no files left."""
        origin, file.origin = file.origin, None
        if origin is None:
            return []
        origin.files.pop(file.name, None)
        return [] if origin.files else [origin]

    def drop(self, name: str) -> tuple[list[Origin], list[str]]:
        """Remove the record of a file that is not needed, and release its origin if this was its last file.

        Returns
        -------
        over : list of Origin
            Tasks that will never be run again.
        left : list of str
            Inputs of these tasks, each with one dependant less.
        """
        over, left = [], []
        file = self.pop(name, None)
        if file is not None:
            over = self._part(file)
            for origin in over:
                left += self.release(origin)
        return over, left

    def release(self, origin: Origin) -> list[str]:
        """Remove an origin from the dependants of its inputs; return the inputs."""
        for name in origin.inputs:
            if (file := self.get(name)) is not None:
                file.dependants -= 1
        return list(origin.inputs)
