"""From the records in which nodes and the manager report failures to exceptions."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from taskvine_exec.errors import files, serialization, tasks
from taskvine_exec.errors.base import TaskVineExecutorError

#: Tags of lost tasks in result records.
LOST_KINDS: Mapping[str, type[tasks.TaskLost]] = {
    "slot-died": tasks.SlotDied,
    "memory": tasks.MemoryExceeded,
    "node-lost": tasks.NodeLost,
    "manager-lost": tasks.ManagerLost,
    "library": tasks.LibraryFailed,
    "context": tasks.ContextFailed,
    "environment": tasks.EnvironmentFailed,
    "file-missing": files.FileMissing,
    "file-lost": files.FileLost,
    "file-unreadable": files.FileUnreadable,
    "output-missing": files.OutputMissing,
    "remote-input": files.RemoteInputFailed,
    "remote-output": files.RemoteOutputFailed,
    "directory-missing": files.WorkingDirectoryMissing,
    "disk-full": files.DiskFull,
    "unsatisfiable": tasks.ResourcesUnsatisfiable,
}

#: All tags of failures in result records. A failure before the task is sent has no tag and is raised directly.
RECORD_KINDS: Mapping[str, type[Any]] = {
    **LOST_KINDS,
    "cancelled": tasks.TaskCancelled,
    "exit": tasks.TaskExited,
    "function-load": serialization.FunctionNotLoadable,
    "argument-load": serialization.ArgumentNotLoadable,
    "result-dump": serialization.ResultNotSerializable,
    "exception-dump": serialization.ExceptionNotSerializable,
}


def from_record(kind: str, task_id: int | None, fields: Mapping[str, object]) -> TaskVineExecutorError:
    """Build the exception that a result record reports.

    Parameters
    ----------
    kind
        One of the tags of :data:`RECORD_KINDS`.
    task_id
        The executor's number of the task.
    fields
        Values of the exception's fields, by name. Fields that are absent or None keep their defaults. Unknown fields
        are ignored, so that nothing hides the reported error.

    Returns
    -------
    TaskVineExecutorError
        The exception to complete the task's future with.

    Raises
    ------
    ValueError
        If the tag is unknown.
    """
    cls = RECORD_KINDS.get(kind)
    if cls is None:
        raise ValueError(f"unknown kind of failure {kind!r}; known are {', '.join(sorted(RECORD_KINDS))}")
    names = {each.name for each in dataclasses.fields(cls)} - {"task_id"}
    known: dict[str, Any] = {name: fields[name] for name in names if fields.get(name) is not None}
    error: TaskVineExecutorError = cls(task_id=task_id, **known)
    return error
