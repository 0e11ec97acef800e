"""``status`` and ``replay``."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import msgpack
import pytest

from taskvine_exec.command import status
from taskvine_manager.record import events
from tests.unit.taskvine_exec.insight.stories import GB, Story


@pytest.fixture
def story(tmp_path: Path) -> Story:
    """A run with a task in each state, a lost node, and a block that waits."""
    story = Story().block("RUNNING").node().happens(events.Block("1", "73", "PENDING", "reason Priority"))
    for number in [story.task(name="short") for _ in range(8)]:
        story.runs(number)
    story.happens(events.Made("result-0", "n1", GB // 10))
    story.raises(story.task(name="bad"))
    running = story.task(name="long", memory=100.0)
    story.placed(running)
    reader = story.task(running, name="long")
    story.task(reader)
    story.task(name="free")
    story.node("n2").node_ends("n2").happens(events.NodeExited(77, -9))
    story.write(tmp_path / "runinfo/000/here/record.msgpack")
    return story


def test_status_shows_everything(run: Any, story: Story) -> None:
    out = run("status")
    for words in (
        "runinfo/000/here/record.msgpack  embedded engine",
        "13 tasks: 2 waiting, 1 ready, 1 assigned, 8 returned, 1 raised",
        "8 files stored",
        "about 3 s left",
        "1 node lost",
        "105 MB of 1.05 GB",
        "107 MB of 105 MB",
        "reason Priority",
        "its connection ended; it was killed by SIGKILL",
    ):
        assert words in out, out


def test_json(run: Any, story: Story) -> None:
    said = run("status", "--json")
    assert said["run"] == "unknown"
    assert said["states"] == {
        "waiting": 2, "ready": 1, "assigned": 1, "returned": 8, "raised": 1, "lost": 0, "cancelled": 0,
    }  # fmt: skip
    assert {category["name"]: sum(category["states"].values()) for category in said["categories"]} == {
        "short": 8, "long": 2, "bad": 1, "f": 1, "free": 1,
    }  # fmt: skip
    assert [block["state"] for block in said["blocks"]] == ["RUNNING", "PENDING"]
    assert said["estimate"]["unmeasured"] == 4


def test_run_that_is_over(run: Any, story: Story, tmp_path: Path) -> None:
    story.later(5).add("end").write(tmp_path / "record.msgpack")
    out = run("status", "record.msgpack")
    assert "over, after" in out
    assert "left" not in out.splitlines()[2]


def test_empty_run(run: Any, tmp_path: Path) -> None:
    Story().write(tmp_path / "record.msgpack")
    assert "0 tasks" in run("status", "record.msgpack")
    assert run("status", "--json", "record.msgpack")["tasks"] == 0


def test_record_without_details(run: Any, tmp_path: Path) -> None:
    story = Story(details=False)
    number = story.task()
    story.later(1).ends(number)
    story.entries = [entry for entry in story.entries if entry[0] != "events"]
    story.write(tmp_path / "record.msgpack")
    out = run("status", "record.msgpack")
    assert "the record has no details" in out
    assert "1 task: 1 returned" in out


def test_many_rows_are_cut(run: Any, tmp_path: Path) -> None:
    story = Story()
    for number in range(30):
        story.node(f"node-{number:03}")
    story.write(tmp_path / "record.msgpack")
    out = run("status", "record.msgpack")
    assert "and 10 more (--all)" in out
    assert "node-025" not in out
    assert "node-025" in run("status", "--all", "record.msgpack")


def test_replay_shows_the_state_of_a_moment(run: Any, story: Story) -> None:
    assert "8 tasks: 5 ready, 1 assigned, 2 returned" in run("replay", "--until", "2.5")
    said = run("replay", "--until", "2.5", "--json")
    assert {task["number"]: task["state"] for task in said["all_tasks"]} == {
        2: "assigned", **dict.fromkeys(range(3, 8), "ready"),
    }  # fmt: skip
    assert said["all_files"] == {"result-0": {"manager": 7}, "result-1": {"manager": 7}}


def test_moment_before_the_run(run: Any, story: Story) -> None:
    assert "began after this moment" in run("replay", "--until", "-5", code=1)


def test_watch_follows_a_record_to_its_end(
    capsys: pytest.CaptureFixture[str], story: Story, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "runinfo/000/here/record.msgpack"
    looked = threading.Event()

    def goes_on(seconds: float) -> None:
        """Between two looks, the run ends."""
        assert not looked.is_set()
        looked.set()
        with path.open("ab") as file:
            file.write(msgpack.packb(("end", story.now + 1)))

    monkeypatch.setattr(status.time, "sleep", goes_on)
    assert status.run(_options("status", "--watch", "--json")) == 0
    first, second = map(json.loads, capsys.readouterr().out.splitlines())
    assert (first["run"], second["run"]) == ("unknown", "over")


def test_watch_without_a_terminal_writes_lines(
    capsys: pytest.CaptureFixture[str], story: Story, tmp_path: Path
) -> None:
    story.add("end").write(tmp_path / "record.msgpack")
    assert status.run(_options("status", "--watch", "0.1", "record.msgpack")) == 0
    assert capsys.readouterr().out == "over: 2 waiting, 1 ready, 1 assigned, 8 returned, 1 raised; 1 node\n"


def _options(*words: str) -> Any:
    from taskvine_exec.command.program import _parser

    return _parser().parse_args(words)
