"""The runs of a sweep: their order, settings and failures, and the verdict."""

from __future__ import annotations

import sys
from pathlib import Path

import psutil
import pytest

from taskvine_tune import TuneParameters
from taskvine_tune.environment import RunReport
from taskvine_tune.errors import BadSamples
from taskvine_tune.sweep import Results, Run, summary, sweep, with_losses
from tests.conftest import settle

ONE, TWO = TuneParameters({"temp-replica-count": 1}), TuneParameters({"temp-replica-count": 2})


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
    runs = told(0, settings)
    assert {run["executor.loss-interval"] for run in runs} == {2.5}
    seeds = [run["executor.loss-seed"] for run in runs]
    assert seeds[0] == seeds[1] != seeds[2] == seeds[3]
    assert seeds == [run["executor.loss-seed"] for run in told(0, settings)]
    assert not set(seeds) & {run["executor.loss-seed"] for run in told(1, settings)}
    # The setting of the parameter itself takes precedence, and without losses there is no seed.
    own = TuneParameters({"executor.loss-interval": 1, "executor.loss-seed": 5})
    none = TuneParameters({"executor.loss-interval": 0})
    assert set(told(0, [own, none])) == {own, none}


def test_a_failed_run_is_shown_and_its_setting_left_out() -> None:
    code = "import os, sys; sys.exit('it is ' + 'bad' if '2' in os.environ['TASKVINE_TUNE'] else 0)"
    results = sweep([sys.executable, "-c", code], [ONE, TWO], repetitions=2)
    assert {run.setting for run in results.failed} == {TWO}
    assert {(run.exit_code, run.output) for run in results.failed} == {(1, "it is bad")}
    assert list(results.samples()) == [ONE]
    assert {setting: failed for setting, _, failed in summary(results)} == {ONE: 0, TWO: 2}


def test_long_run_is_ended_with_its_children(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("taskvine_tune.sweep.runs._GRACE", 0.2)
    pids = tmp_path / "pids"
    # The shell waits for a child that would outlive it, and both ignore SIGTERM.
    code = f"trap '' TERM; sleep 300 & echo $$ $! > {pids}; wait; wait"
    (run,) = sweep(["sh", "-c", code], [ONE], repetitions=1, timeout=1.0).runs
    assert (run.exit_code, run.failed) == (None, True)
    shell, child = map(int, pids.read_text().split())
    assert not psutil.pid_exists(shell)
    assert settle(lambda: psutil.pid_exists(child) and psutil.Process(child).status() != psutil.STATUS_ZOMBIE) is False


def test_invalid_report_fails_only_its_run() -> None:
    code = "import os; open(os.environ['TASKVINE_TUNE_REPORT'], 'w').write('{')"
    (run,) = sweep([sys.executable, "-c", code], [ONE], repetitions=1).runs
    assert not run.failed
    assert run.report == RunReport()


@pytest.mark.parametrize(("settings", "repetitions"), [([], 1), ([ONE, ONE], 1), ([ONE], 0)])
def test_empty_sweep_is_refused(settings: list[TuneParameters], repetitions: int) -> None:
    with pytest.raises(BadSamples):
        sweep([sys.executable], settings, repetitions=repetitions)


def results_of(times: dict[TuneParameters, list[float]], moved: float | None = None) -> Results:
    return Results(
        tuple(times),
        tuple(
            Run(setting, number, place, 0, values[number], RunReport(bytes_moved=moved))
            for number in range(len(next(iter(times.values()))))
            for place, (setting, values) in enumerate(times.items())
        ),
    )


def test_verdicts() -> None:
    clear = results_of({ONE: [1.0, 1.1, 1.0, 1.2, 1.0, 1.1], TWO: [2.0, 2.1, 2.0, 2.2, 2.0, 2.1]}, moved=5.0)
    assert clear.verdict().best == ONE
    assert clear.verdict().certain
    assert clear.verdict("bytes_moved").tied == (TWO,)
    assert clear.verdict("bytes_moved").measure == "difference"
    with pytest.raises(BadSamples, match="reexecutions in every run"):
        clear.verdict("reexecutions")
