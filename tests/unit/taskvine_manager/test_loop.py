"""The manager's loop, in the test's own process."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from taskvine_manager.embedded.engine import EmbeddedConfig, EmbeddedEngine
from taskvine_manager.loop import Manager
from taskvine_manager.scheduling.checking import VARIABLE
from taskvine_manager.wire.channel import Channel


def test_a_broken_invariant_ends_the_run_with_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "1")
    (tmp_path / "nodes").mkdir()
    ours, theirs = socket.socketpair()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(b"")  # any name that no other socket has
        listener.listen()
        config = {"engine": EmbeddedConfig(tune={}), "record": None}
        manager = Manager(str(tmp_path), config, listener, theirs, os.getpid())
        assert isinstance(manager._engine, EmbeddedEngine)
        manager._engine._core._storage.replicas.stored += 1
        user = Channel(ours)
        user.send("cancel", (7,))
        manager.run()
    user.read()
    said = []
    while (message := user.next()) is not None:
        said.append(message)
    user.close()
    ((kind, reason),) = said
    assert kind == "broken"
    assert "InvariantBroken: bytes_add_up, after event 1 (Cancelled): counted 1 bytes, found 0" in reason
