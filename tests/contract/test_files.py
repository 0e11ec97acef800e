"""Files: the user's, and temp files on nodes."""

from __future__ import annotations

import concurrent.futures
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from parsl.data_provider.files import File
from parsl.dataflow.errors import DependencyError
from parsl.providers import LocalProvider

from taskvine_exec import TaskVineExecutor
from taskvine_exec.errors import ArgumentNotSerializable, FileLost, FileMissing, OutputMissing
from tests.conftest import eventually, first_node
from tests.contract.conftest import cached, embedded_only

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


# --- tasks ---


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


def write_and_raise(text, outputs):  # type: ignore[no-untyped-def]
    write(text, outputs)
    raise KeyError(text)


def append(text, *, inputs, outputs):  # type: ignore[no-untyped-def]
    written = read(*inputs) + text
    write(written, outputs)
    return written


def wait_and_write(fifo, text, outputs, inputs=()):  # type: ignore[no-untyped-def]
    open(fifo).close()
    write(text, outputs)


def meet_and_write(fifo, flags, text, outputs):  # type: ignore[no-untyped-def]
    os.close(os.open(fifo, flags))
    write(text, outputs)


class Latch:
    """A pipe that blocks tasks until the test opens it; opening waits until a task reads from it."""

    def __init__(self, directory: Path) -> None:
        self.path = str(directory / "latch")
        os.mkfifo(self.path)

    def open(self) -> None:
        open(self.path, "w").close()


@pytest.fixture
def latch(tmp_path: Path) -> Latch:
    return Latch(tmp_path)


# --- the user's files ---


def test_relative_paths_are_staged(make_executor: Make, mode: str, home: Path) -> None:
    def task(first, outputs, inputs, named, stdout):  # type: ignore[no-untyped-def]
        import subprocess

        words = [subprocess.check_output([os.path.abspath(first.filepath)], text=True).strip()]
        words += [open(file.filepath).read() for file in (*inputs, named)]
        for file in (*outputs, stdout):
            with open(file.filepath, "w") as stream:
                stream.write(" ".join(words))
        return os.getcwd(), [file.filepath for file in (first, *inputs, named, *outputs)], sorted(os.listdir())

    (home / "sub" / "folder").mkdir(parents=True)
    (home / "run.sh").write_text("#!/bin/sh\necho one")
    (home / "run.sh").chmod(0o755)
    (home / "sub" / "b.txt").write_text("two")
    (home / "sub" / "folder" / "c.txt").write_text("three")
    (home / "not used.txt").touch()
    future = make_executor(function_exec_mode=mode).submit(
        task,
        {},
        File("run.sh"),
        named=File("sub/folder/c.txt"),
        outputs=[File("out/d.txt"), File("e.txt")],
        inputs=[File("sub/folder/../b.txt")],
        stdout=File("log/f.txt"),
    )
    directory, paths, listing = future.result(30)
    assert not Path(directory).is_relative_to(home)
    assert paths == ["run.sh", "sub/b.txt", "sub/folder/c.txt", "out/d.txt", "e.txt"]
    assert listing == ["e.txt", "log", "out", "run.sh", "sub"]
    for name in ("out/d.txt", "e.txt", "log/f.txt"):
        assert (home / name).read_text() == "one two three"
    eventually(lambda: not os.path.exists(directory))


def test_absolute_and_outside_paths_are_used_in_place(make_executor: Make, home: Path, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("a")
    executor = make_executor()
    for path in (str(tmp_path / "a.txt"), "../a.txt", "folder/../../a.txt"):
        assert executor.submit(append, {}, path[0], inputs=[File(path)], outputs=[File(path)]).result(30)
    assert (tmp_path / "a.txt").read_text() == f"a{str(tmp_path)[0]}.f"
    assert cached(first_node(executor)) == []
    # The executor does not check files that it does not stage, so the function raises the error.
    with pytest.raises(FileNotFoundError):
        executor.submit(read, {}, File(str(tmp_path / "missing"))).result(30)


def test_relative_paths_on_a_shared_file_system_are_used_in_place(make_executor: Make, home: Path) -> None:
    (home / "a.txt").write_text("a")
    executor = make_executor(shared_fs=True)
    executor.submit(append, {}, "b", inputs=[File("a.txt")], outputs=[File("a.txt")]).result(30)
    assert (home / "a.txt").read_text() == "ab"
    assert cached(first_node(executor)) == []


def test_task_may_write_into_its_input(make_executor: Make, mode: str, home: Path) -> None:
    def scribble(file):  # type: ignore[no-untyped-def]
        with open(file.filepath, "r+") as stream:
            text = stream.read()
            stream.seek(0)
            stream.write("scribble")
        return text

    (home / "a.txt").write_text("original")
    (home / "a.txt").chmod(0o444)
    executor = make_executor(function_exec_mode=mode)
    executor.submit(write, {}, "original", outputs=[File(T + "t")])
    for name in ("a.txt", T + "t"):
        futures = [executor.submit(scribble, {}, File(name)) for _ in range(2)]
        assert [future.result(30) for future in futures] == ["original"] * 2
    assert (home / "a.txt").read_text() == "original"


def test_input_of_many_tasks_is_copied_to_a_node_once(make_executor: Make, home: Path) -> None:
    (home / "a.txt").write_text("a")
    executor = make_executor()
    known = None
    for count in (1, 20):
        futures = [executor.submit(read, {}, File("a.txt")) for _ in range(count)]
        assert [future.result(30) for future in futures] == ["a"] * count
        (entry,) = cached(first_node(executor))
        assert known in (None, (entry.name, entry.inode()))
        known = entry.name, entry.inode()
    (home / "a.txt").write_text("b")
    assert executor.submit(read, {}, File("a.txt")).result(30) == "b"


def test_missing_files_are_reported(make_executor: Make, mode: str, home: Path) -> None:
    executor = make_executor(function_exec_mode=mode)
    missing = executor.submit(read, {}, File("missing.txt")).exception(30)
    assert isinstance(missing, FileMissing)
    assert missing.path == str(home / "missing.txt")

    never = executor.submit(lambda outputs: None, {}, outputs=[File(T + "never")]).exception(30)
    assert isinstance(never, OutputMissing)
    assert never.path == "never"
    assert isinstance(executor.submit(lambda outputs: 1 / 0, {}, outputs=[File("a")]).exception(30), ZeroDivisionError)
    # Files of the user that a failed task has written come home: they may explain the failure.
    assert isinstance(executor.submit(write_and_raise, {}, "why", outputs=[File("b")]).exception(30), KeyError)
    assert (home / "b").read_text() == "why"
    assert os.listdir(home) == ["b"]


def test_unusual_names_are_allowed(make_executor: Make, home: Path) -> None:
    executor = make_executor()
    for name in ("ä b $(c).txt", "not-utf8-\udcff.txt", "x" * 255):
        (home / name).write_text("a")
        executor.submit(append, {}, "b", inputs=[File(name)], outputs=[File(name)]).result(30)
        assert (home / name).read_text() == "ab"
    for name in ("ä b", "dir/x#1", "dir/x#2", "y" * 250, "\udcff"):
        assert executor.submit(write, {}, name.encode(errors="replace").decode(), outputs=[File(T + name)])
    for name in ("ä b", "dir/x#1", "dir/x#2", "y" * 250, "\udcff"):
        text = name.encode(errors="replace").decode()
        assert executor.submit(read, {}, File(T + name)).result(30) == text
        assert Path(executor.fetch(File(T + name), home / "fetched")).read_text() == text
    with pytest.raises(ValueError, match="would be called 'ä b'"):
        executor.submit(read, {}, File("ä b"), File(T + "ä b"))


# --- files that live on nodes ---


def test_temp_file_is_an_edge(make_executor: Make, mode: str, home: Path, latch: Latch) -> None:
    executor = make_executor(function_exec_mode=mode)
    producer = executor.submit(wait_and_write, {}, latch.path, "made", outputs=[File(T + "dir/x")])
    consumer = executor.submit(read, {}, File(T + "dir/x"))
    last = executor.submit(append, {}, "!", inputs=[File(T + "dir/x")], outputs=[File(T + "y")])
    eventually(lambda: executor.stats()["tasks_waiting"] == 2)
    assert not producer.done()
    latch.open()
    assert consumer.result(30) == "made"
    assert last.result(30) == "made!"
    assert os.listdir(home) == [], "nothing comes home by itself"
    assert executor.stats()["tasks_waiting"] == 0


def test_temp_file_is_fetched_and_forgotten(make_executor: Make, home: Path, latch: Latch) -> None:
    executor = make_executor()
    file = File(T + "x")
    with pytest.raises(FileNotFoundError):
        executor.fetch(file, "never.txt")
    future = executor.submit(wait_and_write, {}, latch.path, "made", outputs=[file])
    with pytest.raises(concurrent.futures.TimeoutError):  # before Python 3.11, not the builtin exception
        executor.fetch(file, "late.txt", timeout=0.01)
    latch.open()
    assert executor.fetch(file, "sub/x.txt", timeout=30) == str(home / "sub" / "x.txt")
    assert (home / "sub" / "x.txt").read_text() == "made"
    future.result(30)
    node = first_node(executor)
    assert len(cached(node)) == 1
    executor.submit(append, {}, " again", inputs=[file], outputs=[file]).result(30)
    assert len(cached(node)) == 2
    assert Path(executor.fetch(file, "x.txt")).read_text() == "made again"

    executor.forget(file)
    eventually(lambda: not cached(node))
    with pytest.raises((FileNotFoundError, FileLost)):
        executor.fetch(file, "forgotten.txt")
    with pytest.raises(FileNotFoundError):
        executor.submit(read, {}, file)
    assert executor.stats()["replicas"] == {}
    assert sorted(os.listdir(home)) == ["sub", "x.txt"]


def test_file_forgotten_before_it_is_made_leaves_nothing(make_executor: Make, latch: Latch) -> None:
    executor = make_executor()
    future = executor.submit(wait_and_write, {}, latch.path, "made", outputs=[File(T + "x")])
    executor.forget(File(T + "x"))
    latch.open()
    future.result(30)
    node = first_node(executor)
    eventually(lambda: not cached(node))
    executor.submit(write, {}, "new", outputs=[File(T + "x")])
    assert executor.submit(read, {}, File(T + "x")).result(30) == "new"


def test_every_writer_makes_a_new_version(make_executor: Make, latch: Latch) -> None:
    executor = make_executor()
    file = File(T + "x")
    executor.submit(wait_and_write, {}, latch.path, "one", outputs=[file])
    first = executor.submit(read, {}, file)
    executor.submit(write, {}, "two", outputs=[file]).result(30)
    assert executor.submit(read, {}, file).result(30) == "two"
    chain = [executor.submit(append, {}, str(n), inputs=[file], outputs=[file]) for n in range(3)]
    assert chain[-1].result(30) == "two012"
    assert not first.done()
    latch.open()
    assert first.result(30) == "one"


def test_consumers_of_a_file_that_is_never_made_fail(make_executor: Make, latch: Latch) -> None:
    executor = make_executor()
    executor.submit(wait_and_write, {}, latch.path, "", outputs=[File(T + "first")])

    raised = executor.submit(write_and_raise, {}, "half", outputs=[File(T + "x")])
    error = executor.submit(read, {}, File(T + "x")).exception(30)
    assert isinstance(error, DependencyError)
    assert error.dependent_exceptions_tids[0][0] is raised.exception()
    executor.submit(lambda outputs: None, {}, outputs=[File(T + "y")])
    assert isinstance(executor.submit(read, {}, File(T + "y")).exception(30), DependencyError)
    with pytest.raises(ArgumentNotSerializable):
        executor.submit(write, {}, (n for n in ()), outputs=[File(T + "z")])
    assert isinstance(executor.submit(read, {}, File(T + "z")).exception(30), DependencyError)
    held = executor.submit(read, {}, File(T + "first"), outputs=[File(T + "v")])
    after = executor.submit(read, {}, File(T + "v"))
    assert held.cancel()
    error = after.exception(30)
    assert isinstance(error, DependencyError)
    assert isinstance(error.dependent_exceptions_tids[0][0], concurrent.futures.CancelledError)
    latch.open()
    eventually(lambda: executor.stats()["tasks_pending"] == 0)
    assert executor.stats()["replicas"].keys() == {"first@t0"}


# --- several nodes ---


@pytest.fixture
def two_nodes(make_executor: Make) -> Make:
    def make(**settings: Any) -> TaskVineExecutor:
        provider = LocalProvider(init_blocks=2, min_blocks=2, max_blocks=2)
        executor = make_executor(cores=1, provider=provider, **settings)
        assert executor.wait_for_nodes(2, 30)
        return executor

    return make


def make_one_file_on_each_node(executor: TaskVineExecutor, latch: Latch, **specification: Any) -> None:
    """Two tasks that wait for each other run side by side, and a node of one core runs one at a time."""
    futures = [
        executor.submit(meet_and_write, specification, latch.path, flags, text, outputs=[File(T + text)])
        for flags, text in ((os.O_RDONLY, "a"), (os.O_WRONLY, "b"))
    ]
    for future in futures:
        future.result(30)
    replicas = executor.stats()["replicas"]
    assert sorted(nodes[0] for nodes in replicas.values()) == sorted(node["name"] for node in executor.nodes)


def node_with(executor: TaskVineExecutor, file: str) -> dict[str, Any]:
    """Return the node that holds the only version of a file."""
    (name, *_) = next(nodes for version, nodes in executor.stats()["replicas"].items() if version.startswith(file))
    return next(node for node in executor.nodes if node["name"] == name)


def kill(executor: TaskVineExecutor, node: dict[str, Any]) -> None:
    os.kill(node["pid"], signal.SIGKILL)
    eventually(lambda: node["name"] not in [other["name"] for other in executor.nodes])


@embedded_only  # TaskVine does not report the bytes sent between its workers
def test_consumer_on_another_node_gets_the_file(two_nodes: Make, latch: Latch, home: Path) -> None:
    executor = two_nodes()
    make_one_file_on_each_node(executor, latch)
    assert executor.stats()["bytes_between_nodes"] == 0
    assert executor.submit(read, {}, File(T + "a"), File(T + "b")).result(30) == "a+b"
    stats = executor.stats()
    assert stats["bytes_between_nodes"] == 1
    assert sorted(len(nodes) for nodes in stats["replicas"].values()) == [1, 2]
    assert executor.submit(read, {}, File(T + "a"), File(T + "b")).result(30) == "a+b"
    assert executor.stats()["bytes_between_nodes"] == 1, "it ran where both are"
    for name in "ab":
        executor.forget(File(T + name))
    for node in executor.nodes:
        eventually(lambda node=node: not cached(node))  # type: ignore[misc]


def test_replicated_file_outlives_its_node(two_nodes: Make, home: Path) -> None:
    executor = two_nodes(tune_parameters={"temp-replica-count": 2})
    executor.submit(write, {}, "x", outputs=[File(T + "x")]).result(30)
    (nodes,) = eventually(
        lambda: [nodes for nodes in executor.stats()["replicas"].values() if len(nodes) == 2],
    )
    assert sorted(nodes) == sorted(node["name"] for node in executor.nodes)
    kill(executor, first_node(executor))
    assert executor.submit(read, {}, File(T + "x")).result(30) == "x"
    assert Path(executor.fetch(File(T + "x"), "x")).read_text() == "x"


def test_file_that_must_not_be_recreated_is_lost_with_its_node(two_nodes: Make, latch: Latch, home: Path) -> None:
    executor = two_nodes(max_retries=0)
    make_one_file_on_each_node(executor, latch, recoverable=False)
    node = node_with(executor, "a")
    on_the_other = {"inputs": [File(T + "b")], "outputs": [File(T + "c")]}
    executor.submit(wait_and_write, {}, latch.path, "c", **on_the_other)
    before = executor.submit(read, {}, File(T + "a"), File(T + "c"))
    eventually(lambda: executor.stats()["tasks_waiting"] == 1)
    kill(executor, node)
    errors = [before.exception(30), executor.submit(read, {}, File(T + "a")).exception(30)]
    for error in errors:
        assert isinstance(error, FileLost)
        assert error.name == "a@t0"
        assert "a@t0" in str(error)
        assert node["name"] in str(error)
    with pytest.raises(FileLost):
        executor.fetch(File(T + "a"), "a")
    latch.open()
    assert executor.submit(read, {}, File(T + "b"), File(T + "c")).result(30) == "b+c"
    assert os.listdir(home) == []


def write_once(text: str, trace: str, outputs: list[File]) -> None:
    with open(trace, "a") as file:
        file.write("ran\n")
        if file.tell() > len("ran\n"):
            raise ValueError("not this time")
    open(outputs[0].filepath, "w").write(text)


def test_file_whose_recreation_fails_is_lost(two_nodes: Make, tmp_path: Path) -> None:
    """Tasks that wait for the file, or for files made from it, fail with the reason."""
    executor = two_nodes(max_retries=0)
    trace = str(tmp_path / "trace")
    executor.submit(write_once, {}, "x", trace, outputs=[File(T + "x")]).result(30)
    executor.submit(append, {}, "y", inputs=[File(T + "x")], outputs=[File(T + "y")]).result(30)
    for node in executor.nodes:
        kill(executor, node)
    for error in (
        executor.submit(read, {}, File(T + "x")).exception(60),
        executor.submit(read, {}, File(T + "y")).exception(60),
    ):
        assert isinstance(error, FileLost)
        assert "making it again failed: ValueError: not this time" in str(error)
    assert executor.submit(int, {}).result(30) == 0


def test_file_whose_input_was_deleted_cannot_be_recreated(two_nodes: Make, home: Path) -> None:
    executor = two_nodes(max_retries=0)
    (home / "given").write_text("x")
    copied = executor.submit(append, {}, "y", inputs=[File("given")], outputs=[File(T + "x")])
    copied.result(30)
    (home / "given").unlink()
    for node in executor.nodes:
        kill(executor, node)
    assert isinstance(executor.submit(read, {}, File(T + "x")).exception(60), FileLost)
