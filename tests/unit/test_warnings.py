"""Warnings of our code fail a test; those of other packages do not."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

WARN = """
import warnings

def warn():
    warnings.warn("soon gone", DeprecationWarning)
"""
TEST = """
import sys
sys.path.insert(0, {directory!r})

def test_it():
    import {module}
    {module}.warn()
"""
LEAK = """
import gc

def test_it(tmp_path):
    file = open(tmp_path / {name!r}, "a")
    del file
    gc.collect()
"""


def passes(directory: Path, source: str) -> bool:
    """Run one test with the project's settings, in a new process."""
    (directory / "test_it.py").write_text(source)
    options = ["-q", "-p", "no:cacheprovider", "-c", str(ROOT / "setup.cfg"), "--rootdir", str(directory)]
    # Its own temporary directory: other runs of pytest clean up the common one.
    command = [sys.executable, "-m", "pytest", *options, f"--basetemp={directory}/temporary", str(directory)]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode in (0, 1), done.stdout + done.stderr
    assert "1 passed" in done.stdout or "1 failed" in done.stdout
    return done.returncode == 0


@pytest.mark.parametrize(
    ("module", "expected"),
    [
        ("somebody_elses", True),
        ("taskvine_execution", True),
        ("taskvine_exec_warns", True),
        ("taskvine_exec", False),
        ("taskvine_manager", False),
        ("taskvine_tune", False),
        ("benchmarks", False),
        ("physics", False),
    ],
)
def test_a_warning_fails_the_test_if_our_code_gives_it(tmp_path: Path, module: str, expected: bool) -> None:
    (tmp_path / f"{module}.py").write_text(WARN)
    assert passes(tmp_path, TEST.format(directory=str(tmp_path), module=module)) is expected


@pytest.mark.parametrize(("name", "expected"), [("parsl.log", True), ("ours.log", False)])
def test_a_file_left_open_fails_the_test_unless_parsl_left_it(tmp_path: Path, name: str, expected: bool) -> None:
    assert passes(tmp_path, LEAK.format(name=name)) is expected
