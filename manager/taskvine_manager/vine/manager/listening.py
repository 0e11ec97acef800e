"""The sockets at which TaskVine and its admission process listen.

TaskVine listens on all interfaces and has no option for anything else. It accepts connections in the manager's only
thread, and then waits for each of them: for as long as a TLS handshake takes, and 5 seconds for a password. So one
connection that says nothing holds up the whole run.

Its listening socket is a descriptor of this process. Here that socket is replaced by one on the loopback interface,
and given options that have the kernel keep silent connections back.
"""

from __future__ import annotations

import errno
import os
import socket
import stat
import struct

LOOPBACK = "127.0.0.1"
BACKLOG = 1024
"""Connections that may wait to be accepted; TaskVine asks for 5."""
DEFERRED = 24 * 3600
"""Seconds for which the kernel keeps silent connections back; it stops counting after some hours."""
HANDSHAKE_SECONDS = 2.0
"""How long a connection may pause within a TLS handshake, during which TaskVine waits without a limit."""


def descriptor_at(port: int) -> int | None:
    """Find the socket of this process that listens at a TCP port."""
    for entry in os.listdir("/proc/self/fd"):
        try:
            if not stat.S_ISSOCK(os.fstat(int(entry)).st_mode):
                continue
            copy = socket.socket(fileno=os.dup(int(entry)))
        except OSError:
            continue
        with copy:
            if (
                copy.family in (socket.AF_INET, socket.AF_INET6)
                and copy.type == socket.SOCK_STREAM
                and copy.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
                and copy.getsockname()[1] == port
            ):
                return int(entry)
    return None


def guard(listener: socket.socket) -> None:
    """Have the kernel keep back connections that are silent.

    Those who may connect to TaskVine speak first: workers, and programs that ask for its status. Accepted sockets
    inherit the time limit, which ends only reads that block: TaskVine blocks in TLS handshakes and nowhere else.
    """
    listener.listen(BACKLOG)
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_DEFER_ACCEPT, DEFERRED)
    seconds, fraction = divmod(HANDSHAKE_SECONDS, 1)
    limit = struct.pack("ll", int(seconds), int(fraction * 1e6))
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, limit)


def guard_descriptor(descriptor: int) -> None:
    """Guard a listening socket of which only the descriptor is known."""
    with socket.socket(fileno=os.dup(descriptor)) as copy:
        guard(copy)


def move(descriptor: int, port: int, *, fixed: bool) -> int:
    """Replace a listening socket by a guarded one on the loopback interface, under the same descriptor.

    Parameters
    ----------
    descriptor : int
        Of the socket that is closed.
    port : int
        To listen at; 0 for any free one.
    fixed : bool
        Whether no other port will do.

    Returns
    -------
    int
        The port.

    Raises
    ------
    OSError
        If the port is taken, and no other will do.
    """
    close(descriptor)  # it has the port, if that is to be the same
    with listen(LOOPBACK, port, fixed=fixed) as listener:
        guard(listener)
        os.dup2(listener.fileno(), descriptor, inheritable=False)
        return int(listener.getsockname()[1])


def close(descriptor: int) -> None:
    """Stop listening, but keep the descriptor's number taken."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as placeholder:
        os.dup2(placeholder.fileno(), descriptor, inheritable=False)


def listen(host: str, port: int, *, fixed: bool) -> socket.socket:
    """Listen at a port, or at any free one if that is taken and another will do; the socket does not block.

    Parameters
    ----------
    host : str
        An IPv4 address, or empty for all interfaces.
    port : int
        0 for any free one.
    fixed : bool
        Whether no other port will do.
    """
    wanted = os.environ.get("CCTOOLS_IP_MODE", "IPV4")  # TaskVine's workers look at it too
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
