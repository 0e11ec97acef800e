"""The molecular dynamics example gives the same numbers on every executor."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def numbers(output: Path, *options: str) -> bytes:
    """Run the example as a user does; return the file of all its numbers."""
    command = [sys.executable, str(ROOT / "examples" / "molecular_dynamics" / "run.py"), "--output", str(output)]
    command += ["--replicas", "2", "--segments", "2", "--steps", "10", "--mode", "L2", *options]
    sources = [str(ROOT), str(ROOT / "manager"), str(ROOT / "tune"), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sources)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=100)
    assert done.returncode == 0, done.stdout + done.stderr
    return (output / "numbers.json").read_bytes()


@pytest.mark.slow
def test_example_gives_the_same_numbers_as_on_threads(engine: str, tmp_path: Path) -> None:
    expected = numbers(tmp_path / "threads", "--executor", "threads")
    assert numbers(tmp_path / engine, "--engine", engine) == expected
