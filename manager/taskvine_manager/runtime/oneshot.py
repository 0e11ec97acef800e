"""An L1 task: one invocation in a fresh Python process and a sandbox of its own.

Run as ``python -m taskvine_manager task DIRECTORY``, where the directory holds ``task`` (a pickled dict: ``function``
and ``arguments``, encoded; ``values``, results that the arguments refer to; ``sys_path``; ``spool``; ``inline_limit``;
``context``) and ``sandbox``, the task's working directory. The process writes ``outcome`` beside them: the pickled
tuple ``(outcome, body, started, seconds)``. A process that ends without writing it has died.
"""

from __future__ import annotations

import contextlib
import faulthandler
import os
import pickle
import sys
import time

from taskvine_manager.runtime import context, failure, library, payload, search_path, slot, values


def main(directory: str, parent: int) -> None:
    """Run the task in ``directory``; ``parent`` is the process to die with."""
    library.die_with_parent(parent)
    faulthandler.enable()
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]  # what it said before it died is in the log
    with open(os.path.join(directory, "task"), "rb") as file:
        task = pickle.load(file)
    search_path.start(task["sys_path"])
    os.chdir(os.path.join(directory, "sandbox"))
    outcome = _run(task)
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):  # the task may have closed it, or put anything in its place
            stream.flush()
    partial = os.path.join(directory, "outcome.partial")
    with open(partial, "wb") as file:
        pickle.dump(outcome, file)
    os.rename(partial, os.path.join(directory, "outcome"))
    # Threads and exit handlers that the task left behind must not keep the process, and its resources, alive.
    os._exit(0)


def _run(task: dict[str, object]) -> tuple[int, payload.Payload, float, float]:
    encoded = task["context"]
    if encoded is not None:
        try:
            context.build(*payload.decode(encoded))  # type: ignore[arg-type]
        except BaseException as error:
            return failure.LOST, library.context_failure(error), time.time(), 0.0
    functions = slot.Functions()
    functions.add("task", task["function"])  # type: ignore[arg-type]
    function = slot.load_or_explain(functions, "task")
    if isinstance(function, bytes):
        return failure.LOST, function, time.time(), 0.0
    values.provide(task["values"])  # type: ignore[arg-type]
    return slot.call(function, task["arguments"], str(task["spool"]), task["inline_limit"])  # type: ignore[arg-type]
