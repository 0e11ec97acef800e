"""The tasks of a node in both modes. A small program acts as the library and as L1 tasks."""

from __future__ import annotations

import ast
import os
import pickle
import selectors
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from taskvine_manager.node import memory
from taskvine_manager.node.accelerators import ANY, Found
from taskvine_manager.node.calls import Call, Need
from taskvine_manager.node.config import LibraryConfig
from taskvine_manager.node.devices import Gpus
from taskvine_manager.node.runner import LOOK_AT_SLOTS, Runner, Site
from taskvine_manager.runtime import failure, keeper
from taskvine_manager.runtime.payload import Payload
from taskvine_manager.wire.messages import L1, L2, Invocation, Library, NodeInfo, Profile
from tests.unit.taskvine_manager.node import test_oneshots, test_slots
from tests.unit.taskvine_manager.node.test_config import config

PROGRAM = f"""
import sys
role = sys.argv.pop(1)
exec({test_slots.PROGRAM!r} if role == "library" else {test_oneshots.PROGRAM!r})
"""


class Loop:
    """A node's loop that turns when the test says so."""

    def __init__(self) -> None:
        self.selector = selectors.DefaultSelector()
        self.reap: Callable[[], None] = lambda: None

    def watch(self, channel: socket.socket, callback: Callable[[], None]) -> None:
        self.selector.register(channel, selectors.EVENT_READ, callback)

    def unwatch(self, channel: socket.socket) -> None:
        self.selector.unregister(channel)

    def when_children_end(self, reap: Callable[[], None]) -> None:
        self.reap = reap


class Node:
    """A node with four cores and two slots."""

    def __init__(
        self, directory: Path, gpus: tuple[str, ...] = (), site: dict[str, Any] | None = None, **settings: Any
    ):
        self.directory = directory
        (directory / "program").write_text(PROGRAM)
        places = dict.fromkeys(("directory", "spool", "environments"), str(directory))
        usual: dict[str, Any] = {"log": str(directory), "program": str(directory / "program"), "serverless": False}
        (directory / "scratch").mkdir()
        self.loop = Loop()
        self.endings: list[tuple[int, int, Payload]] = []
        loop: Any = self.loop
        self.runner = Runner(
            config(**{**usual, **settings}),
            NodeInfo("node", 4.0, 1000.0, 1000.0, 0, 2, "", 1, str(directory)),
            Found(ANY),
            Site(**{**places, "radio": "/radio", **(site or {})}),
            loop,
            self._report,
            lambda text: None,
        )
        self.runner.functions.add("f", b"")

    def _report(self, call: Call, outcome: int, body: Payload, started: float, seconds: float) -> None:
        self.endings.append((call.invocation.number, outcome, body))
        self.runner.drop(call)

    def take(self, number: int, program: str, mode: str = L2, **profile: Any) -> Call:
        made = Profile(number, "f", "name of f", mode, None, None, None, None, 0.0, "f")._replace(**profile)
        self.runner.functions.add_profiles([tuple(made)])
        call = self.runner.take(Invocation(number, number, program.encode()))
        if mode == L1:
            call.directory = str(self.directory / f"t{number}")
            os.makedirs(os.path.join(call.directory, "sandbox"))
        return call

    def run(self, number: int, program: str, mode: str = L2, **profile: Any) -> Call:
        call = self.take(number, program, mode, **profile)
        self.runner.run(call)
        return call

    def result(self, count: int = 1) -> Payload:
        """Turn the loop until ``count`` tasks have ended; return the result of the last one."""
        while len(self.endings) < count:
            for key, _ in self.loop.selector.select(0.01):
                key.data()
            self.loop.reap()
            self.runner.look_after()
        _, outcome, body = self.endings[-1]
        assert outcome == failure.RETURNED, body
        return body


Make = Callable[..., Node]


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Make]:
    # They would end and reap processes that are not the node's children.
    monkeypatch.setattr(keeper, "end_children", lambda: None)
    monkeypatch.setattr(keeper, "reap", lambda spare: None)
    made: list[Node] = []

    def begin(*args: Any, **settings: Any) -> Node:
        made.append(Node(tmp_path, *args, **settings))
        return made[-1]

    yield begin
    for node in made:
        node.runner.stop()
        node.loop.selector.close()


SAY = "answer(repr({expression}).encode())"


def evaluated(body: Payload) -> Any:
    assert isinstance(body, bytes)
    return ast.literal_eval(body.decode())


@pytest.mark.parametrize("mode", [L1, L2])
def test_task_runs_and_is_forgotten(make: Make, mode: str) -> None:
    node = make()
    node.run(1, "answer(b'result')", mode)
    assert set(node.runner.calls) == {1}
    assert node.result() == b"result"
    assert node.runner.calls == {}


@pytest.mark.parametrize("serverless", [True, False])
def test_library_is_started_at_once_if_calls_are_expected(make: Make, tmp_path: Path, serverless: bool) -> None:
    node = make(serverless=serverless)
    ready = node.loop.selector.select(10 if serverless else 0)
    assert bool(ready) is serverless
    assert any(name.startswith("started-") for name in os.listdir(tmp_path)) is serverless


@pytest.mark.parametrize(("mode", "asked", "cores"), [(L2, None, 2.0), (L1, None, 1.0), (L2, 3.0, 3.0), (L1, 0.5, 0.5)])
def test_task_gets_its_cores(make: Make, mode: str, asked: float | None, cores: float) -> None:
    call = make().take(1, "", mode, cores=asked, memory=100.0, gpus=1)
    assert call.need == Need(cores, 100.0, Gpus(1.0))


@pytest.mark.parametrize("mode", [L1, L2])
def test_tasks_share_the_nodes_cores(make: Make, mode: str, tmp_path: Path) -> None:
    node = make()
    gate = tmp_path / "gate"
    node.run(1, f"while not os.path.exists({str(gate)!r}): pass\nanswer()", L1, cores=3.0)
    node.run(2, "answer(b'')", mode, cores=2.0)
    node.runner.look_after()
    assert node.endings == []
    gate.touch()
    node.result(2)
    assert [number for number, *_ in node.endings] == [1, 2]


@pytest.mark.parametrize("mode", [L1, L2])
def test_tasks_get_their_environment(make: Make, mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET", "value")
    monkeypatch.setenv("PYTHONPATH", "/before")
    monkeypatch.setenv("OMP_NUM_THREADS", "64")
    node = make(site={"without": ("SECRET",)}, source_root="/package", env_vars={"NAME": "value"})
    names = ["SECRET", "PYTHONPATH", "NAME", "TASKVINE_EXEC_RADIO", "OMP_NUM_THREADS"]
    node.run(1, SAY.format(expression=f"[os.environ.get(name) for name in {names}]"), mode)
    threads = "1" if mode == L1 else "2"
    assert evaluated(node.result()) == [None, f"/before{os.pathsep}/package", "value", "/radio", threads]


@pytest.mark.parametrize("mode", [L1, L2])
def test_tasks_get_a_temporary_directory(make: Make, mode: str, tmp_path: Path) -> None:
    (tmp_path / "short").mkdir()
    node = make(site={"temporary": str(tmp_path / "short")})
    node.run(1, SAY.format(expression="os.environ['TMPDIR']"), mode)
    # All slots of the small program share a process, which has its library's environment.
    assert evaluated(node.result()) == str(tmp_path / "short" / "t1" if mode == L1 else tmp_path / "short")


@pytest.mark.parametrize("mode", [L1, L2])
def test_node_without_a_suitable_python_says_so(make: Make, mode: str) -> None:
    node = make(python_version=(2, 7))
    assert node.runner.broken is not None
    record = pickle.loads(node.runner.broken)
    assert record["kind"] == "library"
    assert "and your program Python 2.7" in record["reason"]


def test_environment_that_cannot_be_used_is_named(make: Make, tmp_path: Path) -> None:
    node = make(env_pack=str(tmp_path / "missing.tar.gz"))
    assert node.runner.broken is not None
    record = pickle.loads(node.runner.broken)
    assert record["kind"] == "environment"
    assert "missing.tar.gz" in record["reason"]


@pytest.mark.parametrize("mode", [L1, L2])
def test_queued_task_is_cancelled_and_returned(make: Make, mode: str) -> None:
    node = make()
    node.run(1, "time.sleep(1000)", L1, cores=4.0)
    second = node.run(2, "answer(b'')", mode)
    assert node.runner.cancel({2, 99}) == [second]


def test_running_task_is_cancelled_and_reported(make: Make) -> None:
    node = make()
    node.run(1, "time.sleep(1000)", L1)
    assert node.runner.cancel({1}) == []
    while not node.endings:
        node.loop.reap()
    ((_, outcome, body),) = node.endings
    assert outcome == failure.LOST
    assert isinstance(body, bytes)
    assert pickle.loads(body)["kind"] == "cancelled"


@pytest.mark.parametrize("mode", [L1, L2])
def test_queued_tasks_are_handed_back(make: Make, mode: str) -> None:
    node = make()
    node.run(1, "time.sleep(1000)", L1, cores=4.0)
    second = node.run(2, "answer(b'')", mode, cores=4.0)
    assert node.runner.hand_back() == [second]
    assert node.runner.hand_back() == []


def test_node_wakes_up_for_due_looks(make: Make) -> None:
    node = make()
    assert node.runner.waits() == []
    idle = node.take(1, "")
    keepalive = node.runner.waits()
    assert len(keepalive) == 1
    limited = node.take(2, "", memory=100.0)
    assert memory.INTERVAL in node.runner.waits()
    node.runner.drop(limited)
    assert node.runner.waits() == keepalive
    node.runner.drop(idle)
    assert node.runner.waits() == []


def test_node_looks_at_slots_with_several_tasks(make: Make) -> None:
    node = make(slots=1)
    node.run(1, "answer(b'', 1e-5)")
    node.result()
    gate = node.directory / "gate"
    hold = f"while not os.path.exists({str(gate)!r}): pass\nanswer(b'', 1e-5)"
    for number in (2, 3, 4):
        node.run(number, hold)
    node.runner.look_after()
    assert LOOK_AT_SLOTS in node.runner.waits()
    gate.touch()
    node.result(4)


def test_parameters_reach_slots_and_l1_tasks(make: Make, tmp_path: Path) -> None:
    node = make()
    node.runner.tune({"max-task-stdout-storage": 3})
    node.run(1, "print('123456'); answer()", L1)
    node.result()
    assert "cut after 3 bytes" in (tmp_path / "tasks.log").read_text()


def test_retired_function_is_forgotten_when_its_tasks_have_ended(make: Make) -> None:
    node = make()
    call = node.take(1, "answer(b'')")
    node.runner.functions.retire(["f"], [1])
    node.runner.look_after()
    node.runner.run(call)
    assert node.result() == b""
    node.runner.look_after()
    late = node.take(2, "answer(b'')")
    with pytest.raises(KeyError, match="f"):
        node.runner.run(late)


def test_named_library_runs_its_calls_beside_the_default_one(make: Make) -> None:
    kind = Library("plain", 2, None, 0)
    node = make(libraries=(LibraryConfig(kind, ("json",), None, "library", 60.0),))
    assert node.runner.libraries == ()
    program = SAY.format(expression="[os.environ['OMP_NUM_THREADS'], config.get('name'), config['import_modules']]")
    node.run(1, program)
    assert evaluated(node.result()) == ["2", None, ()]
    node.run(2, program, library=kind)
    assert evaluated(node.result(2)) == ["1", "plain", ("json",)]
    assert node.runner.libraries == ("plain",)
