"""Inputs that change, and cached files that are truncated or deleted: no task may read wrong data."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from parsl.data_provider.files import File
from parsl.providers import LocalProvider

from taskvine_exec import TaskVineExecutor
from taskvine_exec.errors import FileLost
from tests.conftest import first_node
from tests.contract.conftest import cached

Make = Callable[..., TaskVineExecutor]
T = "taskvinetemp:///"
SIZE = 100_000


@pytest.fixture
def working_directory() -> str:
    """Stage files into sandboxes."""
    return "sandbox"


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's current directory."""
    directory = tmp_path / "home"
    directory.mkdir()
    monkeypatch.chdir(directory)
    return directory


def read(file):  # type: ignore[no-untyped-def]
    with open(file.filepath) as stream:
        return stream.read()


def read_tree(directory):  # type: ignore[no-untyped-def]
    with open(directory.filepath + "/file") as stream:
        return stream.read()


def write(text, log, outputs):  # type: ignore[no-untyped-def]
    with open(log, "a") as stream:
        stream.write("ran\n")
    with open(outputs[0].filepath, "w") as stream:
        stream.write(text * SIZE)


def write_tree(text, log, outputs):  # type: ignore[no-untyped-def]
    os.mkdir(outputs[0].filepath)
    with open(log, "a") as stream:
        stream.write("ran\n")
    with open(outputs[0].filepath + "/file", "w") as stream:
        stream.write(text * SIZE)


def lengthen(file, outputs):  # type: ignore[no-untyped-def]
    with open(outputs[0].filepath, "w") as stream:
        stream.write(read(file) + "!")


# --- inputs of the user's ---


@pytest.mark.parametrize("how", ["in place", "replaced", "times put back"])
def test_rewritten_file_is_read_again(make_executor: Make, mode: str, home: Path, how: str) -> None:
    executor = make_executor(function_exec_mode=mode)
    given = home / "given"
    for count in range(5):
        before = given.stat() if count else None
        if how == "replaced":
            (home / "next").write_text(str(count))
            (home / "next").rename(given)
        else:
            given.write_text(str(count))
        if how == "times put back" and before is not None:
            os.utime(given, ns=(before.st_atime_ns, before.st_mtime_ns))
        assert executor.submit(read, {}, File("given")).result(30) == str(count)


def test_changed_link_is_read_again(make_executor: Make, home: Path) -> None:
    executor = make_executor()
    for name in ("a", "b", "a"):
        (home / name).write_text(name)
        (home / "given").unlink(missing_ok=True)
        (home / "given").symlink_to(name)
        assert executor.submit(read, {}, File("given")).result(30) == name


def test_readers_of_a_changing_file_get_whole_versions(make_executor: Make, home: Path) -> None:
    """Readers of several versions run at once; each reads its version or a later one."""
    executor = make_executor()
    futures = []
    for count in range(10, 30):
        (home / "next").write_text(str(count))
        (home / "next").rename(home / "given")  # a file that is rewritten in place is empty for a moment
        futures.append((count, executor.submit(read, {}, File("given"))))
    for count, future in futures:
        assert count <= int(future.result(30)) < 30
    assert executor.submit(read, {}, File("given")).result(30) == "29"


# --- cached files ---


def cut(path: str) -> None:
    os.truncate(path, os.path.getsize(path) // 2)


@pytest.fixture(params=[cut, os.unlink], ids=["cut short", "deleted"])
def harm(request: pytest.FixtureRequest) -> Callable[[str], None]:
    """Ways in which a file in a node's cache is damaged."""
    return request.param  # type: ignore[no-any-return]


def the_only_cached(executor: TaskVineExecutor) -> str:
    (node,) = executor.nodes
    (entry,) = cached(node)
    return entry.path


@pytest.mark.parametrize("kind", ["file", "tree"])
def test_damaged_users_file_is_sent_again(
    make_executor: Make, mode: str, home: Path, harm: Callable[[str], None], kind: str
) -> None:
    (home / "tree").mkdir()
    for path in (home / "file", home / "tree" / "file"):
        path.write_text("x" * SIZE)
    task: Callable[..., Any] = read if kind == "file" else read_tree
    executor = make_executor(function_exec_mode=mode)
    assert executor.submit(task, {}, File(kind)).result(30) == "x" * SIZE
    executor.submit(task, {}, File(kind)).result(30)
    harm(the_only_cached(executor))
    futures = [executor.submit(task, {}, File(kind)) for _ in range(3)]
    assert [future.result(60) for future in futures] == ["x" * SIZE] * 3


@pytest.mark.parametrize("kind", ["file", "tree"])
def test_damaged_temp_file_is_recreated(
    make_executor: Make, mode: str, tmp_path: Path, harm: Callable[[str], None], kind: str
) -> None:
    executor = make_executor(function_exec_mode=mode)
    log = tmp_path / "log"
    make, task = (write, read) if kind == "file" else (write_tree, read_tree)
    executor.submit(make, {}, "x", str(log), outputs=[File(T + "t")]).result(30)
    harm(the_only_cached(executor))
    assert executor.submit(task, {}, File(T + "t")).result(60) == "x" * SIZE
    assert log.read_text() == "ran\n" * 2


def test_damaged_temp_file_is_recreated_for_the_user(
    make_executor: Make, tmp_path: Path, harm: Callable[[str], None]
) -> None:
    executor = make_executor()
    executor.submit(write, {}, "x", str(tmp_path / "log"), outputs=[File(T + "t")]).result(30)
    harm(the_only_cached(executor))
    assert Path(executor.fetch(File(T + "t"), tmp_path / "fetched", timeout=60)).read_text() == "x" * SIZE


def test_damaged_inputs_are_recreated_too(make_executor: Make, tmp_path: Path, harm: Callable[[str], None]) -> None:
    executor = make_executor()
    log = tmp_path / "log"
    executor.submit(write, {}, "x", str(log), outputs=[File(T + "a")]).result(30)
    first = the_only_cached(executor)
    executor.submit(lengthen, {}, File(T + "a"), outputs=[File(T + "b")]).result(30)
    (second,) = {entry.path for entry in cached(first_node(executor))} - {first}
    harm(first)
    harm(second)
    assert executor.submit(read, {}, File(T + "b")).result(100) == "x" * SIZE + "!"


def test_users_file_is_sent_again_for_a_recreation(
    make_executor: Make, home: Path, harm: Callable[[str], None]
) -> None:
    (home / "given").write_text("x" * SIZE)
    executor = make_executor()
    executor.submit(lengthen, {}, File("given"), outputs=[File(T + "t")]).result(30)
    for entry in cached(first_node(executor)):
        harm(entry.path)
    assert executor.submit(read, {}, File(T + "t")).result(100) == "x" * SIZE + "!"


def test_damaged_file_that_must_not_be_recreated_is_lost(
    make_executor: Make, mode: str, tmp_path: Path, harm: Callable[[str], None]
) -> None:
    executor = make_executor(function_exec_mode=mode)
    log = tmp_path / "log"
    executor.submit(write, {"recoverable": False}, "x", str(log), outputs=[File(T + "t")]).result(30)
    harm(the_only_cached(executor))
    error = executor.submit(read, {}, File(T + "t")).exception(60)
    assert isinstance(error, FileLost)
    assert "t@t0" in str(error)
    assert log.read_text() == "ran\n"


def test_undamaged_files_are_not_recreated(make_executor: Make, tmp_path: Path, harm: Callable[[str], None]) -> None:
    def read_all(inputs):  # type: ignore[no-untyped-def]
        return [read(file)[0] for file in inputs]

    executor = make_executor()
    log = tmp_path / "log"
    executor.submit(write, {}, "a", str(log), outputs=[File(T + "a")]).result(30)
    bad = the_only_cached(executor)
    for name in "bcd":
        executor.submit(write, {}, name, str(log), outputs=[File(T + name)]).result(30)
    harm(bad)
    assert executor.submit(read_all, {}, inputs=[File(T + name) for name in "abcd"]).result(60) == list("abcd")
    assert log.read_text() == "ran\n" * 5


def test_reader_on_another_node_gets_the_right_file(
    make_executor: Make, tmp_path: Path, harm: Callable[[str], None]
) -> None:
    def meet_and_write(fifo, flags, length, outputs):  # type: ignore[no-untyped-def]
        if os.path.exists(fifo):
            os.close(os.open(fifo, flags))
        with open(outputs[0].filepath, "w") as stream:
            stream.write("x" * length)

    def lengths(inputs):  # type: ignore[no-untyped-def]
        return [len(read(file)) for file in inputs]

    executor = make_executor(cores=1, provider=LocalProvider(init_blocks=2, min_blocks=2, max_blocks=2))
    assert executor.wait_for_nodes(2, 30)
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    # The calls wait for each other, so they run on different nodes. The reader of both goes where the large file is.
    made = [
        executor.submit(meet_and_write, {}, str(fifo), flags, length, outputs=[File(T + name)])
        for name, flags, length in (("large", os.O_RDONLY, 50 * SIZE), ("small", os.O_WRONLY, SIZE))
    ]
    for future in made:
        future.result(30)
    fifo.unlink()
    entries = [entry for node in executor.nodes for entry in cached(node)]
    (small,) = (entry.path for entry in entries if SIZE <= entry.stat().st_size < 2 * SIZE)
    harm(small)
    assert executor.submit(lengths, {}, inputs=[File(T + "large"), File(T + "small")]).result(100) == [50 * SIZE, SIZE]
