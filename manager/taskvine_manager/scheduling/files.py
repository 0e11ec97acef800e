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

from collections.abc import Iterable, Iterator

from taskvine_manager.wire.messages import Invocation, Profile


class Origin:
    """A finished task that can be run again to recreate its files."""

    __slots__ = ("files", "inputs", "invocation", "profile", "seconds")

    def __init__(self, invocation: Invocation, profile: Profile, inputs: tuple[str, ...], seconds: float) -> None:
        self.invocation = invocation
        self.profile = profile
        self.inputs = inputs
        self.seconds = seconds
        self.files: dict[str, None] = {}


class File:
    """One temp file or result."""

    __slots__ = (
        "asked",
        "coming",
        "consumers",
        "dependants",
        "depth",
        "holders",
        "lost_with",
        "name",
        "named",
        "origin",
        "recoverable",
        "refused",
        "relayed",
        "replicas",
        "size",
        "value",
        "wanted",
    )

    def __init__(self, name: str) -> None:
        self.name = name
        self.size = 0
        self.depth = 0
        self.value: bytes | None = None
        """The encoded result itself, if it is small."""
        self.holders: dict[str, int] = {}
        """The stamp of the replica on each node."""
        self.coming: dict[str, None] = {}
        """Nodes that are fetching a replica."""
        self.relayed: int | None = None
        """The stamp of the copy in the manager's directory."""
        self.lost_with: str | None = None
        """The node that held the last replica, if the file is lost."""
        self.origin: Origin | None = None
        self.named = False
        """Whether it is a temp file of the user's, and not a result."""
        self.recoverable = True
        self.replicas = 0
        """Number of nodes that should hold it; 0 for the default number."""
        self.refused: dict[str, None] = {}
        """Nodes that failed to fetch it."""
        self.wanted = True
        self.consumers = 0
        self.dependants = 0
        self.asked: list[int] = []
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


class FileTable:
    """Records of files by name."""

    def __init__(self) -> None:
        self._files: dict[str, File] = {}

    def __getitem__(self, name: str) -> File:
        """Return the record of a file; create one if there is none."""
        file = self._files.get(name)
        if file is None:
            file = self._files[name] = File(name)
        return file

    def __contains__(self, name: str) -> bool:
        return name in self._files

    def __iter__(self) -> Iterator[File]:
        return iter(list(self._files.values()))

    def __len__(self) -> int:
        return len(self._files)

    def get(self, name: str) -> File | None:
        """Return the record of a file, if there is one."""
        return self._files.get(name)

    def originate(self, origin: Origin, names: Iterable[str]) -> list[Origin]:
        """Record the origin of files; return their former origins that have no files left."""
        over = []
        if not origin.files:
            for name in origin.inputs:
                self[name].dependants += 1
        for name in names:
            file = self._files[name]
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
        file = self._files.pop(name, None)
        if file is not None:
            over = self._part(file)
            for origin in over:
                left += self.release(origin)
        return over, left

    def release(self, origin: Origin) -> list[str]:
        """Remove an origin from the dependants of its inputs; return the inputs."""
        for name in origin.inputs:
            if (file := self._files.get(name)) is not None:
                file.dependants -= 1
        return list(origin.inputs)
