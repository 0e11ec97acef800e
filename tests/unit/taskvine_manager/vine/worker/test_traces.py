"""Processes and directories that a worker leaves."""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from taskvine_manager import cleanup
from taskvine_manager.vine.worker import traces
from taskvine_manager.vine.worker.traces import DONE, Traces
from tests.conftest import eventually

Start = Callable[..., subprocess.Popen[bytes]]


@pytest.fixture
def start() -> Iterator[Start]:
    """Start processes that sleep, each in a new session."""
    started: list[subprocess.Popen[bytes]] = []

    def start(**variables: str) -> subprocess.Popen[bytes]:
        environment = {**os.environ, **variables}
        started.append(subprocess.Popen(["sleep", "1000"], env=environment, start_new_session=True))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.wait()


def of(worker: subprocess.Popen[bytes], directory: Path, **more: str) -> Traces:
    begun = cleanup.start_time(worker.pid)
    return Traces(worker.pid, begun, str(directory), "b0-1", str(directory / "node"), str(directory / "link"), **more)


@pytest.mark.parametrize("there", [True, False])
def test_strays_end_with_or_without_the_workspace(start: Start, tmp_path: Path, there: bool) -> None:
    token = {cleanup.TOKEN: str(tmp_path), cleanup.TOKEN + "_NODE": "b0-1"}
    worker, stray, other = start(**token), start(**token), start(**{**token, cleanup.TOKEN + "_NODE": "b1-2"})
    if there:
        (tmp_path / "node" / "cache").mkdir(parents=True)
    of(worker, tmp_path).remove()
    assert stray.wait(30) == -9
    assert other.poll() is None
    assert not (tmp_path / "node").exists()


def test_a_group_of_the_worker_is_killed(start: Start, tmp_path: Path) -> None:
    worker = start()
    of(worker, tmp_path).kill_group()
    assert worker.wait(30) == -9


def test_a_group_without_its_first_process_is_killed(tmp_path: Path) -> None:
    worker = subprocess.Popen(
        ["sh", "-c", "sleep 1000 & echo $!; exec cat"], stdin=-1, stdout=-1, start_new_session=True
    )
    assert worker.stdout is not None
    assert worker.stdin is not None
    with worker.stdout, worker.stdin:
        child = int(worker.stdout.readline())
        there = of(worker, tmp_path)
    assert worker.wait(30) == 0
    there.kill_group()
    eventually(lambda: not psutil.pid_exists(child) or psutil.Process(child).status() == psutil.STATUS_ZOMBIE)


def test_process_with_a_reused_number_is_left_alone(start: Start, tmp_path: Path) -> None:
    worker = start()
    there = of(worker, tmp_path)
    assert there.begun is not None
    replace(there, begun=there.begun - 1).kill_group()
    with pytest.raises(subprocess.TimeoutExpired):
        worker.wait(0.2)


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
@pytest.mark.parametrize("done", [True, False])
def test_waiting_process_cleans_up(start: Start, tmp_path: Path, done: bool) -> None:
    """It acts when the process before it ends, unless that one has acted."""
    worker = start()
    (tmp_path / "node").mkdir()
    second, channel = traces.stand_by(of(worker, tmp_path))
    if done:
        os.write(channel, DONE)
    os.close(channel)
    assert os.waitpid(second, 0)[1] == 0
    assert (tmp_path / "node").exists() == done
    assert (worker.poll() is None) == done


def ended() -> int:
    """Return the id of a process that has ended."""
    process = subprocess.Popen(["true"])
    process.wait()
    return process.pid


@pytest.mark.parametrize(
    ("host", "user", "other", "stays"),
    [
        (socket.gethostname(), "gone", "gone", False),
        (socket.gethostname(), "here", "gone", True),
        (socket.gethostname(), "gone", "here", True),
        ("another.example.org", "gone", "gone", True),
    ],
)
def test_last_node_of_an_abandoned_run_removes_its_directory(
    start: Start, tmp_path: Path, host: str, user: str, other: str, stays: bool
) -> None:
    numbers = {"gone": ended(), "here": os.getpid()}
    run = tmp_path / "run"
    (run / "nodes" / f"b1-{numbers[other]}").mkdir(parents=True)
    of(start(), tmp_path, run=str(run), user=f"{host}:{numbers[user]}").remove()
    assert run.exists() == stays


def test_zombie_is_not_alive() -> None:
    process = subprocess.Popen(["true"], stdout=-1)
    with process:
        assert process.stdout is not None
        process.stdout.read()
        eventually(lambda: not cleanup.is_alive(process.pid))
    assert not cleanup.is_alive(process.pid)
    assert cleanup.is_alive(os.getpid())
    assert cleanup.is_alive(1)


def test_start_times_distinguish_processes(start: Start) -> None:
    process = start()
    assert cleanup.start_time(process.pid) == cleanup.start_time(process.pid) is not None
    process.kill()
    process.wait()
    assert cleanup.start_time(process.pid) is None
