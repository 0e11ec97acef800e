"""What TaskVine runs on each worker: one library that multiplexes everything of ours.

TaskVine ends libraries that are idle, gives each the worker's cores, and knows nothing of slots that persist. So there
is one library for each worker, with the whole worker to itself: it answers function calls, runs what they carry in
function slots and fresh processes of its own, keeps account of cores, memory and gpus, and never ends by itself, since
TaskVine gives up on a library that has ended twice. It greets its worker before it imports anything but the standard
library; what goes wrong after that is an answer, not a death.

Its standard streams go to a file of its own: a library's output would travel in a message that the manager does not
expect.
"""

from __future__ import annotations

import argparse
import os
import select
import sys
from typing import TYPE_CHECKING, Any

from taskvine_manager.vine.worker import pipe

if TYPE_CHECKING:
    from taskvine_manager.vine.worker.node import Node

SILENCE = 60.0
"""Seconds that a supervisor which was late to lead its process group waits for its first call."""


def main(arguments: list[str]) -> None:
    """Serve a worker; what the worker appends to the library's command describes its pipes."""
    parser = argparse.ArgumentParser(prog="taskvine-supervisor")
    parser.add_argument("name", help="of the library")
    parser.add_argument("config", help="file of what the engine says to all nodes")
    parser.add_argument("--in-pipe-fd", type=int, required=True)
    parser.add_argument("--out-pipe-fd", type=int, required=True)
    parser.add_argument("--task-id", type=int, required=True)
    parser.add_argument("--library-cores", type=int, default=1)
    parser.add_argument("--function-slots", type=int)
    parser.add_argument("--worker-pid", type=int, required=True)
    options, _ = parser.parse_known_args(arguments)
    was_late = not _leads_group()
    if was_late:
        os.setpgid(0, 0)
    for descriptor in (options.in_pipe_fd, options.out_pipe_fd):
        os.set_inheritable(descriptor, False)
    os.write(options.out_pipe_fd, pipe.greeting(options.name, options.task_id))
    _wake(options.worker_pid)
    if was_late and not select.select([options.in_pipe_fd], (), (), SILENCE)[0]:
        return
    try:
        if sys.version_info < (3, 10):  # noqa: UP036  # nodes have their own
            version = ".".join(map(str, sys.version_info[:3]))
            raise RuntimeError(f"Python 3.10 or later is needed, and {sys.executable} is {version}")
        serve = _node(options).run
    except BaseException as error:
        _answer_all(options, error)
        return
    serve()


def _leads_group() -> bool:
    """Whether this process leads a process group, which its worker kills to end it, and then waits for its end.

    The worker makes the group after it has forked, which the system refuses once the child runs another program. In the
    worker's own group a supervisor is not killed, and its worker waits for ever. It may do so already, so a supervisor
    that makes the group itself ends if it hears nothing: of a live worker, each supervisor hears at once.
    """
    return os.getpgrp() == os.getpid()


def _wake(worker: int) -> None:
    """Have the worker look at its pipes: it sleeps for seconds unless a child seems to have ended."""
    import signal

    try:
        os.kill(worker, signal.SIGCHLD)
    except ProcessLookupError:
        sys.exit(0)


def _node(options: Any) -> Node:
    import pickle

    from taskvine_manager.vine.worker.node import Node

    with open(options.config, "rb") as file:
        config: dict[str, Any] = pickle.load(file)
    return Node(options, config)


def _answer_all(options: Any, error: BaseException) -> None:
    """Say to every call that comes why nothing can run here."""
    import traceback

    from taskvine_manager.runtime import failure
    from taskvine_manager.vine import parcels

    text = "".join(traceback.format_exception(type(error), error, error.__traceback__))
    reason = f"the node cannot be set up: {failure.describe(error)}"
    record = failure.lost("library", reason, stderr=text)
    short = failure.lost("library", reason[:200], stderr=text[-200:])  # where only a small answer can be given
    calls = pipe.CallReader()
    while data := os.read(options.in_pipe_fd, 1 << 16):
        for call in calls.feed(data):
            try:
                parcel = parcels.unpack(call.command, call.sandbox)
                said = short if parcel.brief else record
                done = tuple((item[0], failure.LOST, said, "", 0.0, 0.0, 0.0, ()) for item in parcel.invocations)
                data, is_output = parcels.to_output(parcels.Answer("", done))
                with open(call.output if is_output else os.path.join(call.sandbox, parcels.OUT), "wb") as file:
                    file.write(data)
            except OSError:
                is_output = False  # it was cancelled, and its sandbox is gone
            os.write(options.out_pipe_fd, pipe.ended(call.task, 0 if is_output else 1))
            _wake(options.worker_pid)
