"""The command ``taskvine-tune wfformat``: what it writes is simulated, and what it leaves out is counted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from taskvine_manager.record import Recorder
from taskvine_manager.wire.messages import Completion, FileUse, Invocation, Profile
from taskvine_tune.command import FINE, INVALID, main


@pytest.fixture
def record(tmp_path: Path) -> str:
    path, file = str(tmp_path / "record.msgpack"), (FileUse("value", "", "r"),)
    recorder = Recorder(path)
    calls = [Invocation(0, 0, b"", (), file), Invocation(1, 0, b"", file), Invocation(2, 0, b"")]
    recorder.submitted([Profile(0, "", "f", "L2", None, None, None, None, 0.0, "f")], calls)
    recorder.done([Completion(number, 0, b"", "n", 1.0, 1.0, 4.0) for number in (0, 1)])
    recorder.close()
    return path


def test_an_instance_can_be_simulated(
    record: str, run: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["wfformat", record, "--name", "two calls"]) == FINE
    written, said = capsys.readouterr()
    assert said == "taskvine-tune: 1 of 3 tasks did not return, and are left out\n"
    path = tmp_path / "run.json"
    path.write_text(written)
    shown = run("simulate", str(path), "--latency", "0")
    assert "two calls of 2 tasks" in shown
    assert " 8 " in shown
    assert "the recorded run took" in shown


def test_nodes_of_an_instance_can_be_changed(run: Any, record: str, tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    path.write_text(json.dumps(run("wfformat", record, "--json")))
    told = run("simulate", str(path), "--parameter", "slots=1,2", "--json")
    assert [each["parameters"] for each in told["settings"]] == [{"slots": 1}, {"slots": 2}]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["wfformat", "nothing-such"], "cannot be written in WfFormat: it cannot be read: "),
        (["wfformat", __file__], "not the record of a run"),
        (["wfformat", __file__, "--name", ""], "its name must not be empty"),
        (
            ["simulate", "nothing-such.json"],
            "nothing-such.json cannot be read as an instance of WfFormat: No such file",
        ),
    ],
)
def test_invalid_input_is_refused(arguments: list[str], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == INVALID
    captured = capsys.readouterr()
    assert captured.out == ""
    assert says in captured.err
