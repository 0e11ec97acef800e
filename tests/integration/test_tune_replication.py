"""The example that tunes replication: from its command to its figure, and what it reads from records."""

from __future__ import annotations

import csv
import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

import taskvine_exec
import taskvine_manager
import taskvine_tune
from taskvine_manager.record import Done, Record, Submitted
from taskvine_manager.wire.messages import FileUse, Profile

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "tune_replication"
ROOTS = [str(Path(package.__file__).parent.parent) for package in (taskvine_exec, taskvine_manager, taskvine_tune)]


@pytest.mark.usefixtures("nothing_left")
def test_example_runs_from_command_to_figure(tmp_path: Path) -> None:
    options = ["--degrees", "2", "--intervals", "0", "1", "--repetitions", "1"]
    size = ["--nodes", "2", "--steps", "3", "--simulations", "2", "--output", str(tmp_path)]
    done = subprocess.run(
        [sys.executable, str(EXAMPLE / "run.py"), *options, *size],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(ROOTS), "COLUMNS": "120"},
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "replication.png").read_bytes().startswith(b"\x89PNG")
    assert "simulated nodes: " in done.stdout
    with open(tmp_path / "runs.csv", newline="") as file:
        runs = {float(row["executor.loss-interval"]): row for row in csv.DictReader(file)}
    assert set(runs) == {0.0, 1.0}
    assert float(runs[1.0]["losses"]) >= 1  # the first loss comes after 0.2 s of work; a run has at least 0.6 s
    assert {row["exit_code"] for row in runs.values()} == {"0"}
    assert (runs[0.0]["losses"], runs[0.0]["reexecutions"]) == ("0", "0")
    # Eight pieces of one MiB. They exist when the last ones have been made on both nodes.
    assert float(runs[0.0]["storage_peak_bytes"]) >= 8 * 2**20


@pytest.fixture(scope="module")
def model() -> ModuleType:
    spec = importlib.util.spec_from_file_location("tune_replication_model", EXAMPLE / "model.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look up their own module
    spec.loader.exec_module(module)
    return module


def record(calls: list[tuple[str, str, float, float]], nodes: list[tuple[float, str]]) -> Record:
    """Write a record of calls (app, node, start, seconds) submitted at 1.0, and of nodes (a time, a letter each)."""
    made = Record()
    names = sorted({name for name, *_ in calls})
    made.profiles = {
        at: Profile(at, "f", name, "L2", None, None, None, None, 0.0, name) for at, name in enumerate(names)
    }
    for number, (name, node, start, seconds) in enumerate(calls):
        use = (FileUse("value", "", f"v{number}"),)
        made.submitted[number] = Submitted(number, names.index(name), 10, (), use, 1.0)
        made.done[number] = Done(number, 0, node, start, start, seconds, 10, ((f"v{number}", 10),), "", start + seconds)
    made.nodes = [(time, [{"name": name} for name in there]) for time, there in nodes]
    return made


def test_lost_node_is_replaced_when_its_successor_starts(model: ModuleType) -> None:
    calls = [("step", "a", 2.0, 1.0), ("step", "c", 7.0, 1.0), ("step", "d", 9.0, 1.0)]
    nodes = [(1.0, "a"), (1.5, "ab"), (4.0, "b"), (5.0, ""), (6.0, "c"), (6.5, "cd")]
    assert model.replacements(record(calls, nodes)) == [3.0, 4.0]
    assert model.replacements(record(calls[:1], [(1.0, "ab"), (4.0, "b")])) == []


def test_replay_includes_waits_and_held_results(model: ModuleType) -> None:
    calls = [(name, "a", 2.0, 1.0) for name in ("step", "heat", "heat", "step", "step", "heat", "step")]
    waits = [
        [use.source for use in each.inputs] for each in model.as_the_program_goes(record(calls, [])).submitted.values()
    ]
    made = record(calls, [])
    made.forgotten = {"v1": 9.0, "v6": 9.0}
    assert model.as_the_program_goes(made).forgotten == {"v1": made.started, "v6": 9.0}
    assert waits == [[], [], [], ["v1", "v2"], ["v1", "v2"], ["v1", "v2"], ["v5"]]


def test_warm_up_is_left_out(model: ModuleType) -> None:
    left = model.without_warm_up(record([("meet", "a", 2.0, 1.0), ("step", "a", 4.0, 1.0)], []))
    assert (list(left.submitted), list(left.done)) == ([1], [1])
