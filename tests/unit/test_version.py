"""The version is defined in one place; files that no program builds repeat it."""

from __future__ import annotations

import configparser
import re
from pathlib import Path

import pytest
import yaml

import taskvine_exec
import taskvine_manager

ROOT = Path(__file__).resolve().parents[2]
VERSION = taskvine_manager.VERSION


def test_metadata_take_the_version_from_the_package() -> None:
    config = configparser.ConfigParser(interpolation=None)
    config.read(ROOT / "setup.cfg")
    assert config["metadata"]["version"] == "attr: taskvine_manager.VERSION"


def test_package() -> None:
    assert taskvine_exec.__version__ is VERSION
    assert re.fullmatch(r"\d+\.\d+\.\d+(\.dev\d+|(a|b|rc)\d+)?", VERSION)


def test_citation() -> None:
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text())["version"] == VERSION


def test_recipe() -> None:
    assert yaml.safe_load((ROOT / "recipe" / "recipe.yaml").read_text())["context"]["version"] == VERSION


def test_readme() -> None:
    assert set(re.findall(r"Version (\d[\w.]*\w)", (ROOT / "README.md").read_text())) <= {VERSION}


def test_changelog() -> None:
    versions = re.findall(r"^## \[(.+?)\]", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert versions[:2] == ["Unreleased", VERSION]


@pytest.mark.parametrize("folder", ["taskvine_exec", "manager", "tune"])
def test_no_other_module_repeats_the_version(folder: str) -> None:
    modules = set((ROOT / folder).rglob("*.py")) - {Path(taskvine_manager.__file__ or "")}
    assert modules
    assert [path for path in modules if f'"{VERSION}"' in path.read_text(encoding="utf-8")] == []
