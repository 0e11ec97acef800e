"""Connections that are passed on to TaskVine, and those that are refused. A server of the test stands for TaskVine."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from taskvine_manager.vine import access
from taskvine_manager.vine.access import Refused, read_password
from taskvine_manager.vine.manager import admission, listening, port
from taskvine_manager.vine.manager.admission import Admission, authenticate, located

PASSWORD = b"secret\n"
SECONDS = 10
Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class World:
    """An Admission, and a stand-in for TaskVine behind it."""

    def __init__(self, server: asyncio.Server, port: int, joined: asyncio.Queue[Streams]) -> None:
        self.server = server
        self.port = port
        self.joined = joined
        self.writers: list[asyncio.StreamWriter] = []
        """Connections that TaskVine got, after they had shown it the password."""

    async def connect(self, context: ssl.SSLContext | None = None) -> Streams:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port, ssl=context)
        self.writers.append(writer)
        return reader, writer

    async def enter(self, context: ssl.SSLContext | None = None) -> tuple[Streams, Streams]:
        """Connect as a worker does; return the streams of both ends."""
        streams = await self.connect(context)
        await authenticate(*streams, PASSWORD)
        return streams, await asyncio.wait_for(self.joined.get(), SECONDS)


@asynccontextmanager
async def world(context: ssl.SSLContext | None = None, direct: socket.socket | None = None) -> AsyncIterator[World]:
    joined: asyncio.Queue[Streams] = asyncio.Queue()
    writers: list[asyncio.StreamWriter] = []

    async def taskvine(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)
        await authenticate(reader, writer, PASSWORD)
        await joined.put((reader, writer))

    server = await asyncio.start_server(taskvine, "127.0.0.1", 0)
    with listening.listen("127.0.0.1", 0, fixed=False) as listener:
        admits = Admission(listener, server.sockets[0].getsockname()[1], PASSWORD, context, direct)
        serving = asyncio.create_task(admits.serve())
        made = World(server, listener.getsockname()[1], joined)
        try:
            yield made
        finally:
            serving.cancel()
            for writer in [*writers, *made.writers]:
                writer.close()
            server.close()
            await admits.finish(SECONDS)
            await asyncio.gather(
                *(writer.wait_closed() for writer in [*writers, *made.writers]), return_exceptions=True
            )


def play(
    scene: Callable[[World], Awaitable[Any]], context: ssl.SSLContext | None = None, direct: socket.socket | None = None
) -> None:
    async def all_of_it() -> None:
        async with world(context, direct) as made:
            await scene(made)

    asyncio.run(asyncio.wait_for(all_of_it(), 30))


@pytest.fixture
def contexts(tmp_path: Path) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """Contexts for a server and a client that checks nothing, like TaskVine's workers."""
    key, certificate = port.make_key(str(tmp_path))
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(certificate, key)
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname = False
    client.verify_mode = ssl.CERT_NONE
    return server, client


async def ended(reader: asyncio.StreamReader) -> bool:
    """Whether the other side has ended a connection, whatever it has sent before."""
    try:
        await asyncio.wait_for(reader.read(), SECONDS)
    except ConnectionError:
        pass
    return True


@pytest.mark.parametrize("encrypted", [False, True])
def test_a_worker_is_admitted_and_named(contexts: tuple[ssl.SSLContext, ssl.SSLContext], encrypted: bool) -> None:
    server, client = contexts if encrypted else (None, None)

    async def scene(made: World) -> None:
        (theirs, worker), (ours, manager) = await made.enter(client)
        worker.write(b"taskvine 11 host\ninfo worker-id w\ntransfer-port 7000\ninfo worker-end-time 0\n\0")
        told = await ours.readuntil(b"\0")
        assert told == (
            b"taskvine 11 host\ninfo worker-id w\ntransfer-hostport 127.0.0.1 7000\ninfo worker-end-time 0\n\0"
        )
        worker.write(b"transfer-port 7001\n")  # a password file may contain any bytes
        assert await ours.readline() == b"transfer-port 7001\n"
        large = bytes(range(256)) * (1 << 14)
        manager.write(large)
        assert await theirs.readexactly(len(large)) == large
        worker.write(large)
        assert await ours.readexactly(len(large)) == large
        manager.write(b"exit\n")
        manager.close()
        assert await theirs.read() == b"exit\n"

    play(scene, server)


@pytest.fixture
def password(tmp_path: Path) -> str:
    (tmp_path / "password").write_bytes(PASSWORD)
    return str(tmp_path / "password")


async def reach(made: World, password: str) -> socket.socket:
    """Connect to the manager as a supervisor does."""
    loop = asyncio.get_running_loop()
    return await loop.run_in_executor(None, access.connect, "127.0.0.1", made.port, password)


def test_supervisors_connection_is_handed_over_to_the_manager(password: str) -> None:
    manager, direct = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)

    async def scene(made: World) -> None:
        loop = asyncio.get_running_loop()
        with await reach(made, password) as supervisor:
            _, (descriptor,), _, _ = await loop.run_in_executor(None, socket.recv_fds, manager, 10, 2)
            with socket.socket(fileno=descriptor) as ours:
                supervisor.sendall(b"answer")
                assert ours.recv(100) == b"answer"
                ours.sendall(b"parcel")
                assert supervisor.recv(100) == b"parcel"
            assert await loop.run_in_executor(None, supervisor.recv, 100) == b"", "both have closed it"
        assert made.joined.empty()

    with manager, direct:
        play(scene, direct=direct)


@pytest.mark.parametrize("reason", ["another password", "no direct connections"])
def test_supervisor_is_refused(tmp_path: Path, password: str, reason: str) -> None:
    if reason == "another password":
        (tmp_path / "password").write_bytes(b"another")

    async def scene(made: World) -> None:
        with pytest.raises(access.Refused, match=reason):
            await reach(made, password)

    play(scene)


def test_supervisor_notices_what_is_no_manager(password: str) -> None:
    async def welcome(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 welcome\r\n")
        await reader.read()
        writer.close()

    async def scene(_: World) -> None:
        server = await asyncio.start_server(welcome, "127.0.0.1", 0)
        address = (*server.sockets[0].getsockname(), password)
        with pytest.raises(access.Refused, match="TaskVine's protocol"):
            await asyncio.get_running_loop().run_in_executor(None, access.connect, *address)
        server.close()

    play(scene)


def test_worker_may_leave(contexts: Any) -> None:
    async def scene(made: World) -> None:
        (_, worker), (ours, _) = await made.enter()
        worker.write(b"taskvine 11 host\nlast words\n")
        worker.close()
        assert await ours.read() == b"taskvine 11 host\nlast words\n"

    play(scene)


def test_status_request_is_answered() -> None:
    async def scene(made: World) -> None:
        (theirs, asker), (ours, manager) = await made.enter()
        asker.write(b"manager_status\n")
        assert await ours.readline() == b"manager_status\n"
        manager.write(b"[{}]")
        assert await theirs.readexactly(4) == b"[{}]"

    play(scene)


def test_strangers_never_reach_taskvine(caplog: pytest.LogCaptureFixture) -> None:
    async def scene(made: World) -> None:
        for said in (b"GET / HTTP/1.0\r\n\r\n", b"\n", b"x" * 2000 + b"\n", b"x" * admission.PIECE * 3):
            reader, writer = await made.connect()
            writer.write(said)
            assert await ended(reader)
        streams = await made.connect()
        with pytest.raises(Refused, match="another password"):
            await authenticate(*streams, b"guessed")
        assert await ended(streams[0])
        assert made.joined.empty()

    play(scene)
    (said,) = [record.getMessage() for record in caplog.records if record.name == admission.logger.name]
    assert "127.0.0.1 was refused: it does not speak TaskVine's protocol" in said  # once a minute for each address


@pytest.mark.parametrize("said", [b"", b"auth password", bytes.fromhex("160301020001")])
@pytest.mark.parametrize("encrypted", [False, True])
def test_silent_connections_delay_no_others(
    monkeypatch: pytest.MonkeyPatch, contexts: tuple[ssl.SSLContext, ssl.SSLContext], said: bytes, encrypted: bool
) -> None:
    server, client = contexts if encrypted else (None, None)
    monkeypatch.setattr(admission, "SECONDS", 1.0)

    async def scene(made: World) -> None:
        silent = [await made.connect() for _ in range(20)]
        for _, writer in silent:
            writer.write(said)
        (theirs, worker), (ours, manager) = await made.enter(client)
        for reader, _ in silent:
            assert await ended(reader)
        worker.write(b"still here\n")  # it has been admitted: no time limit applies
        assert await ours.readline() == b"still here\n"
        manager.close()
        assert await ended(theirs)
        assert made.joined.empty()

    play(scene, server)


def test_oldest_of_too_many_connections_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admission, "MOST_WAITING", 3)
    monkeypatch.setattr(admission, "PATIENCE", 0.2)

    async def scene(made: World) -> None:
        silent = [await made.connect() for _ in range(3)]
        await made.enter()
        assert await ended(silent[0][0])
        await authenticate(*silent[2], PASSWORD)

    play(scene)


def test_concurrent_workers_are_all_admitted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admission, "MOST_WAITING", 3)

    async def scene(made: World) -> None:
        async def enter() -> None:
            await authenticate(*(await made.connect()), PASSWORD)

        await asyncio.gather(*(enter() for _ in range(50)))
        for _ in range(50):
            await asyncio.wait_for(made.joined.get(), SECONDS)

    play(scene)


def test_end_of_taskvine_ends_the_connection() -> None:
    async def scene(made: World) -> None:
        made.server.close()
        await made.server.wait_closed()
        streams = await made.connect()
        await authenticate(*streams, PASSWORD)
        assert await ended(streams[0])

    play(scene)


def test_password_is_read_as_taskvine_does(tmp_path: Path) -> None:
    (tmp_path / "password").write_bytes(b"line\n\0rest")
    assert read_password(str(tmp_path / "password")) == b"line\n"


@pytest.mark.parametrize(
    ("line", "as_told"),
    [
        (b"transfer-port 7000\n", b"transfer-hostport ::1 7000\n"),
        (b"transfer-hostport gate 7000\n", b"transfer-hostport gate 7000\n"),
        (b"info transfer-port 7000\n", b"info transfer-port 7000\n"),
    ],
)
def test_missing_host_is_added_to_a_port(line: bytes, as_told: bytes) -> None:
    assert located(line, "::1") == as_told
