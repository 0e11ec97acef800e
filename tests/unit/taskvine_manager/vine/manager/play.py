"""The engine over a fake TaskVine. The test acts as its workers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from taskvine_manager.record.events import Event
from taskvine_manager.runtime import failure
from taskvine_manager.vine.manager.config import VineConfig
from taskvine_manager.vine.manager.engine import VineEngine
from taskvine_manager.vine.parcels import Answer
from taskvine_manager.wire.messages import L2, Completion, FileUse, Invocation, Profile
from tests.unit.taskvine_manager.node.test_config import config as node_config
from tests.unit.taskvine_manager.vine.manager import fake

X = FileUse("temp", "x", "x@1")
"""A temp file that a task reads or makes."""


class Outlet:
    def __init__(self) -> None:
        self.completions: dict[int, Completion] = {}
        self.joined: list[dict[str, Any]] = []
        self.gone: list[str] = []
        self.said: list[bytes] = []
        self.tried: list[int] = []
        self.answers: dict[int, Any] = {}
        self.events: list[Event] = []

    def done(self, completions: list[Completion]) -> None:
        self.completions.update((completion.number, completion) for completion in completions)

    def run_again(self, numbers: list[int], reason: str) -> None:
        self.tried += numbers

    def located(self, request: int, answer: Any) -> None:
        self.answers[request] = answer

    def radio(self, said: list[bytes]) -> None:
        self.said += said

    def nodes(self, nodes: list[dict[str, Any]]) -> None:
        self.joined = nodes

    def happened(self, events: list[Event]) -> None:
        self.events += events

    def drained(self, block: str) -> None:
        self.gone.append(block)


class Play:
    """An engine, its outlet, and the fake manager below it."""

    def __init__(self, base: Path, net: Any = None, **config: Any) -> None:
        for name in ("spool", "nodes"):
            (base / name).mkdir()
        self.outlet = Outlet()
        settings = {
            "nodes": node_config(slots=None),
            "python": "python3",
            "log": str(base),
            "slots": 2,
            **config,
        }
        module = fake.module()
        module.Manager = self._make_manager
        watch, unwatch = (lambda *_: None, lambda *_: None) if net is None else (net.watch, net.unwatch)
        listener = None if net is None else net.listener
        self.engine = VineEngine(str(base), listener, VineConfig(**settings), self.outlet, watch, unwatch, vine=module)
        self._profiles: dict[tuple[Any, ...], int] = {}

    def _make_manager(self, **settings: Any) -> fake.Manager:
        self.manager = fake.Manager(**settings)
        return self.manager

    def tick(self) -> None:
        self.engine._workers.look_soon(at_once=True)
        for _ in range(50):
            if self.engine.tick() != 0.0:
                return
        raise AssertionError("it never comes to rest")

    def hear(self) -> None:
        """Make the engine take the tasks that have ended."""
        self.engine._cycles.hear()

    def join(self, name: str = "b0-1", **node: Any) -> str:
        address = self.manager.join(name, **node)
        self.tick()
        self.greet()
        return address

    def greet(self) -> None:
        for task in [task for task in self.manager.running if task.parcel.kind == "hello"]:
            self.manager.end(task, Answer("node", info=("node", 1.0, 1.0, 1.0, 0, None, "", 7, "/dir")))
        self.hear()
        self.tick()

    def submit(self, *invocations: Invocation, **profile: Any) -> None:
        settings = {
            "category": "app",
            "cores": None,
            "memory": None,
            "gpus": None,
            "priority": 0.0,
            "recoverable": True,
            "running_time_min": None,
        }
        settings |= profile
        key = tuple(sorted(settings.items()))
        number = self._profiles.setdefault(key, len(self._profiles))
        made = Profile(
            number,
            "f",
            "app",
            L2,
            settings["cores"],
            settings["memory"],
            None,
            settings["gpus"],
            settings["priority"],
            settings["category"],
            settings["recoverable"],
            settings["running_time_min"],
        )
        self.engine.submit([("f", b"function")], [made], [each._replace(profile=number) for each in invocations])
        self.tick()

    def end(self, task: fake.Task, answer: Answer | None, result: str = "success") -> None:
        """End a TaskVine task on its worker, and make the engine take it."""
        self.manager.end(task, answer, result)
        self.hear()
        self.tick()

    def make_temp(self, task: fake.Task, name: str, **answer: Any) -> None:
        """End a task that has made a temp file."""
        (item,) = task.parcel.invocations
        done = Completion(item[0], failure.RETURNED, b"N.", "b0-1", 1.0, 1.0, 1.0, ((name, 5, 0),))
        self.end(task, Answer("b0-1", (tuple(done),), **answer))

    @property
    def work(self) -> list[fake.Task]:
        return [task for task in self.manager.running if task.parcel.kind != "hello"]

    def finish(self, task: fake.Task, *, seconds: float = 0.5, body: bytes = b"N.", open_: bool = False) -> None:
        done = tuple(
            tuple(Completion(item[0], failure.RETURNED, body, "node", 1.0, 1.0, seconds))
            for item in task.parcel.invocations
        )
        self.end(task, Answer("node", done, open_))


def invocation(number: int, **settings: Any) -> Invocation:
    return Invocation(number, 0, b"arguments", **settings)
