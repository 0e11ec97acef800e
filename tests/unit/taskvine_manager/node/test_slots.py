"""Slots and their library together: tasks that end, are lost, or are taken back. A small program acts as both."""

from __future__ import annotations

import errno
import os
import pickle
import selectors
import socket
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from taskvine_manager.node.calls import Call, Need, Resources, Shared
from taskvine_manager.node.devices import Devices, Gpus
from taskvine_manager.node.library import Library
from taskvine_manager.node.limits import Kills
from taskvine_manager.node.slot_process import SlotProcess
from taskvine_manager.node.slots import Slots
from taskvine_manager.runtime import failure, payload
from taskvine_manager.runtime.payload import Payload
from taskvine_manager.wire.messages import L2, Invocation, Profile

# A library and all its slots in one process. The arguments of a task are the program that it runs.
PROGRAM = """
import os, pickle, select, socket, sys
channel = socket.socket(fileno=int(sys.argv[1]))
config = pickle.loads(channel.recv(1 << 18))
open(os.path.join(config["log"], f"started-{os.getpid()}"), "w").close()
slots = {}
def say(end, *packet): end.send(pickle.dumps(packet))
def answer(body, seconds=0.5): say(slot, "r", number, 0, body, 1.0, seconds, ())
def die(): say(channel, "exited", slots.pop(slot), 0x300)
say(channel, "warm")
while True:
    for slot in select.select([channel, *slots], [], [])[0]:
        if slot is channel:
            packet, descriptors, _, _ = socket.recv_fds(channel, 1 << 18, 1)
            packet or os._exit(0)
            slots[socket.socket(fileno=descriptors[0])] = pickle.loads(packet)[1]
        elif not (packet := slot.recv(1 << 18)):
            die()
        elif (message := pickle.loads(packet))[0] == "c":
            _, number, key, arguments, _, _ = message
            exec(arguments)
"""


class Node:
    """The loop of a node with one core, and the ends of its tasks."""

    def __init__(self, directory: Path, program: str = PROGRAM, /, **settings: Any) -> None:
        config: dict[str, Any] = {
            **dict.fromkeys(("log", "scratch", "spool"), str(directory)),
            **dict.fromkeys(("directory", "temporary", "context", "gpu_kind")),
            "start_timeout": 60.0,
            "slot_cores": 1.0,
            "env_vars": {},
            "context_scope": "library",
            **settings,
        }
        self.resources = Resources(1.0, 1000.0, Devices(["0", "1"] if settings.get("gpu_kind") else []))
        self.endings: list[tuple[Call, int, Payload]] = []
        self.then: Callable[[], object] = lambda: None
        self._directory = directory
        self._selector = selectors.DefaultSelector()
        kills = Kills([], 0.0, lambda path: None)
        command = [sys.executable, "-Ic", program]
        self.library = Library(command, dict(os.environ), config, kills, lambda text: None)
        self.functions: dict[str, Payload] = {"f": b""}
        self.slots = Slots(
            self.library,
            Shared(config, self.functions, self.resources, self._report, kills),
            self._watch,
            self._unwatch,
        )

    def _watch(self, channel: socket.socket, callback: Callable[[], None]) -> None:
        self._selector.register(channel, selectors.EVENT_READ, callback)

    def _unwatch(self, channel: socket.socket) -> None:
        self._selector.unregister(channel)

    def _report(self, call: Call, outcome: int, body: Payload, started: float, seconds: float) -> None:
        self.endings.append((call, outcome, body))
        then, self.then = self.then, lambda: None
        then()

    def add(
        self,
        number: int,
        program: str,
        memory: float = 0.0,
        values: dict[str, Payload] | None = None,
        cores: float = 1.0,
        gpus: int = 0,
    ) -> Call:
        profile = Profile(1, "f", "name of f", L2, None, None, None, None, 0.0, "f")
        call = Call(Invocation(number, 1, program.encode()), profile, Need(cores, memory, Gpus(gpus)))
        call.values = values or {}
        self.slots.add(call)
        self.slots.pump()
        return call

    def step(self, seconds: float = 10.0) -> None:
        for key, _ in self._selector.select(seconds):
            key.data()

    def run(self, count: int) -> list[tuple[int, int, Any]]:
        """Run the loop until ``count`` tasks have ended; return their numbers, outcomes and results or reasons."""
        while len(self.endings) < count:
            self.step()
        return [
            (call.invocation.number, outcome, body if outcome == failure.RETURNED else pickle.loads(body)["reason"])  # type: ignore[arg-type]
            for call, outcome, body in self.endings
        ]

    def starts(self) -> int:
        """Number of times that a library was started."""
        return len([name for name in os.listdir(self._directory) if name.startswith("started-")])

    def close(self) -> None:
        self.slots.stop()
        self._selector.close()


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    made = Node(tmp_path)
    yield made
    made.close()


def test_tasks_run_one_after_another(node: Node) -> None:
    calls = [node.add(number, f"answer(b'{number}')") for number in range(3)]
    assert node.run(3) == [(number, failure.RETURNED, f"{number}".encode()) for number in range(3)]
    assert [ending[0] for ending in node.endings] == calls
    assert 0 < calls[0].dispatched <= calls[1].dispatched
    assert node.resources.cores == 1
    assert node.starts() == 1


RESULTS: dict[str, Payload] = {"1@r": b"x" * payload.INLINE_LIMIT, "2@r": b"small"}


def test_results_that_a_task_reads_come_with_it(node: Node, tmp_path: Path) -> None:
    taken = "given = message[-1]; path = os.path.join(config['spool'], 'taken'); os.path.exists(path) or "
    # The first process removes the file and dies: the task is sent again with another file.
    node.add(1, taken + "(os.rename(given, path), os._exit(0)); answer(given)", values=RESULTS)
    ((_, _, path),) = node.run(1)
    assert payload.decode(path) == payload.decode(str(tmp_path / "taken")) == RESULTS


def test_task_whose_results_cannot_be_written_is_lost(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(payload, "write_file", full)
    node.add(1, "answer(b'')", values=RESULTS)
    node.add(2, "answer(b'')")
    (_, outcome, reason), second = node.run(2)
    assert (outcome, second) == (failure.LOST, (2, failure.RETURNED, b""))
    assert reason == "name of f cannot be started: [Errno 28] No space left on device"
    assert node.resources.cores == 1


def test_task_of_a_dead_slot_is_lost_and_the_next_gets_a_new_one(node: Node) -> None:
    node.add(1, "die()")
    node.add(2, "answer(b'')")
    assert node.run(2) == [(1, failure.LOST, "while it ran name of f"), (2, failure.RETURNED, b"")]
    assert pickle.loads(node.endings[0][2])["exit_code"] == 3  # type: ignore[arg-type]


def test_task_of_a_library_that_dies_runs_once_more(node: Node) -> None:
    node.add(1, "os._exit(3)")
    node.add(2, "answer(b'')")
    assert node.run(2) == [(1, failure.LOST, "the library exited with status 3"), (2, failure.RETURNED, b"")]
    assert node.starts() == 3


def test_library_that_ends_without_tasks_is_started_for_the_next_one(node: Node) -> None:
    node.add(1, "answer(b''); os._exit(0)")
    node.run(1)
    library = node.library.pid
    while os.path.exists(f"/proc/{library}"):
        node.step(0.01)  # the loop sees the end of the library, and reaps it
    node.add(2, "answer(b'')")
    node.run(2)
    assert node.starts() == 2


def test_unusable_slot_ends_after_its_task(node: Node) -> None:
    node.add(1, "answer(b''); say(slot, 'e', None, 0.0, False)")
    node.add(2, "answer(b'')")
    assert [ending[1] for ending in node.run(2)] == [failure.RETURNED] * 2


def test_task_whose_limit_is_too_low_for_its_function_is_refused(node: Node) -> None:
    for number in (1, 2):
        node.add(number, "say(slot, 'e', number, 150.0, True)", memory=100.0)
    reason = "ask for more memory to run name of f"
    assert node.run(2) == [(1, failure.LOST, reason), (2, failure.LOST, reason)]
    assert pickle.loads(node.endings[0][2])["slot_mb"] == 150.0  # type: ignore[arg-type]
    assert node.resources.memory == 1000


def test_slot_with_malformed_answers_is_given_up(node: Node) -> None:
    node.add(1, "slot.send(b'nonsense'); die()")
    ((_, _, reason),) = node.run(1)
    assert reason.startswith("while it ran name of f: its process sent a malformed packet")


def test_pending_tasks_can_be_taken_back(node: Node) -> None:
    node.add(1, "answer(b'')")
    calls = [node.add(number, "answer(b'')") for number in (2, 3, 4)]
    assert node.slots.cancel({3, 99}, b"") == [calls[1]]
    node.run(1)
    assert set(node.slots.hand_back()) <= {calls[0], calls[2]}
    assert len(node.endings) == 1


def test_surplus_tasks_are_taken_back_from_slots(node: Node, tmp_path: Path) -> None:
    node.add(1, "answer(b'', 1e-5)")
    node.run(1)  # tasks like it are known to be short, so a slot gets several at once
    began, gate = tmp_path / "began", tmp_path / "gate"
    os.mkfifo(began)
    program = f"open({str(began)!r}, 'w')\nwhile not os.path.exists({str(gate)!r}): pass\nanswer(b'')"
    node.add(2, program)
    calls = [node.add(number, "answer(b'')") for number in (3, 4, 5)]
    began.read_text()  # waits until the task has begun
    assert node.slots.surplus({"other"}) == []
    assert node.slots.surplus({"f"}) == calls[1:]
    gate.touch()
    assert [ending[0] for ending in node.run(3)[1:]] == [2, 3]


def test_cancelled_task_is_reported_when_its_slot_has_died(node: Node, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    node.add(1, f"say(slot, 'l', 'f')\nwhile not os.path.exists({str(gate)!r}): pass\ndie()")
    node.add(2, "answer(b'')")
    node.step()  # the library is warm
    node.step()  # the function is loaded, and the task runs
    assert node.slots.cancel({1}, failure.lost("cancelled", "cancelled while it ran")) == []
    assert node.endings == []
    gate.touch()
    assert node.run(2) == [(1, failure.LOST, "cancelled while it ran"), (2, failure.RETURNED, b"")]


def test_uninterrupted_task_that_is_cancelled_runs_to_its_end(node: Node, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    calls = [
        node.add(1, f"say(slot, 'l', 'f')\nwhile not os.path.exists({str(gate)!r}): pass\nanswer(b'')"),
        node.add(2, "answer(b'')"),
    ]
    for call in calls:
        call.profile = call.profile._replace(uninterrupted=True)
    node.step()  # the library is warm
    node.step()  # the function is loaded, and the first task runs
    assert node.slots.cancel({1, 2}, failure.lost("cancelled", "cancelled while it ran")) == [calls[1]]
    gate.touch()
    assert node.run(1) == [(1, failure.RETURNED, b"")]


def test_one_library_is_started_after_a_late_answer(node: Node, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    node.add(1, f"while not os.path.exists({str(gate)!r}): pass\nanswer(b''); os._exit(0)")
    node.then = lambda: node.add(2, "answer(b'')")
    node.step()  # the library is warm
    library = node.library.pid
    gate.touch()
    os.waitid(os.P_PID, library, os.WEXITED | os.WNOWAIT)  # both sockets are readable now
    assert [ending[1] for ending in node.run(2)] == [failure.RETURNED] * 2
    assert node.starts() == 2


def test_slot_whose_socket_is_full_is_not_tried_again_at_once(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    node.add(1, "answer(b'', 1e-5)")
    node.run(1)
    counts: list[int] = []
    give = SlotProcess.give

    def counted(slot: SlotProcess, *args: Any) -> int:
        counts.append(give(slot, *args))
        return counts[-1]

    monkeypatch.setattr(SlotProcess, "give", counted)
    node.add(2, "import time; time.sleep(0.2); answer(b'', 1e-5)")
    tasks = [node.add(number, f"answer(b'', 1e-5) #{'x' * 30_000}") for number in range(3, 23)]
    assert 0 in counts
    assert len(counts) <= 1 + len(tasks)
    assert [number for number, *_ in node.run(22)] == list(range(1, 23))


def test_tasks_of_a_library_that_fails_to_start_are_lost(tmp_path: Path) -> None:
    record = failure.lost("context", "why")
    node = Node(
        tmp_path, PROGRAM.replace('say(channel, "warm")', f'say(channel, "failed", "context", {record!r}); exit()')
    )
    node.add(1, "answer(b'')")
    node.add(2, "answer(b'')")
    assert node.run(2) == [(1, failure.LOST, "why"), (2, failure.LOST, "why")]
    assert node.starts() == 1
    node.add(3, "answer(b'')")
    assert node.run(3)[-1] == (3, failure.LOST, "why")
    assert node.starts() == 2
    node.close()


def test_slot_sees_only_its_gpus(tmp_path: Path) -> None:
    forked = "made = pickle.loads(packet); open(config['log'] + '/gpus', 'w').write(made[2]['CUDA_VISIBLE_DEVICES']); "
    node = Node(
        tmp_path, PROGRAM.replace("packet or os._exit(0)", f"packet or os._exit(0); {forked}"), gpu_kind="nvidia"
    )
    node.add(1, "answer(b'')", gpus=1)
    node.run(1)
    assert (tmp_path / "gpus").read_text() == "0"
    node.close()


def test_idle_slot_makes_room_for_a_task_with_other_needs(node: Node) -> None:
    node.add(1, "answer(b'')")
    node.run(1)
    node.add(2, "answer(b'')", cores=0.5)
    assert [ending[1] for ending in node.run(2)] == [failure.RETURNED] * 2
    assert node.resources.cores == 1


def test_slot_needs_a_function_again_that_it_was_told_to_forget(node: Node) -> None:
    node.add(1, "answer(b'')")
    node.run(1)
    del node.functions["f"]  # only a slot without it asks for it
    node.slots.forget_functions({"f", "unknown"})
    with pytest.raises(KeyError):
        node.add(2, "answer(b'')")


def test_number_of_tasks_that_a_slot_gets_ahead_can_be_limited(node: Node, tmp_path: Path) -> None:
    node.slots.tune({"executor.batch": 1})
    node.slots.tune({})
    node.add(1, "answer(b'', 1e-5)")
    node.run(1)
    gate = tmp_path / "gate"
    node.add(2, f"say(slot, 'l', 'f')\nwhile not os.path.exists({str(gate)!r}): pass\nanswer(b'', 1e-5)")
    waiting = node.add(3, "answer(b'', 1e-5)")
    node.step()  # the task runs
    assert not node.slots.rebalance(), "no slot has several tasks"
    assert node.slots.hand_back() == [waiting]
    gate.touch()
    assert [number for number, *_ in node.run(2)] == [1, 2]


def test_task_of_a_library_that_is_ended_runs_again(node: Node, tmp_path: Path) -> None:
    again = tmp_path / "again"
    program = f"say(slot, 'l', 'f')\nos.path.exists({str(again)!r}) or __import__('time').sleep(1000)\nanswer(b'again')"
    node.add(1, program)
    node.step()  # the library is warm
    node.step()  # the task runs
    again.touch()
    node.library.kill("it was stopped")
    assert node.run(1) == [(1, failure.RETURNED, b"again")]
    assert node.starts() == 2
