"""``logs``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgpack
import pytest

from taskvine_exec.command import logs
from taskvine_manager.record import events
from tests.unit.taskvine_exec.insight.stories import Story


@pytest.fixture
def log(tmp_path: Path) -> Path:
    story = Story().node("b0-1")
    number = story.task()
    story.placed(number, node="b0-1").later(1).ends(number, 1)
    story.entries[-1] = ("done", story.now, [(number, 1, "b0-1", 1.0, 1.0, 1.0, 7, [], "")])
    story.happens(events.Failure(number, "ValueError", "Traceback\nValueError: no"))
    directory = tmp_path / "runinfo/000/here"
    story.write(directory / "record.msgpack")
    (directory / "manager.log").write_text(
        "INFO node b0-1 joined\nDEBUG task 0 was placed\nDEBUG task 10 was placed\nDEBUG tasks 5, 0 are ready\n"
    )
    for node in ("b0-1", "b0-2"):
        (directory / f"node-{node}").mkdir()
        (directory / f"node-{node}/slot-0.log").write_text(f"printed on {node}\x1b[2J\n")
    return directory


def test_all_logs_of_a_run(run: Any, log: Path) -> None:
    out = run("logs")
    heads = [line for line in out.splitlines() if line.startswith("==>")]
    assert heads == [
        "==> runinfo/000/here/manager.log <==",
        "==> runinfo/000/here/node-b0-1/slot-0.log <==",
        "==> runinfo/000/here/node-b0-2/slot-0.log <==",
    ]
    assert "printed on b0-2" in out
    assert "\x1b" not in out


def test_logs_of_a_node(run: Any, log: Path) -> None:
    assert run("logs", "--node", "b0-2").splitlines()[0] == "==> runinfo/000/here/node-b0-2/slot-0.log <=="
    assert "no logs of a node 'b0-3'; there are logs of b0-1, b0-2" in run("logs", "--node", "b0-3", code=1)


def test_logs_of_a_task(run: Any, log: Path) -> None:
    out = run("logs", "--task", "0")
    assert out.startswith("task 0 (f): raised, on b0-1\nValueError\nTraceback\nValueError: no\n")
    assert "DEBUG task 0 was placed" in out
    assert "tasks 5, 0 are ready" in out
    assert "task 10" not in out
    assert "printed on b0-1" in out
    assert "printed on b0-2" not in out


def test_only_the_last_lines(run: Any, log: Path) -> None:
    (log / "manager.log").write_text("".join(f"line {number}\n" for number in range(500)))
    lines = run("logs", "-n", "3").splitlines()
    assert lines[1:4] == ["line 497", "line 498", "line 499"]


def test_older_parts_of_a_log_come_first(run: Any, log: Path) -> None:
    for part in ("manager.log.1", "manager.log.2"):
        (log / part).write_text(f"in {part}\n")
    heads = [line.split()[1] for line in run("logs").splitlines() if line.startswith("==>")]
    assert [Path(head).name for head in heads[:3]] == ["manager.log.2", "manager.log.1", "manager.log"]


def test_large_log_is_read_from_its_end(run: Any, log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "_TAIL", 100)
    (log / "manager.log").write_text("".join(f"line {number}\n" for number in range(500)))
    lines = run("logs").splitlines()
    assert lines[1] == "line 489"
    assert "line 499" in lines


def test_follow_shows_new_lines_until_the_end(run: Any, log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    steps = iter(range(10))

    def goes_on(seconds: float) -> None:
        """Between looks, a log grows, another is new, and then the run ends."""
        step = next(steps)
        if step == 0:
            with (log / "manager.log").open("a") as file:
                file.write("INFO node b0-1 left\n")
        elif step == 1:
            (log / "node-b0-1/library.log").write_text("hello\n")
        else:
            assert step == 2
            with (log / "record.msgpack").open("ab") as file:
                file.write(msgpack.packb(("end", 200.0)))

    monkeypatch.setattr(logs.time, "sleep", goes_on)
    out = run("logs", "-f")
    assert out.endswith(
        "==> runinfo/000/here/manager.log <==\nINFO node b0-1 left\n"
        "==> runinfo/000/here/node-b0-1/library.log <==\nhello\n"
    )
    assert out.count("printed on b0-1") == 1
