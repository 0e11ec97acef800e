"""Every exception explains what happened, and can be pickled."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
from parsl.errors import ParslError

from taskvine_exec import errors
from taskvine_exec.errors import (
    FileLost,
    FileUnreadable,
    MemoryExceeded,
    ResourcesUnsatisfiable,
    SlotDied,
    TaskCancelled,
    TaskExited,
    TaskVineExecutorError,
)
from tests.unit.taskvine_exec.errors.examples import CLASSES, EXAMPLES, bare, full, names


def test_there_are_classes_to_test() -> None:
    assert {cls.__name__ for cls in CLASSES} | {"TaskVineExecutorError"} == {
        name for name in errors.__all__ if name[0].isupper() and not name.isupper()
    }


@pytest.mark.parametrize("cls", [*CLASSES, TaskVineExecutorError])
def test_is_named_by_its_public_path(cls: type[Any]) -> None:
    assert cls.__module__ == "taskvine_exec.errors"
    assert pickle.loads(pickle.dumps(cls)) is cls


@pytest.mark.parametrize("make", [full, bare])
@pytest.mark.parametrize("cls", CLASSES)
@pytest.mark.parametrize("travel", [lambda error: pickle.loads(pickle.dumps(error)), copy.copy, copy.deepcopy])
def test_survives_pickle(cls: type[Any], make: Any, travel: Any) -> None:
    error = make(cls)
    arrived = travel(error)
    assert type(arrived) is cls
    assert {name: getattr(arrived, name) for name in names(cls)} == {name: getattr(error, name) for name in names(cls)}
    assert str(arrived) == str(error)
    assert arrived.args == error.args
    assert repr(arrived) == repr(error)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_survives_every_pickle_protocol(protocol: int) -> None:
    assert pickle.loads(pickle.dumps(full(SlotDied), protocol)).signal == 9


@pytest.mark.parametrize("cls", CLASSES)
def test_positional_construction_survives_pickle(cls: type[Any]) -> None:
    error = cls(*(EXAMPLES[name] for name in names(cls)))
    assert str(pickle.loads(pickle.dumps(error))) == str(full(cls))


def test_added_attributes_survive_pickle() -> None:
    error = SlotDied(1)
    error.extra = "noted later"  # type: ignore[attr-defined]
    assert pickle.loads(pickle.dumps(error)).extra == "noted later"


@pytest.mark.parametrize("cls", CLASSES)
def test_can_be_raised_and_is_a_parsl_error(cls: type[Any]) -> None:
    error = full(cls)
    with pytest.raises(ParslError) as caught:
        raise error
    assert caught.value is error
    assert hash(error) != hash(full(cls)) or error != full(cls)  # exceptions compare by identity


@pytest.mark.parametrize("make", [full, bare])
@pytest.mark.parametrize("cls", CLASSES)
def test_message_is_clear(cls: type[Any], make: Any) -> None:
    message = str(make(cls))
    assert message
    assert ": :" not in message
    assert "None" not in message
    assert not message.endswith(": ")
    assert message in repr(make(cls)) or "\n" in message or "'" in message


@pytest.mark.parametrize("cls", CLASSES)
def test_message_tells_every_field(cls: type[Any]) -> None:
    message = str(full(cls))
    for name in names(cls):
        # The signal is more precise than the exit code that comes with it.
        expected = {"signal": "SIGKILL", "exit_code": "SIGKILL" if cls is SlotDied else "3"}
        expected |= {"requested": "64 cores", "largest": "2 cores", "limit_mb": "500 MB"}
        # The task was not started: it used nothing and was not killed, but its slot held too much.
        expected |= {"used_mb": "612.5 MB", "group": "612.5 MB"}
        assert expected.get(name, str(EXAMPLES[name]).strip()) in message, name


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (SlotDied(7, "no more", "n1", signal=9), "task 7 lost on node n1: its process was killed by SIGKILL: no more"),
        (SlotDied(7, signal=11), "task 7 lost: its process was killed by SIGSEGV"),
        (SlotDied(7, signal=60), "task 7 lost: its process was killed by signal 60"),
        (SlotDied(7, exit_code=0), "task 7 lost: its process exited with code 0"),
        (SlotDied(7, stderr="oh\n"), "task 7 lost: its process died\n--- stderr ---\noh"),
        (
            MemoryExceeded(7, limit_mb=500, used_mb=812.5),
            "task 7 lost: it used too much memory (812.5 MB used, 500 MB allowed)",
        ),
        (MemoryExceeded(7, limit_mb=500), "task 7 lost: it used too much memory (500 MB allowed)"),
        (
            MemoryExceeded(7, "ask for more memory to run f", limit_mb=500, slot_mb=612.54),
            "task 7 lost: its memory limit of 500 MB is below the 612.5 MB that its slot holds before it begins "
            "(interpreter, context and modules): ask for more memory to run f",
        ),
        (
            MemoryExceeded(7, "while it ran f", "n1", limit_mb=1000, used_mb=999.6, group="/sys/fs/cgroup/job_7"),
            "task 7 lost on node n1: the system killed its process for lack of memory: all processes of its node "
            "together may use 1000 MB, of which 1000 MB were in use (limit of /sys/fs/cgroup/job_7): while it ran f. "
            "Request more memory per node from the batch system, or declare the memory of each task in its resource "
            "specification, so that fewer tasks run at a time",
        ),
        (FileLost(7, name="temp-a"), "task 7 lost: every replica of temp file 'temp-a' is gone"),
        (FileUnreadable(7, "no room", name="r"), "task 7 lost: 'r' exists, but cannot be read: no room"),
        (
            ResourcesUnsatisfiable(7, requested={"cores": 64, "gpus": 1}, largest={"cores": 2}),
            "task 7 lost: no node is large enough for it (it asks for 64 cores, 1 gpus; the largest node has 2 cores)",
        ),
        (TaskCancelled(None, "shutdown"), "task was cancelled: shutdown"),
        (TaskExited(7, code="3"), "task 7 did not return but raised SystemExit with code 3"),
        (TaskExited(7, exc_type="KeyboardInterrupt"), "task 7 did not return but raised KeyboardInterrupt"),
    ],
)
def test_messages_contain_the_fields(error: TaskVineExecutorError, expected: str) -> None:
    assert str(error) == expected
