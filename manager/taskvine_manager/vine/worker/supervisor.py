"""The library that TaskVine runs on each worker, which runs all our tasks there.

TaskVine ends idle libraries, gives each the worker's cores, and has no persistent slots. Each worker therefore runs one
library, the supervisor, which uses the whole worker. It answers function calls, runs their tasks in its function slots
and fresh processes, and accounts for cores, memory and GPUs. It never ends by itself, since TaskVine gives up a library
that has ended twice. It greets its worker before it imports anything but the standard library, so that later errors
become answers instead of its end.

Its standard streams go to a file: TaskVine would send a library's output in a message that the manager does not expect.
"""

from __future__ import annotations

import argparse
import os
import select
import sys
from typing import Any

from taskvine_manager.vine.worker import pipe

SILENCE = 60.0
"""Seconds that a supervisor waits for its first call if it was late to lead its process group."""


def main(arguments: list[str]) -> None:
    """Serve a worker; the worker appends options for its pipes to the library's command."""
    parser = argparse.ArgumentParser(prog="taskvine-supervisor")
    parser.add_argument("name", help="name of the library")
    parser.add_argument("config", help="file with the engine's settings for all nodes")
    parser.add_argument("--in-pipe-fd", type=int, required=True)
    parser.add_argument("--out-pipe-fd", type=int, required=True)
    parser.add_argument("--task-id", type=int, required=True)
    parser.add_argument("--library-cores", type=int, default=1)
    parser.add_argument("--function-slots", type=int)
    parser.add_argument("--worker-pid", type=int, required=True)
    options, _ = parser.parse_known_args(arguments)
    # A worker ends a library by killing its process group, and waits for its end. The worker creates the group after
    # the fork, which the system refuses once the child runs another program. A supervisor that stays in the worker's
    # own group is not killed, and the worker waits for ever. The worker may already be waiting when a supervisor
    # creates the group itself. Such a supervisor exits if it receives nothing: every supervisor of a live worker gets a
    # call at once.
    was_late = os.getpgrp() != os.getpid()
    if was_late:
        os.setpgid(0, 0)
    for descriptor in (options.in_pipe_fd, options.out_pipe_fd):
        os.set_inheritable(descriptor, False)
    os.write(options.out_pipe_fd, pipe.greeting(options.name, options.task_id))
    _wake(options.worker_pid)
    if was_late and not select.select([options.in_pipe_fd], (), (), SILENCE)[0]:
        return
    try:
        if sys.version_info < (3, 10):  # noqa: UP036  # nodes may have another Python
            version = ".".join(map(str, sys.version_info[:3]))
            raise RuntimeError(f"Python 3.10 or later is needed, and {sys.executable} is {version}")
        import pickle

        from taskvine_manager.vine.worker.node import Node

        with open(options.config, "rb") as file:
            serve = Node(options, pickle.load(file)).run
    except BaseException as error:
        _answer_all(options, error)
        return
    serve()


def _wake(worker: int) -> None:
    """Make the worker read its pipes: otherwise it sleeps for seconds until a child seems to have ended."""
    import signal

    try:
        os.kill(worker, signal.SIGCHLD)
    except ProcessLookupError:
        sys.exit(0)


def _answer_all(options: Any, error: BaseException) -> None:
    """Answer every call with the reason why nothing can run here."""
    import traceback

    from taskvine_manager.runtime import failure
    from taskvine_manager.vine import parcels

    text = "".join(traceback.format_exception(type(error), error, error.__traceback__))
    reason = f"the node cannot be set up: {failure.describe(error)}"
    record = failure.lost("library", reason, stderr=text)
    short = failure.lost("library", reason[:200], stderr=text[-200:])  # for tasks that allow only a small answer
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
