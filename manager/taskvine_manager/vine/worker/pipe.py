"""How a library speaks with its ``vine_worker``: framed lines over two pipes, sans I/O.

The worker sends one frame for each function call, and the library one for its greeting and one for each call that
ended, in any order. A frame is the length of its body in decimal, a newline, and the body.

=============== =========================================================================
to the library  ``TASK COMMAND SANDBOX OUTPUT``: a call, its sandbox, and where its standard output would go
from it, first  a JSON object with ``name``, ``taskid`` and ``exec_mode``
from it, then   ``TASK STATUS``: a call has ended; 0 if all outputs that it declared are in its sandbox
=============== =========================================================================

Standard library only: this is imported before the greeting is sent.
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
    """What a library says first: the worker drops a library that says anything else."""
    return frame(json.dumps({"name": name, "taskid": task, "exec_mode": "fork"}))


def ended(task: int, status: int) -> bytes:
    """Say that a call has ended."""
    return frame(f"{task} {status}")


class CallReader:
    """Function calls out of a stream of bytes that may be cut anywhere."""

    def __init__(self) -> None:
        self._data = bytearray()

    def feed(self, data: bytes) -> Iterator[FunctionCall]:
        """Take bytes and yield the calls that are whole.

        Raises
        ------
        ValueError
            If the bytes are no calls.
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
