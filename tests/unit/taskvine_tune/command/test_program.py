"""The command line, its exit codes, and the command as a program."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import taskvine_manager
import taskvine_tune
from taskvine_tune.command import main

ROOTS = os.pathsep.join(str(Path(package.__file__ or "").parents[1]) for package in (taskvine_tune, taskvine_manager))

BAD = "temp-replica-count = 4\nmax-workers = 3\nhungry = 2\nprefer-dispatch = 7\n"


def program(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "taskvine_tune", *arguments],
        env={"PATH": os.defpath, "PYTHONPATH": ROOTS, "PYTHONUTF8": "1", **environment},
        capture_output=True,
        text=True,
        check=False,
    )


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
def test_invalid_command_lines_are_refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    assert "usage: taskvine-tune" in capsys.readouterr().err


def test_command_runs_as_a_program(tmp_path: Path) -> None:
    path = tmp_path / "bad.toml"
    path.write_text(BAD)
    for arguments, code, says in (
        (["--help"], 0, "COMMAND"),
        (["explain", "--help"], 0, "executor.prefetch"),
        (["explain", "temp-replica-count"], 0, "Number of nodes that hold each temp file"),
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


def test_closed_output_is_no_error() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    try:
        done = subprocess.run(
            [sys.executable, "-m", "taskvine_tune", "list", "--json"],
            env={"PATH": os.defpath, "PYTHONPATH": ROOTS},
            stdout=writer,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    finally:
        os.close(writer)
    assert (done.returncode, done.stderr) == (1, "")
