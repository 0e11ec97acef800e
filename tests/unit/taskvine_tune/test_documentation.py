"""The documentation agrees with the declarations."""

from __future__ import annotations

from pathlib import Path

import pytest

from taskvine_manager.parameters import PARAMETERS
from taskvine_tune.documentation import BEGIN, END, main, renewed, tables

PAGE = Path(__file__).parents[3] / "docs" / "reference" / "tuning.md"


def test_the_page_is_current(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--check", str(PAGE)]) == 0, "make docs-tuning"


def test_every_parameter_is_a_row() -> None:
    rows = [line for line in tables().splitlines() if line.startswith("| `")]
    assert len(rows) == len(PARAMETERS)
    assert {row.count(" | ") for row in rows} == {6}


def test_outdated_page_is_found_and_updated(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"# Before\n{BEGIN}\nstale\n{END}\nafter\n")
    assert main(["--check", str(page)]) == 1
    assert "stale" in page.read_text()
    assert main([str(page)]) == 0
    text = page.read_text()
    assert text == renewed(text) == f"# Before\n{BEGIN}\n\n{tables()}\n\n{END}\nafter\n"
    assert main(["--check", str(page)]) == 0
    assert main([]) == 2
    assert main(["--such"]) == 2


@pytest.mark.parametrize("text", ["", BEGIN, END, f"{END}{BEGIN}", f"{BEGIN}{END}{END}", f"{BEGIN}{BEGIN}{END}"])
def test_page_without_marks_is_an_error(text: str) -> None:
    with pytest.raises(ValueError, match="once each"):
        renewed(text)
