"""Nodes that cannot join their TaskVine manager report the reason soon, and end."""

from __future__ import annotations

import os
import shlex
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
from parsl.executors.errors import BadStateException
from parsl.providers import LocalProvider

from taskvine_exec import TaskVineExecutor, launch
from taskvine_exec.errors import LibraryFailed
from taskvine_manager.vine.worker import trouble
from tests.conftest import eventually, first_node
from tests.engines import ABSENT

Make = Callable[..., TaskVineExecutor]
SECONDS = 60
SOON = 15
"""Seconds until a node must have reported what is wrong."""


@pytest.fixture(params=["taskvine"])
def engine(request: pytest.FixtureRequest) -> str:
    if ABSENT is not None:
        pytest.skip(ABSENT)
    return str(request.param)


class Node:
    """A node started by hand with a wrong command or environment."""

    def __init__(self, executor: TaskVineExecutor) -> None:
        self.command = shlex.split(executor.launch_cmd)
        self.environment = dict(os.environ)

    def give(self, option: str, value: str) -> None:
        self.command[self.command.index(option) + 1] = value

    def complain(self) -> tuple[int, str, float]:
        """Run the node; return its status, its standard error, and the seconds that it took."""
        begun = time.monotonic()
        process = subprocess.run(
            self.command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            env=self.environment,
            check=False,
            timeout=SECONDS,
            text=True,
        )
        return process.returncode, process.stderr, time.monotonic() - begun


@pytest.fixture
def node(make_executor: Make) -> Node:
    return Node(make_executor(worker_launch_method="manual"))


def closed_port() -> str:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return str(server.getsockname()[1])


@pytest.fixture
def full_port() -> Iterator[str]:
    """A port whose queue is full: packets are dropped, as by a firewall."""
    with socket.socket() as server, socket.socket() as first, socket.socket() as second:
        server.bind(("127.0.0.1", 0))
        server.listen(0)
        for client in (first, second):
            client.setblocking(False)
            client.connect_ex(server.getsockname())
        yield str(server.getsockname()[1])


def test_wrong_password_is_reported(node: Node, tmp_path: Path) -> None:
    (tmp_path / "guessed").write_text("guessed")
    node.give("--password", str(tmp_path / "guessed"))
    status, said, seconds = node.complain()
    assert status == trouble.Status.REFUSED
    assert f"refuses the password in {tmp_path}/guessed" in said
    assert "project_password_file" in said
    assert seconds < SOON


def test_missing_password_is_reported(node: Node) -> None:
    place = node.command.index("--password")
    del node.command[place : place + 2]
    status, said, seconds = node.complain()
    assert status == trouble.Status.REFUSED
    assert "asks for a password" in said
    assert seconds < SOON


def test_unseen_password_file_is_reported(node: Node, tmp_path: Path) -> None:
    node.give("--password", str(tmp_path / "elsewhere"))
    status, said, seconds = node.complain()
    assert status == trouble.Status.UNREADABLE
    assert f"{tmp_path}/elsewhere cannot be read: No such file" in said
    assert seconds < SOON


def test_closed_port_is_reported(node: Node) -> None:
    node.command[-1] = closed_port()
    status, said, seconds = node.complain()
    assert status == trouble.Status.UNREACHABLE
    assert f"localhost:{node.command[-1]} fails: Connection refused" in said
    assert seconds < SOON


def test_silent_address_is_reported(node: Node, full_port: str) -> None:
    node.command[-2:] = ["127.0.0.1", full_port]
    status, said, seconds = node.complain()
    assert status == trouble.Status.UNREACHABLE
    assert f"nothing has answered at 127.0.0.1:{full_port}" in said
    assert seconds < SOON


def test_unknown_host_is_reported(node: Node) -> None:
    node.command[-2] = "no-such-host.invalid"
    status, said, seconds = node.complain()
    assert status == trouble.Status.NO_HOST
    assert "'no-such-host.invalid', is not known here" in said
    assert seconds < SOON


def test_another_program_at_the_port_is_reported(node: Node) -> None:
    """The manager accepts and sends nothing. A busy manager does so too, so the node waits."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        node.command[-1] = str(server.getsockname()[1])
        process = subprocess.Popen(node.command, stdin=-3, stdout=-3, stderr=-1, env=node.environment, text=True)
        try:
            begun = time.monotonic()
            assert process.stderr is not None
            assert "accepts connections, but has not accepted this worker" in process.stderr.readline()
            assert time.monotonic() < begun + SOON
            assert process.poll() is None
        finally:
            process.terminate()
            process.communicate(timeout=SECONDS)


def test_missing_program_is_reported(node: Node) -> None:
    node.give("--executable", "vine_worker_of_ours")
    status, said, seconds = node.complain()
    assert status == trouble.Status.NO_PROGRAM
    assert "vine_worker_of_ours is not there on PATH" in said
    assert "conda install -c conda-forge ndcctools" in said
    assert seconds < SOON


def test_other_version_is_reported(node: Node) -> None:
    node.give("--package", "0.0.9")
    status, said, seconds = node.complain()
    assert status == trouble.Status.MISMATCH
    assert "has 0.0.9. Install the same version" in said
    assert seconds < SOON


def test_missing_scratch_is_reported(node: Node) -> None:
    node.give("--connect", "/nowhere")  # as on another machine
    node.command[-2] = "127.0.0.1"
    code = "import os, sys, tempfile; tempfile.tempdir = '/proc/nowhere'; sys.argv = sys.argv[1:]\n"
    code += "import runpy; runpy.run_path(sys.argv[0], run_name='__main__')"
    node.command[1:1] = ["-c", code]
    status, said, seconds = node.complain()
    assert status == trouble.Status.NO_SCRATCH
    assert "cannot work in /proc/nowhere" in said
    assert "Set TMPDIR" in said
    assert seconds < SOON


def test_missing_or_unwritable_home_does_not_matter(make_executor: Make) -> None:
    executor = make_executor(provider=LocalProvider(worker_init="export HOME=/proc/nowhere"))
    assert executor.submit(lambda: os.environ["HOME"], {}).result(SECONDS) == "/proc/nowhere"


def test_failed_block_has_the_report_of_its_node(make_executor: Make, tmp_path: Path) -> None:
    (tmp_path / "guessed").write_text("guessed")
    executor = make_executor(worker_options=f"--password {tmp_path}/guessed")
    error = executor.submit(int, {}).exception(SECONDS)
    assert isinstance(error, BadStateException)
    assert "refuses the password" in str(error)
    assert str(trouble.Status.REFUSED) in str(error)


def test_other_python_is_reported(make_executor: Make, mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    write = launch._write

    def pretend(path: str, value: Any) -> None:
        engine = value["engine"]
        other = replace(engine, nodes=engine.nodes._replace(python_version=(3, 99)))
        write(path, {**value, "engine": other})

    monkeypatch.setattr(launch, "_write", pretend)
    executor = make_executor(function_exec_mode=mode)
    error = executor.submit(int, {}).exception(SECONDS)
    assert isinstance(error, LibraryFailed)
    assert f"{sys.executable}) and your program Python 3.99" in str(error)


def test_strays_end_although_their_workspace_is_gone(make_executor: Make, tmp_path: Path) -> None:
    """A stray process has no keeper or launcher above it, and its worker removes its workspace before any cleanup."""
    executor = make_executor()

    def leave(path: str) -> int:
        import os
        import subprocess

        # A keeper that is killed ends no process.
        process = subprocess.Popen(["sleep", "1000"], start_new_session=True)
        with open(path, "w") as file:
            file.write(f"{process.pid} {os.getppid()}")
        return process.pid

    path = str(tmp_path / "pids")
    stray = executor.submit(leave, {}, path).result(SECONDS)
    keeper = int(Path(path).read_text().split()[1])
    launcher = psutil.Process(first_node(executor)["pid"])
    worker, second = sorted(launcher.children(), key=lambda child: "vine_worker" not in child.name())
    directory = first_node(executor)["directory"]
    second.suspend()
    psutil.Process(keeper).kill()
    launcher.kill()
    eventually(lambda: not worker.is_running())  # it notices that its parent has ended, and removes its workspace
    eventually(lambda: not os.path.exists(os.path.join(directory, "cache")))
    assert psutil.pid_exists(stray)
    second.resume()
    eventually(lambda: not psutil.pid_exists(stray))
