"""The port at which workers reach TaskVine's manager. Sockets of this machine stand for TaskVine."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from taskvine_manager.engine_api import NodesFail
from taskvine_manager.vine.manager import admission
from taskvine_manager.vine.manager.config import VineConfig
from taskvine_manager.vine.manager.entrance import MUST_TUNE, Entrance
from tests.unit.taskvine_manager.node.test_config import config

# It notes its settings and its port, accepts no connection, and ends with its standard input.
ADMISSION = """
import json, os, socket, sys
settings = sys.stdin.readline()
port = socket.socket(fileno=int(sys.argv[2])).getsockname()
open(sys.argv[1] + ".partial", "w").write(json.dumps([port, json.loads(settings)]))
os.rename(sys.argv[1] + ".partial", sys.argv[1])
sys.stdin.read()
"""


class Vine:
    """Stands for TaskVine: a manager that listens on all interfaces."""

    def __init__(self) -> None:
        self.made_with: dict[str, Any] = {}
        self.tuned: dict[str, float] = {}
        self.password: str | None = None

    def Manager(self, **made_with: Any) -> Vine:
        self.made_with = made_with
        self.socket = socket.create_server(("", made_with["port"]))
        return self

    @property
    def port(self) -> int:
        return int(self.socket.getsockname()[1])

    def tune(self, name: str, value: float) -> int:
        self.tuned[name] = value
        return 0

    def set_password_file(self, path: str) -> None:
        self.password = path

    def close(self) -> None:
        self.socket.close()


class World:
    """An entrance, the TaskVine behind it, and the process that admits workers if there is one."""

    def __init__(self, directory: Path, **settings: Any) -> None:
        self.directory = directory
        self.noted = directory / "admission"
        self.vine = Vine()
        usual: dict[str, Any] = {
            "nodes": config(),
            "python": sys.executable,
            "log": str(directory),
            "password_file": "/password",
        }
        self.entrance = Entrance(str(directory), VineConfig(**{**usual, **settings}), self.vine)

    @property
    def address(self) -> tuple[str, int]:
        """Address at which TaskVine itself listens."""
        host, port = self.vine.socket.getsockname()[:2]
        return host, port

    def admission(self) -> tuple[list[Any], dict[str, Any]]:
        """Wait for the process that admits workers; return its address and its settings."""
        while not self.noted.exists():
            self.entrance.check()
        address, settings = json.loads(self.noted.read_text())
        return address, settings


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., World]]:
    made: list[World] = []

    def begin(*, admits: bool = False, **settings: Any) -> World:
        command = (sys.executable, "-ISc", ADMISSION, str(tmp_path / "admission")) if admits else ()
        made.append(World(tmp_path, admission_command=command, **settings))
        return made[-1]

    yield begin
    monkeypatch.setattr(admission, "LAST_SECONDS", 10.0)
    for world in made:
        world.vine.socket.close()
        world.entrance.close()
        world.entrance.kill()


# --- who listens where ---


def test_local_taskvine_listens_on_loopback(make: Callable[..., World]) -> None:
    world = make(this_machine=True)
    assert world.address == ("127.0.0.1", world.entrance.port)
    assert world.vine.password == "/password"
    assert world.vine.tuned == MUST_TUNE


def test_workers_of_other_machines_are_admitted_by_a_process(make: Callable[..., World]) -> None:
    world = make(admits=True)
    (host, port), settings = world.admission()
    assert (host, port) == ("0.0.0.0", world.entrance.port)
    assert world.address == ("127.0.0.1", settings["port"])
    assert settings["port"] != world.entrance.port
    assert (settings["password_file"], settings["ssl"]) == ("/password", None)
    assert settings["log"] == str(world.directory / "manager.log")


def test_workers_use_the_configured_port(make: Callable[..., World]) -> None:
    with socket.create_server(("", 0)) as listener:
        free = int(listener.getsockname()[1])
    world = make(admits=True, port=free)
    assert world.entrance.port == free
    assert world.admission()[0][1] == free


def test_process_uses_tls_instead_of_taskvine(make: Callable[..., World]) -> None:
    world = make(admits=True, this_machine=True, ssl=("/key", "/certificate"))
    (host, _), settings = world.admission()
    assert host == "127.0.0.1"
    assert settings["ssl"] == ["/key", "/certificate"]
    assert world.vine.made_with["ssl"] is None


def test_key_is_made_if_none_is_given(make: Callable[..., World]) -> None:
    world = make(admits=True, ssl=True)
    _, settings = world.admission()
    assert {Path(path).parent for path in settings["ssl"]} == {world.directory}
    assert all(Path(path).exists() for path in settings["ssl"])


def test_named_manager_admits_its_workers_itself(make: Callable[..., World]) -> None:
    world = make(admits=True, name="project", this_machine=True)
    assert world.address[0] == "0.0.0.0", "the catalog server reports TaskVine's own port"
    assert world.entrance.port == world.address[1]
    assert not world.noted.exists()


def test_this_machine_needs_no_process_without_tls(make: Callable[..., World]) -> None:
    world = make(admits=True, this_machine=True)
    assert world.address == ("127.0.0.1", world.entrance.port)
    assert not world.noted.exists()


# --- the address ---


def test_port_is_published_and_withdrawn(make: Callable[..., World]) -> None:
    world = make(this_machine=True)
    world.entrance.publish()
    path = world.directory / "vine.address"
    assert path.read_text() == str(world.entrance.port)
    assert path.stat().st_mode & 0o777 == 0o600
    assert [entry.name for entry in world.directory.iterdir() if entry.name.startswith("vine.")] == ["vine.address"]
    world.entrance.close()
    assert not path.exists()
    world.entrance.close()


# --- the end ---


def test_process_that_has_ended_is_an_error(make: Callable[..., World], monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[subprocess.Popen[bytes]] = []
    start = admission.start

    def noted(*args: Any) -> subprocess.Popen[bytes]:
        started.append(start(*args))
        return started[-1]

    monkeypatch.setattr(admission, "start", noted)
    world = make(admits=True)
    world.admission()
    world.entrance.check()
    started[0].kill()
    os.waitid(os.P_PID, started[0].pid, os.WEXITED | os.WNOWAIT)
    with pytest.raises(NodesFail, match="the process that admits workers ended with status -9"):
        world.entrance.check()


def test_process_ends_when_it_is_told(make: Callable[..., World], monkeypatch: pytest.MonkeyPatch) -> None:
    world = make(admits=True)
    world.admission()
    world.entrance.close()
    world.entrance.kill()
    with pytest.raises(NodesFail, match="status 0"):
        world.entrance.check()


def test_process_that_does_not_end_is_killed(make: Callable[..., World], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admission, "LAST_SECONDS", 0.01)
    world = make(admits=True)
    world.admission()
    world.entrance.kill()
    with pytest.raises(NodesFail, match="status -9"):
        world.entrance.check()


def test_manager_without_a_process_has_nothing_to_check(make: Callable[..., World]) -> None:
    world = make(this_machine=True)
    world.entrance.check()
    world.entrance.kill()
