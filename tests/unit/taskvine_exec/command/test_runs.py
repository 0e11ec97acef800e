"""Which run a word of the command line means, and whether its manager runs."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from taskvine_exec.command import runs
from taskvine_exec.command.runs import Problem, find, is_live
from taskvine_exec.insight.state import State
from tests.unit.taskvine_exec.insight.stories import Story


@pytest.fixture
def first(tmp_path: Path) -> Path:
    path = Story().write(tmp_path / "runinfo/000/here/record.msgpack")
    os.utime(path, (1, 1))
    return path


def test_every_way_to_name_a_run(first: Path, tmp_path: Path) -> None:
    for where in (first, first.parent, first.parent.parent, tmp_path / "runinfo"):
        assert Path(find(str(where)).record).samefile(first)
    assert Path(find(None).record).samefile(first)


def test_newest_run_is_the_default(first: Path, tmp_path: Path) -> None:
    second = Story().write(tmp_path / "runinfo/001/here/record.msgpack")
    (tmp_path / "runinfo/002").mkdir()
    assert Path(find(None).record).samefile(second)
    os.utime(first)
    os.utime(second, (1, 1))
    assert Path(find(None).record).samefile(first)


def test_newest_record_of_a_shared_log_directory(first: Path) -> None:
    second = Story().write(first.parent / "record-2.msgpack")
    assert Path(find(str(first.parent)).record).samefile(second)
    assert Path(find(str(first.parent.parent)).record).samefile(second)


def test_executor_must_be_named_if_there_are_several(first: Path) -> None:
    Story().write(first.parent.parent / "there/record.msgpack")
    with pytest.raises(Problem, match=r"several executors: give one of .*here, .*there"):
        find(str(first.parent.parent))


def test_problems_are_told(tmp_path: Path) -> None:
    with pytest.raises(Problem, match="no directory runinfo"):
        find(None)
    (tmp_path / "runinfo/000").mkdir(parents=True)
    with pytest.raises(Problem, match="no run under runinfo"):
        find(None)
    with pytest.raises(Problem, match="has no record"):
        find("runinfo/000")
    with pytest.raises(Problem, match="no run 'elsewhere'"):
        find("elsewhere")


def state(**facts: object) -> State:
    return State(facts={"pid": os.getpid(), "host": os.uname().nodename, **facts}, started=2e9)


def test_liveness() -> None:
    assert is_live(state()) is True
    assert is_live(state(host="elsewhere")) is None
    assert is_live(State(started=1.0)) is None
    over = state()
    over.ended = 2e9 + 1
    assert is_live(over) is False
    reused = state()
    reused.started = 1.0
    assert is_live(reused) is False


def test_process_that_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(pid: int) -> None:
        raise runs.psutil.NoSuchProcess(pid)

    monkeypatch.setattr(runs.psutil, "Process", gone)
    assert is_live(state()) is False


def test_moments(first: Path) -> None:
    source = find(str(first))
    assert runs.at(source, 5.0) == 105.0
    assert runs.at(source, 1.7e9) == 1.7e9
    assert runs.moment("2026-01-31T12:00:00+00:00") == 1769860800.0
