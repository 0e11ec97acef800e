"""Files of tasks on a worker: between the sandboxes of function calls, where TaskVine puts and takes them, and those of
tasks."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
from collections.abc import Callable, Mapping
from typing import Any

from taskvine_manager.node import sandboxes, staging, trees
from taskvine_manager.node.calls import Call, Ending
from taskvine_manager.node.copying import copy, deliver
from taskvine_manager.runtime import failure
from taskvine_manager.runtime.payload import Payload, discard
from taskvine_manager.vine import seals
from taskvine_manager.vine.seals import Inode
from taskvine_manager.vine.worker.running import RunningParcel
from taskvine_manager.wire.messages import FileUse


def has_files(call: Call) -> bool:
    """Return whether a task reads or writes files other than results."""
    return any(use.kind != "value" for use in (*call.invocation.inputs, *call.invocation.outputs))


def give_results(call: Call, parcel: RunningParcel, values: Mapping[str, Payload]) -> bytes | None:
    """Give a task the results that it reads; return the failure record if one cannot be read."""
    record = None
    for use in call.invocation.inputs:
        if use.kind == "value":
            found = values.get(use.source)
            if found is None:
                found = parcel.path(use.source)
                record = record or _attempt(_explain_input, use, seals.check, found)
            call.values[use.source] = found
    return record


def bring_in(call: Call, parcel: RunningParcel) -> bytes | None:
    """Fill a task's sandbox; return the failure record of the first file that cannot be staged."""
    sandbox, record = sandboxes.path(call), None
    for use in call.invocation.inputs:
        if use.kind != "value":
            record = record or _attempt(_explain_input, use, _bring, use, parcel, sandbox)
    outputs = [use for use in call.invocation.outputs if use.kind != "value"]
    faults = [_attempt(staging.explain_output, use, staging.prepare, sandbox, use) for use in outputs]
    return record or next(filter(None, faults), None)


def _bring(use: FileUse, parcel: RunningParcel, sandbox: str) -> None:
    # Copy the file, sharing extents where possible: TaskVine has put a link into its cache there.
    staged, target = parcel.path(use.source), staging.inside(sandbox, use.name)
    if use.kind == "temp":
        deliver(staged, target, seals.check(staged))
        return
    if os.path.getsize(staged) < parcel.least_size(use.source):
        raise seals.Cut(errno.EIO, "it was cut short on its node", staged)
    deliver(staged, target)


def bring_out(call: Call, parcel: RunningParcel, ending: Ending) -> tuple[Ending, dict[str, bytes]]:
    """Move a task's outputs to where TaskVine takes them.

    Returns
    -------
    Ending
        The task's ending; it is lost if an output could not be moved.
    dict of str to bytes
        What a failed task wrote to the user's files, by path.
    """
    sandbox = sandboxes.path(call)
    outputs = [use for use in call.invocation.outputs if use.kind != "value"]
    missing = [_attempt(staging.explain_output, use, _find, use, sandbox) for use in outputs]
    record = next(filter(None, missing), None)
    if ending.outcome == failure.RETURNED:
        for use in outputs:
            record = record or _attempt(staging.explain_output, use, _take_out, use, parcel, sandbox)
        if record is None:
            return ending, {}
        discard(ending.body)
        ending = ending._replace(outcome=failure.LOST, body=record)
    left = {}
    for use in outputs:
        if use.kind == "local":
            with contextlib.suppress(Exception):  # the task has failed anyway
                left[use.source] = _content(os.path.join(sandbox, use.name), sandbox)
    return ending, left


def _find(use: FileUse, sandbox: str) -> None:
    """Check that an output is there; make the file of a standard stream that is not."""
    path = os.path.join(sandbox, use.name)
    if use.stream and not os.path.exists(path):
        os.makedirs(os.path.dirname(path), exist_ok=True)
        open(path, "xb").close()
    if not os.path.exists(path):
        raise FileNotFoundError(errno.ENOENT, "the task ended without it", use.name)


def _take_out(use: FileUse, parcel: RunningParcel, sandbox: str) -> None:
    """Move an output to where TaskVine takes it; pack a directory into an archive."""
    path, target = os.path.join(sandbox, use.name), parcel.path(">" + use.source)
    trees.survey(path, sandbox)  # raises if it cannot be staged
    if trees.must_pack(path):
        trees.pack(path, target, sandbox)
    elif os.path.islink(path) or os.stat(path).st_nlink > 1:  # its bytes may have another name, too
        copy(path, target)
    else:
        shutil.move(path, target)


def _content(path: str, sandbox: str) -> bytes:
    """Return the content of an output; of a directory, its archive."""
    trees.survey(path, sandbox)
    if trees.must_pack(path):
        archive = f"{sandbox}.archive"
        trees.pack(path, archive, sandbox)
        path = archive
    with open(path, "rb") as file:
        return file.read()


def hand_over(
    call: Call, parcel: RunningParcel, body: Payload
) -> tuple[Payload, tuple[tuple[str, int, int], ...], dict[str, Inode]]:
    """Hand temp files, and a large result that other tasks may read, to TaskVine.

    Returns
    -------
    body : bytes or str
        The result to send; empty if TaskVine has it.
    made : tuple
        As in a Completion. These files have no stamp yet, because TaskVine will move them.
    files : dict
        As in an Answer.
    """
    made, files = [], {}
    for use in call.invocation.outputs:
        if not parcel.has(">" + use.source):
            continue  # a result that was expected to be small
        path = parcel.path(">" + use.source)
        if use.kind == "value":
            if not isinstance(body, str):
                open(path, "wb").close()
                continue
            shutil.move(body, path)
            body = ""
        if use.kind != "local":
            made.append((use.source, seals.seal(path), 0))
            status = os.stat(path)
            files[use.source] = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)
    return body, tuple(made), files


def _explain_input(use: FileUse, error: Exception) -> bytes:
    """Record why an input cannot be staged."""
    if isinstance(error, seals.Cut):
        return failure.lost("file-lost", f"{use.name or use.source}: {staging.words(error)}", name=use.source)
    return staging.no_room(use, error) or failure.lost("file-missing", staging.words(error), path=use.source)


def _attempt(
    explain: Callable[[FileUse, Exception], bytes], use: FileUse, action: Callable[..., Any], *args: Any
) -> bytes | None:
    """Run an action on a file; return the failure record if it fails."""
    try:
        action(*args)
    except Exception as error:
        return explain(use, error)
    return None
