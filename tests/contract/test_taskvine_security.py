"""The TaskVine engine's password, encryption, ports and private directories."""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from taskvine_exec import TaskVineExecutor, passwords
from tests.conftest import command, eventually, first_node
from tests.engines import ABSENT

Make = Callable[..., TaskVineExecutor]
Start = Callable[[TaskVineExecutor], Any]
SECONDS = 30


@pytest.fixture(params=["taskvine"])
def engine(request: pytest.FixtureRequest) -> str:
    if ABSENT is not None:
        pytest.skip(ABSENT)
    return str(request.param)


def test_password_is_private_and_required(make_executor: Make, tmp_path: Path) -> None:
    executor = make_executor(worker_launch_method="manual")
    command = shlex.split(executor.launch_cmd)
    where = command.index("--password") + 1
    assert os.stat(command[where]).st_mode & 0o777 == 0o600
    assert command[where] == passwords.default_path()  # nodes on other machines do not see the run's directory
    wrong = tmp_path / "wrong"
    wrong.write_text("guessed")
    command[where] = str(wrong)
    node = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=SECONDS, check=False)
    assert b"refuses the password" in node.stderr
    assert executor.nodes == []


def test_tls_is_used(make_executor: Make, run_dir: str) -> None:
    executor = make_executor(ssl=True)
    assert executor.submit(int, {}).result(SECONDS) == 0
    assert "--ssl" in executor.launch_cmd
    key = os.path.join(executor.run.places.base, "vine.key")
    assert os.stat(key).st_mode & 0o777 == 0o600


def listening(executor: TaskVineExecutor) -> list[tuple[str, int]]:
    """Return the addresses at which the manager and its processes listen on networks."""
    manager = psutil.Process(executor.run.manager.pid)
    processes = [manager, *manager.children()]
    # psutil has renamed it
    connections = [getattr(process, "net_connections", None) or process.connections for process in processes]
    found = [each for look in connections for each in look()]
    return sorted((each.laddr.ip, each.laddr.port) for each in found if each.status == psutil.CONN_LISTEN)


@pytest.mark.parametrize("ssl", [False, True])
def test_local_run_listens_on_loopback_only(make_executor: Make, ssl: bool) -> None:
    executor = make_executor(ssl=ssl)
    assert executor.submit(int, {}).result(SECONDS) == 0
    assert {address for address, _ in listening(executor)} == {"127.0.0.1"}


def test_configured_port_is_used(make_executor: Make) -> None:
    for settings in ({}, {"worker_launch_method": "manual"}):
        with socket.create_server(("", 0)) as free:
            port = free.getsockname()[1]
        executor = make_executor(port=port, **settings)
        assert executor.wait_for_nodes(0 if settings else 1, SECONDS)
        assert executor.run.node_command()[-1] == str(port)
        assert ("0.0.0.0" if settings else "127.0.0.1", port) in listening(executor)


@pytest.mark.parametrize("ssl", [False, True])
def test_silent_connections_delay_no_worker(make_executor: Make, start_node: Start, ssl: bool) -> None:
    """Some stop within a TLS handshake, or within the password's protocol."""
    executor = make_executor(worker_launch_method="manual", ssl=ssl)
    start_node(executor)
    assert executor.submit(int, {}).result(SECONDS) == 0
    port = int(executor.run.node_command()[-1])
    hello = bytes.fromhex("16030102000100 01fc0303")  # the beginning of a TLS handshake, of 512 bytes
    with contextlib.ExitStack() as stack:
        for said in [b""] * 10 + [hello] * 9 + [b"auth password sha1\n"]:
            stack.enter_context(socket.create_connection(("127.0.0.1", port))).sendall(said)
        started = time.monotonic()
        for _ in range(50):
            assert executor.submit(int, {}).result(SECONDS) == 0
        start_node(executor)
        assert executor.wait_for_nodes(2, SECONDS)
        assert time.monotonic() - started < 5  # TaskVine waits this long or longer for each of them


def test_silent_local_connections_delay_no_worker(make_executor: Make) -> None:
    executor = make_executor()
    assert executor.submit(int, {}).result(SECONDS) == 0
    with contextlib.ExitStack() as stack:
        for _ in range(20):
            stack.enter_context(socket.create_connection(listening(executor)[0]))
        started = time.monotonic()
        for _ in range(50):
            assert executor.submit(int, {}).result(SECONDS) == 0
        assert time.monotonic() - started < 5


@pytest.mark.parametrize("megabytes", [0.001, 1, 16])
def test_values_travel_encrypted(by_hand: Make, megabytes: float) -> None:
    """TaskVine's workers wait for the network even if some received bytes are not decrypted yet."""
    given = np.arange(int(megabytes * 2**17), dtype=np.float64)
    executor = by_hand(ssl=True)
    for factor in range(1, 6):
        result = executor.submit(lambda array, factor: array * factor, {}, given, factor).result(SECONDS)
        assert np.array_equal(result, given * factor)


def test_run_ends_with_the_process_that_admits_workers(make_executor: Make, start_node: Start) -> None:
    executor = make_executor(worker_launch_method="manual")
    start_node(executor)
    assert executor.submit(int, {}).result(SECONDS) == 0
    (process,) = (each for each in psutil.Process(executor.run.manager.pid).children() if "admit" in command(each))
    process.kill()
    eventually(lambda: executor.bad_state_is_set, SECONDS)
    assert "admits workers" in str(executor.executor_exception)


def test_directories_are_private(make_executor: Make) -> None:
    executor = make_executor()
    assert executor.submit(int, {}).result(SECONDS) == 0
    (logs,) = [entry for entry in os.scandir(executor.run.places.log) if re.fullmatch(r"vine-\d+", entry.name)]
    for path in (logs.path, first_node(executor)["directory"]):
        assert os.stat(path).st_mode & 0o077 == 0
    eventually(lambda: os.path.getsize(os.path.join(logs.path, "vine-logs", "debug")))
