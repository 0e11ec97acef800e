"""Tasks replace the run's directories with links: the files behind the links are the user's, and stay."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from parsl.data_provider.files import File

from taskvine_exec import TaskVineExecutor
from taskvine_exec.errors import TaskLost, TaskVineExecutorError
from tests.contract.conftest import embedded_only

SHARED = ["spool", "nodes", "log", "scripts", "nodes/*", "nodes/*/cache"]
EMBEDDED = ["spool/fast", *(f"nodes/*/{name}" for name in ("sandboxes", "scratch", "scratch/*", "environments"))]
TASKVINE = [
    "files",
    "nodes/*/tmp",
    "nodes/*/tmp/s0",
    "nodes/*/libr.*",
    "nodes/*/libr.*/spool",
    "nodes/*/libr.*/scratch",
]
CACHED = {"embedded": "nodes/*/cache/*", "taskvine": "nodes/*/cache/temp-rnd-*"}


@pytest.fixture
def precious(tmp_path: Path) -> Path:
    """A directory of the user."""
    directory = tmp_path / "precious"
    (directory / "below").mkdir(parents=True)
    for name in ("data", "below/data"):
        (directory / name).write_text(name)
    return directory


def plant(target: str, leads_to: str) -> None:
    """Put a link in the place of a file or directory."""
    import os

    if not os.path.islink(target):  # it may kill its node, and so run again
        os.rename(target, f"{target}.was")
        os.symlink(leads_to, target)


def write(outputs: list[File]) -> None:
    with open(outputs[0].filepath, "w") as file:
        file.write("x" * 100_000)


def zeros(count: int) -> bytes:
    return bytes(count)


def check(executor: TaskVineExecutor, place: str, precious: Path, base: Path) -> None:
    executor.submit(write, {}, outputs=[File("taskvinetemp:///x")]).result(30)
    target = sorted(base.glob(place))[0]
    leads_to = precious / "data" if target.is_file() else precious
    executor.submit(plant, {}, str(target), str(leads_to)).exception(30)  # it may lose its node
    assert target.is_symlink()
    try:
        assert executor.submit(zeros, {}, 2_000_000).result(30) == bytes(2_000_000)
    except (TaskLost, TaskVineExecutorError):
        pass  # a run whose directories were moved away may fail
    executor.shutdown()
    assert (precious / "data").read_text() == "data"
    assert (precious / "below" / "data").read_text() == "below/data"


@pytest.mark.parametrize("place", [*SHARED, *EMBEDDED, CACHED["embedded"]])
@embedded_only
def test_planted_links_on_the_embedded_engine(
    make_executor: Callable[..., TaskVineExecutor], nothing_left: str, precious: Path, place: str
) -> None:
    executor = make_executor(max_retries=1)
    (base,) = Path(nothing_left).glob("taskvine-*")
    check(executor, place, precious, base)


@pytest.mark.parametrize("engine", ["taskvine"], indirect=True)
@pytest.mark.parametrize("place", [*SHARED, *TASKVINE, CACHED["taskvine"]])
def test_planted_links_on_taskvine(
    make_executor: Callable[..., TaskVineExecutor], nothing_left: str, precious: Path, place: str
) -> None:
    executor = make_executor(max_retries=1)
    (base,) = Path(nothing_left).glob("taskvine-*")
    check(executor, place, precious, base)
