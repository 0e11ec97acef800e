"""The programs on the page about other programs print what it shows, on both engines."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from tests.integration import test_pages
from tests.pages import PROGRAMS, Block

PAGE = [block for block in PROGRAMS if block.page.name == "clients.md"]

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.mark.parametrize("block", PAGE, ids=lambda block: block.name)
def test_programs(tmp_path: Path, nothing_left: str, engine: str, block: Block) -> None:
    code = block.code.replace("local_config(", f"local_config(engine={engine!r}, ")
    assert engine in code
    other = dataclasses.replace(block, code=code)
    test_pages.test_programs_print_what_the_page_shows(tmp_path, nothing_left, other)


def test_each_program_has_a_section() -> None:
    assert len(PAGE) == 6
