"""A sweep over a real program: its executor gets the parameters, and nothing of any run remains."""

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
def test_a_program_is_run_with_every_setting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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
