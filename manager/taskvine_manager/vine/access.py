"""What the manager and a node must show each other on a connection over a network: TaskVine's password protocol."""

from __future__ import annotations

import hashlib
import hmac
import secrets
import socket

IDENTITY = b"auth password sha1"
"""The first line that each side sends."""
ACCEPTED, DIRECT, DENIED = b"ok", b"direct", b"failure"
"""The last line that each side sends. ``DIRECT`` is for a supervisor, which wants the manager and not TaskVine."""
SECONDS = 10.0
"""Seconds that a connection has to show the password."""
SILENCE_SECONDS = 30
"""Seconds of silence after which the kernel asks whether the other end is still there."""
LOST_SECONDS = 60
"""Seconds without an answer after which the kernel ends the connection."""


class Refused(Exception):
    """A connection is not admitted; the text says why."""


def read_password(path: str) -> bytes:
    """Read a password as TaskVine does: the whole file, up to the first NUL."""
    with open(path, "rb") as file:
        return file.read().split(b"\0", 1)[0]


def new_key() -> bytes:
    """Return a random key for the other side to answer."""
    return secrets.token_hex(32).encode()


def digest(password: bytes, key: bytes) -> bytes:
    """Return the answer to a key."""
    return hashlib.sha1(password + b" " + key, usedforsecurity=False).hexdigest().encode()


def is_right(said: bytes, password: bytes, key: bytes) -> bool:
    """Return whether this is the answer to a key."""
    return hmac.compare_digest(said, digest(password, key))


def set_up(end: socket.socket) -> None:
    """Send small messages at once, and end the connection if its other end is silent for too long."""
    options = {"TCP_NODELAY": 1, "TCP_KEEPIDLE": SILENCE_SECONDS, "TCP_KEEPINTVL": 10, "TCP_KEEPCNT": 3}
    options["TCP_USER_TIMEOUT"] = LOST_SECONDS * 1000
    end.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in options.items():
        end.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


def connect(host: str, port: int, password_file: str) -> socket.socket:
    """Connect to the process that admits connections, which hands the connection over to the manager.

    Raises
    ------
    OSError
        If the process cannot be reached, or the password file cannot be read.
    Refused
        If it has another password, or speaks another protocol.
    """
    password, key = read_password(password_file), new_key()
    end = socket.create_connection((host, port), SECONDS)
    try:
        set_up(end)
        with end.makefile("rb", buffering=0) as lines:
            end.sendall(IDENTITY + b"\n" + key + b"\n")
            if lines.readline() != IDENTITY + b"\n":
                raise Refused("it does not speak TaskVine's protocol, or has no password")
            end.sendall(digest(password, lines.readline().rstrip(b"\n")) + b"\n")
            right = is_right(lines.readline().rstrip(b"\n"), password, key)
            end.sendall((DIRECT if right else DENIED) + b"\n")
            if lines.readline() != ACCEPTED + b"\n" or not right:
                raise Refused("it has another password")
            if lines.readline() != DIRECT + b"\n":  # the manager has not got the connection before that
                raise Refused("it accepts no direct connections")
    except BaseException:
        end.close()
        raise
    return end
