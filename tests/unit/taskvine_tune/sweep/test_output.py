"""The results of a sweep as a file and a figure."""

from __future__ import annotations

import csv
import os
import sys
from pathlib import Path

import pytest

from taskvine_tune import TuneParameters
from taskvine_tune.environment import RunReport
from taskvine_tune.errors import BadSamples, LibraryMissing
from taskvine_tune.sweep import Results, Run, draw_figure, write_csv

ONE, TWO = TuneParameters({"temp-replica-count": 1}), TuneParameters({"temp-replica-count": 2})


def results(times: dict[TuneParameters, list[float]], moved: float | None = None) -> Results:
    return Results(
        tuple(times),
        tuple(
            Run(setting, number, place, 0, values[number], RunReport(bytes_moved=moved))
            for number in range(len(next(iter(times.values()))))
            for place, (setting, values) in enumerate(times.items())
        ),
    )


def test_csv(tmp_path: Path) -> None:
    path = tmp_path / "runs.csv"
    write_csv(results({ONE: [1.0, 1.1], TuneParameters(): [2.0, 2.5]}, moved=5), path)
    with open(path, newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["temp-replica-count"] for row in rows] == ["1", "", "1", ""]
    assert [row["wall_seconds"] for row in rows] == ["1.0", "2.0", "1.1", "2.5"]
    assert {(row["bytes_moved"], row["reexecutions"], row["exit_code"]) for row in rows} == {("5", "", "0")}


@pytest.mark.parametrize("ending", ["png", "svg"])
def test_figure(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"figure.{ending}"
    draw_figure(results({ONE: [1.0, 1.1], TWO: [2.0, 2.5]}), path)
    assert os.path.getsize(path) > 1000
    with pytest.raises(BadSamples):
        draw_figure(results({ONE: [1.0]}), path, "reexecutions")


def test_figure_without_its_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(LibraryMissing, match="matplotlib"):
        draw_figure(results({ONE: [1.0]}), tmp_path / "figure.png")
