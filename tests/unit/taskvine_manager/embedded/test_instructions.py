"""Every instruction of the scheduler is carried out."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, get_args

import pytest

from taskvine_manager.embedded.instructions import Instructions
from taskvine_manager.functions import Functions
from taskvine_manager.node.cache import file_name
from taskvine_manager.node.replicas import Source
from taskvine_manager.record.events import Made
from taskvine_manager.scheduling import events
from taskvine_manager.scheduling.events import Replica
from taskvine_manager.wire.messages import L2, Completion, Invocation, NodeInfo, Profile

PROFILE = Profile(3, "key", "f", L2, None, None, None, None, 0.0, "f")


class Link:
    def __init__(self, directory: str) -> None:
        self.info = NodeInfo("n1", 1.0, 1.0, 1.0, 0, 1, "", 1, directory)

    def news(self, profiles: Any) -> tuple[list[Profile], set[str]]:
        return list(profiles), {"key"}


class Around:
    """A stand-in for the parts that carry out instructions; it notes their calls."""

    def __init__(self) -> None:
        self.said: list[tuple[Any, ...]] = []
        self.admitted = {"n1": Link("/run/nodes/n1"), "n2": Link("/run/nodes/n2")}

    def send(self, *message: Any) -> None:
        self.said.append(message)

    def path(self, file: str) -> str:
        return f"/run/relay/{file}"

    def __getattr__(self, name: str) -> Any:
        return lambda *parts: self.said.append((name, *parts))


@pytest.fixture
def around() -> Around:
    return Around()


@pytest.fixture
def instructions(around: Around) -> Instructions:
    functions = Functions()
    functions.define("key", b"encoded")
    links: Any = around
    return Instructions(links, links, functions, links)


class Task:
    profile = PROFILE
    invocation = Invocation(1, 3, b"")


def in_cache(node: str, file: str) -> str:
    return os.path.join("/run/nodes", node, "cache", file_name(file))


ENDED = Completion(1, 0, b"", "n1", 0.0, 0.0, 0.0)
TASK: Any = Task()
MADE = Made("file", "n1", 3)
CASES: list[tuple[events.Instruction, tuple[Any, ...]]] = [
    (
        events.Run("n1", [TASK], {"file": Replica("n2", 3, 5)}, {"value": b"v"}, {}),
        (
            *("n1", "run", [("key", b"encoded")], [PROFILE], [Task.invocation]),
            *({"file": Source(in_cache("n2", "file"), 3, 5, "n2")}, {"value": b"v"}, {}),
        ),
    ),
    (events.Run("gone", [TASK], {}, {}, {}), ()),
    (
        events.Fetch("n1", "file", Replica("", 3, 5)),
        ("n1", "fetch", "file", Source("/run/relay/file", 3, 5, "")),
    ),
    (
        events.Relay("file", Replica("n2", 3, 5)),
        ("bring", "file", Source(in_cache("n2", "file"), 3, 5, "n2")),
    ),
    (events.Drop("n1", ["file"]), ("n1", "drop", ["file"])),
    (events.Drop(events.RELAY, ["file"]), ("drop", ["file"])),
    (events.Full("n1", [1]), ("n1", "full", [1])),
    (events.Kill("n1", [1]), ("n1", "cancel", [1])),
    (events.Release("n1"), ("n1", "exit")),
    (events.Finish([ENDED]), ("done", [ENDED])),
    (events.RunAgain([1]), ("run_again", [1], "files that it made were lost")),
    (events.Record([MADE]), ("happened", [MADE])),
    (events.Discard([]), ()),
    (events.Answer(7, "file", Replica("n1", 3, 5)), ("located", 7, ("n1", in_cache("n1", "file"), 3, 5))),
    (events.Answer(7, "file", b"bytes"), ("located", 7, b"bytes")),
    (events.Answer(7, "file", None, b"record"), ("located", 7, (b"record",))),
]


@pytest.mark.parametrize(("instruction", "said"), CASES, ids=lambda value: type(value).__name__)
def test_instruction_is_carried_out(
    instructions: Instructions, around: Around, instruction: events.Instruction, said: tuple[Any, ...]
) -> None:
    instructions.carry_out(instruction)
    assert around.said == ([said] if said else [])


def test_files_are_removed(instructions: Instructions, tmp_path: Path) -> None:
    path = tmp_path / "arguments"
    path.touch()
    instructions.carry_out(events.Discard([str(path)]))
    assert not path.exists()


def test_each_type_has_a_case() -> None:
    assert {type(instruction) for instruction, _ in CASES} == set(get_args(events.Instruction))


def test_unknown_instruction_is_an_error(instructions: Instructions) -> None:
    unknown: Any = events.Asked(1, "file")
    with pytest.raises(TypeError, match="unknown instruction of the scheduler: Asked"):
        instructions.carry_out(unknown)
