"""The examples run with small sizes on every engine, and find what is hidden in their data."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.engines import ABSENT
from tests.integration.test_programs import ROOTS

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("nothing_left")]


@pytest.fixture(params=["embedded", "taskvine"])
def engine(request: pytest.FixtureRequest) -> str:
    """Name of an engine."""
    if request.param == "taskvine" and ABSENT is not None:
        pytest.skip(ABSENT)
    return str(request.param)


def said(name: str, engine: str, *options: str) -> str:
    """Run an example and return what it prints."""
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / name / "run.py"), "--engine", engine, *options],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([*ROOTS, os.environ.get("PYTHONPATH", "")])},
        capture_output=True,
        text=True,
        check=False,
        timeout=110,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_genomics(engine: str) -> None:
    sizes = ("--samples", "2", "--parts", "2", "--reads", "500", "--length", "4000", "--variants", "5")
    assert said("genomics", engine, *sizes).startswith("10 of 10 variants found by 16 tasks in ")


def test_histograms(engine: str) -> None:
    out = said("histograms", engine, "--files", "6", "--events", "20000", "--fan", "2")
    assert "in 120,000 events" in out
    (peak,) = re.findall(r"the peak is at (\S+) GeV", out)
    assert float(peak) == pytest.approx(91.2, abs=2)


def test_inference(engine: str) -> None:
    out = said("inference", engine, "--batches", "4", "--size", "2")
    assert re.findall(r"(\w+) loads? the model: 4 batches of 2 in", out) == ["task", "library"]


def test_climatology(engine: str) -> None:
    """The program compares its results with those of Dask's threads."""
    for module in ("dask.array", "xarray"):
        pytest.importorskip(module)
    out = said("climatology", engine, "--years", "4", "--latitudes", "6", "--longitudes", "8")
    (trend,) = re.findall(r"it gets warmer by (\S+) degrees", out)
    assert float(trend) == pytest.approx(0.05, abs=0.02)
