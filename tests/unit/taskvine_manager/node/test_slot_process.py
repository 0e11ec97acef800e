"""Messages between a node and a slot's process: tasks, functions, answers, and tasks that are taken back."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cloudpickle
import pytest

from taskvine_manager.node.calls import Call, Need
from taskvine_manager.node.slot_process import FORGOTTEN_AT_ONCE, SlotProcess
from taskvine_manager.runtime import failure
from taskvine_manager.runtime.slot import PACKET_LIMIT
from taskvine_manager.wire.messages import L2, Invocation, Profile

FUNCTIONS = {"f": b"code of f"}
PROFILE = Profile(1, "f", "f", L2, None, None, None, None, 0.0, "f")


def task(number: int, arguments: bytes = b"arguments") -> Call:
    return Call(Invocation(number, 1, arguments), PROFILE, Need(1.0, 0.0))


@pytest.fixture
def slot() -> Iterator[SlotProcess]:
    made = SlotProcess(0, Need(1.0, 0.0), ())
    yield made
    made.close()


def read(slot: SlotProcess) -> tuple[Any, ...]:
    """Return the next packet that the process reads."""
    packet: tuple[Any, ...] = pickle.loads(slot.other_end.recv(PACKET_LIMIT))
    return packet


def say(slot: SlotProcess, *packet: Any) -> None:
    """Send a packet from the process."""
    slot.other_end.send(pickle.dumps(packet))


def test_function_is_sent_before_its_first_task_only(slot: SlotProcess) -> None:
    assert slot.give([task(1), task(2)], FUNCTIONS) == 2
    assert slot.give([task(3)], FUNCTIONS) == 1
    assert read(slot) == ("f", "f", b"code of f")
    assert [read(slot) for _ in range(3)] == [("c", number, "f", b"arguments", None, None) for number in (1, 2, 3)]


def test_task_comes_with_its_sandbox_and_the_results_that_it_reads(slot: SlotProcess) -> None:
    call = task(1)
    call.directory = "/somewhere"
    call.given = b"results"
    slot.functions.add("f")
    slot.give([call], FUNCTIONS)
    assert read(slot)[-2:] == ("/somewhere/sandbox", b"results")


def test_full_socket_takes_no_more_tasks(slot: SlotProcess) -> None:
    calls = [task(number, os.urandom(30_000)) for number in range(100)]
    sent = slot.give(calls, FUNCTIONS)
    assert 1 < sent < 100
    assert slot.give(calls[sent:], FUNCTIONS) == 0
    assert slot.take_back() == set(range(sent))
    assert slot.functions == set()


def test_process_that_has_died_takes_no_tasks(slot: SlotProcess) -> None:
    slot.other_end.close()
    assert slot.give([task(1)], FUNCTIONS) == 0
    assert slot.receive() is None


def test_unread_packets_are_taken_back(slot: SlotProcess) -> None:
    slot.outdated = {"old"}
    slot.give([task(1), task(2)], FUNCTIONS)
    assert (slot.functions, slot.outdated) == ({"f"}, set())
    assert slot.take_back() == {1, 2}
    assert (slot.functions, slot.outdated) == (set(), {"old"})
    assert slot.take_back() == set()
    slot.give([task(1), task(2)], FUNCTIONS)
    assert [read(slot)[0] for _ in range(3)] == ["d", "f", "c"]
    assert slot.take_back() == {2}
    assert slot.functions == {"f"}


def test_functions_are_forgotten_some_at_a_time(slot: SlotProcess) -> None:
    slot.outdated = {str(number) for number in range(FORGOTTEN_AT_ONCE + 1)}
    slot.tidy()
    assert len(read(slot)[1]) == FORGOTTEN_AT_ONCE
    slot.tidy()
    slot.tidy()
    assert len(read(slot)[1]) == 1
    assert slot.take_back() == set()


def test_function_that_comes_back_is_not_forgotten(slot: SlotProcess) -> None:
    slot.outdated = {"f", *(str(number) for number in range(2 * FORGOTTEN_AT_ONCE))}
    slot.give([task(1)], FUNCTIONS)
    assert "f" not in slot.outdated
    forgotten, sent = read(slot), read(slot)
    assert forgotten[0] == "d"
    assert sent[0] == "f"


def test_answers_are_received_in_order(slot: SlotProcess) -> None:
    slot.calls.append(task(1))
    assert slot.receive() is None
    assert not slot.has_spoken
    packets = [("l", "f"), ("r", 1, 0, b"result", 1.0, 2.0, ()), ("u", 1), ("e", 1, 3.0, False), ("e", None, 0.0, True)]
    for packet in packets:
        say(slot, *packet)
    assert [slot.receive() for _ in packets] == packets
    assert slot.has_spoken
    assert slot.heard > 0


@pytest.mark.parametrize(
    "packet",
    [
        (),
        ("x",),
        (["r"], 1),
        ("r", 1),
        ("l",),
        ("r", 2, 0, b"of another task", 1.0, 2.0, ()),
        ("u", 2),
        ("e", 2, 3.0, False),
    ],
)
def test_malformed_packets_are_refused(slot: SlotProcess, packet: tuple[Any, ...]) -> None:
    slot.calls.append(task(1))
    say(slot, *packet)
    with pytest.raises((ValueError, TypeError)):
        slot.receive()


def test_foreign_bytes_on_the_socket_are_refused(slot: SlotProcess) -> None:
    slot.other_end.send(b"hello\n")
    with pytest.raises(pickle.UnpicklingError):
        slot.receive()
    slot.calls.clear()
    say(slot, "u", 1)
    with pytest.raises(ValueError, match="which it does not run"):
        slot.receive()


def test_node_and_slot_understand_each_other(slot: SlotProcess, tmp_path: Path) -> None:
    program = "import socket, sys; from taskvine_manager.runtime.slot import serve; "
    program += "serve(socket.socket(fileno=int(sys.argv[1])), sys.argv[2], sys.argv[3], memory=1e6)"
    end, scratch = slot.other_end.fileno(), tmp_path / "scratch"
    process = subprocess.Popen(
        [sys.executable, "-c", program, str(end), str(scratch), str(tmp_path)],
        pass_fds=[end],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    slot.socket.setblocking(True)
    for first, expected in ((1, ["l", "r", "r"]), (3, ["l", "r", "r"])):
        slot.calls.extend(task(number, pickle.dumps(((number,), {}))) for number in (first, first + 1))
        assert slot.give(slot.calls, {"f": cloudpickle.dumps(lambda number: 2 * number)}) == 2
        kinds = []
        while slot.calls:
            kind, *rest = slot.receive() or ("nothing",)
            kinds.append(kind)
            if kind == "r":
                number, outcome, body, _, _, left = rest
                assert (number, outcome, left) == (slot.calls.popleft().invocation.number, failure.RETURNED, ())
                assert pickle.loads(body) == 2 * number
        assert kinds == expected
        slot.functions, slot.outdated = set(), {"f"}  # sent again
    slot.close()
    assert process.wait(30) == 0
    assert not scratch.exists()
