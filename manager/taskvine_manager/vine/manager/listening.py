"""The sockets at which TaskVine and its admission process listen.

TaskVine listens on all interfaces and has no option to change that. It accepts connections in the manager's only
thread, and waits for each of them: without a limit for a TLS handshake, and 5 seconds for a password. One silent
connection therefore blocks the whole run.

Its listening socket is a descriptor of this process. This module replaces that socket by one on the loopback interface,
with options that make the kernel hold silent connections back.
"""

from __future__ import annotations

import errno
import os
import socket
import stat
import struct
from collections.abc import Iterator

LOOPBACK = "127.0.0.1"
BACKLOG = 1024
"""Connections that may wait to be accepted; TaskVine asks for 5."""
DEFERRED = 24 * 3600
"""Seconds for which the kernel holds silent connections back; it stops counting after some hours."""
HANDSHAKE_SECONDS = 2.0
"""Seconds that a connection may pause within a TLS handshake, for which TaskVine waits without a limit."""


def sockets_at(port: int) -> Iterator[tuple[int, int, socket.socket]]:
    """Yield descriptor, inode and an open copy of each internet socket of this process with a local port."""
    for entry in os.listdir("/proc/self/fd"):
        descriptor = int(entry)
        try:
            status = os.fstat(descriptor)
            if not stat.S_ISSOCK(status.st_mode):
                continue
            copy = socket.socket(fileno=os.dup(descriptor))
        except OSError:
            continue
        with copy:
            if copy.family in (socket.AF_INET, socket.AF_INET6) and copy.getsockname()[1] == port:
                yield descriptor, status.st_ino, copy


def descriptor_at(port: int) -> int | None:
    """Find the socket of this process that listens at a TCP port."""
    for descriptor, _, copy in sockets_at(port):
        if copy.type == socket.SOCK_STREAM and copy.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            return descriptor
    return None


def guard(descriptor: int) -> None:
    """Make the kernel hold back silent connections to a listening socket, given by its descriptor.

    Clients of TaskVine speak first: workers, and programs that ask for its status. Accepted sockets inherit the time
    limit. It affects only blocking reads, and TaskVine blocks only in TLS handshakes.
    """
    seconds, fraction = divmod(HANDSHAKE_SECONDS, 1)
    limit = struct.pack("ll", int(seconds), int(fraction * 1e6))
    with socket.socket(fileno=os.dup(descriptor)) as listener:
        listener.listen(BACKLOG)
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_DEFER_ACCEPT, DEFERRED)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, limit)


def move(descriptor: int, port: int, *, fixed: bool) -> int:
    """Replace a listening socket by a guarded one on the loopback interface, under the same descriptor.

    Parameters
    ----------
    descriptor : int
        Descriptor of the socket that is closed.
    port : int
        Port to listen at; 0 for any free one.
    fixed : bool
        Whether it must be this port.

    Returns
    -------
    int
        The port.

    Raises
    ------
    OSError
        If the port is taken, and ``fixed`` is true.
    """
    close(descriptor)  # first: the new socket may need its port
    with listen(LOOPBACK, port, fixed=fixed) as listener:
        guard(listener.fileno())
        os.dup2(listener.fileno(), descriptor, inheritable=False)
        return int(listener.getsockname()[1])


def close(descriptor: int) -> None:
    """Stop listening, but keep the descriptor's number taken."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as placeholder:
        os.dup2(placeholder.fileno(), descriptor, inheritable=False)


def listen(host: str, port: int, *, fixed: bool) -> socket.socket:
    """Return a non-blocking socket that listens at a port, or at any free one if that is taken and not ``fixed``.

    Parameters
    ----------
    host : str
        An IPv4 address, or empty for all interfaces.
    port : int
        0 for any free one.
    fixed : bool
        Whether it must be this port.
    """
    wanted = os.environ.get("CCTOOLS_IP_MODE", "IPV4")  # TaskVine's workers read it too
    family = socket.AF_INET if host or wanted == "IPV4" else socket.AF_INET6
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        try:
            listener.bind((host, port))
        except OSError as error:
            if fixed or error.errno != errno.EADDRINUSE:
                raise
            listener.bind((host, 0))
        listener.listen(BACKLOG)
        listener.setblocking(False)
    except BaseException:
        listener.close()
        raise
    return listener
