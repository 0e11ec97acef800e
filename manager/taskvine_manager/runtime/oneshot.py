"""An L1 task: one task in a fresh Python process and its own sandbox.

It is run as ``python -m taskvine_manager task DIRECTORY``. The directory holds ``sandbox``, a directory with the files
that the task's app declares, and ``task``, a pickled dict with these keys:

- ``function`` and ``arguments``, both encoded;
- ``values``: results that the arguments refer to;
- ``directory``: the user's directory, in which the task runs, or None to run it in the sandbox;
- ``memory_group``: argument of :func:`~taskvine_manager.runtime.headroom.keep_to`;
- ``sys_path``, ``spool``, ``inline_limit`` and ``context``.

The process writes the file ``outcome`` into the directory: the pickled tuple ``(outcome, body, started, seconds)``. If
it ends without writing that file, it has crashed or was killed.
"""

from __future__ import annotations

import faulthandler
import os
import pickle
import sys
import time
from typing import Any

from taskvine_manager.runtime import (
    context,
    exits,
    failure,
    headroom,
    keeper,
    limits,
    payload,
    sandbox,
    search_path,
    values,
)
from taskvine_manager.runtime.execution import call, load_or_explain, no_directory
from taskvine_manager.runtime.functions import Functions


def main(directory: str, parent: int) -> None:
    """Run the task in ``directory``; when ``parent`` ends, the task is ended too."""
    keeper.keep(parent)
    keeper.fresh_signals()
    faulthandler.enable()
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]  # output before a crash must reach the log
    with open(os.path.join(directory, "task"), "rb") as file:
        task = pickle.load(file)
    headroom.keep_to(task["memory_group"])
    search_path.start(task["sys_path"])
    own = os.path.join(directory, "sandbox")
    sandbox.use(own)
    try:
        os.chdir(task["directory"] or own)
    except OSError as error:
        outcome: tuple[int, payload.Payload, float, float] = failure.LOST, no_directory(error), time.time(), 0.0
    else:
        outcome = _run(task)
    exits.flush()
    partial = os.path.join(directory, "outcome.partial")
    with open(partial, "wb") as file:
        pickle.dump(outcome, file)
    os.rename(partial, os.path.join(directory, "outcome"))
    exits.run()
    os._exit(0)


def _run(task: dict[str, Any]) -> tuple[int, payload.Payload, float, float]:
    encoded = task["context"]
    if encoded is not None and (record := context.build_or_explain(encoded)) is not None:
        return failure.LOST, record, time.time(), 0.0
    found = limits.Limits()
    known = Functions()
    known.add("task", task["function"])
    function = load_or_explain(known, "task")
    if isinstance(function, bytes):
        return failure.LOST, function, time.time(), 0.0
    values.provide(task["values"])
    return call(function, task["arguments"], task["spool"], found, task["inline_limit"])
