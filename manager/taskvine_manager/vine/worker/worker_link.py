"""The pipes between a supervisor and its worker."""

from __future__ import annotations

import contextlib
import os
import pickle
import signal
from typing import Any

from taskvine_manager.node.loop import Loop
from taskvine_manager.vine import parcels
from taskvine_manager.vine.parcels import Answer, Parcel
from taskvine_manager.vine.worker import pipe
from taskvine_manager.vine.worker.pipe import FunctionCall


class WorkerLink:
    """Function calls of the worker, and their answers.

    Parameters
    ----------
    options : argparse.Namespace
        The worker's options: its pipes and its process id.
    loop : Loop
        The node's loop; it ends when the worker does.
    """

    def __init__(self, options: Any, loop: Loop) -> None:
        self._from_worker: int = options.in_pipe_fd
        self._to_worker: int = options.out_pipe_fd
        self._worker: int = options.worker_pid
        self._loop = loop
        self._reader = pipe.CallReader()
        os.set_blocking(self._from_worker, False)

    def fileno(self) -> int:
        """Return the descriptor to read from."""
        return self._from_worker

    def received(self) -> list[tuple[FunctionCall, Parcel]]:
        """Return the calls that have come; end the loop if the worker has closed its pipe."""
        try:
            data = os.read(self._from_worker, 1 << 20)
        except BlockingIOError:
            return []
        if not data:
            self._loop.leave()
        found = []
        for call in self._reader.feed(data):
            try:
                found.append((call, parcels.unpack(call.command, call.sandbox)))
            except FileNotFoundError:  # cancelled: the worker has removed its sandbox
                self._end(call, 1)
        return found

    def answer(self, call: FunctionCall, answer: Answer, status: int | None = None) -> None:
        """Answer a call; if it has output files, its status says whether they are there."""
        data, is_output = parcels.to_output(answer) if status is None else (pickle.dumps(tuple(answer), 5), False)
        if status is None:  # TaskVine fetches the answer's file only if the call failed
            status = 0 if is_output else 1
        # A cancelled call has no sandbox any more.
        path = call.output if is_output else os.path.join(call.sandbox, parcels.OUT)
        with contextlib.suppress(FileNotFoundError), open(path, "wb") as file:
            file.write(data)
        self._end(call, status)

    def _end(self, call: FunctionCall, status: int) -> None:
        with contextlib.suppress(BrokenPipeError):
            os.write(self._to_worker, pipe.ended(call.task, status))
        try:
            os.kill(self._worker, signal.SIGCHLD)  # otherwise it reads the pipe once in five seconds
        except ProcessLookupError:
            self._loop.leave()
