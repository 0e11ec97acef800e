"""A node process. The test acts as the manager."""

from __future__ import annotations

import os
import pickle
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from typing import Any

import pytest

import taskvine_manager
from taskvine_manager import cleanup
from taskvine_manager.run_times import LARGE_RESULT
from taskvine_manager.runtime import failure, payload, pickling, search_path
from taskvine_manager.wire.channel import Channel
from taskvine_manager.wire.messages import L1, L2, Completion, FileUse, Invocation, NodeInfo, Profile
from tests.unit.taskvine_manager.node.test_config import config

PROGRAM = os.path.join(os.path.dirname(os.path.abspath(taskvine_manager.__file__)), "__main__.py")
SECONDS = 30


def double(number: int) -> int:
    return 2 * number


def wait_for(path: str) -> str:
    while not os.path.exists(path):
        time.sleep(0.005)
    return "found"


def write() -> None:
    with open("out.txt", "w") as file:
        file.write("text")


def fill() -> bytes:
    return b"x" * LARGE_RESULT


PROFILES = [
    Profile(number, each.__name__, each.__name__, mode, None, None, None, None, 0.0, each.__name__)
    for number, (each, mode) in enumerate([(double, L2), (wait_for, L2), (write, L1), (double, L1), (fill, L2)])
]
DOUBLE, WAIT, WRITE, DOUBLE_L1, FILL = PROFILES
FUNCTIONS = [(each.__name__, pickling.dumps(each)) for each in (double, wait_for, write, fill)]


class Manager:
    """A manager of one node."""

    def __init__(self, base: str, *options: str) -> None:
        self.base = base
        for name in ("nodes", "spool", "log"):
            os.mkdir(os.path.join(base, name))
        made = config(
            base=base,
            log=os.path.join(base, "log"),
            program=PROGRAM,
            source_root=os.path.dirname(os.path.dirname(PROGRAM)),
            python_version=sys.version_info[:2],
            sys_path=search_path.of_this_process(),
            user=os.getpid(),
        )
        with open(os.path.join(base, "node.config"), "wb") as file:
            pickle.dump(made, file)
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
            listener.bind(os.path.join(base, "manager.sock"))
            listener.listen()
            listener.settimeout(SECONDS)
            self.process = subprocess.Popen(
                [sys.executable, PROGRAM, "node", cleanup.CONNECT, base, "--cores", "2", *options],
                stderr=subprocess.PIPE,
                text=True,
            )
            self.channel = Channel(listener.accept()[0])
        kind, info = self.next()
        assert kind == "hello"
        self.info = NodeInfo(*info)

    def next(self) -> tuple[Any, ...]:
        """Return the next message that is not for the record alone."""
        while (message := self.channel.next()) is None or message[0] == "steps":
            if message is not None:
                continue
            assert select.select([self.channel], [], [], SECONDS)[0], "the node is silent"
            self.channel.read()
            assert not self.channel.ended, self.process.communicate()[1]
        return message

    def run(self, *calls: Invocation, values: dict[str, bytes] | None = None) -> None:
        self.channel.send("run", FUNCTIONS, PROFILES, calls, {}, values or {}, {})

    def ended(self, count: int = 1) -> dict[int, Completion]:
        """Wait for the ends of tasks."""
        found: dict[int, Completion] = {}
        while len(found) < count:
            kind, *rest = self.next()
            if kind == "done":
                found.update((item[0], Completion(*item)) for item in rest[0])
        return found

    def end(self) -> str:
        """Wait for the end of the node; return its standard error."""
        return self.process.communicate(timeout=SECONDS)[1]

    def close(self) -> None:
        if self.process.poll() is None:
            self.channel.send("exit")
            self.end()
        self.channel.close()


@pytest.fixture
def base() -> Iterator[str]:
    made = tempfile.mkdtemp(dir="/tmp")
    yield made
    shutil.rmtree(made, ignore_errors=True)


@pytest.fixture
def manager(base: str) -> Iterator[Manager]:
    made = Manager(base)
    yield made
    made.close()


def call(number: int, profile: Profile, *args: Any, inputs: Any = (), outputs: Any = ()) -> Invocation:
    return Invocation(number, profile.number, pickle.dumps((args, {})), tuple(inputs), tuple(outputs))


def value(ended: Completion) -> Any:
    return payload.decode(ended.body)


def test_node_describes_itself(manager: Manager) -> None:
    info = manager.info
    assert (info.cores, info.slots, info.pid) == (2.0, 2, manager.process.pid)
    assert info.directory == os.path.join(manager.base, "nodes", info.name)


@pytest.mark.parametrize("profile", [DOUBLE, DOUBLE_L1], ids=["L2", "L1"])
def test_task_runs(manager: Manager, profile: Profile) -> None:
    manager.run(call(1, profile, 4))
    (ended,) = manager.ended().values()
    assert (ended.outcome, value(ended), ended.node) == (failure.RETURNED, 8, manager.info.name)


def test_output_stays_in_the_cache(manager: Manager) -> None:
    manager.run(call(1, WRITE, outputs=[FileUse("temp", "out.txt", "file")]))
    (ended,) = manager.ended().values()
    ((name, size, _),) = ended.made
    assert (name, size) == ("file", 4)
    assert len(os.listdir(os.path.join(manager.info.directory, "cache"))) == 1
    manager.channel.send("drop", ["file"])
    manager.channel.send("ping")
    assert manager.next() == ("pong",)
    assert not os.listdir(os.path.join(manager.info.directory, "cache"))


def test_task_runs_behind_its_producer(manager: Manager) -> None:
    maker = call(1, DOUBLE, 4, outputs=[FileUse("value", "", "result")])
    reader = call(2, DOUBLE, 5, inputs=[FileUse("value", "", "result")])
    manager.run(maker, reader)
    ended = manager.ended(2)
    assert [value(ended[number]) for number in (1, 2)] == [8, 10]


def test_task_whose_input_nobody_makes_is_given_back(manager: Manager) -> None:
    manager.run(call(2, DOUBLE, 5, inputs=[FileUse("value", "", "result")]))
    assert manager.next() == ("returned", (2,))


def test_failed_fetch_is_reported(manager: Manager) -> None:
    manager.channel.send("fetch", "file", ("/nowhere", 4, 0, "other"))
    kind, file, size, problem, _, _, spoiled, source = manager.next()
    assert (kind, file, size, spoiled, source) == ("cached", "file", 0, True, "other")
    assert "it no longer exists" in problem


def test_cancelled_task_is_lost(manager: Manager) -> None:
    manager.run(call(1, WAIT, "/nowhere"), call(2, DOUBLE, 1))
    assert set(manager.ended()) == {2}
    manager.channel.send("cancel", [1])
    (ended,) = manager.ended().values()
    assert isinstance(ended.body, bytes)
    assert pickle.loads(ended.body)["kind"] == "cancelled"


def test_draining_node_gives_back_what_it_has_not_begun(manager: Manager) -> None:
    go = os.path.join(manager.base, "go")
    manager.channel.send("tune", {"executor.batch": 1})
    manager.run(*(call(number, WAIT, go) for number in range(1, 4)))
    manager.run(call(4, DOUBLE, 1))
    time.sleep(0.5)  # until two have begun
    manager.channel.send("drain")
    kind, numbers = manager.next()
    assert kind == "returned"
    assert 4 in numbers
    open(go, "x").close()
    assert set(manager.ended(4 - len(numbers))) == {1, 2, 3, 4} - set(numbers)


def test_tasks_sent_ahead_are_given_back_if_their_results_are_large(manager: Manager) -> None:
    manager.run(*(call(number, FILL, outputs=[FileUse("value", "", f"result{number}")]) for number in range(8)))
    ended: list[int] = []
    returned: list[int] = []
    while len(ended) + len(returned) < 8:
        kind, items = manager.next()
        if kind == "returned":
            assert ended  # the manager learns first how large the result was
            returned += items
        else:
            ended += [Completion(*item).number for item in items]
    assert len(returned) >= 2
    assert sorted(ended + returned) == list(range(8))


def test_functions_are_forgotten_and_loaded_again(manager: Manager) -> None:
    manager.run(call(1, DOUBLE, 1))
    manager.ended()
    manager.channel.send("retire", ["double"], [DOUBLE.number])
    manager.run(call(2, DOUBLE, 2))
    assert value(manager.ended()[2]) == 4


def test_idle_node_asks_to_leave(base: str) -> None:
    manager = Manager(base, "--timeout", "0.2")
    assert manager.next() == ("idle",)
    manager.close()


def test_node_ends_on_request(manager: Manager) -> None:
    manager.channel.send("exit")
    assert manager.next() == ("leaving",)
    manager.end()
    assert manager.process.returncode == 0
    assert not os.path.exists(manager.info.directory)
    assert os.path.exists(manager.base)


def test_signal_ends_it_and_other_nodes_run_its_tasks(manager: Manager) -> None:
    manager.run(call(1, WAIT, "/nowhere"))
    manager.channel.send("ping")
    assert manager.next() == ("pong",)
    manager.process.send_signal(signal.SIGTERM)
    assert manager.next() == ("leaving",)
    manager.end()
    assert not os.path.exists(manager.info.directory)


def test_node_ends_with_its_manager(manager: Manager) -> None:
    manager.channel.close()
    manager.end()
    assert not os.path.exists(manager.info.directory)
    assert os.path.exists(manager.base), "its user's process is alive, and removes it"


def test_unknown_message_is_an_error(manager: Manager) -> None:
    manager.channel.send("resume", 3)
    assert "unknown message: 'resume'" in manager.end()
    assert manager.process.returncode == 1


def test_missing_executor_is_reported(base: str) -> None:
    command = [sys.executable, PROGRAM, "node", cleanup.CONNECT, base]
    process = subprocess.run(command, capture_output=True, text=True, check=False)
    assert process.stderr == f"taskvine-node: no executor at {base}: No such file or directory\n"
