"""A slot's process answers each packet. The test acts as its node."""

from __future__ import annotations

import json
import os
import pickle
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cloudpickle
import pytest

from taskvine_manager.runtime import failure, payload, values
from taskvine_manager.runtime.slot import PACKET_LIMIT

PROGRAM = """
import json, socket, sys
from taskvine_manager.runtime import limits, slot
slot.serve(socket.socket(fileno=int(sys.argv[1])), *sys.argv[2:4], **json.loads(sys.argv[4]))
"""


class Slot:
    """The process of a slot, and the node's end of its socket."""

    def __init__(self, directory: Path, /, **settings: Any) -> None:
        self.scratch, self.spool = directory / "scratch", directory / "spool"
        self.spool.mkdir(exist_ok=True)
        self.socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        command = [sys.executable, "-c", PROGRAM, str(theirs.fileno()), str(self.scratch), str(self.spool)]
        with theirs, open(directory / "output", "wb") as output:
            self.process = subprocess.Popen(
                [*command, json.dumps(settings)],
                pass_fds=[theirs.fileno()],
                env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
                stdout=output,
                stderr=output,
            )

    def send(self, *packet: Any) -> None:
        self.socket.send(pickle.dumps(packet))

    def define(self, key: str, function: Callable[..., Any]) -> None:
        self.send("f", key, cloudpickle.dumps(function))

    def call(self, number: int, key: str, *args: Any, sandbox: Path | None = None, given: Any = None) -> None:
        self.send("c", number, key, pickle.dumps((args, {})), None if sandbox is None else str(sandbox), given)

    def hear(self) -> tuple[Any, ...]:
        packet: tuple[Any, ...] = pickle.loads(self.socket.recv(PACKET_LIMIT))
        return packet

    def result(self) -> tuple[int, Any, tuple[str, ...]]:
        """Receive the answer to a task; return its number, its result, and the files that it has left."""
        kind, number, outcome, body, started, seconds, left = self.hear()
        assert (kind, outcome) == ("r", failure.RETURNED), payload.decode(body)
        assert started > 0
        assert seconds >= 0
        return number, payload.decode(body), left

    def record(self) -> dict[str, Any]:
        """Receive the answer to a task that is lost; return its failure record."""
        kind, _, outcome, body, *_ = self.hear()
        assert (kind, outcome) == ("r", failure.LOST)
        record: dict[str, Any] = pickle.loads(body)
        return record

    def end(self) -> int:
        """Close the socket; return the exit status of the process."""
        self.socket.close()
        return self.process.wait(30)

    def close(self) -> None:
        try:
            self.end()
        finally:
            self.process.kill()


Start = Callable[..., Slot]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    made: list[Slot] = []

    def begin(**settings: Any) -> Slot:
        made.append(Slot(tmp_path, **settings))
        return made[-1]

    yield begin
    for each in made:
        each.close()


def double(number: int) -> int:
    return 2 * number


def write(name: str) -> str:
    with open(name, "w") as file:
        file.write("text")
    return os.getcwd()


class Reference:
    """Pickles as a reference to a result does."""

    def __init__(self, number: str) -> None:
        self.number = number

    def __reduce__(self) -> tuple[Any, ...]:
        return values.fetch, (self.number,)


def test_tasks_are_answered_one_after_another(start: Start) -> None:
    slot = start()
    slot.define("double", double)
    for number in (1, 2, 3):
        slot.call(number, "double", 10 * number)
    assert [slot.result() for _ in range(3)] == [(1, 20, ()), (2, 40, ()), (3, 60, ())]
    assert slot.end() == 0
    assert not slot.scratch.exists()


def test_function_that_was_taken_back_is_missed(start: Start) -> None:
    slot = start()
    slot.call(1, "double", 1)
    assert slot.hear() == ("u", 1)
    slot.define("double", double)
    slot.call(1, "double", 1)
    assert slot.result() == (1, 2, ())


def test_forgotten_function_is_missed(start: Start) -> None:
    slot = start()
    slot.define("double", double)
    slot.call(1, "double", 1)
    slot.send("d", ["double", "unknown"])
    slot.call(2, "double", 1)
    assert slot.result() == (1, 2, ())
    assert slot.hear() == ("u", 2)


def test_function_that_cannot_be_loaded_is_explained(start: Start, tmp_path: Path) -> None:
    slot = start()
    given = payload.encode({"r": b"x" * payload.INLINE_LIMIT}, str(slot.spool), pickle.dumps)
    assert isinstance(given, str)
    slot.send("f", "broken", b"not a pickle")
    slot.call(1, "broken", given=given)
    assert slot.record()["kind"] == "function-load"
    assert not os.path.exists(given), "the results that the task would have read"
    slot.define("double", double)
    slot.call(2, "double", 1)
    assert slot.result() == (2, 2, ())


@pytest.mark.parametrize("size", [1, 2 * payload.INLINE_LIMIT])
def test_results_of_other_tasks_are_arguments(start: Start, size: int) -> None:
    slot = start()
    slot.define("length", len)
    given = payload.encode({"1@r": pickle.dumps(b"x" * size)}, str(slot.spool), pickle.dumps)
    slot.call(2, "length", Reference("1@r"), given=given)
    assert slot.result() == (2, size, ())
    assert list(slot.spool.iterdir()) == []


def test_large_result_is_in_a_file(start: Start) -> None:
    slot = start(limit=100)
    slot.define("repeat", lambda count: "x" * count)
    slot.call(1, "repeat", 1000)
    assert slot.result() == (1, "x" * 1000, ())
    assert len(list(slot.spool.iterdir())) == 1


def test_task_without_a_sandbox_runs_in_a_directory_that_is_emptied(start: Start) -> None:
    slot = start()
    slot.define("write", write)
    slot.define("entries", os.listdir)
    slot.call(1, "write", "a.txt")
    slot.call(2, "entries")
    assert slot.result() == (1, str(slot.scratch), ("a.txt",))
    assert slot.result() == (2, [], ())


def test_task_runs_in_its_sandbox(start: Start, tmp_path: Path) -> None:
    slot = start()
    (tmp_path / "sandbox").mkdir()
    slot.define("write", write)
    slot.call(1, "write", "a.txt", sandbox=tmp_path / "sandbox")
    assert slot.result() == (1, str(tmp_path / "sandbox"), ())
    assert (tmp_path / "sandbox" / "a.txt").exists()


def test_task_runs_in_the_users_directory(start: Start, tmp_path: Path) -> None:
    (tmp_path / "project").mkdir()
    slot = start(directory=str(tmp_path / "project"))
    slot.define("write", write)
    slot.call(1, "write", "a.txt")
    assert slot.result() == (1, str(tmp_path / "project"), ())
    assert (tmp_path / "project" / "a.txt").exists()


def test_users_directory_that_the_node_does_not_see_is_named(start: Start, tmp_path: Path) -> None:
    slot = start(directory=str(tmp_path / "project"))
    given = payload.encode({"r": b"x" * payload.INLINE_LIMIT}, str(slot.spool), pickle.dumps)
    assert isinstance(given, str)
    slot.define("double", double)
    slot.call(1, "double", 1, given=given)
    record = slot.record()
    assert (record["kind"], record["path"]) == ("directory-missing", str(tmp_path / "project"))
    assert not os.path.exists(given)
    (tmp_path / "project").mkdir()
    slot.call(2, "double", 1)
    assert slot.result() == (2, 2, ())


def test_node_hears_when_a_task_with_a_memory_limit_starts(start: Start) -> None:
    slot = start(memory=1e6)
    slot.define("double", double)
    slot.call(1, "double", 1)
    slot.call(2, "double", 2)
    assert slot.hear() == ("l", "double")
    assert [slot.result()[0] for _ in range(2)] == [1, 2]


def test_fresh_slot_that_holds_too_much_says_so(start: Start) -> None:
    slot = start(memory=1.0)
    slot.define("double", double)
    slot.call(1, "double", 1)
    kind, number, held, is_fresh = slot.hear()
    assert (kind, number, is_fresh) == ("e", 1, True)
    assert held > 1.0
    assert slot.end() == 0


def test_slot_that_tasks_have_filled_says_so(start: Start) -> None:
    slot = start(memory=1.0, own=200.0)

    def fill() -> None:
        sys.modules["held"] = b"x" * (300 << 20)  # type: ignore[assignment]

    slot.define("fill", fill)
    slot.define("double", double)
    slot.call(1, "fill")
    slot.call(2, "double", 1)
    assert slot.hear() == ("l", "fill")
    assert slot.result() == (1, None, ())
    kind, number, held, is_fresh = slot.hear()
    assert (kind, number, is_fresh) == ("e", 2, False)
    assert held > 300


def test_slot_that_cannot_be_restored_ends(start: Start, tmp_path: Path) -> None:
    slot = start()
    slot.define("leave", os.setsid)
    slot.call(1, "leave")
    assert slot.result() == (1, None, ())
    assert slot.hear() == ("e", None, 0.0, False)
    assert slot.process.wait(30) == 0
    assert "PermissionError" in (tmp_path / "output").read_text()


def test_slot_whose_limits_a_task_has_lowered_ends(start: Start) -> None:
    slot = start()

    def lower() -> None:
        import resource

        resource.setrlimit(resource.RLIMIT_NOFILE, (100, 100))
        if os.getuid() == 0:  # root may raise limits again
            os.setuid(65534)

    slot.define("lower", lower)
    slot.call(1, "lower")
    assert slot.result() == (1, None, ())
    assert slot.hear() == ("e", None, 0.0, False)


def test_end_of_the_node_ends_the_slot(start: Start, tmp_path: Path) -> None:
    slot = start()
    slot.define("double", double)
    slot.call(1, "double", 1)
    assert slot.end() == 0, "it may have tried to answer"
    assert (tmp_path / "output").read_text() == ""
