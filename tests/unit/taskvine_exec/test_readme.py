"""What README and documentation show can be written as it stands there."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import parsl
import pytest
from parsl.config import Config
from parsl.executors.base import ParslExecutor
from parsl.providers.cluster_provider import ClusterProvider

import taskvine_exec
from taskvine_exec import TaskVineExecutor, engines, passwords
from taskvine_exec.config import VineSettings

ROOT = Path(__file__).resolve().parents[3]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), *sorted((ROOT / "examples").glob("*/README.md"))]
MAKES = re.compile(r"\b(Config|TaskVineExecutor|local_config)\(")
CLUSTER = re.compile(r"Provider\(|batch_type=")


def blocks() -> Iterator[Any]:
    """Blocks of Python that make an executor or a Config."""
    for page in PAGES:
        text = page.read_text()
        for match in re.finditer(r"```python\n(.*?)```", text, re.S):
            if MAKES.search(match[1]) and "__main__" not in match[1]:  # whole programs are run: test_programs.py
                line = text.count("\n", 0, match.start()) + 1
                yield pytest.param(match[1], id=f"{page.relative_to(ROOT)}:{line}")


class Quoted:
    """What a block has defined and loaded."""

    def __init__(self) -> None:
        self.names: dict[str, Any] = {}
        self.loaded: list[Config] = []

    def run(self, code: str) -> None:
        """Run a block, but for statements that only show something: they need what a running program has."""
        module = ast.parse(code)
        module.body = [each for each in module.body if not _shows(each)]
        exec(compile(module, "README.md", "exec"), self.names)

    @property
    def executors(self) -> list[ParslExecutor]:
        loaded = [executor for config in self.loaded for executor in config.executors]
        return loaded or [value for value in self.names.values() if isinstance(value, TaskVineExecutor)]


def _shows(statement: ast.stmt) -> bool:
    call = statement.value if isinstance(statement, ast.Expr) else None
    return isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id == "print"


@pytest.fixture
def quoted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Quoted:
    """A place to run blocks in, where TaskVine is installed."""
    monkeypatch.setattr(engines, "module_is_there", lambda: True)
    monkeypatch.setattr(engines, "worker_is_there", lambda name: True)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tuning.toml").write_text("temp-replica-count = 2")
    made = Quoted()
    monkeypatch.setattr(parsl, "load", made.loaded.append)
    return made


@pytest.mark.parametrize("code", [block for block in blocks() if not CLUSTER.search(block.values[0])])
def test_blocks(quoted: Quoted, code: str) -> None:
    """They may be parts of a program that has imported what all of them use."""
    quoted.names |= {name: getattr(taskvine_exec, name) for name in taskvine_exec.__all__}
    quoted.names |= {"parsl": parsl, "Config": Config}
    pytest.importorskip("proxystore") if "proxystore" in code else None
    quoted.run(code)
    assert "parsl.load(" not in code or quoted.executors


@pytest.mark.parametrize("code", [block for block in blocks() if CLUSTER.search(block.values[0])])
def test_blocks_for_clusters(quoted: Quoted, tmp_path: Path, code: str) -> None:
    """They are whole programs, and say what nodes need to know."""
    quoted.run(code)
    (executor,) = quoted.executors
    assert isinstance(executor, TaskVineExecutor)
    settings = executor.settings
    assert isinstance(settings, VineSettings)
    assert not settings.local
    assert settings.password_file == passwords.default_path() == str(tmp_path / "taskvine-exec" / "password")
    assert settings.address not in (None, "localhost")
    assert settings.node_memory  # else a job may have less than a node has
    assert Config(executors=[executor])
    provider = executor.provider
    if settings.worker_launch_method == "provider":
        assert isinstance(provider, ClusterProvider)
        assert 0 < provider.init_blocks <= provider.max_blocks
    else:
        assert settings.node_cores  # else vine_factory asks for one
        assert settings.max_workers > 1


def test_there_are_such_blocks() -> None:
    found = [block.values[0] for block in blocks()]
    for word in ("SlurmProvider(", "CondorProvider(", "GridEngineProvider(", 'batch_type="slurm"', "local_config("):
        assert any(word in code for code in found)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_to_files(page: Path) -> None:
    links = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text())
    assert [link for link in links if not (page.parent / link).exists()] == []


def test_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text().split()) <= 700
