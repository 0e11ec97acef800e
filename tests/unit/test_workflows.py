"""The workflows of the forge, and the checks before a commit, use only targets that exist."""

from __future__ import annotations

import configparser
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.unit.test_supported_versions import PYTHONS

ROOT = Path(__file__).resolve().parents[2]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
EACH = pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda path: path.name)


def targets() -> set[str]:
    """Return the targets of the Makefile."""
    (line,) = re.findall(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    return set(line.split())


def made(command: str) -> Iterator[str]:
    """Return the targets that a shell command makes."""
    for words in re.findall(r"\bmake ((?:[a-z-]+ ?)+)", re.sub(r"--\w+ ", "", command)):
        yield from words.split()


def jobs(workflow: Path) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(workflow.read_text())["jobs"]
    return found


def steps() -> list[dict[str, Any]]:
    return [step for workflow in WORKFLOWS for job in jobs(workflow).values() for step in job["steps"]]


def test_there_are_workflows() -> None:
    assert {path.stem for path in WORKFLOWS} == {"docs", "gridengine", "publish", "slurm", "tests"}


def test_targets_are_read() -> None:
    assert list(made("sudo env A=1 make slurm-suite NO_VENV=1 && make --silent lint docs\nmake unit")) == [
        *("slurm-suite", "lint", "docs", "unit")
    ]
    assert {"help", "test", "unit", "slurm-suite"} <= targets()


def test_workflows_make_existing_targets() -> None:
    found = {target for step in steps() for target in made(step.get("run", ""))}
    assert {"test", "lint", "docs", "slurm-suite", "gridengine-suite", "parsl-suite", "test-pythons"} <= found
    assert found - targets() == set()


@EACH
def test_jobs_have_a_time_limit_and_few_rights(workflow: Path) -> None:
    assert yaml.safe_load(workflow.read_text())["permissions"] == {"contents": "read"}
    assert all(job["timeout-minutes"] <= 60 for job in jobs(workflow).values())


def test_each_action_has_one_version() -> None:
    used = {step["uses"] for step in steps() if "uses" in step}
    names = [action.partition("@")[0] for action in used]
    assert "actions/checkout" in names
    assert len(names) == len(set(names)), sorted(used)


def test_pythons_are_supported() -> None:
    named = {str(step["with"]["python-version"]) for step in steps() if "python-version" in step.get("with", {})}
    assert named - {"${{ matrix.python }}"} <= set(PYTHONS)


def test_only_tags_are_published() -> None:
    job = jobs(ROOT / ".github" / "workflows" / "publish.yml")["publish"]
    assert job["if"] == "startsWith(github.ref, 'refs/tags/')"
    assert job["permissions"] == {"id-token": "write"}


def test_debian_packages_are_those_that_the_makefile_names() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for name in ("slurm", "gridengine"):
        (installed,) = re.findall(r"install --yes (.*)", (ROOT / ".github" / "workflows" / f"{name}.yml").read_text())
        assert [each for each in installed.split() if each not in makefile and each != "iproute2"] == []


def test_commits_are_checked_by_an_allowed_ruff() -> None:
    repos = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    (revision,) = (each["rev"] for each in repos if each["repo"].endswith("/ruff-pre-commit"))
    config = configparser.ConfigParser(interpolation=None)
    config.read(ROOT / "setup.cfg")
    (bounds,) = re.findall(r"^ruff>=0\.(\d+),<0\.(\d+)$", config["options.extras_require"]["dev"], re.MULTILINE)
    low, high = map(int, bounds)
    assert low <= int(revision.split(".")[1]) < high


def test_commits_are_checked_by_existing_targets() -> None:
    repos = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    entries = [hook["entry"] for each in repos if each["repo"] == "local" for hook in each["hooks"]]
    found = [list(made(entry)) for entry in entries]
    assert found
    assert all(found)
    assert set().union(*found) <= targets()
