"""The process that admits connections to TaskVine: it checks the password before TaskVine sees a connection.

TaskVine accepts connections in its only thread, and waits for each. It therefore listens on the loopback interface, and
this process listens on the network in its place. A client may stay silent here, or stop within a TLS handshake: it has
some seconds, and nothing else waits for it. Once a client has shown the password, this process connects it to TaskVine.

TLS ends here. TaskVine takes a connection's address for the address of its worker, and sends other workers there for
files. This process therefore adds the worker's address to the message in which the worker names its port. TaskVine's
workers send the same message if they are told their address.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import json
import logging
import os
import resource
import socket
import ssl
import subprocess
import sys
import time
from dataclasses import asdict, dataclass

from taskvine_manager.vine import access
from taskvine_manager.vine.access import ACCEPTED, DENIED, DIRECT, IDENTITY, SECONDS, Refused, read_password
from taskvine_manager.vine.manager.listening import LOOPBACK

logger = logging.getLogger(__name__)

MOST_WAITING = 1024
"""Most connections that have not shown it yet; beyond that, the next one waits, or the oldest is closed."""
PATIENCE = 2.0
"""Minimum seconds for each connection, however many wait: workers of a large run connect all at once."""
LAST_SECONDS = 3.0
"""Seconds that the process has to end after it is told to."""
GREETING_LINES = 32
"""Lines of a worker's greeting in which it may name its port."""
PIECE = 1 << 18
"""Most bytes that are passed on at a time."""
SILENCE_SECONDS = 60.0
"""Minimum seconds between two log lines about one address."""
_LONGEST_LINE = 1023


@dataclass(frozen=True, kw_only=True)
class AdmissionConfig:
    """Settings of the process.

    Parameters
    ----------
    port : int
        Port of TaskVine on the loopback interface.
    password_file : str
        The password file that workers also have.
    ssl : tuple of str or None
        Paths of TLS key and certificate; None for no TLS.
    log : str
        Path of the manager's log.
    direct : int or None
        Descriptor of the socket over which the manager gets direct connections; None if it accepts none.
    """

    port: int
    password_file: str
    ssl: tuple[str, str] | None
    log: str
    direct: int | None = None


async def authenticate(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, password: bytes) -> bytes:
    """Prove knowledge of the password to the other side and check the other side's.

    TaskVine's protocol is the same for both sides: each sends a random key, and answers the other's with a hash of
    password and key.

    Returns
    -------
    bytes
        The other side's last line.

    Raises
    ------
    Refused
        If the other side speaks another protocol, or has another password.
    """
    key = access.new_key()
    writer.write(IDENTITY + b"\n" + key + b"\n")
    if await _line(reader) != IDENTITY:
        raise Refused("it does not speak TaskVine's protocol, or was started without a password")
    writer.write(access.digest(password, await _line(reader)) + b"\n")
    right = access.is_right(await _line(reader), password, key)
    writer.write((ACCEPTED if right else DENIED) + b"\n")
    await writer.drain()
    last = await _line(reader)
    if last not in (ACCEPTED, DIRECT) or not right:
        raise Refused("it has another password")
    return last


async def _line(reader: asyncio.StreamReader) -> bytes:
    try:
        line = await reader.readuntil(b"\n")
    except asyncio.LimitOverrunError as error:
        raise Refused("it does not speak TaskVine's protocol") from error
    if len(line) > _LONGEST_LINE:
        raise Refused("it does not speak TaskVine's protocol")
    return line[:-1]


def located(line: bytes, address: str) -> bytes:
    """Add a worker's address to the line of its greeting that names the port of its transfer server."""
    words = line.split()
    if len(words) == 2 and words[0] == b"transfer-port":
        return b"transfer-hostport %s %s\n" % (address.encode(), words[1])
    return line


class Admission:
    """Server that admits connections.

    Parameters
    ----------
    listener : socket.socket
        Non-blocking socket that accepts connections.
    port : int
        Port of TaskVine on the loopback interface.
    password : bytes
        Password that clients must show.
    context : ssl.SSLContext, optional
        For TLS with clients.
    direct : socket.socket, optional
        Blocking socket over which the manager gets direct connections.
    """

    def __init__(
        self,
        listener: socket.socket,
        port: int,
        password: bytes,
        context: ssl.SSLContext | None = None,
        direct: socket.socket | None = None,
    ) -> None:
        self._listener = listener
        self._port = port
        self._password = password
        self._context = context
        self._direct = direct
        self._waiting: dict[asyncio.Task[None], float] = {}  # with start times
        self._decided = asyncio.Event()  # when one of them is admitted or refused
        self._admitted: set[asyncio.Task[None]] = set()
        self._said: dict[str, float] = {}

    async def serve(self) -> None:
        """Accept connections, for ever."""
        loop = asyncio.get_running_loop()
        while True:
            try:
                connection, address = await loop.sock_accept(self._listener)
            except OSError as error:  # no descriptors are left, or the client has disconnected
                self._say("", f"a connection cannot be accepted: {error}")
                await asyncio.sleep(0.1)
                continue
            task = loop.create_task(self._serve(connection, _plain(address[0])))
            self._waiting[task] = loop.time()
            task.add_done_callback(self._over)
            await self._make_room()

    async def _make_room(self) -> None:
        """Wait until another connection may be accepted."""
        loop = asyncio.get_running_loop()
        while len(self._waiting) >= MOST_WAITING:
            oldest, since = next(iter(self._waiting.items()))
            if (left := since + PATIENCE - loop.time()) <= 0:
                oldest.cancel()
            self._decided.clear()
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._decided.wait(), left if left > 0 else None)

    async def finish(self, seconds: float) -> None:
        """Wait until TaskVine has ended its connections, for at most ``seconds``."""
        if self._admitted:
            await asyncio.wait(self._admitted, timeout=seconds)

    def _no_longer_waits(self, task: asyncio.Task[None]) -> None:
        if self._waiting.pop(task, None) is not None:
            self._decided.set()

    def _over(self, task: asyncio.Task[None]) -> None:
        self._no_longer_waits(task)
        self._admitted.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.error("a connection was dropped", exc_info=error)

    async def _serve(self, connection: socket.socket, address: str) -> None:
        writers: list[asyncio.StreamWriter] = []
        try:
            try:
                reader, wanted = await asyncio.wait_for(self._admit(connection, writers), SECONDS)
            except asyncio.TimeoutError:
                raise Refused(f"it has not shown the password within {SECONDS:.0f} s") from None
            task = asyncio.current_task()
            assert task is not None
            self._no_longer_waits(task)
            self._admitted.add(task)
            if wanted == DIRECT:
                await self._hand_over(connection, writers[0])
            else:
                await self._join(reader, writers, address)
        except (Refused, ssl.SSLError) as error:
            self._say(address, f"a connection from {address} was refused: {error}")
        except (OSError, EOFError):
            pass  # the other side has closed it
        finally:
            for writer in writers:
                writer.transport.abort()
            connection.close()

    async def _admit(
        self, connection: socket.socket, writers: list[asyncio.StreamWriter]
    ) -> tuple[asyncio.StreamReader, bytes]:
        loop = asyncio.get_running_loop()
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        reader = asyncio.StreamReader(limit=PIECE, loop=loop)
        protocol = asyncio.StreamReaderProtocol(reader, loop=loop)
        limit = SECONDS if self._context else None
        transport, _ = await loop.connect_accepted_socket(
            lambda: protocol, connection, ssl=self._context, ssl_handshake_timeout=limit
        )
        writers.append(asyncio.StreamWriter(transport, protocol, reader, loop))
        return reader, await authenticate(reader, writers[0], self._password)

    async def _hand_over(self, connection: socket.socket, writer: asyncio.StreamWriter) -> None:
        """Give a connection to the manager, which this process then closes.

        The supervisor sends nothing before it is told that the manager gets the connection.
        """
        if self._direct is None or self._context is not None:
            raise Refused("it asks for a direct connection to the manager, which accepts none")
        writer.transport.pause_reading()  # type: ignore[attr-defined]
        access.set_up(connection)
        writer.write(DIRECT + b"\n")
        await writer.drain()
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(None, socket.send_fds, self._direct, [DIRECT], [connection.fileno()])

    async def _join(self, theirs: asyncio.StreamReader, writers: list[asyncio.StreamWriter], address: str) -> None:
        """Connect to TaskVine, and pass data on in both directions until one side ends."""
        ours, writer = await asyncio.open_connection(LOOPBACK, self._port, limit=PIECE)
        writers.append(writer)
        await authenticate(ours, writer, self._password)
        directions = [
            asyncio.create_task(_pass_on(ours, writers[0])),
            asyncio.create_task(self._pass_greeting_on(theirs, writer, address)),
        ]
        try:
            await asyncio.wait(directions, return_when=asyncio.FIRST_COMPLETED)
            for each in writers:
                each.close()
            for each in writers:
                with contextlib.suppress(OSError, asyncio.TimeoutError):
                    await asyncio.wait_for(each.wait_closed(), SECONDS)
        finally:
            for task in directions:
                task.cancel()
            await asyncio.gather(*directions, return_exceptions=True)

    async def _pass_greeting_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, address: str) -> None:
        line = await reader.readuntil(b"\n")
        writer.write(line)
        if line.startswith(b"taskvine "):  # otherwise it asks for the manager's status, and names no port
            for _ in range(GREETING_LINES):
                line = await reader.readuntil(b"\n")
                writer.write(located(line, address))
                if line.startswith((b"transfer-", b"info transfer_port_bind_failed")):
                    break
        await _pass_on(reader, writer)

    def _say(self, address: str, what: str) -> None:
        now = time.monotonic()
        if now - self._said.get(address, -SILENCE_SECONDS) >= SILENCE_SECONDS:
            if len(self._said) > MOST_WAITING:
                self._said.clear()
            self._said[address] = now
            logger.warning("%s", what)


async def _pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    encrypted = writer.get_extra_info("sslcontext") is not None
    while data := await reader.read(PIECE):
        if encrypted and len(data) > 1:
            # A worker that has read part of a record waits for its socket, while OpenSSL holds the rest. A last record
            # of one byte cannot be read in part, and wakes the worker.
            writer.write(data[:-1])
            data = data[-1:]
        writer.write(data)
        await writer.drain()


def _plain(address: str) -> str:
    """Return an address as IPv4, if it is an IPv4 address mapped to IPv6."""
    parsed = ipaddress.ip_address(address.partition("%")[0])
    mapped = parsed.ipv4_mapped if isinstance(parsed, ipaddress.IPv6Address) else None
    return str(mapped or parsed)


# --- the process ---


def start(command: list[str], listener: socket.socket, config: AdmissionConfig) -> subprocess.Popen[bytes]:
    """Start the process; it ends when its standard input is closed, or when this process ends.

    Parameters
    ----------
    command : list of str
        Command that starts :func:`main`, without the descriptor.
    listener : socket.socket
        Socket at which it accepts connections.
    config : AdmissionConfig
        Its settings.
    """
    process = subprocess.Popen(
        [*command, str(listener.fileno())],
        stdin=subprocess.PIPE,
        pass_fds=(listener.fileno(), *([] if config.direct is None else [config.direct])),
        start_new_session=True,
    )
    assert process.stdin is not None
    process.stdin.write(json.dumps(asdict(config)).encode() + b"\n")
    process.stdin.flush()
    return process


def main(descriptor: int) -> None:
    """Admit connections to a listening socket, until the standard input ends."""
    config = AdmissionConfig(**json.loads(sys.stdin.buffer.readline()))
    logging.basicConfig(
        filename=config.log, format="%(asctime)s %(name)s %(levelname)s %(message)s", level=logging.INFO
    )
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)  # it reports each failed handshake
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:  # each worker needs two descriptors
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    context = None
    if config.ssl is not None:
        key, certificate = config.ssl
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, key)
    listener = socket.socket(fileno=descriptor)
    listener.setblocking(False)
    direct = None if config.direct is None else socket.socket(fileno=config.direct)
    admission = Admission(listener, config.port, read_password(config.password_file), context, direct)
    asyncio.run(_until_told(admission))


async def _until_told(admission: Admission) -> None:
    told = asyncio.Event()
    asyncio.get_running_loop().add_reader(sys.stdin.fileno(), told.set)
    serving = asyncio.create_task(admission.serve())
    await told.wait()
    serving.cancel()
    await admission.finish(LAST_SECONDS / 2)
    os._exit(0)
