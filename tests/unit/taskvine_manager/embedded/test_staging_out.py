"""Staging after tasks: results and outputs go into the cache, or wait for space."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from taskvine_manager.embedded.staging_out import StagingOut
from taskvine_manager.node import copying, sandboxes
from taskvine_manager.node.cache import Cache
from taskvine_manager.node.calls import Call, Ending, Need
from taskvine_manager.node.core import NodeCore
from taskvine_manager.runtime import failure
from taskvine_manager.wire.messages import L1, L2, FileUse, Invocation, Profile
from tests.unit.taskvine_manager.embedded.test_staging_in import Loop

PROFILE = Profile(0, "key", "f", L2, None, None, None, None, 0.0, "f")
VALUE = FileUse("value", "", "x")


class Core(NodeCore):
    """A node's core that only notes the calls of staging, and keeps the outputs that wait for space."""

    def __init__(self, cache: Cache) -> None:
        super().__init__(cache, {})
        self.ready: list[Ending] = []
        self.asked: list[tuple[int, int]] = []
        self.do: Any = type("Actions", (), {"crowded": lambda _, *asked: self.asked.append(asked)})()

    def kept(self, call: Call, ending: Ending) -> None:
        self.ready.append(ending)


class Node:
    """Staging with a cache of 1000 bytes."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        for name in ("cache", "spool"):
            (directory / name).mkdir()
        self.loop = Loop()
        self.cache = Cache(str(directory / "cache"), 1000)
        self.core = Core(self.cache)
        loop: Any = self.loop
        self.staging = StagingOut(self.cache, loop, self.core)

    def made(self, size: int) -> str:
        """Write a large result as a slot does, and return its path."""
        path = self.directory / "spool" / f"result-{size}"
        path.write_bytes(b"x" * size)
        return str(path)

    def task(self, *outputs: FileUse, **files: str) -> Call:
        """Make a task whose sandbox contains these files."""
        call = Call(Invocation(1, 0, b"", (), outputs), PROFILE._replace(mode=L1), Need(1.0, 0.0))
        call.directory = str(self.directory / "task")
        os.makedirs(sandboxes.path(call))
        for name, text in files.items():
            Path(sandboxes.path(call), name).write_text(text)
        return call

    def keep(self, call: Call, body: bytes | str, outcome: int = failure.RETURNED) -> None:
        self.staging.keep(call, Ending(outcome, body, 1.0, 2.0))
        self.loop.turn()

    @property
    def ending(self) -> Ending:
        (ending,) = self.core.ready
        return ending

    @property
    def record(self) -> dict[str, Any]:
        assert self.ending.outcome == failure.LOST
        assert isinstance(self.ending.body, bytes)
        return dict(pickle.loads(self.ending.body))


@pytest.fixture
def node(tmp_path: Path) -> Node:
    return Node(tmp_path)


def call(*outputs: FileUse) -> Call:
    return Call(Invocation(1, 0, b"", (), outputs), PROFILE, Need(1.0, 0.0))


def temp(name: str) -> FileUse:
    return FileUse("temp", f"{name}-file", name)


def test_small_result_stays_as_it_is(node: Node) -> None:
    node.keep(call(VALUE), b"result")
    assert node.ending == Ending(failure.RETURNED, b"result", 1.0, 2.0)


def test_large_result_moves_into_the_cache(node: Node) -> None:
    made = node.made(10)
    node.keep(call(VALUE), made)
    assert node.ending.body == node.cache.path("x")
    assert node.ending.made == (("x", *node.cache.stamp("x")),)
    assert node.cache.stamp("x")[0] == 10
    assert not os.path.exists(made)


def test_large_result_waits_for_space(node: Node) -> None:
    node.keep(call(VALUE), node.made(900))
    node.keep(call(FileUse("value", "", "y")), node.made(200))
    assert node.core.asked == [(1, 200)]
    assert len(node.core.ready) == 1
    node.staging.drop(("x",))
    assert node.core.ready[1].made == (("y", *node.cache.stamp("y")),)


def test_large_result_is_discarded_when_it_is_given_up(node: Node) -> None:
    made = node.made(1001)
    node.keep(call(VALUE), made)
    node.core.give_up((1,))
    assert node.record["kind"] == "disk-full"
    assert "no room for the result: the node's cache can provide 1000 bytes" in node.record["reason"]
    assert not os.path.exists(made)


def test_large_result_on_a_full_disk_is_lost(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(copying, "move", full)
    node.keep(call(VALUE), node.made(10))
    assert node.record["reason"] == "no room for the result: No space left on device"


def test_outputs_of_an_l1_task_are_brought_out(node: Node, tmp_path: Path) -> None:
    outside = FileUse("local", "report", str(tmp_path / "report"))
    node.keep(node.task(temp("t"), outside, **{"t-file": "text", "report": "words"}), b"result")
    assert node.ending == Ending(failure.RETURNED, b"result", 1.0, 2.0, (("t", *node.cache.stamp("t")),))
    assert (tmp_path / "report").read_text() == "words"


def test_missing_output_fails_the_task_and_drops_its_result(node: Node) -> None:
    node.keep(node.task(VALUE, temp("t")), node.made(10))
    assert node.record["kind"] == "output-missing"
    assert node.ending.made == ()
    assert "x" not in node.cache


def test_missing_output_of_a_failed_task_does_not_hide_its_exception(node: Node) -> None:
    node.keep(node.task(temp("t")), b"exception", failure.RAISED)
    assert node.ending == Ending(failure.RAISED, b"exception", 1.0, 2.0)


def test_outputs_wait_for_space(node: Node) -> None:
    node.keep(call(VALUE), node.made(900))
    node.keep(node.task(temp("t"), **{"t-file": "x" * 200}), b"result")
    assert node.core.asked == [(1, 200)]
    node.staging.drop(("x",))
    node.loop.turn()
    assert node.core.ready[1].made == (("t", *node.cache.stamp("t")),)


def test_outputs_are_lost_when_they_are_given_up(node: Node) -> None:
    node.keep(node.task(temp("t"), **{"t-file": "x" * 1001}), b"result")
    give_up: Callable[[], None] = partial(node.core.give_up, (1,))
    give_up()
    assert node.record["kind"] == "disk-full"
    assert node.record["reason"].startswith("no room for an output: ")
