"""A run as a trace."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest

from taskvine_exec.insight import trace
from taskvine_manager.record import events
from tests.unit.taskvine_exec.insight.stories import GB, Story


def traced(story: Story, tmp_path: Path) -> list[dict[str, Any]]:
    file = io.StringIO()
    trace.write(trace.read(story.write(tmp_path / "record.msgpack")), file)
    return list(json.loads(file.getvalue())["traceEvents"])


def bars(found: list[dict[str, Any]], kind: str = "task") -> list[tuple[str, int, int, int]]:
    return [(event["name"], event["tid"], event["ts"], event["dur"]) for event in found if event.get("cat") == kind]


def test_tasks_that_run_together_are_in_different_lanes(tmp_path: Path) -> None:
    story = Story().node()
    first, second, third = story.task(), story.task(), story.task()
    story.placed(first, second).later(2).ends(first, seconds=2.0).later(1).ends(second, seconds=3.0)
    story.placed(third).later(1).ends(third, seconds=1.0)
    assert bars(traced(story, tmp_path)) == [
        ("f", 0, 0, 2_000_000),
        ("f", 1, 0, 3_000_000),
        ("f", 0, 3_000_000, 1_000_000),
    ]


def test_nodes_are_named_and_marked(tmp_path: Path) -> None:
    story = Story().node().later(5).node_ends().block("TIMEOUT", "Slurm says TIMEOUT")
    found = traced(story, tmp_path)
    assert [event["args"]["name"] for event in found if event["name"] == "process_name"] == ["run", "node n1"]
    assert [(event["name"], event["s"]) for event in found if event["ph"] == "i"] == [
        ("joined", "p"),
        ("lost: its connection ended", "p"),
        ("block 0 TIMEOUT Slurm says TIMEOUT", "g"),
    ]


def test_attempt_that_was_lost(tmp_path: Path) -> None:
    story = Story().node()
    number = story.task()
    story.placed(number).later(5).node_ends().happens(events.Requeued(number, "node-lost", 1)).node("n2")
    story.placed(number, node="n2").later(1)
    story.ends(number)
    found = traced(story, tmp_path)
    assert bars(found, "attempt") == [("f (node-lost)", 0, 0, 5_000_000)]
    assert len(bars(found)) == 1


def test_copies_have_lanes_of_their_own(tmp_path: Path) -> None:
    story = Story().node().node("n2")
    maker = story.task()
    story.runs(maker).happens(events.Made("result-0", "n1", GB))
    story.happens(events.TransferStarted("result-0", "n2", "n1", True)).later(3)
    story.happens(events.TransferEnded("result-0", "n2", GB, 3.0))
    story.happens(events.InputStarted("/data", "n2", events.FILES)).later(1)
    story.happens(events.InputEnded("/data", "n2", 5, True))
    found = [event for event in traced(story, tmp_path) if event.get("cat") == "copy"]
    assert [(event["name"], event["dur"], event["args"]["bytes"]) for event in found] == [
        ("copy from n1", 3_000_000, GB),
        ("copy from files", 1_000_000, 5),
    ]
    assert all(event["tid"] >= 10_000 for event in found)


def test_arrows_lead_from_makers_to_readers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    story = Story().node()
    first = story.task()
    second = story.task(first)
    third = story.task(second)
    story.runs(first, second, third)
    found = traced(story, tmp_path)
    starts = [event["ts"] for event in found if event["ph"] == "s"]
    ends = [event["ts"] for event in found if event["ph"] == "f"]
    assert starts == [999_999, 1_999_999]
    assert ends == [1_000_000, 2_000_000]
    monkeypatch.setattr(trace, "MOST_ARROWS", 1)
    assert sum(event["ph"] == "s" for event in traced(story, tmp_path)) == 1


def test_running_tasks_are_counted(tmp_path: Path) -> None:
    story = Story().node()
    first, second = story.task(), story.task()
    story.placed(first, second).later(1).ends(first, seconds=1.0).later(1).ends(second, seconds=2.0)
    counts = [(event["ts"], event["args"]["tasks"]) for event in traced(story, tmp_path) if event["ph"] == "C"]
    assert counts == [(0, 2), (1_000_000, 1), (2_000_000, 0)]


def test_task_that_runs_ends_with_the_record(tmp_path: Path) -> None:
    story = Story().node()
    story.placed(story.task()).later(7).block("RUNNING")
    assert bars(traced(story, tmp_path)) == [("f", 0, 0, 7_000_000)]


def test_nonsense_of_nodes_is_no_error(tmp_path: Path) -> None:
    story = Story().node()
    number = story.task()
    story.add("done", [(number, 0, "n9", float("nan"), float("inf"), float("-inf"), 7, [], "")])
    assert all(isinstance(event.get("ts", 0), int) for event in traced(story, tmp_path))


def test_empty_run_and_record_without_details(tmp_path: Path) -> None:
    assert traced(Story(), tmp_path) == [
        {"ph": "M", "name": "process_name", "pid": 1, "tid": 0, "args": {"name": "run"}}
    ]
    story = Story(details=False)
    number = story.task()
    story.later(1).add("done", [(number, 0, "n1", 100.0, 100.0, 1.0, 7, [], "")])
    assert bars(traced(story, tmp_path)) == [("f", 0, 0, 1_000_000)]
