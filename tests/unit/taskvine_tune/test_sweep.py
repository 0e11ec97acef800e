"""Sweeps: which settings, in which order, and what is made of their runs."""

from __future__ import annotations

import csv
import os
import sys
from collections import Counter
from pathlib import Path
from typing import Any, get_args

import psutil
import pytest

from taskvine_tune import TuneParameters, command
from taskvine_tune.environment import RunReport
from taskvine_tune.errors import BadSamples, Conflict, GivenTwice, LibraryMissing, OutOfRange, TuningError, WrongType
from taskvine_tune.sweep import (
    QUANTITIES,
    Quantity,
    Results,
    Run,
    draw_figure,
    grid,
    label,
    sample,
    summary,
    sweep,
    with_losses,
    write_csv,
)
from tests.conftest import settle

ONE, TWO = TuneParameters({"temp-replica-count": 1}), TuneParameters({"temp-replica-count": 2})


# ---- Which settings


def test_a_grid_has_every_combination() -> None:
    settings = grid({"temp_replica_count": [1, 2], "immediate-recovery": [True, False, 1], "executor": {"batch": 4}})
    assert [tuple(setting.values()) for setting in settings] == [
        (1, True, 4),
        (1, False, 4),
        (2, True, 4),
        (2, False, 4),
    ]
    assert grid({}) == [TuneParameters()]


def test_a_grid_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "space.toml"
    path.write_text("temp-replica-count = [1, 2]\n[executor]\nbatch = [4, 8]\n")
    assert len(grid(path)) == 4


def test_random_settings_are_valid_different_and_the_same_for_a_seed() -> None:
    space = {
        "temp-replica-count": {"min": 1, "max": 3},
        "sandbox-grow-factor": {"min": 1.5, "max": 3.0},
        "executor": {"batch": {"min": 1, "max": 1024, "log": True}, "prefetch": [0.01, 0.1]},
    }
    settings = sample(space, 50, seed=1)
    assert len(set(settings)) == 50
    assert settings == sample(space, 50, seed=1)
    assert settings != sample(space, 50, seed=2)
    assert {setting["temp-replica-count"] for setting in settings} == {1, 2, 3}
    assert all(1.5 <= setting["sandbox-grow-factor"] <= 3.0 for setting in settings)
    assert {setting["executor.prefetch"] for setting in settings} == {0.01, 0.1}


def test_logarithmic_draws_are_as_many_in_each_octave() -> None:
    many = sample(
        {"executor.batch": {"min": 1, "max": 1023, "log": True}, "max-workers": {"min": 1, "max": 10**9}}, 4000
    )
    octaves = Counter(int(setting["executor.batch"]).bit_length() for setting in many)
    assert sorted(octaves) == list(range(1, 11))
    # An eleventh or so each, since the first reaches from 0.5; three standard errors of 4,000 draws are 1.4 percent.
    assert all(abs(octaves[octave] / 4000 - 1 / 11) < 0.025 for octave in range(2, 11))


def test_a_small_space_is_found_whole() -> None:
    assert len(sample({"temp-replica-count": {"min": 1, "max": 4}}, 100)) == 4


@pytest.mark.parametrize(
    ("space", "error", "says"),
    [
        ({"temp-replicas": [1]}, TuningError, "did you mean"),
        ({"temp-replica-count": [1, 0]}, OutOfRange, "at least 1"),
        ({"temp-replica-count": []}, WrongType, "at least one value"),
        ({"temp-replica-count": "12"}, WrongType, "a whole number"),
        ({"temp-replica-count": {"min": 1}}, WrongType, "min, max"),
        ({"temp-replica-count": {"min": 1, "max": 2, "step": 1}}, WrongType, "min, max"),
        ({"temp-replica-count": {"min": 3, "max": 2}}, WrongType, "min is at most its max"),
        ({"temp-replica-count": {"min": 0, "max": 2}}, OutOfRange, "at least 1"),
        ({"wait-for-workers": {"min": 0, "max": 2, "log": True}}, WrongType, "above 0 for log"),
        ({"wait-for-workers": {"min": 1, "max": 2, "log": 1}}, WrongType, "log"),
        ({"prefer-dispatch": {"min": 0, "max": 1}}, WrongType, "for numbers a range"),
        ({"max-workers": [1], "max_workers": [2]}, GivenTwice, "max-workers"),
        ({"temp-replica-count": [3], "max-workers": [2]}, Conflict, "in conflict"),
    ],
)
def test_spaces_that_are_not_valid(space: dict[str, Any], error: type[TuningError], says: str) -> None:
    for use in (lambda: grid(space), lambda: sample(space, 3)):
        with pytest.raises(error, match=says):
            use()


def test_a_range_has_no_grid() -> None:
    with pytest.raises(WrongType, match="a range is for random samples"):
        grid({"temp-replica-count": {"min": 1, "max": 2}})


def test_labels_say_what_differs() -> None:
    settings = grid({"temp-replica-count": [1, 2], "prefer-dispatch": True, "sandbox-grow-factor": [1.5]})
    assert [label(setting, settings) for setting in settings] == ["temp-replica-count=1", "temp-replica-count=2"]
    assert label(settings[0]) == "temp-replica-count=1, prefer-dispatch=true, sandbox-grow-factor=1.5"
    assert label(TuneParameters(), settings) == "defaults"


# ---- Running them


def test_runs_are_interleaved_and_told_their_setting(tmp_path: Path) -> None:
    seen = tmp_path / "seen"
    program = tmp_path / "program.py"
    program.write_text("import os, sys; open(sys.argv[1], 'a').write(os.environ['TASKVINE_TUNE'] + chr(10))")
    settings = [TuneParameters({"max-workers": count}) for count in range(1, 5)]
    said: list[Run] = []
    results = sweep([str(program), str(seen)], settings, repetitions=5, seed=7, on_run=said.append)
    told = [TuneParameters.loads(line, "json") for line in seen.read_text().splitlines()]
    assert [run.setting for run in results.runs] == told
    assert list(results.runs) == said
    by_round = [[run.setting for run in results.runs if run.round == number] for number in range(5)]
    assert all(set(each) == set(settings) for each in by_round)
    assert len({tuple(each) for each in by_round}) > 1
    assert [run.place for run in results.runs] == [0, 1, 2, 3] * 5
    assert not results.failed
    assert set(results.samples()) == set(settings)


def test_losses_are_the_same_for_all_settings_of_a_round(tmp_path: Path) -> None:
    seen = tmp_path / "seen"
    code = f"import os; open({str(seen)!r}, 'a').write(os.environ['TASKVINE_TUNE'] + chr(10))"

    def told(seed: int, settings: list[TuneParameters]) -> list[TuneParameters]:
        seen.write_text("")
        results = sweep([sys.executable, "-c", code], settings, repetitions=2, seed=seed)
        assert {run.setting for run in results.runs} == set(settings)  # the seed belongs to the round
        return [TuneParameters.loads(line, "json") for line in seen.read_text().splitlines()]

    settings = with_losses([ONE, TWO], 2.5)
    assert [setting["executor.loss-interval"] for setting in settings] == [2.5, 2.5]
    runs = told(0, settings)
    assert {run["executor.loss-interval"] for run in runs} == {2.5}
    seeds = [run["executor.loss-seed"] for run in runs]
    assert seeds[0] == seeds[1] != seeds[2] == seeds[3]
    assert seeds == [run["executor.loss-seed"] for run in told(0, settings)]
    assert not set(seeds) & {run["executor.loss-seed"] for run in told(1, settings)}
    # A setting's own word goes before, and where nothing is lost nothing is drawn.
    own = TuneParameters({"executor.loss-interval": 1, "executor.loss-seed": 5})
    none = TuneParameters({"executor.loss-interval": 0})
    assert with_losses([own, none], 2.5) == [own, none]
    assert set(told(0, [own, none])) == {own, none}
    with pytest.raises(OutOfRange):
        with_losses([ONE], 0.001)


def test_a_failed_run_is_shown_and_its_setting_left_out() -> None:
    code = "import os, sys; sys.exit('it is ' + 'bad' if '2' in os.environ['TASKVINE_TUNE'] else 0)"
    results = sweep([sys.executable, "-c", code], [ONE, TWO], repetitions=2)
    assert {run.setting for run in results.failed} == {TWO}
    assert {(run.exit_code, run.output) for run in results.failed} == {(1, "it is bad")}
    assert list(results.samples()) == [ONE]
    assert {setting: failed for setting, _, failed in summary(results)} == {ONE: 0, TWO: 2}


def test_a_run_that_takes_too_long_is_ended_with_its_children(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("taskvine_tune.sweep._GRACE", 0.2)
    pids = tmp_path / "pids"
    # The shell waits for a child that would outlive it, and both ignore a polite request.
    code = f"trap '' TERM; sleep 300 & echo $$ $! > {pids}; wait; wait"
    (run,) = sweep(["sh", "-c", code], [ONE], repetitions=1, timeout=1.0).runs
    assert (run.exit_code, run.failed) == (None, True)
    shell, child = map(int, pids.read_text().split())
    assert not psutil.pid_exists(shell)
    assert settle(lambda: psutil.pid_exists(child) and psutil.Process(child).status() != psutil.STATUS_ZOMBIE) is False


def test_a_report_that_is_none_does_not_spoil_the_sweep() -> None:
    code = "import os; open(os.environ['TASKVINE_TUNE_REPORT'], 'w').write('{')"
    (run,) = sweep([sys.executable, "-c", code], [ONE], repetitions=1).runs
    assert not run.failed
    assert run.report == RunReport()


@pytest.mark.parametrize(("settings", "repetitions"), [([], 1), ([ONE, ONE], 1), ([ONE], 0)])
def test_sweeps_of_nothing(settings: list[TuneParameters], repetitions: int) -> None:
    with pytest.raises(BadSamples):
        sweep([sys.executable], settings, repetitions=repetitions)


# ---- What is made of them


def results(times: dict[TuneParameters, list[float]], moved: float | None = None) -> Results:
    return Results(
        tuple(times),
        tuple(
            Run(setting, number, place, 0, values[number], RunReport(bytes_moved=moved))
            for number in range(len(next(iter(times.values()))))
            for place, (setting, values) in enumerate(times.items())
        ),
    )


def test_verdicts() -> None:
    clear = results({ONE: [1.0, 1.1, 1.0, 1.2, 1.0, 1.1], TWO: [2.0, 2.1, 2.0, 2.2, 2.0, 2.1]}, moved=5.0)
    assert clear.verdict().best == ONE
    assert clear.verdict().certain
    assert clear.verdict("bytes_moved").tied == (TWO,)
    assert clear.verdict("bytes_moved").measure == "difference"
    with pytest.raises(BadSamples, match="reexecutions in every run"):
        clear.verdict("reexecutions")


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


def test_quantities_are_said_once() -> None:
    assert get_args(Quantity) == QUANTITIES == command._QUANTITIES
    assert set(QUANTITIES) == set(RunReport.__dataclass_fields__)
