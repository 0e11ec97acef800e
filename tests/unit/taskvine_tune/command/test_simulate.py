"""The command ``taskvine-tune simulate``: its output, and the input that it refuses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from taskvine_manager.record import Recorder
from taskvine_manager.wire.messages import Completion, FileUse, Invocation, Profile
from taskvine_tune.command import INVALID, main

SMALL = ("simulate", "--generate", "layered", "--tasks", "60", "--width", "10", "--nodes", "3")


def test_a_row_for_each_setting(run: Any) -> None:
    shown = run(*SMALL, "--parameter", "temp-replica-count=1,2", "--parameter", "slots=1,2", "--repeat", "2")
    lines = shown.splitlines()
    assert lines[0].strip() == "layered of 60 tasks"
    assert lines[1].split()[:2] == ["temp-replica-count", "slots"]
    assert [line.split()[:2] for line in lines[2:6]] == [["1", "1"], ["1", "2"], ["2", "1"], ["2", "2"]]
    assert all(" to " in line for line in lines[2:6])
    assert "the scheduler placed 480 tasks" in shown


def test_json_holds_every_outcome(run: Any) -> None:
    told = run(*SMALL, "--parameter", "nodes=2,3", "--repeat", "3", "--failure-rate", "50", "--seed", "5", "--json")
    assert told["tasks"] == 60
    assert [each["parameters"] for each in told["settings"]] == [{"nodes": 2}, {"nodes": 3}]
    for each in told["settings"]:
        assert [outcome["done"] for outcome in each["outcomes"]] == [60, 60, 60]
    again = run(*SMALL, "--repeat", "1", "--failure-rate", "50", "--seed", "5", "--json")
    assert again["settings"][0]["outcomes"][0]["makespan"] == told["settings"][1]["outcomes"][0]["makespan"]


def test_units_of_bytes(run: Any) -> None:
    plain = run(*SMALL, "--size", "4e6", "--bandwidth", "2000000", "--json")
    units = run(*SMALL, "--size", "4M", "--bandwidth", "2m", "--json")
    span = units["settings"][0]["outcomes"][0]["makespan"]
    assert span == plain["settings"][0]["outcomes"][0]["makespan"]
    assert span > run(*SMALL, "--size", "4M", "--json")["settings"][0]["outcomes"][0]["makespan"]


def test_a_record(run: Any, tmp_path: Path) -> None:
    path, file = str(tmp_path / "record.msgpack"), (FileUse("value", "", "r"),)
    recorder = Recorder(path)
    recorder.submitted(
        [Profile(0, "", "f", "L2", None, None, None, None, 0.0, "f")],
        [Invocation(0, 0, b"", (), file), Invocation(1, 0, b"", file)],
    )
    recorder.done([Completion(number, 0, b"", "n", 1.0, 1.0, 4.0) for number in (0, 1)])
    recorder.close()
    shown = run("simulate", path, "--at-once", "--latency", "0")
    assert "record of 2 tasks" in shown
    assert " 8 " in shown
    assert "the recorded run took" in shown


def test_failed_tasks_are_no_success(run: Any) -> None:
    shown = run(*SMALL, "--failure-rate", "2000", "--no-replacement", code=INVALID)
    assert "tasks failed: " in shown


def test_tuning_from_a_file(run: Any, tmp_path: Path) -> None:
    path = tmp_path / "tune.toml"
    path.write_text("temp-replica-count = 2\n")
    assert (
        run(*SMALL, "--tune", str(path), "--json")["settings"][0]["outcomes"][0]["moved"]
        > run(*SMALL, "--json")["settings"][0]["outcomes"][0]["moved"]
    )


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["simulate"], "name either the record of a run, or a kind of graph"),
        (["simulate", "record", "--generate", "chain"], "name either"),
        (["simulate", "nothing-such"], "the record cannot be read"),
        (["simulate", "--generate", "star"], "there is no kind of graph 'star', only independent, chain"),
        ([*SMALL, "--nodes", "0"], "nodes must be a whole number of at least 1, not 0"),
        ([*SMALL, "--tasks", "0"], "tasks must be at least 1"),
        ([*SMALL, "--repeat", "0"], "repeat must be at least 1"),
        ([*SMALL, "--window", "0"], "window must be at least 1"),
        ([*SMALL, "--disk", "100"], "disk must be at least 1 MiB"),
        ([*SMALL, "--failure-rate", "-1"], "loss_rate must be a number of at least 0"),
        ([*SMALL, "--parameter", "temp-replica-count"], "it takes the form NAME=V1,V2"),
        ([*SMALL, "--parameter", "temp-replica-count=a"], "must be numbers, true or false"),
        ([*SMALL, "--parameter", "temp-replicas=1"], "did you mean 'temp-replica-count'"),
        ([*SMALL, "--parameter", "temp-replica-count=1,4"], "3 nodes at most"),
        ([*SMALL, "--parameter", "nodes=1,2.5"], "nodes must be a whole number"),
        ([*SMALL, "--tune", "nothing-such.toml"], "nothing-such.toml cannot be read"),
        ([*SMALL, "--failure-rate", "90000"], "the others never will"),
    ],
)
def test_impossible_simulations_are_refused(
    arguments: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == INVALID
    captured = capsys.readouterr()
    assert captured.out == ""
    assert says in captured.err


@pytest.mark.parametrize("text", ["1X", "-1", "nan", "", "G"])
def test_invalid_sizes_are_refused(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main([*SMALL, "--size", text])
    assert ended.value.code == 2
    assert "is not a number of bytes" in capsys.readouterr().err
