"""Messages between the engine and the supervisors of nodes.

A function call of TaskVine carries one :class:`Parcel`: in its command if it is small, otherwise in the file ``in`` of
its sandbox. It ends with one :class:`Answer`. A small answer of a call without output files is the call's standard
output, which arrives with TaskVine's message that the call ended. Any other answer is in the file ``out``. Values too
large for a message are separate files in the sandbox. On the user's machine they are named by path and never copied.
"""

from __future__ import annotations

import base64
import pickle
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:  # a supervisor with a Python too old for Payload imports this too
    from taskvine_manager.runtime.payload import Payload
    from taskvine_manager.vine.seals import Inode

IN_COMMAND = 2048
"""Largest parcel, in bytes, that fits in a call's command; this saves the worker a file."""
PACK = "env_pack"
"""Name of a packed environment in a library's sandbox, if it is sent to the node."""
IN_OUTPUT = 1024
"""Largest standard output, in bytes, that TaskVine sends with its message that a call ended."""
CUT = (-1, b"")
"""Piece in the answer when the file is cut short or changed."""
IN, OUT = "in", "out"
"""Names of the two message files in a sandbox."""
HELLO, PARCEL, ANSWER = "hello", "parcel", "answer"
"""Tags of the messages on a direct connection: a supervisor names its node; a pickled parcel; its number and the
pickled answer."""


class Parcel(NamedTuple):
    """Request to a supervisor.

    ``kind`` is one of the following.

    ``"run"``
        Run ``invocations``, which refer to ``profiles`` and ``functions``.
    ``"collect"``
        Return the results since the last answer of the parcel ``number``, which was left open.
    ``"cancel"``
        Drop or kill the tasks ``numbers``, whose outcome is no longer wanted.
    ``"retire"``
        Forget ``functions``, given without contents, and the profiles ``numbers``.
    ``"read"``
        Return a piece of the one staged file; ``numbers`` are its offset and its maximum length in bytes.
    ``"hello"``
        Return the node's resources.
    """

    kind: str
    number: int
    functions: tuple[tuple[str, Payload], ...] = ()
    profiles: tuple[tuple[Any, ...], ...] = ()
    invocations: tuple[tuple[Any, ...], ...] = ()
    values: dict[str, Payload] | None = None
    """Small results that the arguments refer to."""
    staged: dict[str, str] | None = None
    """Names in the sandbox of files that TaskVine brings or takes, by the names that the tasks use."""
    numbers: tuple[int, ...] = ()
    brief: bool = False
    """Whether there is no file for the answer: if the answer is not small, it stays open and is collected later."""
    sizes: dict[str, int] | None = None
    """Minimum sizes in bytes of the user's staged files, by the names that the tasks use."""


class Answer(NamedTuple):
    """Reply of a supervisor at the end of a function call.

    ``open`` is whether tasks of the parcel still run: their results must be collected. ``info`` is the node's
    :class:`~taskvine_manager.wire.messages.NodeInfo` after ``"hello"``. ``files`` identifies the temp files of this
    answer on their node, by id. ``left`` holds what a failed task wrote to the user's files, which may show why it
    failed. ``piece`` is the size of the whole file and a piece of it, or :data:`CUT` if the file is not whole.
    ``libraries`` names the named libraries that run on the node, None if they are those of its last answer that named
    any. ``steps`` lists each :class:`~taskvine_manager.node.steps.Step` since the last answer that had some.
    """

    node: str
    done: tuple[tuple[Any, ...], ...] = ()
    open: bool = False
    info: tuple[Any, ...] | None = None
    radio: tuple[bytes, ...] = ()
    files: dict[str, Inode] | None = None
    left: dict[str, bytes] | None = None
    piece: tuple[int, bytes] | None = None
    libraries: tuple[str, ...] | None = None
    steps: tuple[tuple[Any, ...], ...] = ()


class Body(NamedTuple):
    """Large value whose bytes are in the answer, because its file is on another machine."""

    data: bytes


def pack(parcel: Parcel) -> tuple[str, bytes | None]:
    """Return the command of a function call and, if the parcel does not fit there, the content of its file."""
    data = pickle.dumps(tuple(parcel), 5)
    if len(data) <= IN_COMMAND:
        return base64.urlsafe_b64encode(data).decode(), None
    return "-", data


def unpack(command: str, sandbox: str) -> Parcel:
    """Return the parcel of a function call, on a node."""
    if command == "-":
        with open(f"{sandbox}/{IN}", "rb") as file:
            return Parcel(*pickle.load(file))
    return Parcel(*pickle.loads(base64.urlsafe_b64decode(command)))


def to_output(answer: Answer) -> tuple[bytes, bool]:
    """Encode an answer; return its bytes and whether they can be a call's standard output."""
    data = pickle.dumps(tuple(answer), 5)
    if len(data) > IN_OUTPUT * 3 // 4:
        return data, False
    return base64.b64encode(data), True


def from_output(text: str | None) -> bytes:
    """Return the bytes of an answer that was a call's standard output; none if there was no output."""
    return base64.b64decode(text) if text else b""
