"""Records of imagined runs, for tests of what is said about them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgpack

from taskvine_exec.insight.fold import Fold
from taskvine_exec.insight.state import State
from taskvine_manager.record import VERSION, events
from taskvine_manager.record.events import encoded
from taskvine_manager.runtime import failure
from taskvine_manager.wire.messages import FileUse, Profile

GB = 1 << 30


def value(number: int) -> FileUse:
    """The result of a task."""
    return FileUse("value", "", f"result-{number}")


class Story:
    """The entries of a record, added one after another.

    Parameters
    ----------
    details : bool
        Whether the record has events.
    """

    def __init__(self, *, details: bool = True) -> None:
        facts = {"engine": "embedded", "details": details}
        self.now = 100.0
        self.entries: list[tuple[Any, ...]] = [("run", VERSION, self.now, facts)]
        self._tasks = self._profiles = 0

    def later(self, seconds: float) -> Story:
        self.now += seconds
        return self

    def add(self, tag: str, *parts: Any) -> Story:
        self.entries.append((tag, self.now, *parts))
        return self

    def happens(self, *these: events.Event) -> Story:
        return self.add("events", encoded(these))

    def task(self, *reads: int, name: str = "f", inputs: tuple[FileUse, ...] = (), **resources: Any) -> int:
        """Submit a task that reads the results of others; return its number."""
        profile = Profile(self._profiles, "key", name, "L2", None, None, None, None, 0.0, name)._replace(**resources)
        self._profiles += 1
        self.entries.append(("profiles", [profile]))
        number, self._tasks = self._tasks, self._tasks + 1
        uses = (*map(value, reads), *inputs)
        self.add("submitted", [(number, profile.number, 5, uses, [value(number)])])
        return number

    def node(self, name: str = "n1", *, cores: float = 2.0, gpus: int = 0, block: str = "0") -> Story:
        return self.happens(events.NodeStarted(name, cores, 1000.0, 100.0, gpus, None, block, 77, f"/nodes/{name}"))

    def block(self, state: str, reason: str = "", code: int | None = None, block: str = "0") -> Story:
        return self.happens(events.Block(block, "72", state, reason, code))

    def placed(self, *numbers: int, node: str = "n1", how: str = "spread", **more: Any) -> Story:
        return self.happens(events.Placed(node, numbers, how, **more))

    def ends(self, number: int, outcome: int = failure.RETURNED, seconds: float = 1.0, kind: str = "") -> Story:
        item = (number, outcome, "n1", self.now - seconds, self.now - seconds, seconds, 7, [], kind)
        self.add("done", [item])
        if outcome == failure.RETURNED:
            self.happens(events.Made(f"result-{number}", "manager", 7))
        return self

    def runs(self, *numbers: int, seconds: float = 1.0) -> Story:
        """Have tasks run and return, one after another."""
        for number in numbers:
            self.placed(number).later(seconds).ends(number, seconds=seconds)
        return self

    def raises(self, number: int, kind: str = "ValueError", text: str = "Traceback\nValueError: no") -> Story:
        return self.placed(number).later(1.0).ends(number, failure.RAISED).happens(events.Failure(number, kind, text))

    def is_lost(self, number: int, kind: str, text: str) -> Story:
        self.placed(number).later(1.0).ends(number, failure.LOST, kind=kind)
        return self.happens(events.Failure(number, kind, text))

    def node_ends(self, name: str = "n1", *, told: bool = False) -> Story:
        return self.happens(events.NodeEnded(name, "its connection ended", told))

    def waits(self, number: int, why: str, subject: str = "", *lacking: tuple[str, str]) -> Story:
        return self.happens(events.Waiting(number, why, subject, lacking))

    @property
    def state(self) -> State:
        fold = Fold()
        for entry in self.packed():
            fold.take(entry)
        return fold.state

    def packed(self) -> list[tuple[Any, ...]]:
        """The entries as they are read from a file."""
        return [msgpack.unpackb(msgpack.packb(entry), use_list=False) for entry in self.entries]

    def write(self, path: Path) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"".join(map(msgpack.packb, self.entries)))
        return path
