"""A sweep over a real program: its executor gets the parameters, and no run leaves anything."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

import taskvine_exec
import taskvine_manager
import taskvine_tune
from taskvine_tune.sweep import grid, sweep

ROOTS = [str(Path(package.__file__).parent.parent) for package in (taskvine_exec, taskvine_manager, taskvine_tune)]

PROGRAM = """
import os, sys
import parsl
from parsl.config import Config
from taskvine_exec import TaskVineExecutor
from taskvine_tune.environment import RunReport, parameters_from_environment

@parsl.python_app
def process():
    import os
    return os.getpid()

executor = TaskVineExecutor(cores=2, tune_parameters=parameters_from_environment())
with parsl.load(Config(executors=[executor], run_dir=sys.argv[1])):
    processes = {future.result() for future in [process() for _ in range(40)]}
    # The number of processes is known, so it stands in for what an executor has to report.
    RunReport(reexecutions=len(processes)).write()
"""


@pytest.mark.usefixtures("nothing_left")
def test_program_runs_with_every_setting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(ROOTS))
    (tmp_path / "program.py").write_text(PROGRAM)
    settings = grid({"executor": {"library-slots": [1, 2]}})
    results = sweep([str(tmp_path / "program.py"), str(tmp_path / "runinfo")], settings, repetitions=1, timeout=60)
    assert not results.failed, results.failed[0].output
    assert {
        setting["executor.library-slots"]: most for setting, (most,) in results.samples("reexecutions").items()
    } == {
        1: 1,
        2: 2,
    }


WITH_LOSSES = """
import os, sys, time
import parsl
from taskvine_exec import local_config

@parsl.python_app
def make(number):
    import time
    time.sleep(0.1)
    return bytes(100_000)

@parsl.python_app
def join(*parts):
    return sum(map(len, parts))

config = local_config(
    worker_launch_method="factory", min_workers=3, max_workers=3, cores=1, max_retries=None, run_dir=sys.argv[1]
)
with parsl.load(config):
    config.executors[0].wait_for_nodes(3, 30)
    parts = [make(number) for number in range(40)]
    assert join(*parts).result() == 40 * 100_000
"""


@pytest.mark.usefixtures("nothing_left")
def test_sweep_records_the_cost_of_lost_nodes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(ROOTS))
    (tmp_path / "program.py").write_text(WITH_LOSSES)
    seed = 4  # the first loss comes after 0.4 s of work; a run has at least 1.3 s
    settings = grid({"executor": {"loss-interval": [0, 1.5], "loss-seed": seed}})
    results = sweep([str(tmp_path / "program.py"), str(tmp_path / "runinfo")], settings, repetitions=1, timeout=100)
    assert not results.failed, results.failed[0].output
    runs = {run.setting["executor.loss-interval"]: run.report for run in results.runs}
    assert (runs[0].losses, runs[0].reexecutions) == (0, 0)
    assert runs[0].storage_peak_bytes is not None
    assert runs[0].storage_peak_bytes >= 40 * 100_000
    losses, again = runs[1.5].losses, runs[1.5].reexecutions
    assert losses is not None
    assert again is not None
    assert losses >= 1
    assert again >= 1
    for report in runs.values():
        assert report.makespan_seconds is not None
        assert report.wall_seconds is not None
        assert 40 * 0.1 / 3 <= report.makespan_seconds < report.wall_seconds
