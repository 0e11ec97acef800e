"""The manager's loop between a user's process, for which the test acts, and an engine that only notes requests."""

from __future__ import annotations

import os
import pickle
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import taskvine_manager
from taskvine_manager import loop
from taskvine_manager.embedded.engine import EmbeddedConfig
from taskvine_manager.engine_api import NodesFail, Outlet, Watch
from taskvine_manager.record import entries, read_record
from taskvine_manager.record.events import Block, Made, decoded
from taskvine_manager.runtime import failure
from taskvine_manager.scheduling import invariants
from taskvine_manager.scheduling.checking import VARIABLE
from taskvine_manager.vine.manager.config import VineConfig
from taskvine_manager.wire.channel import Channel
from taskvine_manager.wire.messages import FEW_TASKS, L2, Completion, Invocation, Profile
from tests.unit.taskvine_manager.node.test_config import config

PROFILE = Profile(0, "f", "name of f", L2, None, None, None, None, 0.0, "f")
CALL = Invocation(1, 0, b"arguments")
DONE = Completion(1, failure.RETURNED, b"result", "node", 1.0, 2.0, 3.0)
PROGRAM = os.path.join(os.path.dirname(os.path.abspath(taskvine_manager.__file__)), "__main__.py")
MOST_TICKS = 1000
"""Ticks after which a test fails if its manager has not stopped."""


class Engine:
    """An engine that notes its requests, and does in each tick what the test has planned."""

    def __init__(self, *made_with: Any) -> None:
        outlet: Outlet
        watch: Watch
        unwatch: Callable[[int], None]
        _, self.listener, _, outlet, watch, unwatch = made_with
        self.outlet, self.watch, self.unwatch = outlet, watch, unwatch
        self.requests: list[tuple[Any, ...]] = []
        self.plan: list[Callable[[], object]] = []
        self.answers: dict[str, Callable[..., object]] = {}
        self.waiting = self.tasks = 0
        self.stopped = True
        self.seconds: float | None = 0.0
        self._ticks = 0

    def __getattr__(self, name: str) -> Callable[..., object]:
        def noted(*rest: Any) -> object:
            self.requests.append((name, *rest))
            return self.answers[name](*rest) if name in self.answers else None

        return noted

    def tick(self) -> float | None:
        self._ticks += 1
        assert self._ticks < MOST_TICKS
        if self.plan:
            self.plan.pop(0)()
        return self.seconds


class World:
    """A manager, its engine, and the user's end of their connection."""

    engine: Engine

    def __init__(
        self, base: Path, settings: Any = None, *, record: str | None = None, parent: int = 0, **more: Any
    ) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        self.user = Channel(ours)
        self.base = base
        self.listener = socket.socket(socket.AF_UNIX)
        made = {"engine": settings or EmbeddedConfig(tune={}), "log": str(base), "record": record, **more}
        self.manager = loop.Manager(str(base), made, self.listener, theirs, parent or os.getppid())
        self.heard: list[tuple[Any, ...]] = []

    def run(self, *messages: tuple[Any, ...], stop: bool = True) -> list[tuple[Any, ...]]:
        """Send messages to the manager, and run it until it ends; return its messages."""
        for message in messages:
            self.user.send(*message)
        if stop:
            self.user.send("stop")
        self.manager.run()
        return self.hear()

    def hear(self) -> list[tuple[Any, ...]]:
        """Read the messages that the manager has sent by now; return all of them."""
        self.user.read()
        while (message := self.user.next()) is not None:
            self.heard.append(message)
        return self.heard

    def close(self) -> None:
        self.user.close()
        self.listener.close()


Make = Callable[..., World]


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Make]:
    """Make a manager whose engine is :class:`Engine`."""
    worlds: list[World] = []

    def start(*args: Any, **kwargs: Any) -> World:
        engines: list[Engine] = []

        def build(*made_with: Any) -> Engine:
            engines.append(Engine(*made_with))
            return engines[-1]

        monkeypatch.setattr("taskvine_manager.embedded.engine.EmbeddedEngine", build)
        monkeypatch.setattr("taskvine_manager.vine.manager.engine.VineEngine", build)
        worlds.append(World(tmp_path, *args, **kwargs))
        (worlds[-1].engine,) = engines
        return worlds[-1]

    yield start
    for world in worlds:
        world.close()


@pytest.fixture
def world(make: Make) -> World:
    return make()


# --- requests ---


def test_requests_reach_the_engine_in_order(world: World) -> None:
    requests = [
        ("cancel", (1, 2)),
        ("forget", ("file",)),
        ("retire", (0,)),
        ("drain", "block"),
        ("locate", 7, "file"),
        ("spoiled", "node", "file", 5),
        ("tune", {"executor.batch": 2.0}),
    ]
    world.run(*requests)
    assert [request for request in world.engine.requests if request in requests] == requests


def test_tasks_reach_the_engine(world: World) -> None:
    world.run(("submit", (("f", b"code"),), (PROFILE,), (CALL,)))
    assert ("submit", [("f", b"code")], [PROFILE], [CALL]) in world.engine.requests


def test_ping_is_answered(world: World) -> None:
    assert world.run(("ping",)) == [("pong",)]


def test_stats_have_the_makespan(world: World) -> None:
    world.engine.answers = {"stats": lambda: {"tasks": 3}, "submit": lambda *_: world.engine.outlet.done([DONE])}
    before, *_, after = world.run(("stats", 1), ("submit", (), (), (CALL,)), ("stats", 2))
    assert before == ("stats", 1, {"tasks": 3, "makespan": 0.0})
    assert after[0] == "done", "the ends of tasks are sent together, after the other answers"
    (_, request, stats) = world.heard[1]
    assert request == 2
    assert 0 < stats["makespan"] < 60


def test_graph_is_answered_when_the_record_is_written(make: Make, tmp_path: Path) -> None:
    path = tmp_path / "record"
    world = make(record=str(path))
    world.engine.answers["snapshot"] = lambda: {"tasks": len(read_record(path).submitted)}
    world.run(("submit", (), (PROFILE,), (CALL,)), ("graph", 4))
    assert world.heard == [("graph", 4, {"tasks": 1})]


def test_requests_after_the_stop_are_ignored(world: World) -> None:
    assert world.run(("stop",), ("ping",), ("cancel", (1,))) == []
    assert "cancel" not in [name for name, *_ in world.engine.requests]


def test_run_is_recorded(make: Make, tmp_path: Path) -> None:
    path = tmp_path / "record"
    world = make(EmbeddedConfig(tune={"replica-count": 2.0}), record=str(path))
    outlet = world.engine.outlet
    world.engine.answers = {"submit": lambda *_: outlet.done([DONE]), "forget": lambda *_: outlet.run_again([1], "why")}
    world.run(
        ("submit", (), (PROFILE,), (CALL,)), ("cancel", (2,)), ("forget", ("file",)), ("tune", {"executor.batch": 4.0})
    )
    record = read_record(path)
    facts = {"engine": "embedded", "tune_parameters": {"replica-count": 2.0}, "details": True}
    assert record.facts == {**facts, "host": os.uname().nodename, "pid": os.getpid()}
    assert (set(record.submitted), set(record.done), record.again) == ({1}, {1}, {1: 1})
    assert (record.cancelled, set(record.forgotten)) == ({2}, {"file"})
    assert record.ended is not None


def test_facts_of_the_users_process_are_recorded(make: Make, tmp_path: Path) -> None:
    path = tmp_path / "record"
    world = make(record=str(path), facts={"versions": {"parsl": "1"}})
    world.run()
    assert read_record(path).facts["versions"] == {"parsl": "1"}


def test_details_are_recorded(make: Make, tmp_path: Path) -> None:
    path = tmp_path / "record"
    world = make(record=str(path))
    block, made = Block("0", "72", "PENDING", "Resources"), Made("file", "node", 3)
    world.engine.answers = {"forget": lambda *_: world.engine.outlet.happened([made])}
    world.run(("blocks", (tuple(block),)), ("forget", ("file",)))
    assert [decoded(rest[1]) for tag, *rest in entries(path) if tag == "events"] == [[block], [made]]


def test_entries_are_written_while_nothing_happens(make: Make, tmp_path: Path) -> None:
    path = tmp_path / "record"
    world = make(record=str(path))
    world.engine.seconds = 5.0
    seen: list[str] = []

    def look() -> None:
        seen.extend(tag for tag, *_ in entries(path))
        world.user.send("stop")

    # The manager reads the message after the first tick. After the second, it waits until the entry must be written.
    world.engine.plan = [lambda: None, lambda: None, lambda: setattr(world.engine, "seconds", 0.0), look]
    world.run(("cancel", (1,)), stop=False)
    assert seen == ["run", "cancelled"]


# --- reports ---


def test_ends_of_tasks_are_reported_together(world: World) -> None:
    world.engine.answers["cancel"] = lambda numbers: world.engine.outlet.done([DONE._replace(number=numbers[0])])
    world.engine.waiting = 3
    world.run(("cancel", (1,)), ("cancel", (2,)))
    assert world.heard == [("waiting", 3), ("done", (tuple(DONE), tuple(DONE._replace(number=2))), 3)]


def test_number_of_waiting_tasks_is_reported_when_it_changes(world: World) -> None:
    def waiting(count: int) -> Callable[[], None]:
        return lambda: setattr(world.engine, "waiting", count)

    world.engine.plan = [waiting(2), waiting(2), waiting(5), waiting(0), lambda: world.user.send("stop")]
    assert world.run(stop=False) == [("waiting", 2), ("waiting", 5), ("waiting", 0)]


def test_news_is_reported(world: World) -> None:
    outlet = world.engine.outlet
    world.engine.plan = [
        lambda: outlet.notice("text"),
        lambda: outlet.nodes([{"name": "node"}]),
        lambda: outlet.drained("block"),
        lambda: world.user.send("stop"),
    ]
    assert world.run(stop=False) == [("notice", "text"), ("nodes", ({"name": "node"},)), ("drained", "block")]


def test_ended_task_is_reported_before_its_messages_and_its_file(world: World) -> None:
    outlet = world.engine.outlet

    def both(request: int, file: str) -> None:
        outlet.done([DONE])
        outlet.radio([b"message"])
        outlet.done([DONE])
        outlet.located(request, ("node", file, 1, 2))

    world.engine.answers["locate"] = both
    world.run(("locate", 7, "path"))
    assert [kind for kind, *_ in world.heard] == ["done", "radio", "done", "located"]
    assert world.heard[-1] == ("located", 7, ("node", "path", 1, 2))


def test_slow_user_gets_all_messages(world: World) -> None:
    text = "x" * 4_000_000
    world.engine.answers["forget"] = lambda files: world.engine.outlet.notice(text)

    def read() -> None:
        if not world.hear():
            world.engine.plan.append(read)
        else:
            world.user.send("stop")

    world.engine.plan = [read]
    assert world.run(("forget", ("file",)), stop=False) == [("notice", text)]


# --- waiting ---


def test_engine_hears_its_sockets(world: World) -> None:
    heard: list[bytes] = []
    ours, theirs = socket.socketpair()
    with ours, theirs:

        def hear() -> None:
            heard.append(theirs.recv(10))
            world.engine.unwatch(theirs.fileno())
            ours.send(b"not heard")
            world.user.send("stop")

        world.engine.watch(theirs.fileno(), hear)
        world.engine.seconds = None
        world.engine.plan = [lambda: ours.send(b"hello")]
        world.run(stop=False)
    assert heard == [b"hello"]


def test_closed_socket_is_not_called(world: World) -> None:
    pairs = [socket.socketpair() for _ in range(2)]
    called: list[int] = []

    def hear(number: int) -> Callable[[], None]:
        def end_both() -> None:
            called.append(number)
            for _, theirs in pairs:
                world.engine.unwatch(theirs.fileno())
            world.user.send("stop")

        return end_both

    for number, (ours, theirs) in enumerate(pairs):
        world.engine.watch(theirs.fileno(), hear(number))
        ours.send(b"hello")
    world.run(stop=False)
    assert len(called) == 1
    for ours, theirs in pairs:
        ours.close()
        theirs.close()


@pytest.mark.parametrize(
    ("tasks", "awake", "polls"),
    [(0, 60.0, True), (FEW_TASKS, 60.0, True), (FEW_TASKS + 1, 60.0, False), (0, 0.0, False)],
)
def test_manager_polls_after_a_message_while_there_are_few_tasks(
    world: World, monkeypatch: pytest.MonkeyPatch, tasks: int, awake: float, polls: bool
) -> None:
    yields: list[None] = []

    def sched_yield() -> None:
        yields.append(None)
        world.user.send("stop")

    monkeypatch.setattr(os, "sched_yield", sched_yield)
    world.engine.tasks, world.engine.seconds = tasks, 60.0 if polls else 0.05
    world.engine.plan = [lambda: None, lambda: None, lambda: world.user.send("stop")]
    world.run(("tune", {"executor.awake": awake}), stop=False)
    assert len(yields) == polls


def test_manager_polls_until_something_is_due(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_yield", lambda: pytest.fail("it polls"))
    world.engine.plan = [lambda: None, lambda: None, lambda: world.user.send("stop")]
    world.run(("tune", {"executor.awake": 0.1}), stop=False)


# --- ends ---


def test_nodes_are_told_to_leave_and_then_killed(world: World) -> None:
    world.run()
    assert [name for name, *_ in world.engine.requests] == ["stop", "kill"]


def test_manager_waits_for_nodes_that_leave(world: World) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        world.engine.stopped = False

        def hear() -> None:
            theirs.recv(10)
            world.engine.stopped = True

        world.engine.watch(theirs.fileno(), hear)
        world.engine.answers = {"stop": lambda: ours.send(b"left")}
        world.run()
        assert world.engine.stopped


def test_manager_does_not_wait_long_for_nodes(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "STOP_SECONDS", 0.01)
    world.engine.stopped = False
    world.run()
    assert [name for name, *_ in world.engine.requests] == ["stop", "kill"]


def test_error_in_the_engine_ends_the_manager(world: World) -> None:
    def fail(numbers: tuple[int, ...]) -> None:
        raise KeyError("unexpected")

    world.engine.answers["cancel"] = fail
    ((kind, text),) = world.run(("cancel", (1,)))
    assert kind == "broken"
    assert text.endswith("KeyError: 'unexpected'\n")
    assert [name for name, *_ in world.engine.requests] == ["cancel", "stop", "kill"]


def test_nodes_that_cannot_be_started_end_the_manager(world: World) -> None:
    def fail() -> None:
        raise NodesFail("why", "last words")

    world.engine.plan = [fail]
    assert world.run(stop=False) == [("nodes-fail", "why", "last words")]
    assert [name for name, *_ in world.engine.requests] == ["stop", "kill"]


def test_manager_whose_user_closes_the_connection_removes_the_run(world: World) -> None:
    world.engine.plan = [world.user.close]
    with pytest.raises(SystemExit):
        world.manager.run()
    assert not world.base.exists()
    assert [name for name, *_ in world.engine.requests] == ["stop", "kill"]


def test_manager_ends_with_the_users_process(make: Make) -> None:
    user = subprocess.Popen(["cat"], stdin=subprocess.PIPE)
    world = make(parent=user.pid)
    world.engine.seconds = None
    world.engine.plan = [user.communicate]
    with pytest.raises(SystemExit):
        world.manager.run()
    assert not world.base.exists()


def test_manager_whose_user_has_ended_before_does_not_begin(make: Make) -> None:
    user = subprocess.Popen(["true"])
    user.wait()
    world = make(parent=user.pid)
    with pytest.raises(SystemExit):
        world.manager.run()
    assert [name for name, *_ in world.engine.requests] == ["stop", "kill"]


def test_users_process_is_checked_without_pidfd(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(pid: int) -> int:
        raise PermissionError

    monkeypatch.setattr(os, "pidfd_open", refuse)
    world = make()
    world.engine.seconds = None
    ours, theirs = socket.socketpair()
    with ours, theirs:
        world.engine.watch(theirs.fileno(), lambda: None)
        ours.send(b"it does not sleep")
        world.engine.plan = [lambda: None, lambda: monkeypatch.setattr(os, "getppid", lambda: 1)]
        with pytest.raises(SystemExit):
            world.manager.run()


# --- engines ---


def test_taskvine_engine_gets_the_listener(make: Make, tmp_path: Path) -> None:
    path = tmp_path / "record"
    world = make(VineConfig(nodes=config(), python=sys.executable, log=str(tmp_path)), record=str(path))
    assert world.engine.listener is world.listener
    world.run()
    assert read_record(path).facts["engine"] == "taskvine"


def test_manager_process_serves_its_user(tmp_path: Path) -> None:
    with open(tmp_path / "manager.config", "wb") as file:
        pickle.dump({"engine": EmbeddedConfig(tune={}), "log": str(tmp_path), "record": None}, file)
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    with socket.socket(socket.AF_UNIX) as listener, theirs:
        listener.bind(str(tmp_path / "manager.sock"))
        listener.listen()
        numbers = (listener.fileno(), theirs.fileno())
        command = [sys.executable, PROGRAM, "manager", str(tmp_path), *map(str, numbers), str(os.getpid())]
        process = subprocess.Popen(command, pass_fds=numbers)
    user = Channel(ours)
    user.send("ping")
    user.send("stop")
    assert process.wait(30) == 0
    user.read()
    assert user.next() == ("pong",)
    assert (tmp_path / "manager.log").read_text() == ""
    user.close()


def nothing_is_wrong(_: object) -> Iterator[str]:
    """An invariant that is always broken."""
    yield "something is"


def test_broken_invariant_ends_the_run_with_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "1")
    (tmp_path / "nodes").mkdir()
    ours, theirs = socket.socketpair()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(b"")  # any name that no other socket has
        listener.listen()
        config = {"engine": EmbeddedConfig(tune={}), "record": None}
        manager = loop.Manager(str(tmp_path), config, listener, theirs, os.getpid())
        monkeypatch.setattr(invariants, "INVARIANTS", (nothing_is_wrong,))
        user = Channel(ours)
        user.send("cancel", (7,))
        manager.run()
    user.read()
    said = []
    while (message := user.next()) is not None:
        said.append(message)
    user.close()
    ((kind, reason),) = said
    assert kind == "broken"
    assert "InvariantBroken: nothing_is_wrong, after event 1 (Cancelled): something is" in reason
