"""A notebook whose cells load a Config, run apps, define them again, and end the run."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.integration.test_programs import ROOTS

nbclient = pytest.importorskip("nbclient")
nbformat = pytest.importorskip("nbformat")
pytest.importorskip("ipykernel")

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

CELLS = [
    """
import parsl
from taskvine_exec import local_config

kernel = parsl.load(local_config(engine={engine!r}, cores=2))
""",
    """
class Pair:
    def __init__(self, x):
        self.x = x


def helper(x):
    return x + 1


@parsl.python_app
def twice(x):
    return Pair(2 * helper(x))


print(twice(20).result().x, type(twice(20).result()) is Pair)
""",
    """
def helper(x):
    return x + 2


print(twice(20).result().x)
""",
    """
twice("no number").result()
""",
    """
kernel.cleanup()
print("ended")
""",
]


def test_a_notebook(tmp_path: Path, engine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([*ROOTS, os.environ.get("PYTHONPATH", "")]))
    cells = [nbformat.v4.new_code_cell(cell.replace("{engine!r}", repr(engine)).strip()) for cell in CELLS]
    notebook = nbformat.v4.new_notebook(cells=cells)
    client = nbclient.NotebookClient(
        notebook, timeout=200, kernel_name="python3", allow_errors=True, resources={"metadata": {"path": str(tmp_path)}}
    )
    client.execute()
    first, second, third, fourth, fifth = [
        "".join(output.get("text", "") + output.get("ename", "") for output in cell.outputs) for cell in notebook.cells
    ]
    assert (first, second, third, fifth) == ("", "42 True\n", "44\n", "ended\n")
    assert fourth == "TypeError"
