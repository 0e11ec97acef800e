"""Temp files and results as the scheduler knows them: where they are, who needs them, and how they can be made again.

A file's record is kept for as long as one of these holds; its bytes only for the first two:

- it is *wanted*: somebody outside may ask for it;
- it has *consumers*: invocations that are not over yet read it;
- it has *dependants*: what was made from it may have to be made again.

The third is what recovery lives by. A finished invocation with files is remembered as their :class:`Origin`, and counts
as a dependant of its inputs, for as long as any of its files has a record. So the records of a chain go with its end,
and none of its bytes are kept for them.

Sets of names are dicts without values here: decisions must not depend on how strings hash, and of a graph that goes on
for long, records are what there is most of (an empty set takes 216 bytes, an empty dict 64).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from taskvine_manager.wire.messages import Invocation, Profile


class Origin:
    """A finished invocation that can be run again for the files that it made."""

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
        """The stamp of each node's replica."""
        self.coming: dict[str, None] = {}
        """Nodes that a replica is on its way to."""
        self.relayed: int | None = None
        """The stamp of the copy in the manager's directory."""
        self.lost_with: str | None = None
        """The node that had the last replica."""
        self.origin: Origin | None = None
        self.named = False
        """Whether the user gave it its name, and forgets it by that."""
        self.recoverable = True
        self.replicas = 0
        """How many nodes are to have it; 0 for as many as of any file."""
        self.refused: dict[str, None] = {}
        """Nodes that could not take it."""
        self.wanted = True
        self.consumers = 0
        self.dependants = 0
        self.asked: list[int] = []
        """Requests of the user that wait for it."""

    @property
    def is_there(self) -> bool:
        """Whether it can be read."""
        return bool(self.holders) or self.value is not None or self.relayed is not None

    @property
    def is_needed(self) -> bool:
        """Whether its bytes are to be kept."""
        return self.wanted or self.consumers > 0 or bool(self.asked)

    @property
    def was_made(self) -> bool:
        """Whether it is there, or has been."""
        return self.is_there or self.origin is not None or self.lost_with is not None


class FileTable:
    """Records of files by name."""

    def __init__(self) -> None:
        self._files: dict[str, File] = {}

    def __getitem__(self, name: str) -> File:
        """The record of a file; a new one if there is none."""
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
        """The record of a file, if there is one."""
        return self._files.get(name)

    def originate(self, origin: Origin, names: Iterable[str]) -> list[Origin]:
        """Say what files come from; return the origins that nothing needs any more by that."""
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
        """Part a file from its origin."""
        origin, file.origin = file.origin, None
        if origin is None:
            return []
        origin.files.pop(file.name, None)
        return [] if origin.files else [origin]

    def drop(self, name: str) -> tuple[list[Origin], list[str]]:
        """Remove the record of a file that nobody needs, and those that were kept for its sake alone.

        Returns
        -------
        over : list of Origin
            What will never be run again.
        left : list of str
            Inputs of those, which have one dependant less.
        """
        over, left = [], []
        file = self._files.pop(name, None)
        if file is not None:
            over = self._part(file)
            for origin in over:
                left += self.release(origin)
        return over, left

    def release(self, origin: Origin) -> list[str]:
        """Count an origin off its inputs; return them."""
        for name in origin.inputs:
            if (file := self._files.get(name)) is not None:
                file.dependants -= 1
        return list(origin.inputs)
