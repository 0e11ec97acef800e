"""CONTRIBUTING, SECURITY and the forms name only things that exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.unit.test_workflows import made, targets

ROOT = Path(__file__).resolve().parents[2]
PAGES = ("CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md")
LINKS = [
    pytest.param(page, link, id=f"{page}:{link}")
    for page in PAGES
    for link in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", (ROOT / page).read_text())
]
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text()
CODE = re.findall(r"`([^`]+)`", CONTRIBUTING)


@pytest.mark.parametrize(("page", "link"), LINKS)
def test_links_lead_to_files(page: str, link: str) -> None:
    assert (ROOT / page).parent.joinpath(link).exists()


def test_files_are_there() -> None:
    named = [each for each in CODE if re.fullmatch(r"(\.?\w+/)+[\w.]*", each)]
    assert len(named) > 30
    assert [each for each in named if not (ROOT / each).exists() and each != "site/"] == []


def test_targets_are_there() -> None:
    named = {target for line in (*CODE, *re.findall(r"^    (.*)", CONTRIBUTING, re.MULTILINE)) for target in made(line)}
    assert {"test", "venv", "docs-tuning"} <= named
    assert named - targets() == set()


def test_targets_are_described() -> None:
    described = {target for line in CODE for target in made(line)}
    assert targets() - described - {"clean", "venv"} == set()


@pytest.mark.parametrize(
    ("name", "where"),
    [
        ("@shows", "tests/contract/test_tuning_effects.py"),
        ("_hearers", "manager/taskvine_manager/embedded/engine.py"),
        ("FORMS", "manager/taskvine_manager/embedded/incoming.py"),
        ("EVENTS", "manager/taskvine_manager/embedded/incoming.py"),
        ("_handlers", "manager/taskvine_manager/embedded/node.py"),
        ("_handlers", "taskvine_exec/executor.py"),
        ("embedded_only", "tests/contract/conftest.py"),
        ("make_executor", "tests/contract/conftest.py"),
    ],
)
def test_names_are_there(name: str, where: str) -> None:
    assert f"`{name}`" in CONTRIBUTING
    assert name in (ROOT / where).read_text()


def test_forms_name_the_page_for_vulnerabilities() -> None:
    assert "see SECURITY.md" in (ROOT / ".github" / "ISSUE_TEMPLATE" / "bug.yml").read_text()
