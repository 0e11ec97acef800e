"""Listening sockets of this process: found, moved to the loopback interface, and closed to silent connections."""

from __future__ import annotations

import os
import select
import socket
from collections.abc import Iterator

import pytest

from taskvine_manager.vine.manager import listening


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    """As TaskVine's: on all interfaces."""
    with socket.create_server(("", 0)) as made:
        yield made


def port_of(listener: socket.socket) -> int:
    return int(listener.getsockname()[1])


def test_descriptor_of_a_port_is_found(listener: socket.socket) -> None:
    assert listening.descriptor_at(port_of(listener)) == listener.fileno()
    with socket.create_connection(("127.0.0.1", port_of(listener))), listener.accept()[0]:
        assert listening.descriptor_at(port_of(listener)) == listener.fileno()  # not the port of a connection
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        assert listening.descriptor_at(port_of(other)) is None  # it does not listen


def test_listener_moves_to_loopback_and_keeps_its_descriptor(listener: socket.socket) -> None:
    port = port_of(listener)
    assert listening.move(listener.fileno(), port, fixed=True) == port
    assert listener.getsockname() == ("127.0.0.1", port)
    assert not os.get_blocking(listener.fileno())


def test_port_in_use_is_an_error(listener: socket.socket) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        with pytest.raises(OSError, match="in use"):
            listening.move(listener.fileno(), port_of(other), fixed=True)
        port = listening.move(listener.fileno(), port_of(other), fixed=False)
        assert listener.getsockname() == ("127.0.0.1", port)
        assert port != port_of(other)


def test_connections_are_accepted_after_their_first_bytes(listener: socket.socket) -> None:
    listening.guard(listener.fileno())
    with (
        socket.create_connection(("127.0.0.1", port_of(listener))) as silent,
        socket.create_connection(("127.0.0.1", port_of(listener))) as talker,
    ):
        assert not select.select([listener], [], [], 0.2)[0]
        talker.sendall(b"taskvine")
        assert select.select([listener], [], [], 5)[0]
        accepted, address = listener.accept()
        with accepted:
            assert address == talker.getsockname()
            assert not select.select([listener], [], [], 0.2)[0]
        silent.sendall(b"x")
        assert select.select([listener], [], [], 5)[0]


def test_reads_of_accepted_connections_time_out(listener: socket.socket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listening, "HANDSHAKE_SECONDS", 0.2)
    listening.guard(listener.fileno())
    with socket.create_connection(("127.0.0.1", port_of(listener))) as client:
        client.sendall(b"x")
        accepted, _ = listener.accept()
        with accepted:
            assert accepted.recv(1) == b"x"
            with pytest.raises(BlockingIOError):
                accepted.recv(1)


def test_listener_may_use_ipv6(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CCTOOLS_IP_MODE", "AUTO")
    with listening.listen("", 0, fixed=False) as listener:
        assert listener.family == socket.AF_INET6
        socket.create_connection(("127.0.0.1", port_of(listener))).close()
