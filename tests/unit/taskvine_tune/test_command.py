"""The command line: what it shows, what it writes for programs, and its exit codes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import taskvine_tune
from taskvine_manager.parameters import PARAMETERS, honoured
from taskvine_tune.command import FINE, INVALID, main

ROOT = str(Path(taskvine_tune.__file__).parent.parent)

GOOD = "temp_replica_count = 2\nhungry-minimum = 3\n[executor]\nlibrary-slots = 2\n"
BAD = "temp-replica-count = 4\nmax-workers = 3\nhungry = 2\nprefer-dispatch = 7\n"


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.delenv("COLUMNS", raising=False)

    def run(*arguments: str, code: int = FINE) -> Any:
        assert main(arguments) == code
        out = capsys.readouterr().out
        return json.loads(out) if "--json" in arguments else out

    return run


def program(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "taskvine_tune", *arguments],
        env={"PATH": os.defpath, "PYTHONPATH": ROOT, "PYTHONUTF8": "1", **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def test_list_shows_every_parameter_with_its_effect(run: Any) -> None:
    shown = run("list")
    words = " ".join(shown.split())
    for parameter in PARAMETERS.values():
        assert parameter.name in words
    assert "native" in shown
    assert "choice of a node" in " ".join(shown.split())
    assert [each["name"] for each in run("list", "--json")] == list(PARAMETERS)


def test_list_of_some(run: Any) -> None:
    assert {each["name"] for each in run("list", "--engine", "embedded", "--json")} == honoured("embedded")
    assert [each["name"] for each in run("list", "Replica_", "--json")] == [
        "temp-replica-count",
        "transfer-replica-per-cycle",
    ]
    assert [each["name"] for each in run("list", "asynchrony", "--json")] == ["resource-submit-multiplier"]
    assert run("list", "nothing-such", "--json") == []


def test_list_on_a_narrow_terminal_leaves_the_effects_out(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    lines = run("list").splitlines()
    assert len(lines) == 1 + len(PARAMETERS)
    assert "effect" not in lines[0].split()


def test_explain(run: Any) -> None:
    shown = run("explain", "asynchrony_multiplier")
    for text in ("resource-submit-multiplier", "asynchrony-multiplier", "at least 1", "cctools 7.5.0", "native"):
        assert text in shown
    assert "before the start" in run("explain", "executor.library-slots")
    assert "0 means" in run("explain", "monitor-interval")
    told = run("explain", "transfer_temps_recovery", "--json")
    assert told["engines"]["taskvine"]["support"] == "no effect"
    assert told["engines"]["embedded"] == {"support": "emulated", "note": ""}
    assert (told["type"], told["default"], told["since"]) == ("flag", False, "7.11.0")


def test_explain_what_does_not_exist(run: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", "temp-replicas"]) == INVALID
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "did you mean 'temp-replica-count'" in captured.err


def test_check_of_a_valid_file(run: Any, tmp_path: Path) -> None:
    path = tmp_path / "good.toml"
    path.write_text(GOOD)
    shown = run("check", str(path))
    assert f"{path}: valid (3 parameters)" in shown
    assert run("check", str(path), "--engine", "embedded", "--json") == {
        "file": str(path),
        "valid": True,
        "parameters": {"temp-replica-count": 2, "hungry-minimum": 3, "executor.library-slots": 2},
        "problems": [],
        "no_effect": {"embedded": ["hungry-minimum"]},
    }
    assert "the manager already has the whole graph" in run("check", str(path), "--engine", "embedded")


def test_check_names_everything_that_is_wrong(run: Any, tmp_path: Path) -> None:
    path = tmp_path / "bad.toml"
    path.write_text(BAD)
    shown = run("check", str(path), code=INVALID)
    assert shown.count("error: ") == 3
    told = run("check", str(path), "--nodes", "2", "--no-peer-transfers", "--json", code=INVALID)
    assert not told["valid"]
    assert [each["error"] for each in told["problems"]] == [
        "UnknownParameter",
        "WrongType",
        "Conflict",
        "Conflict",
        "Conflict",
    ]
    assert len({each["message"] for each in told["problems"]}) == 5


def test_check_of_what_cannot_be_read(run: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("absent.toml", "tuning.ini"):
        assert main(["check", str(tmp_path / name)]) == INVALID
        assert name in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["tune"],
        ["explain"],
        ["check", "a.toml", "--nodes", "0"],
        ["list", "--engine", "dask"],
        ["list", "--such"],
        ["sweep", "a.toml"],
        ["sweep", "--confidence", "95", "a.toml", "true"],
        ["sweep", "--timeout", "0", "a.toml", "true"],
    ],
)
def test_command_lines_that_make_no_sense(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    assert "usage: taskvine-tune" in capsys.readouterr().err


def test_as_a_program(tmp_path: Path) -> None:
    path = tmp_path / "bad.toml"
    path.write_text(BAD)
    for arguments, code, says in (
        (["--help"], 0, "COMMAND"),
        (["explain", "--help"], 0, "executor.prefetch"),
        (["explain", "temp-replica-count"], 0, "Number of workers that hold each temp file"),
        (["check", str(path)], 1, "did you mean 'hungry-minimum'"),
    ):
        done = program(*arguments)
        assert done.returncode == code, done.stderr
        assert says in done.stdout
        assert done.stderr == ""
    done = program("explain", "nothing-such")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("taskvine-tune: unknown tuning parameter")
    assert program().returncode == 2
    assert json.loads(program("list", "--json", PYTHONUTF8="0", LC_ALL="C.UTF-8").stdout)


# A program that takes longer with more replicas, as a sweep's should.
SLOWER = """
import sys, time
sys.path.insert(0, sys.argv[1])
from taskvine_tune.environment import RunReport, parameters_from_environment
replicas = parameters_from_environment()["temp-replica-count"]
time.sleep(0.05 * replicas)
RunReport(bytes_moved=1000 * (replicas - 1)).write()
sys.exit(3 if replicas == 9 else 0)
"""


@pytest.fixture
def slower(tmp_path: Path) -> list[str]:
    (tmp_path / "slower.py").write_text(SLOWER)
    return [str(tmp_path / "slower.py"), ROOT]


def test_sweep(run: Any, tmp_path: Path, slower: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    space = tmp_path / "space.toml"
    space.write_text("temp-replica-count = [3, 1]\nimmediate-recovery = true\n")
    files = [tmp_path / "runs.csv", tmp_path / "figure.svg"]
    kept = ["--csv", str(files[0]), "--figure", str(files[1])]
    shown = run("sweep", *kept, str(space), *slower)
    assert "temp-replica-count=1 is best with 0.95 confidence" in shown
    assert "times temp-replica-count=3" in shown
    assert len(files[0].read_text().splitlines()) == 1 + 2 * 6  # as many rounds as a verdict needs
    assert files[1].read_text().lstrip().startswith("<?xml")


def test_sweep_for_programs(run: Any, tmp_path: Path, slower: list[str]) -> None:
    space = tmp_path / "space.json"
    space.write_text('{"temp-replica-count": {"min": 1, "max": 2}}')
    options = ["--random", "5", "--repetitions", "2", "--quantity", "bytes_moved", "--json"]
    told = run("sweep", *options, str(space), *slower)
    medians = {each["parameters"]["temp-replica-count"]: each["medians"] for each in told["settings"]}
    assert {count: each["bytes_moved"] for count, each in medians.items()} == {1: 0, 2: 1000}
    assert {each["reexecutions"] for each in medians.values()} == {None}
    verdict = told["verdict"]
    assert verdict["best"] == {"temp-replica-count": 1}
    assert (verdict["certain"], verdict["repetitions"], verdict["needed"]) == (False, 2, 6)
    assert verdict["comparisons"][0]["estimate"] == -1000


def test_sweep_with_losses(run: Any, tmp_path: Path, slower: list[str]) -> None:
    space = tmp_path / "space.toml"
    space.write_text("temp-replica-count = [1, 2]\n")
    told = run("sweep", "--losses", "1.5", "--repetitions", "1", "--json", str(space), *slower)
    assert [each["parameters"] for each in told["settings"]] == [
        {"temp-replica-count": count, "executor.loss-interval": 1.5} for count in (1, 2)
    ]
    # An axis of the space goes before.
    space.write_text("temp-replica-count = 1\n[executor]\nloss-interval = [0, 2]\n")
    told = run("sweep", "--losses", "1.5", "--repetitions", "1", "--json", str(space), *slower)
    assert [each["parameters"]["executor.loss-interval"] for each in told["settings"]] == [0, 2]


def test_help_shows_every_parameter_as_it_is_declared(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        main(["explain", "--help"])
    lines = capsys.readouterr().out.splitlines()
    for parameter in PARAMETERS.values():
        (line,) = [line for line in lines if line.split()[:1] == [parameter.name]]
        assert parameter.bounds in line


def test_sweep_with_a_setting_that_fails(tmp_path: Path, slower: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    space = tmp_path / "space.toml"
    space.write_text("temp-replica-count = [1, 9]\n")
    assert main(["sweep", "--repetitions", "1", str(space), *slower]) == INVALID
    captured = capsys.readouterr()
    assert "1 runs failed" in captured.err
    assert "temp-replica-count=1 is the only setting" in captured.out


@pytest.mark.parametrize(
    ("space", "program", "says"),
    [
        ("temp-replica-count = [1, 0]\n", "true", "out of range"),
        ("temp-replicas = [1, 2]\n", "true", "did you mean"),
        ("temp-replica-count = [1, 2]\n", "no-such-program", "no-such-program cannot be run"),
        ("temp-replica-count = [1, 2]\n", "false", "no setting has wall_seconds in every run"),
    ],
)
def test_sweeps_that_come_to_nothing(
    tmp_path: Path, space: str, program: str, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "space.toml"
    path.write_text(space)
    assert main(["sweep", "--repetitions", "1", str(path), program]) == INVALID
    assert says in capsys.readouterr().err


def test_output_that_nobody_reads() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    try:
        done = subprocess.run(
            [sys.executable, "-m", "taskvine_tune", "list", "--json"],
            env={"PATH": os.defpath, "PYTHONPATH": ROOT},
            stdout=writer,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    finally:
        os.close(writer)
    assert (done.returncode, done.stderr) == (1, "")
