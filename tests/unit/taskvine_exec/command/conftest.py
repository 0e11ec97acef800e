"""The command in this process, and its output."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from taskvine_exec.command import main
from taskvine_tune.command.terminal import FINE


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("COLUMNS", raising=False)


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Any:
    """Run the command; return its output, read if it is JSON, or what it said on standard error if it failed."""

    def run(*arguments: str, code: int = FINE) -> Any:
        assert main(arguments) == code
        out, error = capsys.readouterr()
        if code != FINE:
            assert error.startswith("taskvine-exec: ")
            return error
        assert error == ""
        return json.loads(out) if "--json" in arguments else out

    return run
