"""Processes of a run are found and ended, also those that no parent ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from taskvine_manager import cleanup
from taskvine_manager.runtime import keeper
from tests.conftest import eventually

Process = subprocess.Popen[bytes]
Start = Callable[..., Process]
SLEEP = "import os, time; os.write(1, b'x'); time.sleep(1000)"


@pytest.fixture
def start() -> Iterator[Start]:
    """Start a program in its own process group; return its process after its first output."""
    made: list[Process] = []

    def begin(program: str = SLEEP, *arguments: str, **environment: str) -> Process:
        made.append(
            subprocess.Popen(
                [sys.executable, "-c", program, *arguments],
                stdout=subprocess.PIPE,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), **environment},
                start_new_session=True,
                bufsize=0,
            )
        )
        stdout = made[-1].stdout
        assert stdout is not None
        stdout.read(1)
        return made[-1]

    yield begin
    for process in made:
        cleanup.kill_group(process.pid)
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


def ended() -> int:
    """Return the id of a process that has ended and was reaped."""
    process = subprocess.Popen(["true"])
    process.wait()
    return process.pid


# --- single processes ---


def test_process_group_is_killed(start: Start) -> None:
    process = start()
    cleanup.kill_group(process.pid)
    assert process.wait(10) == -signal.SIGKILL
    cleanup.kill_group(process.pid)  # it has ended


def test_start_time_distinguishes_processes(start: Start) -> None:
    process = start()
    begun = cleanup.start_time(process.pid)
    assert begun == cleanup.start_time(process.pid)
    assert begun is not None
    ours = cleanup.start_time(os.getpid())
    assert ours is not None
    assert ours < begun
    assert cleanup.start_time(ended()) is None


def test_process_is_alive_until_it_ends(start: Start) -> None:
    process = start()
    assert cleanup.is_alive(process.pid)
    process.kill()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert not cleanup.is_alive(process.pid), "it has ended, although nobody has reaped it"
    process.wait()
    assert not cleanup.is_alive(process.pid)


def test_another_users_process_counts_as_alive(monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(pid: int, number: int) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "kill", forbidden)
    assert cleanup.is_alive(1)
    monkeypatch.setattr(os, "killpg", forbidden)
    cleanup.kill_group(1)


def test_stopped_process_is_recognised(start: Start) -> None:
    process = start()
    assert not cleanup.is_stopped(process.pid)
    process.send_signal(signal.SIGSTOP)
    eventually(lambda: cleanup.is_stopped(process.pid))
    assert not cleanup.is_stopped(ended())


@pytest.mark.parametrize("is_watched", [True, False])
def test_end_of_a_process_is_awaited(start: Start, monkeypatch: pytest.MonkeyPatch, is_watched: bool) -> None:
    process = start()
    if not is_watched:
        monkeypatch.delattr(os, "pidfd_open")
    assert not cleanup.ends(process.pid, 0.01)
    process.kill()
    assert eventually(lambda: cleanup.ends(process.pid, 10))
    process.wait()
    assert cleanup.ends(process.pid, 10)


# --- a run ---


def test_processes_of_a_run_are_found(start: Start, tmp_path: Path) -> None:
    directory, other = str(tmp_path / "run"), str(tmp_path / "other")
    ours = start(**{cleanup.TOKEN: directory})
    on_node = start(**{cleanup.TOKEN: directory, cleanup.TOKEN + "_NODE": "n1"})
    by_hand = start(SLEEP, "node", cleanup.CONNECT, directory)
    for process in (start(**{cleanup.TOKEN: other}), start(SLEEP, cleanup.CONNECT, other), start(SLEEP, directory)):
        assert process.pid not in cleanup.strays(directory)
    start(SLEEP, cleanup.CONNECT)  # it names no directory
    assert sorted(cleanup.strays(directory)) == sorted([ours.pid, on_node.pid, by_hand.pid])
    assert cleanup.strays(directory, "n1") == [on_node.pid]
    assert cleanup.strays(directory, "n2") == []


def test_process_that_is_executing_its_program_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel frees the parent before it gives the new program its environment."""

    class Begun:
        pid = -1

        def __init__(self) -> None:
            self.given: list[dict[str, str]] = [{}, {cleanup.TOKEN: "/run"}]

        def environ(self) -> dict[str, str]:
            return self.given.pop(0)

        def exe(self) -> str:
            return "/usr/bin/sleep"

        def status(self) -> str:
            return psutil.STATUS_RUNNING

    monkeypatch.setattr(psutil, "process_iter", lambda: [Begun()])
    assert cleanup.strays("/run") == [-1]


def test_process_does_not_find_itself(start: Start, tmp_path: Path) -> None:
    program = f"from taskvine_manager import cleanup; print(cleanup.strays({str(tmp_path)!r}))"
    assert start(program, **_token(tmp_path)).communicate()[0] == b"]\n", "after the first character, which is read"


def test_processes_of_a_run_are_killed(start: Start, tmp_path: Path) -> None:
    directory = str(tmp_path)
    ours, others = start(**_token(tmp_path)), start()
    assert cleanup.kill_strays(directory) == [ours.pid]
    assert ours.wait(10) == -signal.SIGKILL
    assert others.poll() is None
    assert cleanup.kill_strays(directory) == []


def test_processes_that_end_in_time_are_not_killed(start: Start, tmp_path: Path) -> None:
    process = start("import os, time; os.write(1, b'x'); time.sleep(0.05)", **_token(tmp_path))
    assert cleanup.kill_strays(str(tmp_path), grace=10.0) == []
    assert process.wait() == 0


def test_keepers_end_their_tasks_themselves(start: Start, tmp_path: Path) -> None:
    program = """
import os
from taskvine_manager.runtime import keeper
keeper.keep(os.getppid())
os.execve("/bin/sh", ["sh", "-c", "echo; exec sleep 1000"], {})  # it does not carry the run's variable any more
"""
    process = start(program, **_token(tmp_path))
    (task,) = keeper.children(process.pid)
    assert cleanup.kill_strays(str(tmp_path)) == [process.pid]
    assert process.wait(10) == -signal.SIGKILL, "it ends as its task has"
    assert not cleanup.is_alive(task)


def test_processes_that_end_last_get_time(start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    process = start(SLEEP, "resource_tracker", **_token(tmp_path))
    kills: list[int] = []
    kill_trees = keeper.kill_trees

    def noted(roots: Any) -> None:
        kills.extend(roots)
        kill_trees(kills)

    monkeypatch.setattr(keeper, "kill_trees", noted)
    monkeypatch.setattr(cleanup, "_KEEPERS_SECONDS", 0.05)
    assert cleanup.kill_strays(str(tmp_path)) == [process.pid]
    assert process.wait(10) == -signal.SIGKILL
    assert set(kills) == {process.pid}


def _token(directory: Path) -> dict[str, str]:
    return {cleanup.TOKEN: str(directory)}
