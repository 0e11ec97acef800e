"""Workflows as in Parsl's tutorial: relative files, scripts beside the program, and undeclared files."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import parsl
import pytest
from parsl.app.errors import BashExitFailure
from parsl.data_provider.files import File
from parsl.dataflow.dflow import DataFlowKernel
from parsl.dataflow.errors import DependencyError

from taskvine_exec import DAG_RESOLVER, TaskVineExecutor
from tests.contract.conftest import engine  # noqa: F401  (fixtures)

SECONDS = 60
Load = Callable[..., DataFlowKernel]


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The program's directory."""
    directory = tmp_path / "home"
    directory.mkdir()
    monkeypatch.chdir(directory)
    return directory


@pytest.fixture(params=[None, DAG_RESOLVER], ids=["plain", "dag"])
def start(request: pytest.FixtureRequest, load: Load, engine: str) -> Callable[..., DataFlowKernel]:  # noqa: F811
    def make(**settings: Any) -> DataFlowKernel:
        return load([TaskVineExecutor(engine=engine, cores=2, **settings)], dependency_resolver=request.param)  # type: ignore[arg-type]

    return make


@parsl.bash_app
def generate(number: int, outputs: Any = ()) -> str:
    return f"echo {number} > {outputs[0]}"


@parsl.bash_app
def concat(inputs: Any = (), outputs: Any = (), stdout: Any = "stdout.txt", stderr: Any = "stderr.txt") -> str:
    return f"echo joining; cat {' '.join(file.filepath for file in inputs)} > {outputs[0].filepath}"


@parsl.python_app
def total(inputs: Any = ()) -> int:
    with open(inputs[0]) as file:
        return sum(int(line) for line in file)


@pytest.mark.parametrize("where", ["submit", "sandbox"])
def test_tutorial_files_are_in_the_programs_directory(start: Any, home: Path, where: str) -> None:
    start(working_directory=where)
    made = [generate(number, outputs=[File(f"random-{number}.txt")]) for number in range(4)]
    joined = concat(inputs=[each.outputs[0] for each in made], outputs=[File("results/all.txt")])
    assert total(inputs=[joined.outputs[0]]).result(SECONDS) == 6
    assert joined.result(SECONDS) == 0
    assert (home / "results" / "all.txt").read_text() == "0\n1\n2\n3\n"
    assert (home / "stdout.txt").read_text() == "joining\n"
    assert joined.outputs[0].result(SECONDS).filepath == "results/all.txt"


def test_undeclared_scripts_and_files_are_found(start: Any, home: Path) -> None:
    @parsl.bash_app
    def simulate(stdout: Any = None) -> str:
        return "./simulate.sh"

    @parsl.bash_app
    def by_name(outputs: Any = ()) -> str:
        return "echo made > made.txt"  # without outputs[0].filepath

    @parsl.python_app
    def save(name: str, text: str, after: Any = None) -> str:
        with open(name, "w") as file:
            file.write(text)
        return name

    @parsl.python_app
    def load_text(name: str) -> str:
        with open(name) as file:
            return file.read()

    (home / "simulate.sh").write_text("#!/bin/sh\ncat settings\n")
    (home / "simulate.sh").chmod(0o755)
    (home / "settings").write_text("fast\n")
    start()
    assert simulate(stdout="sim.out").result(SECONDS) == 0
    assert (home / "sim.out").read_text() == "fast\n"
    assert load_text(save("kept.txt", "kept")).result(SECONDS) == "kept"
    declared = by_name(outputs=[File("made.txt")])
    assert Path(declared.outputs[0].result(SECONDS).filepath).read_text() == "made\n"
    assert sorted(os.listdir(home)) == ["kept.txt", "made.txt", "settings", "sim.out", "simulate.sh"]


def test_undeclared_files_in_a_sandbox_are_named(start: Any, home: Path) -> None:
    @parsl.bash_app
    def simulate(*_: Any) -> str:
        return "./simulate.sh"

    (home / "simulate.sh").touch(0o755)
    start(working_directory="sandbox")
    failed = simulate()
    after = simulate(failed)
    error = failed.exception(SECONDS)
    assert isinstance(error, BashExitFailure)
    (note,) = error.__notes__  # type: ignore[attr-defined]
    assert note.startswith(f"'./simulate.sh' exists in {home}, but the task ran in ")
    dependent = after.exception(SECONDS)
    assert isinstance(dependent, DependencyError)
    assert dependent.__cause__ is error
