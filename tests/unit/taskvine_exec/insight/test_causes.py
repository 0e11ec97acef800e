"""Failures by root cause."""

from __future__ import annotations

from typing import Any

import pytest

from taskvine_exec.insight.causes import Cause, causes
from taskvine_exec.insight.paths import parents
from taskvine_exec.insight.state import State, Task
from taskvine_manager.record.events import Failure
from taskvine_manager.wire.messages import FileUse


def traceback(line: int, message: str) -> str:
    return f'Traceback (most recent call last):\n  File "app.py", line {line}, in f\n    f()\n{message}\n'


def task(
    number: int, outcome: str, text: str = "", kind: str = "ValueError", reads: int | None = None, **more: Any
) -> Task:
    """A task that ended at the time that is its number, and makes a result that is named by it."""
    failure = Failure(number, kind, text, **more) if outcome in ("raised", "lost") else None
    inputs = (FileUse("value", "", f"v{reads}"),) if reads is not None else ()
    outputs = (FileUse("value", "", f"v{number}"),)
    return Task(number, 0, inputs, outputs, 0.0, outcome=outcome, ended=float(number), failure=failure)


def found(*tasks: Task) -> list[Cause]:
    state = State(tasks={each.number: each for each in tasks})
    return causes(state, parents(state), dict.fromkeys(state.tasks, "f"), {})


def test_numbers_in_messages_do_not_matter() -> None:
    (cause,) = found(
        task(1, "raised", traceback(5, "ValueError: bad sample 17 at 0x7f3a")),
        task(2, "raised", traceback(5, "ValueError: bad sample 3.5 at 0x1")),
    )
    assert cause.tasks == [1, 2]
    assert (cause.kind, cause.message, cause.first) == ("ValueError", "ValueError: bad sample 17 at 0x7f3a", 1)
    assert cause.place == "app.py:5"


@pytest.mark.parametrize(
    "other",
    [
        task(2, "raised", traceback(6, "ValueError: bad")),
        task(2, "raised", traceback(5, "ValueError: worse")),
        task(2, "raised", traceback(5, "ValueError: bad"), "KeyError"),
        task(2, "lost", "node n1 left", "node-lost"),
    ],
)
def test_other_lines_messages_and_kinds_are_other_causes(other: Task) -> None:
    assert len(found(task(1, "raised", traceback(5, "ValueError: bad")), other)) == 2


def test_same_text_is_that_of_the_first_task() -> None:
    (cause,) = found(task(1, "raised", traceback(5, "ValueError: bad")), task(2, "raised", "", same=1))
    assert cause.tasks == [1, 2]


def test_what_follows_belongs_to_the_root() -> None:
    first, second = found(
        task(1, "raised", traceback(5, "ValueError: bad")),
        task(2, "cancelled", reads=1),
        task(3, "cancelled", reads=2),
        task(4, "returned"),
        task(5, "cancelled", reads=4),
        task(6, "raised", traceback(9, "KeyError: 'x'"), "KeyError"),
    )
    assert (first.tasks, first.dependents) == ([1], 2)
    assert (second.tasks, second.dependents) == ([6], 0)


def test_reason_of_a_lost_task_is_its_first_line() -> None:
    (cause,) = found(task(1, "lost", "while it ran f\nFatal Python error: Segmentation fault", "slot-died"))
    assert (cause.kind, cause.message, cause.place) == ("slot-died", "while it ran f", "")


def test_innermost_frame_of_a_fatal_error_is_the_first() -> None:
    frames = '  File "in.py", line 1 in g\n  File "out.py", line 2 in f'
    text = f"while it ran f\nCurrent thread (most recent call first):\n{frames}"
    (cause,) = found(task(1, "lost", text, "slot-died"))
    assert cause.place == "in.py:1"


def test_record_without_details_has_kinds_only() -> None:
    lost = Task(1, 0, (), (), 0.0, outcome="lost", ended=1.0)
    raised = Task(2, 0, (), (), 0.0, outcome="raised", ended=2.0)
    state = State(tasks={1: lost, 2: raised})
    known = causes(state, parents(state), {1: "f", 2: "f"}, {1: "memory"})
    assert [(cause.kind, cause.text) for cause in known] == [("memory", ""), ("raised", "")]
