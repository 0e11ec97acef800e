"""States of tasks."""

from __future__ import annotations

import re

import pytest

from taskvine_manager.vine.manager import tasks
from taskvine_manager.vine.manager.tasks import TRANSITIONS, IllegalTransition, State, Task
from taskvine_manager.wire.messages import L1, FileUse, Invocation
from tests.unit.taskvine_manager.vine.manager.cores import PROFILE


def test_documentation_lists_the_transitions() -> None:
    listed = re.findall(r"^    ([A-Z]+) +-> ([A-Z]+) ", tasks.__doc__ or "", re.M)
    assert listed == [(start.name, end.name) for start in State for end in State if end in TRANSITIONS[start]]


def test_illegal_transition_describes_the_task() -> None:
    task = Task(Invocation(7, 0, b""), PROFILE, 0)
    task.move(State.READY)
    task.move(State.ASSIGNED)
    task.parcel, task.attempts = 3, 1
    with pytest.raises(IllegalTransition, match=r"task 7 \(app\): ASSIGNED -> WAITING, parcel 3, 1 charged attempts"):
        task.move(State.WAITING)
    assert task.state is State.ASSIGNED


@pytest.mark.parametrize(
    ("profile", "uses", "alone"),
    [
        ({}, (), False),
        ({"mode": L1}, (), True),
        ({"cores": 2.0}, (), False),
        ({"memory": 10.0}, (), True),
        ({"gpus": 1}, (), True),
        ({}, (FileUse("value", "", "r"),), False),
        ({}, (FileUse("temp", "x", "x@1"),), True),
    ],
)
def test_tasks_with_files_or_special_resources_share_no_parcel(
    profile: dict[str, object], uses: tuple[FileUse, ...], alone: bool
) -> None:
    made = PROFILE._replace(**profile)  # type: ignore[arg-type]
    assert Task(Invocation(1, 0, b"", uses), made, 0).alone is alone
    assert Task(Invocation(1, 0, b"", (), uses), made, 0).alone is alone
