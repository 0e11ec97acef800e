"""The conda recipe asks for what the metadata ask for."""

from __future__ import annotations

import configparser
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.unit.test_environment_yml import CONDA, split
from tests.unit.test_supported_versions import PYTHONS

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def setup() -> configparser.ConfigParser:
    config = configparser.ConfigParser(interpolation=None)
    config.read(ROOT / "setup.cfg")
    return config


@pytest.fixture(scope="module")
def recipe() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((ROOT / "recipe" / "recipe.yaml").read_text())
    return loaded


def test_requirements(recipe: dict[str, Any], setup: configparser.ConfigParser) -> None:
    required = map(split, filter(None, setup["options"]["install_requires"].splitlines()))
    there = [each for each in recipe["requirements"]["run"] if not each.startswith(("__", "python "))]
    assert dict(map(split, there)) == {CONDA.get(name, name): bounds for name, bounds in required}


def test_pythons(recipe: dict[str, Any]) -> None:
    following = f"3.{int(PYTHONS[-1].partition('.')[2]) + 1}"
    assert recipe["context"]["python_min"] == PYTHONS[0]
    assert f"python >=${{{{ python_min }}}},<{following}" in recipe["requirements"]["run"]
    assert recipe["tests"][0]["python"]["python_version"] == ["${{ python_min }}.*", f"{PYTHONS[-1]}.*"]


def test_commands(recipe: dict[str, Any], setup: configparser.ConfigParser) -> None:
    scripts = list(filter(None, setup["options.entry_points"]["console_scripts"].splitlines()))
    assert recipe["build"]["python"]["entry_points"] == scripts
    tried = {line.split()[0] for line in recipe["tests"][1]["script"]}
    assert tried == {script.partition(" =")[0] for script in scripts}


def test_description(recipe: dict[str, Any], setup: configparser.ConfigParser) -> None:
    assert recipe["package"]["name"] == setup["metadata"]["name"]
    assert recipe["about"]["license"] == setup["metadata"]["license"]
    assert (ROOT / recipe["about"]["license_file"]).exists()
