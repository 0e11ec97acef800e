"""Records of failures become exceptions."""

from __future__ import annotations

import pickle
from typing import Any

import pytest

from taskvine_exec.errors import LOST_KINDS, RECORD_KINDS, TaskLost, from_record
from tests.unit.taskvine_exec.errors.examples import CLASSES, EXAMPLES, full, names

#: Exceptions that are only raised in the user's process, and so never travel as records.
LOCAL = {
    "FunctionNotSerializable",
    "ArgumentNotSerializable",
    "ExecutorNotStarted",
    "ExecutorShutDown",
    "RunDirNotWritable",
    "WorkerLaunchFailed",
}


def test_every_class_has_a_record_or_is_raised_locally() -> None:
    concrete = {cls.__name__ for cls in CLASSES} - {"TaskLost", "SerializationFailed"}
    assert {cls.__name__ for cls in RECORD_KINDS.values()} | LOCAL == concrete
    assert {cls.__name__ for cls in RECORD_KINDS.values()} & LOCAL == set()
    assert set(LOST_KINDS.values()) == {cls for cls in CLASSES if issubclass(cls, TaskLost) and cls is not TaskLost}


def test_every_tag_has_a_class() -> None:
    assert set(LOST_KINDS) == {
        "slot-died",
        "memory",
        "node-lost",
        "manager-lost",
        "library",
        "context",
        "environment",
        "file-missing",
        "file-lost",
        "file-unreadable",
        "output-missing",
        "remote-input",
        "remote-output",
        "directory-missing",
        "disk-full",
        "unsatisfiable",
    }
    assert set(RECORD_KINDS) - set(LOST_KINDS) == {
        "cancelled",
        "exit",
        "function-load",
        "argument-load",
        "result-dump",
        "exception-dump",
    }


@pytest.mark.parametrize("kind", RECORD_KINDS)
def test_record_becomes_its_exception(kind: str) -> None:
    cls = RECORD_KINDS[kind]
    fields = {name: EXAMPLES[name] for name in names(cls) if name != "task_id"}
    assert str(from_record(kind, 7, fields)) == str(full(cls))


@pytest.mark.parametrize("kind", RECORD_KINDS)
def test_record_may_lack_or_add_fields(kind: str) -> None:
    cls = RECORD_KINDS[kind]
    for fields in ({}, dict.fromkeys(names(cls)), {"from_the_future": 1}):
        error: Any = from_record(kind, 8, fields)
        assert type(error) is cls
        assert error.task_id == 8
        assert str(error) == str(cls(task_id=8))
        assert str(pickle.loads(pickle.dumps(error))) == str(error)


def test_unknown_kind_is_refused() -> None:
    with pytest.raises(ValueError, match="'gremlins'"):
        from_record("gremlins", 1, {})
