"""Staging before tasks: inputs are brought into the sandbox, and reported to the manager."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from taskvine_manager.embedded.staging_in import Sent, StagingIn
from taskvine_manager.node import cache as cache_module
from taskvine_manager.node.cache import Cache
from taskvine_manager.node.calls import Call, Need
from taskvine_manager.node.core import NodeCore
from taskvine_manager.node.replicas import Source
from taskvine_manager.node.sandboxes import Sandboxes
from taskvine_manager.wire.messages import L1, FileUse, Invocation, Profile

PROFILE = Profile(0, "key", "f", L1, None, None, None, None, 0.0, "f")


class Loop:
    """A loop whose staging threads work only when the test says so."""

    def __init__(self) -> None:
        self.work: list[Callable[[], None]] = []

    def in_background(self, action: Callable[..., None], *args: Any) -> None:
        self.work.append(lambda: action(*args))

    def later(self, action: Callable[[], None]) -> None:
        action()

    def turn(self) -> None:
        """Let the staging threads finish their work."""
        while self.work:
            self.work.pop(0)()


class Core(NodeCore):
    """A node's core that only notes the calls of staging."""

    def __init__(self, cache: Cache) -> None:
        super().__init__(cache, {})
        self.arrived: list[str] = []
        self.ready: list[tuple[Call, dict[str, Any] | None]] = []

    def came(self, names: Sequence[str]) -> None:
        self.arrived += names

    def staged(self, call: Call, record: bytes | None) -> None:
        self.ready.append((call, None if record is None else pickle.loads(record)))


class Node:
    """A node's staging, and its reports."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        for name in ("cache", "sandboxes", "elsewhere"):
            (directory / name).mkdir()
        self.loop = Loop()
        self.cache = Cache(str(directory / "cache"), 1000)
        self.core = Core(self.cache)
        self.came, self.staged = self.core.arrived, self.core.ready
        self.said: list[tuple[Any, ...]] = []
        loop: Any = self.loop
        sandboxes = Sandboxes(str(directory / "sandboxes"), loop, in_place=False)
        self.staging = StagingIn(self.cache, sandboxes, self.core, loop, self._send)

    def _send(self, *message: Any) -> None:
        self.said.append(message)

    def elsewhere(self, name: str, text: str) -> Source:
        """Make a replica of a file on another node."""
        path = self.directory / "elsewhere" / name
        path.write_text(text)
        status = path.stat()
        return Source(str(path), status.st_size, status.st_ctime_ns, "other")

    def stage(self, call: Call, values: dict[str, bytes] | None = None, **sources: Source) -> None:
        self.staging.stage(call, Sent(dict(sources), values or {}, {}))

    def read(self, call: Call, name: str) -> str:
        return Path(str(call.directory), "sandbox", name).read_text()


@pytest.fixture
def node(tmp_path: Path) -> Node:
    return Node(tmp_path)


def task(number: int, *inputs: FileUse, outputs: tuple[FileUse, ...] = ()) -> Call:
    return Call(Invocation(number, 0, b"", inputs, outputs), PROFILE, Need(1.0, 0.0))


def temp(name: str) -> FileUse:
    return FileUse("temp", f"{name}.txt", name)


def test_task_without_files_is_staged_at_once(node: Node) -> None:
    call = task(1)
    node.stage(call)
    assert node.staged == [(call, None)]
    assert os.listdir(str(call.directory)) == ["sandbox"]
    assert node.loop.work == []


def test_each_task_has_its_own_sandbox(node: Node) -> None:
    first, again = task(1), task(1)
    node.stage(first)
    node.stage(again)
    assert first.directory != again.directory


def test_file_of_another_node_is_fetched_and_reported(node: Node) -> None:
    call = task(1, temp("x"))
    node.stage(call, x=node.elsewhere("x", "text"))
    assert node.staged == []
    node.loop.turn()
    assert node.read(call, "x.txt") == "text"
    ((kind, name, size, problem, stamp, seconds, spoiled, source),) = node.said
    assert (kind, name, size, problem, spoiled, source) == ("cached", "x", 4, None, False, "other")
    assert (size, stamp) == node.cache.stamp("x")
    assert seconds > 0
    assert node.came == ["x"]
    assert node.staged == [(call, None)]


def test_file_of_the_user_is_reported_when_it_is_new_or_changed(
    node: Node, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache_module, "SETTLED_NS", -(10**12))  # even files that were written just now count as settled
    path = tmp_path / "input"
    for number, text in enumerate(("text", "text", "longer text")):
        if number != 1:
            path.write_text(text)
        call = task(number, FileUse("local", "in.txt", str(path)))
        node.stage(call)
        node.loop.turn()
        assert node.read(call, "in.txt") == text
    assert [message[:3] for message in node.said] == [("input", str(path), 4), ("input", str(path), 11)]


def test_result_that_came_with_the_task_is_not_fetched(node: Node) -> None:
    call = task(1, FileUse("value", "", "x"), outputs=(temp("y"),))
    node.stage(call, {"x": b"result"})
    node.loop.turn()
    assert node.staged == [(call, None)]
    assert call.values == {"x": b"result"}
    assert node.said == []


@pytest.mark.parametrize("damage", ["missing", "changed"])
def test_task_whose_input_is_lost_elsewhere_is_lost(node: Node, damage: str) -> None:
    call, source = task(1, temp("x")), node.elsewhere("x", "text")
    if damage == "missing":
        os.unlink(source.path)
    else:
        Path(source.path).write_text("other text")
    node.stage(call, x=source)
    node.loop.turn()
    ((_, record),) = node.staged
    assert record is not None
    assert (record["kind"], record["name"]) == ("file-lost", "x")
    assert node.came == ["x"], "tasks that wait for it need not wait any longer"


def test_files_before_a_lost_one_are_reported(node: Node) -> None:
    call, lost = task(1, temp("x"), temp("y")), node.elsewhere("y", "text")
    os.unlink(lost.path)
    node.stage(call, x=node.elsewhere("x", "text"), y=lost)
    node.loop.turn()
    assert [message[:2] for message in node.said] == [("cached", "x")]
    assert node.came == ["x", "y"]


def test_result_in_the_cache_that_was_changed_is_lost(node: Node) -> None:
    call = task(1, FileUse("value", "", "x"), outputs=(temp("y"),))
    (node.directory / "made").write_text("result")
    node.cache.adopt("x", str(node.directory / "made"))
    node.stage(call)
    Path(node.cache.path("x")).write_text("changed")
    node.loop.turn()
    ((_, record),) = node.staged
    assert record is not None
    assert (record["kind"], record["name"]) == ("file-lost", "x")


@pytest.mark.parametrize("inputs", [(), (temp("x"),)])
def test_task_whose_sandbox_cannot_be_made_is_lost(node: Node, inputs: tuple[FileUse, ...]) -> None:
    (node.directory / "sandboxes").rmdir()
    (node.directory / "sandboxes").touch()
    node.stage(task(1, *inputs), x=node.elsewhere("x", "text"))
    node.loop.turn()
    ((_, record),) = node.staged
    assert record is not None
    assert record["kind"] == "disk-full"
    assert record["reason"].startswith("no sandbox can be made: ")


def test_any_other_error_is_explained(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError("why")

    monkeypatch.setattr(node.core, "give_results", fail)
    node.stage(task(1, temp("x")), x=node.elsewhere("x", "text"))
    node.loop.turn()
    ((_, record),) = node.staged
    assert record is not None
    assert record["reason"] == "no sandbox can be made: OSError: why"


def test_task_that_is_cancelled_while_it_is_staged_is_lost(node: Node) -> None:
    call = task(1, temp("x"))
    node.stage(call, x=node.elsewhere("x", "text"))
    node.staging.cancel({1, 2}, pickle.dumps({"kind": "cancelled"}))
    node.loop.turn()
    assert node.staged == [(call, {"kind": "cancelled"})]
    node.staging.cancel({1}, b"too late")


def test_replica_is_fetched_on_request(node: Node) -> None:
    source = node.elsewhere("x", "text")
    node.staging.fetch("x", source)
    node.loop.turn()
    ((kind, name, size, problem, stamp, _, spoiled, from_node),) = node.said
    assert (kind, name, size, problem, spoiled, from_node) == ("cached", "x", 4, None, False, "other")
    assert (size, stamp) == node.cache.stamp("x")
    assert node.came == ["x"]


def test_lost_and_unstorable_replicas_are_distinguished(node: Node) -> None:
    large, lost = node.elsewhere("large", "x" * 2000), node.elsewhere("lost", "text")
    os.unlink(lost.path)
    for name, source in (("large", large), ("lost", lost)):
        node.staging.fetch(name, source)
    node.loop.turn()
    (_, _, _, no_room, _, _, is_large_spoiled, _), (_, _, _, no_file, _, _, is_lost_spoiled, _) = node.said
    assert node.came == ["large", "lost"]
    assert (is_large_spoiled, is_lost_spoiled) == (False, True)
    assert no_room
    assert "it no longer exists" in no_file
