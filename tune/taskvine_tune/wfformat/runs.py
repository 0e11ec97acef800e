"""Writing recorded runs as instances of WfFormat."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

from taskvine_manager import VERSION
from taskvine_manager.runtime.failure import RETURNED
from taskvine_tune.errors import BadRecord

if TYPE_CHECKING:
    from taskvine_manager.record import Done, Record
    from taskvine_manager.wire.messages import FileUse

__all__ = ["WRITTEN", "as_instance", "returned"]

WRITTEN = "1.5"
"""The version that is written."""

_OTHER = re.compile(r"[^0-9a-zA-Z_./:-]")
"""Characters that ids of files cannot have; ``#`` marks versions of a file. Ids of tasks lack ``/`` and ``:`` too."""


def returned(record: Record) -> list[int]:
    """Return the numbers of the tasks that an instance can have: those that returned."""
    ends = record.done
    return [
        number
        for number in record.submitted
        if number in ends and ends[number].outcome == RETURNED and number not in record.cancelled
    ]


def as_instance(record: Record, name: str) -> dict[str, Any]:
    """Return a recorded run as an instance.

    Results are files of the instance, as are temp files and the user's files. A file that is written again gets
    another id, so that each has one writer. A task's parents are the tasks that wrote its inputs. Users' files have
    their present sizes, or 0 if they do not exist.

    Parameters
    ----------
    record
        The record.
    name
        The name of the workflow.

    Returns
    -------
    dict
        The instance, as JSON can represent it.

    Raises
    ------
    BadRecord
        If no task returned.
    """
    numbers = returned(record)
    if not numbers:
        raise BadRecord("no task has returned")
    ids = {number: _task_id(record, number) for number in numbers}
    files = _Files()
    structures: dict[str, dict[str, Any]] = {}
    for number in numbers:
        done, task = record.done[number], record.submitted[number]
        inputs = [files.read(use) for use in task.inputs]
        outputs = list(files.written(ids[number], task.outputs, done))
        parents = list(dict.fromkeys(files.writers[file] for file in inputs if file in files.writers))
        structures[ids[number]] = {
            "name": record.profiles[task.profile].name or "task",
            "id": ids[number],
            "parents": parents,
            "children": [],
            "inputFiles": list(dict.fromkeys(inputs)),
            "outputFiles": outputs,
        }
        for parent in parents:
            structures[parent]["children"].append(ids[number])
    begin = min(record.submitted[number].time for number in numbers)
    execution: dict[str, Any] = {
        "makespanInSeconds": max(record.done[number].time for number in numbers) - begin,
        "executedAt": _time(begin),
        "tasks": [_run(record, number, ids[number]) for number in numbers],
    }
    if machines := list(_machines(record, {record.done[number].node for number in numbers})):
        execution["machines"] = machines
    sizes = [{"id": file, "sizeInBytes": size} for file, size in files.sizes.items()]
    return {
        "name": name,
        "schemaVersion": WRITTEN,
        "runtimeSystem": {"name": "TaskVineExecutor", "version": VERSION},
        "workflow": {
            "specification": {"tasks": list(structures.values()), "files": sizes},
            "execution": execution,
        },
    }


class _Files:
    """The files of an instance: their ids, sizes and writers."""

    def __init__(self) -> None:
        self.sizes: dict[str, int] = {}
        self.writers: dict[str, str] = {}
        self._current: dict[tuple[str, str], str] = {}
        self._versions: dict[str, int] = {}

    def read(self, use: FileUse) -> str:
        """Return the id of the present version of a file."""
        if (use.kind, use.source) not in self._current:
            self._add(use, os.path.getsize(use.source) if _is_on_disk(use) else 0)
        return self._current[use.kind, use.source]

    def written(self, task: str, uses: Iterable[FileUse], done: Done) -> Iterator[str]:
        """Yield the ids of new versions of files that a task has written."""
        made = dict(done.made)
        for use in uses:
            if use.kind == "local":
                size = os.path.getsize(use.source) if _is_on_disk(use) else 0
            else:
                # A small result is not among the files that its node created: its size is that of the task's result.
                size = made.get(use.source, done.size if use.kind == "value" else 0)
            file = self._add(use, size)
            self.writers[file] = task
            yield file

    def _add(self, use: FileUse, size: int) -> str:
        plain = _OTHER.sub("_", use.source)
        version = self._versions[plain] = self._versions.get(plain, 0) + 1
        file = plain if version == 1 else f"{plain}#{version}"
        self.sizes[file] = size
        self._current[use.kind, use.source] = file
        return file


def _is_on_disk(use: FileUse) -> bool:
    return use.kind == "local" and os.path.isfile(use.source)


def _task_id(record: Record, number: int) -> str:
    name = record.profiles[record.submitted[number].profile].name or "task"
    return f"{_OTHER.sub('_', name).replace('/', '_').replace(':', '_')}_ID{number:07d}"


def _run(record: Record, number: int, name: str) -> dict[str, Any]:
    """Return the execution of a task."""
    done, profile = record.done[number], record.profiles[record.submitted[number].profile]
    run: dict[str, Any] = {"id": name, "runtimeInSeconds": done.seconds}
    if done.started:
        run["executedAt"] = _time(done.started)
    run["command"] = {"program": profile.name or "task"}
    if profile.cores is not None and profile.cores >= 1:
        run["coreCount"] = profile.cores
    if profile.priority:
        run["priority"] = profile.priority
    if done.node:
        run["machines"] = [done.node]
    return run


def _machines(record: Record, used: set[str]) -> Iterator[dict[str, Any]]:
    """Yield descriptions of the nodes that ran tasks."""
    nodes = {node["name"]: node for _, nodes in record.nodes for node in nodes if node["name"] in used}
    for name, node in nodes.items():
        yield {
            "nodeName": name,
            "system": "linux",
            "memoryInBytes": max(1, round(node["memory"] * 2**20)),
            "cpu": {"coreCount": max(1, int(node["slots"] or node["cores"]))},
        }


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, timezone.utc).isoformat()
