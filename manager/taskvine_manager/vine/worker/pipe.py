"""The protocol between a library and its ``vine_worker``: framed lines over two pipes, without I/O.

The worker sends one frame for each function call. The library sends one frame as its greeting and one for each call
that ended, in any order. A frame is the length of its body in decimal, a newline, and the body.

=============== =========================================================================
to the library  ``TASK COMMAND SANDBOX OUTPUT``: a call, its sandbox, and the path of its standard output
from it, first  a JSON object with ``name``, ``taskid`` and ``exec_mode``
from it, then   ``TASK STATUS``: a call has ended; 0 if all its declared outputs are in its sandbox
=============== =========================================================================

Standard library only: this module is imported before the greeting is sent.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import NamedTuple


class FunctionCall(NamedTuple):
    """A function call as the worker sends it."""

    task: int
    command: str
    sandbox: str
    output: str


def frame(body: str) -> bytes:
    """Frame one message."""
    data = body.encode()
    return b"%d\n%s" % (len(data), data)


def greeting(name: str, task: int) -> bytes:
    """Return a library's first message; the worker drops a library that sends another."""
    return frame(json.dumps({"name": name, "taskid": task, "exec_mode": "fork"}))


def ended(task: int, status: int) -> bytes:
    """Return the message that a call has ended."""
    return frame(f"{task} {status}")


class CallReader:
    """Parser of function calls from a stream of bytes that may be cut anywhere."""

    def __init__(self) -> None:
        self._data = bytearray()

    def feed(self, data: bytes) -> Iterator[FunctionCall]:
        """Take bytes and yield the calls that are complete.

        Raises
        ------
        ValueError
            If the bytes are not function calls.
        """
        self._data += data
        while (end := self._data.find(b"\n")) >= 0:
            length = int(self._data[:end])
            if len(self._data) < end + 1 + length:
                return
            body = self._data[end + 1 : end + 1 + length].decode(errors="surrogateescape")
            del self._data[: end + 1 + length]
            task, command, sandbox, output = body.split(" ", 3)
            yield FunctionCall(int(task), command, sandbox, output)
