"""Libraries that start, do not start, or die, as their node sees them. Small programs act as the library."""

from __future__ import annotations

import os
import pickle
import signal
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from taskvine_manager.node.library import NEXT_NOTICE, RETRIES, TRACE_SECONDS, Library
from taskvine_manager.node.limits import Kills
from taskvine_manager.node.steps import Step, Steps
from taskvine_manager.runtime.slot import PACKET_LIMIT

PRELUDE = """
import os, pickle, signal, socket, sys, time
channel = socket.socket(fileno=int(sys.argv[1]))
config = pickle.loads(channel.recv(1 << 18))
def say(*packet): channel.send(pickle.dumps(packet))
def wait(): channel.recv(1 << 18)
"""
READY, WARM = "say('ready', os.getpid());", "say('ready', os.getpid()); say('warm');"


class Started:
    """A started library, and its messages to the user."""

    def __init__(self, directory: Path, program: str, command: list[str] | None = None) -> None:
        config = {"log": str(directory), "scratch": str(directory), "directory": None, "start_timeout": 10.0}
        self.notices: list[str] = []
        kills = Kills([], 0.0, lambda path: None)
        command = command or [sys.executable, "-Ic", PRELUDE + program]
        self.library = Library(command, dict(os.environ), config, kills, self.notices.append)
        self.start()

    def start(self) -> None:
        self.channel = self.library.start()
        self._looked = time.monotonic()

    def hear(self, count: int) -> list[Any]:
        return [self.library.receive() for _ in range(count)]

    def end(self) -> tuple[dict[str, Any], bool]:
        """Listen until the library ends; return the record and whether it may be started again."""
        while self.library.receive() != ("gone",):
            pass
        record, may_start = self.library.bury()
        return pickle.loads(record), may_start

    def pass_time(self, seconds: float) -> None:
        """Watch the library as if a second passed between looks."""
        for _ in range(round(seconds)):
            self._looked += 1.0
            self.library.look(self._looked)


@pytest.fixture
def started(tmp_path: Path) -> Iterator[Any]:
    made: list[Started] = []

    def start(program: str = "", command: list[str] | None = None) -> Started:
        made.append(Started(tmp_path, program, command))
        return made[-1]

    yield start
    for each in made:
        each.library.stop()


def test_library_gets_its_config_and_forks_once_it_is_warm(started: Any) -> None:
    program = "say('said', config['start_timeout']); _, fds, _, _ = socket.recv_fds(channel, 1 << 18, 1);"
    library = started(WARM + program + "socket.socket(fileno=fds[0]).send(b'hello'); wait()").library
    assert library.wait == 1.0
    said = [library.receive() for _ in range(3)]
    assert said == [("ready", library.pid), ("warm",), ("said", 10.0)]
    assert library.is_warm
    assert library.wait is None
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        assert library.fork(7, {"NAME": "value"}, 0.0, (), theirs)
        assert ours.recv(PACKET_LIMIT) == b"hello"


@pytest.mark.parametrize(
    ("program", "kind", "reason", "may_start"),
    [
        ("sys.exit(3)", "library", "the library exited with status 3", False),
        (READY + "sys.exit(97)", "environment", "init_command failed", False),
        ("say('failed', 'context', pickle.dumps({'kind': 'context', 'reason': 'why'}))", "context", "why", False),
        (WARM + "sys.exit(3)", "library", "the library exited with status 3", True),
        (WARM + "os.kill(os.getpid(), signal.SIGTERM)", "library", "the library was killed by SIGTERM", True),
    ],
)
def test_death_is_explained(started: Any, program: str, kind: str, reason: str, may_start: bool) -> None:
    record, again = started(f"print('at the end', file=sys.stderr); {program}").end()
    assert (record["kind"], record["reason"]) == (kind, reason)
    assert again is may_start
    assert record.get("stderr", "at the end\n") == "at the end\n"


def test_life_of_a_library_is_kept_for_the_record(tmp_path: Path) -> None:
    config = {"log": str(tmp_path), "scratch": str(tmp_path), "directory": None, "start_timeout": 10.0}
    config |= {"context": b"", "context_scope": "library", "name": "model"}
    command = [sys.executable, "-Ic", PRELUDE + WARM + "os.kill(os.getpid(), signal.SIGTERM)"]
    steps = Steps(wanted=True)
    library = Library(command, dict(os.environ), config, Kills([], 0.0, lambda path: None), print, steps)
    library.start()
    while library.receive() != ("gone",):
        pass
    library.bury()
    reason = "the library 'model' was killed by SIGTERM"
    assert steps.first() == (
        Step("library", "model", "started"),
        Step("context", "model", "started"),
        Step("library", "model", "ready"),
        Step("context", "model", "ready"),
        Step("context", "model", "ended", None, reason),
        Step("library", "model", "ended", -signal.SIGTERM, reason),
    )


def test_library_killed_at_start_is_retried_a_few_times(started: Any) -> None:
    node = started("os.kill(os.getpid(), signal.SIGKILL)")
    for death in range(RETRIES + 1):
        _, may_start = node.end()
        assert may_start is (death < RETRIES)
        node.start()


def test_retries_are_counted_again_after_a_warm_library(started: Any, tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    node = started(f"os.path.exists({str(marker)!r}) and say('warm'); os.kill(os.getpid(), signal.SIGKILL)")
    node.library.retries = 1
    node.end()
    marker.touch()
    for _ in range(2):
        node.start()
        assert node.end()[1]
    marker.unlink()
    node.start()
    assert node.end()[1]
    node.start()
    assert not node.end()[1]


def test_malformed_packet_ends_the_library(started: Any) -> None:
    node = started("channel.send(b'hello'); wait()")
    record, _ = node.end()
    assert record["reason"] == "the library was killed by SIGKILL"
    (notice,) = node.notices
    assert notice.startswith("the library is killed: it sent a malformed packet")


def test_fork_by_a_library_that_has_died_fails(started: Any) -> None:
    node = started(WARM)
    assert node.hear(3)[-1] == ("gone",)
    with socket.socket() as end:
        assert not node.library.fork(0, {}, 0.0, (), end)


@pytest.mark.parametrize(
    ("program", "packets", "kind", "phase"),
    [
        ("wait()", 0, "environment", "the Python of the library has not started"),
        (READY + "wait()", 1, "library", "import_modules and the context of the library are not ready"),
    ],
)
def test_library_that_does_not_start_is_killed(
    started: Any, tmp_path: Path, program: str, packets: int, kind: str, phase: str
) -> None:
    node = started("print('Timeout (0:00:10)!', file=sys.stderr, flush=True); say('on'); " + program)
    node.hear(1 + packets)
    node.pass_time(9)
    assert node.notices == [f"{phase} after 5 s; see {tmp_path}/library.log"]
    node.pass_time(1 + TRACE_SECONDS + 1)
    record, may_start = node.end()
    assert not may_start
    assert (record["kind"], record["reason"]) == (kind, f"{phase} after 10 s (start_timeout of library_config)")
    assert record["stderr"].startswith("Timeout (")


def test_hung_shell_and_hung_python_are_distinguished(started: Any) -> None:
    node = started(command=["/bin/bash", "-c", "sleep 1000"])
    node.pass_time(11)
    record, _ = node.end()
    assert record["reason"].startswith("init_command of the library has not ended")


def test_time_in_which_the_node_was_stopped_does_not_count(started: Any) -> None:
    node = started("wait()")
    node.library.look(time.monotonic() + 1000)
    node.library.look(time.monotonic() + 2000)
    assert node.notices == []


def test_warm_library_is_left_alone(started: Any) -> None:
    node = started(WARM + "wait()")
    node.hear(2)
    node.pass_time(2 * NEXT_NOTICE)
    assert node.notices == []
    node.library.kill("its process had been stopped")
    record, may_start = node.end()
    assert node.notices == ["the library is killed: its process had been stopped"]
    assert record["reason"] == f"the library was killed by {signal.SIGKILL.name}"
    assert may_start
    node.library.kill("it is dead already")
    assert len(node.notices) == 1


def test_library_that_has_used_a_gpu_is_reported(started: Any) -> None:
    made = started("say('gpu');" + WARM + "wait()")
    assert made.hear(3)[-1] == ("warm",)
    (notice,) = made.notices
    assert "the library has used a gpu before" in notice
    assert "give the context the scope 'slot'" in notice


def test_named_library_is_named(tmp_path: Path) -> None:
    config = {"log": str(tmp_path), "scratch": str(tmp_path), "directory": None, "start_timeout": 2.0, "name": "model"}
    notices: list[str] = []
    library = Library(
        [sys.executable, "-Ic", PRELUDE + READY + "wait()"],
        dict(os.environ),
        config,
        Kills([], 0.0, lambda path: None),
        notices.append,
    )
    try:
        library.start({"SET": "value"})
        assert library.receive() == ("ready", library.pid)
        looked = time.monotonic()
        for seconds in (1.0, 2.0, 3.0):
            library.look(looked + seconds)
        while library.receive() != ("gone",):
            pass
        record = pickle.loads(library.bury()[0])
    finally:
        library.stop()
    assert "of the library 'model' are not ready" in notices[0]
    assert record["reason"].endswith("(start_timeout of libraries['model'])")
    assert (tmp_path / "library-model.log").exists()
