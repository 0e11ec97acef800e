"""The programs in README and documentation run as printed, and print the output that the page shows."""

from __future__ import annotations

import doctest
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.engines import ABSENT
from tests.integration.test_programs import ROOTS
from tests.pages import PROGRAMS, Block, write_files

SAME = doctest.OutputChecker().check_output
OPTIONAL = ("academy", "coffea", "colmena", "dask", "joblib", "pipefunc", "quacc", "taps")
"""Packages whose programs are run only where they are installed."""


@pytest.mark.parametrize("block", PROGRAMS, ids=lambda block: block.name)
def test_programs_print_what_the_page_shows(tmp_path: Path, nothing_left: str, block: Block) -> None:
    """Each program runs beside the files that the page has shown before. "..." in an output stands for varying text."""
    if 'engine="taskvine"' in block.code and ABSENT:
        pytest.skip(ABSENT)
    for module in OPTIONAL:
        if re.search(rf"^ *(from|import) {module}\b", block.code, re.MULTILINE):
            pytest.importorskip(module)
    write_files(block.page, block.line, tmp_path)
    environment = {name: value for name, value in os.environ.items() if name != "CUDA_VISIBLE_DEVICES"}
    program = block.title or "program.py"
    (tmp_path / program).write_text(block.code)
    run = subprocess.run(
        [sys.executable, program],
        cwd=tmp_path,
        env={**environment, "PYTHONPATH": os.pathsep.join(filter(None, [*ROOTS, os.environ.get("PYTHONPATH")]))},
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )
    assert run.returncode == 0, run.stderr
    assert block.output is not None, "the page says what the program prints"
    assert SAME(block.output, run.stdout, doctest.ELLIPSIS), run.stdout + run.stderr
