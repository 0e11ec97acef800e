"""An instance of WfFormat runs for real, beside its simulations, and its record becomes an instance again."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import wfinstance
from taskvine_tune.wfformat.instances import read_instance

pytestmark = pytest.mark.usefixtures("nothing_left")

PARTS = 4


def diamond() -> dict[str, object]:
    """Return an instance: a file is split, each part is counted, and a last task waits for the counts and reads one."""
    parts = [f"dir/part {number}" for number in range(PARTS)]
    counts = [f"count_ID{number}" for number in range(PARTS)]
    tasks = [
        {"name": "split_ID1", "id": "split", "parents": [], "children": counts, "inputFiles": ["text"]},
        *({"name": name, "id": name, "parents": [], "children": ["end"]} for name in counts),
        {"name": "end", "id": "end", "parents": counts, "children": [], "inputFiles": ["n0"]},
    ]
    tasks[0]["outputFiles"] = parts
    for number in range(PARTS):
        tasks[1 + number].update(inputFiles=[parts[number]], outputFiles=[f"n{number}"] if number < 2 else [])
    names = ["split", *counts, "end"]
    return {
        "name": "diamond",
        "schemaVersion": "1.5",
        "workflow": {
            "specification": {
                "tasks": tasks,
                "files": [{"id": name, "sizeInBytes": 2000} for name in ["text", "n0", "n1", *parts]],
            },
            "execution": {
                "makespanInSeconds": 9,
                "executedAt": "2026-01-01T00:00:00Z",
                "tasks": [{"id": name, "runtimeInSeconds": 2, "coreCount": 64} for name in names],
            },
        },
    }


def test_an_instance_is_run_and_simulated(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, found = tmp_path / "diamond.json", tmp_path / "found.json"
    path.write_text(json.dumps(diamond()))
    wfinstance.main([str(path), "--scale", "0.1", "--nodes", "2", "--slots", "1", "--json", str(found)])
    (run,) = json.loads(found.read_text())["runs"]
    assert (run["name"], run["tasks"]) == ("diamond", 6)
    # Three tasks of 0.2 s one after another; the four in the middle share two slots.
    assert run["instance"] == pytest.approx(0.8, abs=0.1)
    assert run["measured"] >= 0.8
    assert run["calibrated"] >= 0.8
    assert "diamond" in capsys.readouterr().out


def test_scaled_tasks_fit_on_nodes(tmp_path: Path) -> None:
    path = tmp_path / "diamond.json"
    path.write_text(json.dumps(diamond()))
    small = wfinstance.scaled(read_instance(path), 0.5, 0.001, 4)
    assert {(task.seconds, task.cores) for task in small.tasks.values()} == {(1.0, 4.0)}
    assert set(small.sizes.values()) == {2}
