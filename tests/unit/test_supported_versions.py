"""The supported versions of Python and parsl are the same wherever they are named."""

from __future__ import annotations

import configparser
import re
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
PYTHONS = ["3.10", "3.11", "3.12", "3.13"]
OLDEST_PARSL = "2026.4.20"


@pytest.fixture(scope="module")
def setup() -> configparser.ConfigParser:
    config = configparser.ConfigParser(interpolation=None)
    config.read(ROOT / "setup.cfg")
    return config


def test_metadata(setup: configparser.ConfigParser) -> None:
    found = re.findall(r":: (3\.\d+)$", setup["metadata"]["classifiers"], re.MULTILINE)
    assert found == PYTHONS
    assert setup["options"]["python_requires"] == f">={PYTHONS[0]}"
    assert f"parsl>={OLDEST_PARSL}" in setup["options"]["install_requires"].split()


def test_tox(setup: configparser.ConfigParser) -> None:
    minors = ",".join(each.partition(".")[2] for each in PYTHONS)
    assert setup["tox:tox"]["env_list"] == f"py3{{{minors}}}-parsl{{newest,oldest}}"
    assert f"parsloldest: parsl=={OLDEST_PARSL}" in setup["testenv"]["deps"].splitlines()


def test_readme() -> None:
    readme = (ROOT / "README.md").read_text()
    assert f"Python {PYTHONS[0]} to {PYTHONS[-1]}, parsl {OLDEST_PARSL} or later" in readme


def test_contributing() -> None:
    assert f"Python {PYTHONS[0]} to {PYTHONS[-1]}" in (ROOT / "CONTRIBUTING.md").read_text()


def test_workflow() -> None:
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "tests.yml").read_text())
    assert workflow["jobs"]["tests"]["strategy"]["matrix"] == {"python": PYTHONS, "parsl": ["newest", "oldest"]}


def test_conda_environment() -> None:
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    following = f"3.{int(PYTHONS[-1].partition('.')[2]) + 1}"
    assert f"python>={PYTHONS[0]},<{following}" in environment["dependencies"]
    assert f"parsl>={OLDEST_PARSL}" in environment["dependencies"]
