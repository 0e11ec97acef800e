"""The code in README and documentation can be written as printed. The integration tests run the programs."""

from __future__ import annotations

import argparse
import ast
import configparser
import importlib
import inspect
import re
import shlex
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import parsl
import pytest
import yaml
from parsl.config import Config
from parsl.executors.base import ParslExecutor
from parsl.providers.cluster_provider import ClusterProvider

from taskvine_exec import TaskVineExecutor, engines, passwords
from taskvine_exec.config import VineSettings
from tests.pages import (
    FRAGMENTS,
    PAGES,
    PARTS,
    PROGRAMS,
    PYTHON,
    ROOT,
    Block,
    blocks,
    commands,
    shown,
    write_files,
)

CLUSTER = re.compile(r"(?<!Local)Provider\(|batch_type=")
COUNTS = {
    "docs/explanation/simulation.md": 2,
}
"""The number of fragments on each page: code that is neither run nor made, because it needs the rest of a program."""


class Quoted:
    """The names that a block has defined, and the Configs that it has loaded."""

    def __init__(self) -> None:
        self.names: dict[str, Any] = {"__name__": "quoted"}
        self.loaded: list[Config] = []

    def run(self, block: Block) -> None:
        """Run a block as it is printed."""
        exec(compile(block.code, block.name, "exec"), self.names)

    @property
    def executors(self) -> list[ParslExecutor]:
        """Return the executors that the block has made, or that its functions put into a Config."""
        made = [value for value in self.names.values() if isinstance(value, TaskVineExecutor)]
        configs = [*self.loaded, *(value for value in self.names.values() if isinstance(value, Config))]
        configs += [each() for each in self.names.values() if inspect.isfunction(each) and _makes_config(each)]
        return made or [executor for config in configs for executor in config.executors]


def _makes_config(function: Callable[..., Any]) -> bool:
    return function.__annotations__.get("return") in (Config, "Config") and not inspect.signature(function).parameters


@pytest.fixture
def quoted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Quoted:
    """A place to run blocks in, where TaskVine is installed."""
    monkeypatch.setattr(engines, "module_is_there", lambda: True)
    monkeypatch.setattr(engines, "worker_is_there", lambda name: True)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    made = Quoted()
    monkeypatch.setattr(parsl, "load", made.loaded.append)
    return made


def name(block: Block) -> str:
    return block.name


@pytest.mark.parametrize("block", PARTS, ids=name)
def test_blocks(quoted: Quoted, tmp_path: Path, capsys: pytest.CaptureFixture[str], block: Block) -> None:
    """The blocks run as printed, beside the files that the page has shown before, and make what they load."""
    write_files(block.page, block.line, tmp_path)
    pytest.importorskip("proxystore") if "proxystore" in block.code else None
    quoted.run(block)
    if "parsl.load(" in block.code:
        assert quoted.executors
    if block.output is not None:
        assert capsys.readouterr().out == block.output


@pytest.mark.parametrize("block", [block for block in PARTS if CLUSTER.search(block.code)], ids=name)
def test_blocks_for_clusters(quoted: Quoted, tmp_path: Path, block: Block) -> None:
    """The blocks set what nodes need."""
    quoted.run(block)
    found = 0
    for executor in quoted.executors:
        assert isinstance(executor, TaskVineExecutor)
        settings = executor.settings
        if not isinstance(settings, VineSettings) or settings.local:
            continue
        found += 1
        assert settings.password_file == passwords.default_path() == str(tmp_path / "taskvine-exec" / "password")
        assert settings.address not in (None, "localhost")
        assert settings.node_memory  # otherwise a job may have less memory than a node offers
        assert Config(executors=[executor])
        provider = executor.provider
        if settings.worker_launch_method == "provider":
            assert isinstance(provider, ClusterProvider)
            assert 0 < provider.init_blocks <= provider.max_blocks
        else:
            assert settings.node_cores  # otherwise vine_factory asks for one
            assert settings.max_workers > 1
    assert found


def test_there_are_such_blocks() -> None:
    for word in ("SlurmProvider(",):
        assert any(word in block.code for block in PARTS)
    assert len(PROGRAMS) > 5


def test_every_fragment_is_known() -> None:
    """Code that no test runs is marked, and counted here: write whole programs and configurations instead."""
    assert Counter(shown(block.page) for block in FRAGMENTS) == COUNTS


@pytest.mark.parametrize("block", FRAGMENTS, ids=name)
def test_fragments(block: Block) -> None:
    """Fragments are Python, and their imports exist."""
    for node in ast.walk(ast.parse(block.code)):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith(("parsl", "taskvine_")):
            module = importlib.import_module(node.module)
            assert [each.name for each in node.names if not hasattr(module, each.name)] == []


@pytest.mark.parametrize(
    "block", [each for page in PAGES for each in blocks(page) if each.language == "yaml"], ids=name
)
def test_yaml(block: Block) -> None:
    """YAML can be read. tests/clients has it read by the program that it configures."""
    assert isinstance(yaml.safe_load(block.code), dict)


def test_every_output_belongs_to_a_block() -> None:
    """Every output on a page is compared with that of the program before it."""
    said = sum(len(re.findall(r"^prints\b", page.read_text(), re.MULTILINE)) for page in PAGES)
    assert said == sum(block.output is not None for block in PYTHON)


@pytest.mark.parametrize("page", PAGES, ids=shown)
def test_languages(page: Path) -> None:
    """Each fenced block names its language, so that all Python is found."""
    assert {block.language for block in blocks(page)} <= {"python", "text", "toml", "sh", "yaml"}


@pytest.mark.parametrize("page", [page for page in PAGES if "docs" not in page.parts], ids=shown)
def test_links_lead_to_files(page: Path) -> None:
    """Links on pages outside of the site; `make docs` checks the others."""
    links = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text())
    assert [link for link in links if not (page.parent / link).exists()] == []


def test_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text().split()) <= 700


# --- commands ---


class _Parsed(BaseException):
    """A command line was parsed without an error; its command is not run."""


PARSERS = {"taskvine-tune": "taskvine_tune.__main__:main", "taskvine-node": "taskvine_manager.__main__:node"}
"""Our commands, and the functions that parse their options."""
TARGETS = {
    "bench": "benchmarks.suite.__main__:main",
    "chaos": "tests.chaos.run:main",
    "fuzz": "tests.fuzz.run:main",
    "parsl-suite": "tests.parsl_suite.run:main",
    "soak": "tests.chaos.soak:main",
}
"""Targets of make that pass ARGS to a program of ours."""
OURS = re.compile(r"(?:\w+=\S+ +)*(taskvine-tune|taskvine-node|make) +(.+)")
LINES = [
    pytest.param(match[1], match[2], id=f"{shown(page)}:{number}")
    for page in [*PAGES, ROOT / "CONTRIBUTING.md"]
    for number, line in commands(page)
    if (match := OURS.fullmatch(line))
]
QUOTED = [
    pytest.param(match[1], match[2], id=f"{shown(page)}:{match[0]}")
    for page in [*PAGES, ROOT / "CONTRIBUTING.md"]
    for quote in sorted(set(re.findall(r"`([^`\n]+)`", page.read_text())))
    if (match := OURS.fullmatch(quote))
]


@pytest.mark.parametrize(("command", "rest"), LINES)
def test_commands(monkeypatch: pytest.MonkeyPatch, command: str, rest: str) -> None:
    """The options on the pages are options of the commands."""
    words = shlex.split(rest, comments=True)
    _make(monkeypatch, words) if command == "make" else _parse(monkeypatch, PARSERS[command], words)


@pytest.mark.parametrize(("command", "rest"), QUOTED)
def test_quoted_commands(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], command: str, rest: str
) -> None:
    """The same for commands in running text, where arguments may be missing."""
    words = shlex.split(rest)
    if command == "make":
        _make(monkeypatch, words)
        return
    with pytest.raises(SystemExit):
        _parse(monkeypatch, PARSERS[command], [*words[:1], "--help"] if command == "taskvine-tune" else ["--help"])
    known = set(re.findall(r"--[a-z-]+", capsys.readouterr().out))
    assert {word for word in words if word.startswith("--")} <= known


def _make(monkeypatch: pytest.MonkeyPatch, words: list[str]) -> None:
    phony = re.search(r"^\.PHONY: (.*)", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert phony is not None
    targets = [word for word in words if "=" not in word]
    assert set(targets) <= set(phony[1].split())
    arguments = [shlex.split(word[len("ARGS=") :]) for word in words if word.startswith("ARGS=")]
    for target in targets:
        for options in arguments if target in TARGETS else ():
            _parse(monkeypatch, TARGETS[target], options)


def _parse(monkeypatch: pytest.MonkeyPatch, path: str, words: list[str]) -> None:
    module, _, function = path.partition(":")
    main = getattr(importlib.import_module(module), function)
    parse = argparse.ArgumentParser.parse_args

    def only(parser: argparse.ArgumentParser, *arguments: Any) -> None:
        parse(parser, *arguments)
        raise _Parsed

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", only)
    monkeypatch.setattr(sys, "argv", ["command", *words])
    with pytest.raises(_Parsed):
        main(words) if inspect.signature(main).parameters else main()


def test_a_wrong_option_is_found(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        _parse(monkeypatch, PARSERS["taskvine-tune"], ["list", "--such"])


def test_there_are_such_commands() -> None:
    assert {"taskvine-tune", "make"} <= {line.values[0] for line in LINES}


def test_extras() -> None:
    """Pages tell users to install only extras that exist."""
    setup = configparser.ConfigParser(interpolation=None)
    setup.read(ROOT / "setup.cfg")
    named = {
        extra.strip()
        for page in PAGES
        for extras in re.findall(r"(?:taskvine-exec|\.)\[([\w, ]+)\]", page.read_text())
        for extra in extras.split(",")
    }
    assert named
    assert named <= set(setup["options.extras_require"])
