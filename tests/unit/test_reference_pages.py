"""The reference pages name everything in their topic, and nothing that does not exist."""

from __future__ import annotations

import dataclasses
import importlib
import importlib.util
import inspect
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from parsl.executors.base import ParslExecutor
from parsl.executors.status_handling import BlockProviderExecutor

import taskvine_exec
from taskvine_exec import TaskVineExecutor, TaskVineFactoryConfig, TaskVineManagerConfig, errors
from taskvine_exec.config import BATCH_TYPES, LIBRARY_KEYS
from taskvine_exec.submission import resources
from taskvine_manager.embedded import node
from taskvine_manager.node import hardware
from taskvine_manager.record import events
from taskvine_manager.vine.worker import trouble
from taskvine_tune import command
from taskvine_tune.command import program

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted((ROOT / "docs").rglob("*.md"))


def page(name: str) -> str:
    return (ROOT / "docs" / "reference" / f"{name}.md").read_text()


def section(text: str, title: str) -> str:
    """Return the text below a heading, up to the next one of the same or a higher level."""
    match = re.search(rf"^(#+) {re.escape(title)}\n(.*?)(?=^#{{1,3}} |\Z)", text, re.M | re.S)
    assert match is not None, f"there is no heading {title}"
    return match[2]


# --- errors ---

ERRORS = {name: each for name in errors.__all__ if inspect.isclass(each := getattr(errors, name))}
"""Return every class of the module."""


@pytest.mark.parametrize("name", ERRORS)
def test_each_error_has_a_section_with_its_fields(name: str) -> None:
    text = section(page("errors"), name)
    own = fields(ERRORS[name]) - fields(ERRORS[name].__base__)
    assert {field for field in own if f"`{field}`" not in text} == set()


def fields(kind: Any) -> set[str]:
    return {field.name for field in dataclasses.fields(kind)} if dataclasses.is_dataclass(kind) else set()


def test_errors_are_drawn_as_in_the_module() -> None:
    assert errors.__doc__ is not None
    (tree,) = re.findall(r"^    parsl\.errors\.ParslError\n(?:    .*\n)+", errors.__doc__, re.M)
    assert tree in page("errors")


def test_statuses_of_workers() -> None:
    text = section(page("errors"), "WorkerLaunchFailed")
    assert [status for status in trouble.Status if not re.search(rf"\b{status}\b", text)] == []


# --- commands ---


def options(run: Callable[[list[str]], object], capsys: pytest.CaptureFixture[str]) -> list[str]:
    """Return the options that a command's help names."""
    with pytest.raises(SystemExit):
        run(["--help"])
    return sorted(set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", capsys.readouterr().out)))


def named(text: str) -> set[str]:
    return set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", text))


def test_options_of_a_node(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    there = options(node.main, capsys)
    assert "--connect" in there
    assert set(there) == named(section(page("commands"), "taskvine-node"))


@pytest.mark.parametrize("name", program.COMMANDS)
def test_options_of_tune(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    there = options(lambda arguments: command.main([name, *arguments]), capsys)
    common = named(section(page("commands"), "taskvine-tune").partition("\n    taskvine-tune")[0])
    assert common == {"--help", "--json"}
    text = section(page("commands"), f"taskvine-tune {name}")
    assert set(there) - common == {each for each in named(text) if f"`{each}" in text}


@pytest.mark.parametrize("text", [path.read_text() for path in PAGES], ids=[path.name for path in PAGES])
def test_modules_of_commands_exist(text: str) -> None:
    for name in re.findall(r"python -m (taskvine_\w+(?:\.\w+)*)", text):
        assert importlib.util.find_spec(name) is not None


# --- the record ---


def test_events_of_a_record() -> None:
    text = section(page("record"), "Events")
    rows = {
        tag: re.findall(r"`(\w+)`", cells) for tag, cells in re.findall(r"^\| `([a-z-]+)` \| (`[^|]*) \|", text, re.M)
    }
    assert rows == {tag: list(kind._fields) for tag, kind in events.TYPES.items()}


def test_reasons_of_a_record() -> None:
    text = section(page("record"), "Why tasks wait")
    assert re.findall(r"^\| `([a-z-]+)` \|", text, re.M) == ["why", *events.REASONS]


# --- executor and configuration ---


def test_names_of_the_package() -> None:
    text = section(page("executor"), "Names of the package")
    assert [name for name in taskvine_exec.__all__ if f"`{name}`" not in text] == []


def test_public_methods() -> None:
    """Each method is shown, or named as one that Parsl calls."""
    text = page("executor")
    shown = re.findall(r"^        - (\w+)$", text, re.M)
    of_parsl = set(re.findall(r"`(\w+)`", text[text.index("The other public methods") :].partition("\n\n")[0]))
    parsls = {name for base in (ParslExecutor, BlockProviderExecutor) for name in dir(base)}
    own = [each for each in TaskVineExecutor.__mro__ if each.__module__.startswith("taskvine_exec")]
    public = {
        name
        for each in own
        for name, value in vars(each).items()
        if not name.startswith("_") and (callable(value) or isinstance(value, property))
    }
    assert public == {*shown, *of_parsl}
    assert of_parsl <= parsls


def test_keys_of_library_config() -> None:
    text = section(page("configuration"), "library_config")
    assert set(LIBRARY_KEYS) == set(re.findall(r"`(\w+)`", "".join(re.findall(r"^\| (`[^|]*) \|", text, re.M))))
    assert TaskVineManagerConfig.__doc__ is not None
    assert [key for key in LIBRARY_KEYS if f"``{key}``" not in TaskVineManagerConfig.__doc__] == []


@pytest.mark.parametrize("kind", [TaskVineManagerConfig, TaskVineFactoryConfig])
def test_fields_have_a_description(kind: Any) -> None:
    names = [field.name for field in dataclasses.fields(kind) if not field.name.startswith("_")]
    assert re.findall(r"^(\w+) : ", inspect.cleandoc(kind.__doc__), re.M) == names


def test_batch_types() -> None:
    text = section(page("configuration"), "Nodes")
    assert [kind for kind in BATCH_TYPES if f'`"{kind}"`' not in text] == []


def test_keys_of_resource_specifications() -> None:
    cells = re.findall(r"^\| `(\w+)` \|", page("resources"), re.M)
    assert {*cells, "exec_mode"} == set(resources.READERS)
    assert "`exec_mode`" in page("resources")


def test_variables_of_threads() -> None:
    text = section(page("tasks"), "Environment variables")
    assert [name for name in hardware.THREAD_VARIABLES if f"`{name}`" not in text] == []


@pytest.mark.parametrize("text", [path.read_text() for path in PAGES], ids=[path.name for path in PAGES])
def test_shown_objects_exist(text: str) -> None:
    """Objects whose docstrings a page includes."""
    for name in re.findall(r"^::: (\S+)$", text, re.M):
        module, _, attribute = name.rpartition(".")
        assert hasattr(importlib.import_module(module), attribute), name
