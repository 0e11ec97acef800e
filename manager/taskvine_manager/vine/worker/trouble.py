"""Reasons why a node cannot join its executor, found before its worker starts or in the worker's output.

A worker that cannot join tries for fifteen minutes and says little. The launcher therefore ends the job with a message
that names cause and cure, and with its own exit status: see :class:`Status`.
"""

from __future__ import annotations

import contextlib
import enum
import os
import re
import shutil
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from typing import NamedTuple

import taskvine_manager
from taskvine_manager.node.limits import Kill

REACH_SECONDS = 10.0
"""Seconds that the manager has to accept a connection. It may be busy, or the network may lose packets."""
PROBE_SECONDS = 3.0
"""Seconds that a worker may be silent before the launcher tries the manager's address."""
RETRY = 1.0
"""Seconds between two tries."""
REFUSALS = 2
"""Refusals of the password before the node gives up: if the manager dies during the exchange, that looks like one."""


class Status(enum.IntEnum):
    """Exit statuses of a launcher whose node cannot join, most of them from ``sysexits.h``."""

    UNREADABLE = 66
    """The password file cannot be read on the node."""
    NO_HOST = 68
    """The manager's host name is not known on the node."""
    UNREACHABLE = 69
    """The manager cannot be reached from the node."""
    NO_SCRATCH = 73
    """The node has no directory to work in."""
    REFUSED = 77
    """The manager refuses the password."""
    MISMATCH = 78
    """The node has another version of taskvine-exec."""
    NOT_EXECUTABLE = 126
    """``vine_worker`` cannot be executed on the node."""
    NO_PROGRAM = 127
    """``vine_worker`` is not on the node."""


class Trouble(Exception):
    """A node cannot join.

    Parameters
    ----------
    status : Status
        Exit status of the launcher.
    text : str
        Cause and cure, in sentences.
    """

    def __init__(self, status: Status, text: str) -> None:
        super().__init__(status, text)
        self.status = status
        self.text = text

    def __str__(self) -> str:
        return f"taskvine-worker on {socket.gethostname()}: {self.text}"


class Address(NamedTuple):
    """Host and port at which a manager listens."""

    host: str
    port: int


def address(arguments: list[str]) -> Address | None:
    """Return the manager's address from a worker's arguments; None if they name a catalog or several addresses."""
    if len(arguments) < 2 or not arguments[-1].isdigit() or arguments[-2].startswith("-") or ";" in arguments[-2]:
        return None
    return Address(arguments[-2], int(arguments[-1]))


def option(arguments: list[str], *names: str) -> str | None:
    """Return the value of a worker's option, given by any of its names; the last one counts."""
    found = None
    for place, word in enumerate(arguments):
        name, equals, value = word.partition("=")
        if name in names:
            found = value if equals else "".join(arguments[place + 1 : place + 2])
    return found


# --- before the worker starts ---


def check_version(theirs: str, ours: str) -> None:
    """Check that the user's process and this node have the same version of this package."""
    if theirs and theirs != ours:
        raise Trouble(
            Status.MISMATCH,
            f"this node has taskvine-exec {ours} ({os.path.dirname(taskvine_manager.__file__)}), and the program that "
            f"started it has {theirs}. Install the same version on both, or have nodes use the program's environment",
        )


def find_program(name: str) -> str:
    """Return the path of the worker's program."""
    found = shutil.which(name)
    if found is not None:
        return found
    if os.path.dirname(name) and os.path.exists(name):
        raise Trouble(
            Status.NOT_EXECUTABLE, f"{name} cannot be executed. Allow it (chmod +x), or name another worker_executable"
        )
    where = "" if os.path.dirname(name) else f" on PATH ({os.environ.get('PATH', os.defpath)})"
    raise Trouble(
        Status.NO_PROGRAM,
        f"{name} is not there{where}. Install ndcctools on the nodes (conda install -c conda-forge ndcctools), "
        "activate its environment in the provider's worker_init, or give its path as worker_executable",
    )


def check_password(path: str | None) -> None:
    """Check that the password file can be read."""
    if path is None:
        return
    try:
        with open(path, "rb") as file:
            file.read(1)
    except OSError as error:
        raise Trouble(
            Status.UNREADABLE,
            f"the password file {path} cannot be read: {error.strerror}. Give project_password_file a file that all "
            "nodes see, in your home directory for example, and that you may read there",
        ) from None


def make_directory(make: Callable[[], str]) -> str:
    """Create the worker's directory, and check that files can be written in it."""
    try:
        directory = make()
    except OSError as error:
        raise no_scratch(error.filename or os.environ.get("TMPDIR", "/tmp"), error.strerror or str(error)) from None
    try:
        with tempfile.TemporaryFile(dir=directory) as file:
            file.write(b"\0" * 4096)
    except OSError as error:
        shutil.rmtree(directory, ignore_errors=True)
        raise no_scratch(directory, error.strerror or str(error)) from None
    return directory


def no_scratch(path: str, reason: str) -> Trouble:
    """Describe a directory in which the worker cannot work."""
    return Trouble(
        Status.NO_SCRATCH,
        f"the worker cannot work in {path}: {reason}. Set TMPDIR to a directory of the node in which you may write, in "
        "the provider's worker_init for example",
    )


def reach(to: Address, seconds: float = REACH_SECONDS) -> None:
    """Connect to the manager, and close the connection again.

    Parameters
    ----------
    to : Address
        Where it listens.
    seconds : float
        How long to try. An address on this machine is tried only once.

    Raises
    ------
    Trouble
        If no connection is accepted in that time.
    """
    deadline = time.monotonic() + seconds
    while True:
        try:
            with socket.create_connection(to, max(0.1, deadline - time.monotonic())):
                return
        except OSError as error:
            is_here = to.host == "localhost" or to.host.startswith("127.")
            if is_here or time.monotonic() + RETRY > deadline:
                raise unreachable(to, error, seconds) from None
        time.sleep(RETRY)  # the network may not be up yet, and nothing tells when it is


class Probe:
    """Thread that tries the manager's address if a worker stays silent.

    A worker whose packets are dropped waits for the system to give up, and says nothing. The address is not tried for a
    worker that joins: to the manager, a silent connection looks like a worker with a wrong password.

    Parameters
    ----------
    to : Address or None
        The manager's; None if it is not known.
    """

    def __init__(self, to: Address | None) -> None:
        self._to = to
        self._since = time.monotonic()
        self._thread: threading.Thread | None = None
        self._found: Trouble | None = None
        self._has_waited = False

    def look(self) -> Trouble | None:
        """Return the trouble, once there is one. Call it repeatedly while the worker has not joined."""
        silent = time.monotonic() - self._since
        if self._to is None or silent < PROBE_SECONDS:
            return None
        if self._thread is None:
            self._thread = threading.Thread(target=self._try, args=(self._to,), daemon=True)
            self._thread.start()
        elif silent > REACH_SECONDS and not self._thread.is_alive() and self._found is None and not self._has_waited:
            self._has_waited = True
            note(
                f"taskvine-worker on {socket.gethostname()}: the manager at {self._to.host}:{self._to.port} accepts "
                f"connections, but has not accepted this worker for {silent:.0f} seconds. It may be busy or stopped, "
                "or another program listens there. The worker goes on waiting\n"
            )
        return self._found

    def _try(self, to: Address) -> None:
        try:
            reach(to)
        except Trouble as error:
            self._found = error


def unreachable(to: Address, error: OSError, seconds: float) -> Trouble:
    """Explain why no connection is accepted, and what helps."""
    if isinstance(error, socket.gaierror):
        return Trouble(
            Status.NO_HOST,
            f"the name of the manager's machine, {to.host!r}, is not known here ({error.strerror}). {_ADDRESS}",
        )
    if isinstance(error, TimeoutError):
        cause = f"nothing has answered at {to.host}:{to.port} for {seconds:.0f} seconds"
        cure = "A firewall may drop the packets, or the address is not one that nodes can reach"
    else:
        cause = f"the connection to {to.host}:{to.port} fails: {error.strerror or error}"
        cure = "The manager may have ended, a firewall may reject the port, or the address is another machine's"
    return Trouble(Status.UNREACHABLE, f"{cause}. {cure}. {_ADDRESS}")


_ADDRESS = (
    "Give TaskVineManagerConfig an address at which nodes reach the machine that your program runs on, and a port that "
    "they may connect to"
)

# --- the worker's output ---


class Listener:
    """Parser of a worker's standard streams that recognizes its errors.

    Parameters
    ----------
    to : Address or None
        Address that the worker connects to.
    password : str or None
        Its password file.
    directory : str
        Its workspace.
    """

    def __init__(self, to: Address | None, password: str | None, directory: str) -> None:
        self._to = f"{to.host}:{to.port}" if to else "its address"
        self._password = password
        self._directory = directory
        self._refusals = 0
        self._rest: dict[str, bytes] = {}
        self.has_served = False
        """Whether the manager has accepted the worker."""
        self.last = ""
        """The last line of its standard error."""

    def feed(self, stream: str, data: bytes) -> Trouble | None:
        """Take output of a stream, ``"out"`` or ``"err"``; return the trouble that it reports, if any."""
        *lines, self._rest[stream] = (self._rest.get(stream, b"") + data).split(b"\n")
        trouble = None
        for line in lines:
            trouble = trouble or self._hear(stream, line.decode(errors="replace"))
        return trouble

    def _hear(self, stream: str, line: str) -> Trouble | None:
        if stream == "out":
            self.has_served = self.has_served or line.startswith("disconnected from manager")
            return None
        self.last = line.strip() or self.last
        if re.search(r"wrong password for manager", line):
            self._refusals += 1
            return self._refused() if self._refusals >= REFUSALS else None
        if "couldn't connect" in line or "couldn't resolve" in line:
            self._refusals = 0
        elif "requires a password" in line:
            return Trouble(
                Status.REFUSED,
                f"the manager at {self._to} asks for a password, and this worker was given none. {_PASSWORD}",
            )
        elif re.search(r"could not setup ssl|is not using ssl", line):
            return Trouble(
                Status.UNREACHABLE,
                f"no TLS connection can be made to the manager at {self._to}. Give ssl=True to the executor's "
                "manager_config and to workers that you start by hand, or to neither",
            )
        elif re.search(r"failed to setup workspace|could not be used|Could not write to", line):
            return no_scratch(self._directory, line.strip())
        return None

    def _refused(self) -> Trouble:
        given = f"the password in {self._password}" if self._password else "this worker without a password"
        return Trouble(Status.REFUSED, f"the manager at {self._to} refuses {given}. {_PASSWORD}")

    def silent(self) -> Trouble:
        """Describe a worker that ended without a message that is known here."""
        said = f": {self.last}" if self.last else ""
        return Trouble(Status.UNREACHABLE, f"vine_worker ended before the manager at {self._to} had accepted it{said}")


_PASSWORD = (
    "The program and its nodes must read the same file: name one that all of them see as project_password_file. "
    "Another manager may be listening at that address, too"
)


def out_of_memory(kill: Kill) -> str:
    """Describe a worker that was killed for lack of memory."""
    used = f", of which {kill.used_mb:.0f} MB were in use" if kill.used_mb else ""
    return (
        f"taskvine-worker on {socket.gethostname()}: the system killed vine_worker for lack of memory: all processes "
        f"of its node together may use {kill.limit_mb:.0f} MB{used} (limit of {kill.group}). Ask the batch system for "
        "more memory for each node, or say in the tasks' resource specification how much memory each needs\n"
    )


def say(trouble: Trouble) -> int:
    """Write a message to the job's standard error; return the exit status."""
    note(f"{trouble}\n")
    return trouble.status


def note(text: str) -> None:
    """Write a text to the job's standard error, unless that is closed."""
    with contextlib.suppress(OSError):
        sys.stderr.write(text)
        sys.stderr.flush()
