"""What the README shows of clusters can be written as it stands there."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from parsl.config import Config
from parsl.providers import CondorProvider, SlurmProvider

from taskvine_exec import TaskVineExecutor, engines

README = Path(__file__).resolve().parents[3] / "README.md"


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, Any]:
    """What the README's code for clusters defines, where TaskVine is installed and there is a password file."""
    monkeypatch.setattr(engines, "module_is_there", lambda: True)
    monkeypatch.setattr(engines, "worker_is_there", lambda name: True)
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".vine-password").write_text("secret")
    (tmp_path / ".vine-password").chmod(0o600)
    (code,) = (block for block in re.findall(r"```python\n(.*?)```", README.read_text(), re.S) if "Slurm" in block)
    defined: dict[str, Any] = {}
    exec(compile(code, str(README), "exec"), defined)
    return defined


@pytest.mark.parametrize(("name", "provider"), [("slurm", SlurmProvider), ("condor", CondorProvider)])
def test_executors_for_clusters(shown: dict[str, Any], tmp_path: Path, name: str, provider: type) -> None:
    executor = shown[name]
    assert isinstance(executor, TaskVineExecutor)
    assert isinstance(executor.provider, provider)
    assert executor._settings.password_file == str(tmp_path / ".vine-password")
    assert not executor._settings.local
    assert "secret" not in repr(Config(executors=[executor]))
