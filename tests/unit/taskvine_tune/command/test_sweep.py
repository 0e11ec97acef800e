"""The output of ``sweep``, for people and for programs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import taskvine_tune
from taskvine_tune.command import INVALID, main

ROOT = str(Path(taskvine_tune.__file__).parent.parent)

# A program that takes longer with more replicas.
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
    # An axis of the space takes precedence.
    space.write_text("temp-replica-count = 1\n[executor]\nloss-interval = [0, 2]\n")
    told = run("sweep", "--losses", "1.5", "--repetitions", "1", "--json", str(space), *slower)
    assert [each["parameters"]["executor.loss-interval"] for each in told["settings"]] == [0, 2]


def test_sweep_with_a_failing_setting(tmp_path: Path, slower: list[str], capsys: pytest.CaptureFixture[str]) -> None:
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
def test_impossible_sweep_is_refused(
    tmp_path: Path, space: str, program: str, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "space.toml"
    path.write_text(space)
    assert main(["sweep", "--repetitions", "1", str(path), program]) == INVALID
    assert says in capsys.readouterr().err
