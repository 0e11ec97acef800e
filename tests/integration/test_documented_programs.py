"""Whole programs of the how-to and reference pages, run as they are printed."""

from __future__ import annotations

import re
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted(page for folder in ("how-to", "reference") for page in (ROOT / "docs" / folder).glob("*.md"))
OPTIONAL = ("colmena",)
PROGRAM = re.compile(r"```python\n(?P<code>.*?)```(?:\n\nprints[^\n]*\n\n(?P<printed>(?:    [^\n]*\n)+))?", re.S)


def programs() -> Iterator[Any]:
    for page in PAGES:
        text = page.read_text()
        for match in PROGRAM.finditer(text):
            if "__main__" in match["code"]:
                line = text.count("\n", 0, match.start()) + 1
                yield pytest.param(match["code"], match["printed"], id=f"{page.name}:{line}")


@pytest.mark.parametrize(("code", "printed"), list(programs()))
def test_program(
    code: str, printed: str | None, tmp_path: Path, nothing_left: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in OPTIONAL:
        if f"from {module}" in code:
            pytest.importorskip(module)
    assert printed is not None, "the page says what the program prints"
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    (tmp_path / "program.py").write_text(code)
    run = subprocess.run(
        [sys.executable, "program.py"], cwd=tmp_path, capture_output=True, text=True, check=False, timeout=100
    )
    assert run.stdout == textwrap.dedent(printed), run.stderr
