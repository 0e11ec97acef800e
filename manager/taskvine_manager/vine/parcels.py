"""What the engine puts into a TaskVine function call for a node's supervisor, and what comes back.

A function call of TaskVine carries one :class:`Parcel`: in its command if it is small, else in the file ``in`` of its
sandbox. It ends with one :class:`Answer`: if that is small and the call has no output files, as the call's standard
output, which travels with TaskVine's word that it has ended; else in the file ``out``. Values that are too large for
either are files of the sandbox of their own; on the machine of the user's process they are named by path and never
copied.
"""

from __future__ import annotations

import base64
import pickle
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:  # what a supervisor says of a Python that is too old for the rest
    from taskvine_manager.runtime.payload import Payload

IN_COMMAND = 2048
"""Largest parcel, in bytes, that rides in a call's command: that saves the worker a file."""
PACK = "env_pack"
"""Name of a packed environment in a library's sandbox, if it had to travel."""
IN_OUTPUT = 1024
"""Largest standard output, in bytes, that TaskVine sends along with its word that a call has ended."""
CUT = (-1, b"")
"""Stands in an answer for a piece of a file that is not what was made."""
IN, OUT = "in", "out"
"""Names of the two files in a sandbox."""


class Parcel(NamedTuple):
    """What a supervisor is asked to do.

    ``kind`` is one of the following.

    ``"run"``
        Run ``invocations``, which name ``profiles`` and ``functions``.
    ``"collect"``
        Bring what has come since of the parcel ``number`` whose answer left something open.
    ``"cancel"``
        Drop or kill the invocations ``numbers``, whose outcome nobody waits for.
    ``"retire"``
        Forget ``functions``, whose contents are left out, and the profiles ``numbers``.
    ``"read"``
        Send a piece of the one staged file: ``numbers`` are where it begins and how many bytes it has.
    ``"hello"``
        Say what the node has.
    """

    kind: str
    number: int
    functions: tuple[tuple[str, Payload], ...] = ()
    profiles: tuple[tuple[Any, ...], ...] = ()
    invocations: tuple[tuple[Any, ...], ...] = ()
    values: dict[str, Payload] | None = None
    """Small results that the arguments refer to."""
    staged: dict[str, str] | None = None
    """Names in the sandbox of what TaskVine has brought there, by what the invocations call it."""
    numbers: tuple[int, ...] = ()
    brief: bool = False
    """Whether there is no file for the answer: one that is not small says that there is something to collect."""
    sizes: dict[str, int] | None = None
    """Bytes that staged files of the user's have at least, by what the invocations call them."""


class Answer(NamedTuple):
    """What a supervisor says at the end of a function call.

    ``open`` is whether invocations of the parcel still run: their results are to be collected. ``info`` is the node's
    :class:`~taskvine_manager.wire.messages.NodeInfo` after ``"hello"``. ``files`` says where temp files of this answer
    are on their node: ``(device, inode, bytes, modification time in ns)`` by id. ``left`` is what a call that failed
    has written of the user's files: it may tell why. ``piece`` is the size of a whole file, and a piece of it, or
    :data:`CUT` if the file is not whole.
    """

    node: str
    done: tuple[tuple[Any, ...], ...] = ()
    open: bool = False
    info: tuple[Any, ...] | None = None
    radio: tuple[bytes, ...] = ()
    files: dict[str, tuple[int, int, int, int]] | None = None
    left: dict[str, bytes] | None = None
    piece: tuple[int, bytes] | None = None


class Body(NamedTuple):
    """A large value whose bytes ride in an answer, because its file is on another machine."""

    data: bytes


def pack(parcel: Parcel) -> tuple[str, bytes | None]:
    """The command of a function call and, if the parcel does not fit there, the content of its file."""
    data = pickle.dumps(tuple(parcel), 5)
    if len(data) <= IN_COMMAND:
        return base64.urlsafe_b64encode(data).decode(), None
    return "-", data


def unpack(command: str, sandbox: str) -> Parcel:
    """The parcel of a function call that has come to a node."""
    if command == "-":
        with open(f"{sandbox}/{IN}", "rb") as file:
            return Parcel(*pickle.load(file))
    return Parcel(*pickle.loads(base64.urlsafe_b64decode(command)))


def to_output(answer: Answer) -> tuple[bytes, bool]:
    """An answer's bytes, and whether they are such as can be a call's standard output."""
    data = pickle.dumps(tuple(answer), 5)
    if len(data) > IN_OUTPUT * 3 // 4:
        return data, False
    return base64.b64encode(data), True


def from_output(text: str | None) -> bytes:
    """The bytes of an answer that was a call's standard output; none if there was no output."""
    return base64.b64decode(text) if text else b""
