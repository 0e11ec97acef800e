"""The command in this process, and its output."""

from __future__ import annotations

import json
from typing import Any

import pytest

from taskvine_tune.command import FINE, main


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.delenv("COLUMNS", raising=False)

    def run(*arguments: str, code: int = FINE) -> Any:
        assert main(arguments) == code
        out = capsys.readouterr().out
        return json.loads(out) if "--json" in arguments else out

    return run
