"""``why``: which task is meant, and how causes are shown."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.unit.taskvine_exec.insight.stories import Story


@pytest.fixture
def story(tmp_path: Path) -> Story:
    story = Story().node()
    first = story.task(name="first")
    second = story.task(first, name="second")
    story.raises(first, text="Traceback (most recent call last):\n  in first\nValueError: no")
    story.add("cancelled", [second])
    story.runs(story.task(name="good"))
    story.write(tmp_path / "runinfo/000/here/record.msgpack")
    return story


def test_root_cause_comes_first(run: Any, story: Story) -> None:
    assert run("why", "1").splitlines() == [
        "root cause: ValueError: no",
        "Traceback (most recent call last):",
        "  in first",
        "ValueError: no",
        "",
        "task 1 (second) did not run, because an input was not made",
        "└── task 0 (first) raised ValueError on node n1",
        "    └── ValueError: no",
    ]


def test_run_and_task_together(run: Any, story: Story) -> None:
    assert run("why", "runinfo/000", "1") == run("why", "1")
    assert run("why", "runinfo/000/here/record.msgpack", "second") == run("why", "1")
    assert run("why", "runinfo/000") == run("why")
    assert "give at most a run and a task" in run("why", "a", "b", "c", code=1)


def test_json(run: Any, story: Story) -> None:
    said = run("why", "1", "--json")
    assert said["root"]["kind"] == "error"
    assert said["causes"][0]["task"] == 0


def test_returned_task_has_no_root_cause(run: Any, story: Story) -> None:
    out = run("why", "good")
    assert "root cause" not in out
    assert "task 2 (good) returned on node n1" in out


def test_at_a_moment(run: Any, story: Story) -> None:
    assert "task 1 (second) waits for its input, made by task 0 (first)" in run("why", "1", "--until", "0")


@pytest.mark.parametrize(
    ("states", "chosen"),
    [
        ("returned returned", 1),
        ("returned ready", 1),
        ("ready assigned returned", 1),
        ("assigned raised", 1),
        ("raised raised ready", 0),
    ],
)
def test_task_of_an_app(run: Any, tmp_path: Path, states: str, chosen: int) -> None:
    story = Story().node()
    for state in states.split():
        number = story.task(name="app")
        if state == "returned":
            story.runs(number)
        elif state == "raised":
            story.raises(number)
        elif state == "assigned":
            story.placed(number)
    story.write(tmp_path / "record.msgpack")
    assert run("why", "record.msgpack", "app", "--json")["task"] == chosen


def test_number_of_parsl(run: Any, story: Story, tmp_path: Path) -> None:
    (tmp_path / "runinfo/000/parsl.log").write_text(
        "1.0 INFO: Parsl task 7 try 0 launched on executor here with executor id 0\n"
        "1.0 INFO: Parsl task 8 try 0 launched on executor there with executor id 2\n"
        "1.0 INFO: Parsl task 8 try 0 launched on executor here with executor id 0\n"
        "1.0 INFO: Parsl task 8 try 1 launched on executor here with executor id 1\n"
    )
    assert run("why", "tid=8", "--json")["task"] == 1
    assert run("why", "tid=7", "--json")["task"] == 0
    assert "has not sent a task with tid 9" in run("why", "tid=9", code=1)


def test_problems_are_told(run: Any, story: Story) -> None:
    assert "no task 17: the record has tasks 0 to 2" in run("why", "17", code=1)
    assert "no task of an app 'thirst': there are first, good, second" in run("why", "thirst", code=1)
    assert "Parsl's numbers of tasks are in its log" in run("why", "tid=8", code=1)
