"""Files that do not fit: the quota of a node's cache, and full disks."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from parsl.data_provider.files import File

from taskvine_exec import TaskVineExecutor
from taskvine_exec.errors import DiskFull
from taskvine_manager.node import staging
from tests.conftest import eventually, first_node
from tests.contract.conftest import embedded_only

Make = Callable[..., TaskVineExecutor]
T = "taskvinetemp:///"


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's current directory."""
    directory = tmp_path / "home"
    directory.mkdir()
    monkeypatch.chdir(directory)
    return directory


@pytest.fixture
def working_directory() -> str:
    """Stage files into sandboxes."""
    return "sandbox"


def read(*files, inputs=(), **named):  # type: ignore[no-untyped-def]
    texts = []
    for file in (*files, *inputs, *named.values()):
        with open(file.filepath) as stream:
            texts.append(stream.read())
    return "+".join(texts)


def write(text, outputs):  # type: ignore[no-untyped-def]
    for file in outputs:
        with open(file.filepath, "w") as stream:
            stream.write(text)


@embedded_only  # TaskVine's workers do not evict
def test_cache_keeps_to_its_quota(make_executor: Make, home: Path) -> None:
    executor = make_executor(disk=1)
    (home / "large").write_text("x" * 2**21)
    large = executor.submit(read, {}, File("large")).exception(30)
    assert isinstance(large, DiskFull)
    assert "no room for large" in str(large)
    made = executor.submit(write, {}, "x" * 2**21, outputs=[File(T + "large")]).exception(30)
    assert isinstance(made, DiskFull)
    cache = os.path.join(first_node(executor)["directory"], "cache")
    assert os.listdir(cache) == []

    for number in range(8):
        (home / str(number)).write_text(str(number) * 600_000)
    futures = [executor.submit(read, {}, File(str(number))) for number in range(8)]
    assert [future.result(30)[0] for future in futures] == list("01234567")
    assert sum(entry.stat().st_size for entry in os.scandir(cache)) == 600_000
    executor.submit(write, {}, "x" * 600_000, outputs=[File(T + "x")]).result(30)
    assert [entry.name for entry in os.scandir(cache)] == ["x@t10"], "inputs make way for what tasks make"
    assert executor.submit(read, {}, File(T + "x")).result(30)


@pytest.fixture
def small_disk(nothing_left: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A file system of 8 MB for temporary files."""
    directory = os.path.join(nothing_left, "disk")
    os.mkdir(directory)
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", directory], check=False, capture_output=True, text=True
    )
    if mounted.returncode:
        pytest.skip(f"no file system can be mounted here: {mounted.stderr}")
    try:
        monkeypatch.setenv("TMPDIR", directory)
        monkeypatch.setattr(tempfile, "tempdir", directory)
        monkeypatch.setenv(staging.MEMORY_VARIABLE, "")
        yield directory
    finally:
        subprocess.run(["umount", "--lazy", directory], check=True)


@pytest.mark.skipif(sys.platform != "linux" or os.getuid() != 0, reason="only root can mount a file system")
@embedded_only  # TaskVine's workers need half of the disk for themselves
def test_full_disk_is_reported(small_disk: str, make_executor: Make, mode: str, home: Path) -> None:
    executor = make_executor(function_exec_mode=mode)
    (home / "large").write_text("x" * 5_000_000)  # once in the cache, once in the sandbox
    (home / "small").write_text("x" * 100_000)
    for _ in range(2):
        error = executor.submit(read, {}, File("large")).exception(30)
        assert isinstance(error, DiskFull)
        assert "No space left" in str(error)
    assert isinstance(executor.submit(lambda: bytes(9_000_000), {}).exception(30), DiskFull)
    assert len(executor.submit(read, {}, File("small")).result(30)) == 100_000
    directory = first_node(executor)["directory"]
    eventually(lambda: not os.listdir(os.path.join(directory, "sandboxes")))
    left = {entry.name: entry.stat().st_size for entry in os.scandir(os.path.join(directory, "cache"))}
    assert sum(left.values()) in (100_000, 5_100_000)
    assert not [name for name in left if name.endswith("partial")]
    executor.shutdown()
    # Parsl imports work_queue where it is installed, which makes a directory in each process.
    assert [entry for entry in os.listdir(small_disk) if not entry.startswith("wq-py-staging-")] == []
