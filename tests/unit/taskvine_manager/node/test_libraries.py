"""Several libraries on a node: calls find theirs, and idle ones end for others. Small programs take their part."""

from __future__ import annotations

import itertools
import os
import pickle
import selectors
import socket
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from taskvine_manager.node.calls import Call, Need, Resources, Shared
from taskvine_manager.node.devices import Devices, Gpus
from taskvine_manager.node.libraries import Libraries
from taskvine_manager.node.library import Library
from taskvine_manager.node.limits import Kills
from taskvine_manager.node.named_slots import NamedSlots
from taskvine_manager.node.places import Place
from taskvine_manager.node.slots import Slots
from taskvine_manager.runtime import failure
from taskvine_manager.runtime.payload import Payload
from taskvine_manager.wire import messages
from taskvine_manager.wire.messages import L2, Invocation, Profile
from tests.unit.taskvine_manager.node.test_slots import PROGRAM

ONE, TWO = messages.Library("one", 1, None, 1), messages.Library("two", 1, 400.0, 1)
PLAIN = messages.Library("plain", 2, None, 0)
NAME = "answer(str(config.get('name')).encode())"


class Node:
    """A node with two cores and a gpu, a default library, and the named ones."""

    def __init__(self, directory: Path, programs: dict[str, str]) -> None:
        usual: dict[str, Any] = {
            **dict.fromkeys(("log", "scratch", "spool"), str(directory)),
            **dict.fromkeys(("directory", "temporary", "context")),
            "gpu_kind": "nvidia",
            "start_timeout": 60.0,
            "slot_cores": 1.0,
            "env_vars": {},
            "context_scope": "library",
        }
        self.resources = Resources(2.0, 1000.0, Devices(["0"]))
        self.endings: dict[int, tuple[int, Payload]] = {}
        self.oneshot: Call | None = None
        self._directory = directory
        self._selector = selectors.DefaultSelector()
        numbers, functions = itertools.count(), {"f": b""}

        def slots(kind: Callable[..., Any], name: str | None, resources: Any) -> Any:
            config = {**usual, "name": name}
            command = [sys.executable, "-Ic", programs.get(str(name), PROGRAM)]
            kills = Kills([], 0.0, lambda path: None)
            self.processes[name] = Library(command, dict(os.environ), config, kills, lambda text: None)
            shared = Shared(config, functions, resources, self._report, kills)
            return kind(self.processes[name], shared, self._watch, self._selector.unregister, numbers)

        self.processes: dict[str | None, Library] = {}
        self.named: dict[str, NamedSlots] = {}
        for library in (ONE, TWO, PLAIN):
            place = Place(self.resources, library)
            self.named[library.name] = slots(partial(NamedSlots, place), library.name, place)
        self.libraries = Libraries(slots(Slots, None, self.resources), self.named, self.resources, lambda: self.oneshot)

    def _watch(self, channel: socket.socket, callback: Callable[[], None]) -> None:
        self._selector.register(channel, selectors.EVENT_READ, callback)

    def _report(self, call: Call, outcome: int, body: Payload, started: float, seconds: float) -> None:
        self.endings[call.invocation.number] = outcome, body

    def call(self, number: int, library: messages.Library | None = None, program: str = NAME, gpus: int = 0) -> Call:
        profile = Profile(1, "f", "name of f", L2, None, None, None, None, 0.0, "f", library=library)
        shares = 1 if library is not None and library.gpus else gpus
        return Call(Invocation(number, 1, program.encode()), profile, Need(1.0, 0.0, Gpus(shares)))

    def add(self, *args: Any, **kwargs: Any) -> None:
        self.libraries.add(self.call(*args, **kwargs))
        self.libraries.pump()

    def turn(self) -> None:
        """Turn the loop once, as a node's runner does."""
        for key, _ in self._selector.select(self.libraries.wait or 0.01):
            key.data()
        self.libraries.rebalance()
        self.libraries.look(time.monotonic())

    def until(self, holds: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 30
        while not holds():
            assert time.monotonic() < deadline
            self.turn()

    def results(self, *numbers: int) -> list[str]:
        self.until(lambda: self.endings.keys() >= set(numbers))
        return [_told(*self.endings[number]) for number in numbers]

    @property
    def slots(self) -> list[Slots]:
        return [self.libraries._default, *self.named.values()]

    def starts(self) -> int:
        return sum(name.startswith("started-") for name in os.listdir(self._directory))

    def close(self) -> None:
        self.libraries.stop()
        self._selector.close()


def _told(outcome: int, body: Any) -> str:
    return str(body.decode() if outcome == failure.RETURNED else pickle.loads(body)["reason"])


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Callable[..., Node]]:
    made: list[Node] = []

    def begin(**programs: str) -> Node:
        made.append(Node(tmp_path, programs))
        return made[-1]

    yield begin
    for node in made:
        node.close()


Make = Callable[..., Node]


def test_calls_run_in_their_library(make: Make) -> None:
    node = make()
    for number, library in enumerate((ONE, None, PLAIN, None, ONE)):
        node.add(number, library)
    assert node.results(0, 1, 2, 3, 4) == ["one", "None", "plain", "None", "one"]
    assert sorted(node.libraries.names) == ["one", "plain"]
    assert node.starts() == 3


def test_named_library_waits_for_a_call(make: Make) -> None:
    node = make()
    node.libraries.start()
    node.add(0)
    assert node.results(0) == ["None"]
    assert (node.starts(), node.libraries.names) == (1, ())
    assert node.resources.devices.free == ["0"]


def test_idle_library_ends_for_another(make: Make) -> None:
    node = make()
    node.add(0, ONE)
    assert node.results(0) == ["one"]
    first = node.processes["one"].pid
    node.add(1, TWO)
    assert node.results(1) == ["two"]
    assert node.libraries.names == ("two",)
    assert (node.resources.devices.free, node.resources.memory) == ([], 600.0)
    assert node.processes["one"].channel is None
    assert not os.path.exists(f"/proc/{first}")
    node.add(2, ONE)
    assert node.results(2) == ["one"]


@pytest.mark.parametrize("kind", ["a call", "an L1 task"])
def test_idle_library_ends_for_a_task(make: Make, kind: str) -> None:
    node = make()
    node.add(0, ONE)
    assert node.results(0) == ["one"]
    if kind == "a call":
        node.add(1, gpus=1)
        assert node.results(1) == ["None"]
    else:
        node.oneshot = node.call(1, gpus=1)
        node.until(lambda: node.resources.devices.free == ["0"])
    assert node.libraries.names == ()


def test_idle_library_stays_if_nothing_of_it_is_needed(make: Make) -> None:
    node = make()
    node.add(0, ONE)
    node.results(0)
    node.add(1, PLAIN)
    node.add(2)
    node.oneshot = node.call(3)
    assert node.results(1, 2) == ["plain", "None"]
    assert sorted(node.libraries.names) == ["one", "plain"]


def test_busy_library_stays_until_its_task_has_ended(make: Make, tmp_path: Path) -> None:
    node = make()
    gate = tmp_path / "gate"
    node.add(0, ONE, f"while not os.path.exists({str(gate)!r}): pass\n{NAME}")
    node.until(lambda: "one" in node.libraries.names)
    node.add(1, TWO)
    node.add(2)
    assert node.results(2) == ["None"]
    assert node.libraries.names == ("one",)
    gate.touch()
    assert node.results(0, 1) == ["one", "two"]


def test_later_call_does_not_bring_an_ended_library_back_first(make: Make) -> None:
    """Otherwise two libraries with few calls each could keep a third one out."""
    node = make()
    node.add(0, ONE)
    node.results(0)
    node.oneshot = node.call(1, gpus=1)
    node.turn()
    node.add(2, ONE)
    node.until(lambda: node.resources.devices.free == ["0"])
    for _ in range(5):
        node.turn()
    assert node.resources.devices.free == ["0"], "it is kept for the L1 task"
    node.oneshot = None
    assert node.results(2) == ["one"]


FAILING = """
import pickle, socket, sys
channel = socket.socket(fileno=int(sys.argv[1]))
channel.recv(1 << 18)
channel.send(pickle.dumps(("failed", "context", pickle.dumps({"kind": "context", "reason": "no model"}))))
"""


def test_library_that_fails_fails_its_own_calls_and_frees_its_place(make: Make) -> None:
    node = make(one=FAILING)
    for number, library in enumerate((ONE, TWO, None, ONE)):
        node.add(number, library)
    assert node.results(0, 1, 2, 3) == ["no model", "two", "None", "no model"]
    assert node.libraries.names == ("two",)


def test_library_that_dies_keeps_its_place_for_its_calls(make: Make) -> None:
    node = make()
    node.add(0, ONE)
    node.results(0)
    node.add(
        1,
        ONE,
        f"first = not os.path.exists(config['log'] + '/died')\n"
        f"open(config['log'] + '/died', 'w').close()\nfirst and os._exit(1)\n{NAME}",
    )
    assert node.results(1) == ["one"]
    assert node.libraries.names == ("one",)


def test_slot_that_hangs_at_its_end_does_not_keep_the_place(make: Make) -> None:
    node = make(one=PROGRAM.replace("            die()", "            slots.pop(slot)"))
    node.add(0, ONE)
    node.results(0)
    node.add(1, TWO)
    assert node.results(1) == ["two"]


def test_slots_have_different_numbers(make: Make) -> None:
    node = make()
    for number, library in enumerate((ONE, PLAIN, None)):
        node.add(number, library)
    node.results(0, 1, 2)
    numbers = [slot for slots in node.slots for slot in slots._pool.slots]
    assert len(set(numbers)) == len(numbers) == 3


def test_requests_reach_all_libraries(make: Make, tmp_path: Path) -> None:
    node = make()
    began, gate = str(tmp_path / "began"), str(tmp_path / "gate")
    program = f"open({began!r} + str(number), 'w')\nwhile not os.path.exists({gate!r}): pass\n{NAME}"
    node.add(0, PLAIN, program)
    node.add(1, None, program)
    node.until(lambda: len(list(tmp_path.glob("began*"))) == 2)
    node.add(2, PLAIN)
    node.add(3, ONE)
    assert sorted(call.invocation.number for call in node.libraries.cancel({2, 3}, b"cancelled")) == [2, 3]
    node.add(4, PLAIN)
    assert [call.invocation.number for call in node.libraries.hand_back()] == [4]
    (tmp_path / "gate").touch()
    assert node.results(0, 1) == ["plain", "None"]
    node.libraries.forget_functions({"f"})
    assert not any(slot.functions for slots in node.slots for slot in slots._pool.slots.values())
    node.processes["plain"].kill("it was stopped")
    node.until(lambda: "plain" not in node.libraries.names)
