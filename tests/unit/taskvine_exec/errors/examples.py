"""Every exception, with values for its fields."""

from __future__ import annotations

import dataclasses
import inspect
from typing import Any

from taskvine_exec import errors
from taskvine_exec.errors import TaskVineExecutorError

#: A telling value for every field that any of the exceptions has.
EXAMPLES: dict[str, Any] = {
    "task_id": 7,
    "reason": "so it was",
    "node": "node-1",
    "stderr": "last words\n",
    "exit_code": 3,
    "signal": 9,
    "limit_mb": 500.0,
    "used_mb": 812.5,
    "slot_mb": 612.5,
    "group": "/sys/fs/cgroup/job_7",
    "path": "/data/in put",
    "name": "temp-abc",
    "url": "https://host/data.csv",
    "status": 404,
    "requested": {"cores": 64},
    "largest": {"cores": 2},
    "remote_traceback": "Traceback: far away",
    "subject": "argument 2",
    "exc_type": "SystemExit",
    "code": "4",
    "label": "vine",
    "command": "taskvine-node",
    "job": "4711",
    "output": "/home/me/block-0.stderr",
}

CLASSES: list[type[Any]] = [
    value
    for _, value in inspect.getmembers(errors, inspect.isclass)
    if issubclass(value, TaskVineExecutorError) and value is not TaskVineExecutorError
]


def names(cls: type[Any]) -> list[str]:
    return [each.name for each in dataclasses.fields(cls)]


def full(cls: type[Any]) -> Any:
    return cls(**{name: EXAMPLES[name] for name in names(cls)})


def bare(cls: type[Any]) -> Any:
    required = [each.name for each in dataclasses.fields(cls) if each.name in ("label",) or not _optional(each)]
    return cls(**{name: EXAMPLES[name] for name in required})


def _optional(each: dataclasses.Field[Any]) -> bool:
    return each.default is not dataclasses.MISSING or each.default_factory is not dataclasses.MISSING
