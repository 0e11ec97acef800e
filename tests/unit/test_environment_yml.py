"""The conda environment has what the packages require."""

from __future__ import annotations

import configparser
import re
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
CONDA = {"msgpack": "msgpack-python"}
"""Packages that have another name in conda."""
EXTRAS = ("examples", "remote", "report", "tune", "test", "docs", "dev")


def split(requirement: str) -> tuple[str, str]:
    """Name and bounds of a requirement, without extras, markers and spaces."""
    requirement = requirement.partition(";")[0].replace(" ", "")
    match = re.fullmatch(r"([\w.-]+)(?:\[.*?\])?(.*)", requirement)
    assert match is not None
    return match[1].lower(), match[2]


def required() -> list[str]:
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    lines = config["options"]["install_requires"].splitlines()
    for extra in EXTRAS:
        lines += config["options.extras_require"][extra].splitlines()
    return sorted({line for line in lines if line.strip() and not line.startswith("taskvine-exec")})


@pytest.fixture(scope="module")
def there() -> dict[str, str]:
    """Bounds of the packages in the environment, by name."""
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    return dict(split(each) for each in environment["dependencies"] if isinstance(each, str))


@pytest.mark.parametrize("requirement", required())
def test_environment_has_all_requirements(requirement: str, there: dict[str, str]) -> None:
    name, bounds = split(requirement)
    name = CONDA.get(name, name)
    assert name in there
    if bounds:  # some packages require one without bounds, which others give
        assert there[name] == bounds


@pytest.mark.parametrize("name", ["ndcctools", "openssl"])
def test_environment_has_taskvines_requirements(name: str, there: dict[str, str]) -> None:
    assert name in there
