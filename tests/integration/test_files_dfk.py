"""Files of apps: edges between them, retries, memoization, standard streams, and Parsl's own staging."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from parsl.app.app import bash_app, python_app
from parsl.app.errors import BadStdStreamFile, BashExitFailure
from parsl.data_provider.files import File
from parsl.dataflow.dflow import DataFlowKernel
from parsl.dataflow.errors import DependencyError
from parsl.dataflow.memoization import id_for_memo

from taskvine_exec import DAG_RESOLVER, TaskVineExecutor
from taskvine_exec.errors import FileLost, OutputMissing
from tests.conftest import eventually, first_node
from tests.contract.conftest import cached

Load = Callable[..., DataFlowKernel]
T = "taskvinetemp:///"


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's current directory."""
    directory = tmp_path / "home"
    directory.mkdir()
    monkeypatch.chdir(directory)
    return directory


@pytest.fixture
def latch(tmp_path: Path) -> str:
    """A pipe that blocks a task until the test opens it for writing."""
    path = str(tmp_path / "latch")
    os.mkfifo(path)
    return path


def release(latch: str) -> None:
    """Unblock the task that waits, or the next one."""
    open(latch, "w").close()


# --- apps ---


@python_app
def write(text, outputs=(), latch=None):  # type: ignore[no-untyped-def]
    if latch:
        open(latch).close()
    for file in outputs:
        with open(file.filepath, "w") as stream:
            stream.write(text)
    return text


@python_app
def write_half(text, marker, latch, outputs=()):  # type: ignore[no-untyped-def]
    """Fail in the middle: at the first attempt or, without a marker, at every one."""
    open(latch).close()
    whole = marker is not None and os.path.exists(marker)
    with open(outputs[0].filepath, "w") as stream:
        stream.write(text if whole else text[: len(text) // 2])
    if not whole:
        if marker:
            open(marker, "w").close()
        raise KeyError("half")


@python_app
def read(inputs=(), outputs=(), ran=None):  # type: ignore[no-untyped-def]
    if ran:
        open(ran, "w").close()
    texts = []
    for file in inputs:
        with open(file.filepath) as stream:
            texts.append(stream.read())
    for file in outputs:
        with open(file.filepath, "w") as stream:
            stream.write("+".join(texts))
    return "+".join(texts)


@bash_app
def run(command, inputs=(), outputs=(), stdout=None, stderr=None):  # type: ignore[no-untyped-def]
    return command.format(inputs=inputs, outputs=outputs)


# --- files that live on nodes ---


def test_data_future_of_a_temp_file_is_an_edge(load: Load, latch: str, home: Path) -> None:
    dfk = load()
    executor = dfk.executors["tv"]
    producer = write("made", latch=latch, outputs=[File(T + "x")])
    consumer = read(inputs=producer.outputs, outputs=[File(T + "y")])
    last = read(inputs=[consumer.outputs[0], producer.outputs[0]])
    eventually(lambda: executor.stats()["tasks_waiting"] == 2)
    assert executor.stats()["tasks_pending"] == 3
    assert executor.outstanding() >= 1
    assert not producer.done()
    release(latch)
    assert last.result(30) == "made+made"
    assert consumer.result(30) == "made"
    assert executor.fetch(consumer.outputs[0], "y") == str(home / "y")
    assert (home / "y").read_text() == "made"
    executor.forget(consumer.outputs[0])
    with pytest.raises(FileNotFoundError):
        executor.fetch(consumer.outputs[0], "again")
    assert read(inputs=producer.outputs).result(30) == "made"
    assert os.listdir(home) == ["y"]
    assert dfk.task_count == 4


def test_edge_leads_to_the_task_of_its_future(load: Load, latch: str) -> None:
    load()
    first = write("one", latch=latch, outputs=[File(T + "x")])
    second = write("two", outputs=[File(T + "x")])
    futures = [read(inputs=inputs) for inputs in (first.outputs, second.outputs, [File(T + "x")])]
    assert [future.result(30) for future in futures[1:]] == ["two", "two"]
    release(latch)
    assert futures[0].result(30) == "one"


def test_producer_that_fails_for_good_fails_its_consumers(load: Load, latch: str, home: Path, tmp_path: Path) -> None:
    executor = load().executors["tv"]
    ran = str(tmp_path / "ran")
    producer = write_half("whole", None, latch, outputs=[File(T + "x")])
    consumer = read(inputs=producer.outputs, outputs=[File(T + "y")], ran=ran)
    last = read(inputs=consumer.outputs, ran=ran)
    eventually(lambda: executor.stats()["tasks_waiting"] == 2)
    release(latch)
    for future, parent in ((consumer, producer), (last, consumer)):
        error = future.exception(30)
        assert isinstance(error, DependencyError)
        assert error.task_id == future.tid
        ((reason, name),) = error.dependent_exceptions_tids
        assert (reason, name) == (parent.exception(), f"task {parent.tid}")
    assert isinstance(read(inputs=producer.outputs, ran=ran).exception(30), DependencyError)
    assert not os.path.exists(ran)
    eventually(lambda: executor.stats()["tasks_pending"] == 0)
    assert executor.stats()["replicas"] == {}


def test_consumers_wait_for_a_retried_producer(load: Load, latch: str, tmp_path: Path) -> None:
    executor = load(retries=1).executors["tv"]
    producer = write_half("whole", str(tmp_path / "marker"), latch, outputs=[File(T + "x")])
    consumer = read(inputs=producer.outputs)
    eventually(lambda: executor.stats()["tasks_waiting"] == 1)
    release(latch)
    eventually(lambda: os.path.exists(tmp_path / "marker"))
    release(latch)
    assert consumer.result(30) == "whole"
    assert producer.task_record["fail_count"] == 1


@id_for_memo.register(File)
def _(file: File, output_ref: bool = False) -> bytes:
    """Memoize files by their URL, which Parsl leaves to its users."""
    return str(file.url).encode()


def test_memoized_producer_makes_no_file(load: Load) -> None:
    load()

    @python_app(cache=True)
    def memoized(outputs=()):  # type: ignore[no-untyped-def]
        open(outputs[0].filepath, "w").close()
        return "result"

    first = memoized(outputs=[File(T + "x")])
    assert first.result(30) == "result"
    again = memoized(outputs=[File(T + "x")])
    error = read(inputs=again.outputs).exception(30)
    assert isinstance(error, FileLost)
    assert "memoized" in str(error)
    assert again.task_record["from_memo"]
    assert read(inputs=first.outputs).result(30) == ""


def test_missing_output_is_no_edge(load: Load, latch: str) -> None:
    executor = load(dependency_resolver=DAG_RESOLVER).executors["tv"]

    @python_app
    def forgetful(latch, outputs=()):  # type: ignore[no-untyped-def]
        open(latch).close()
        return bytes(1_000_000)

    @python_app
    def size(value):  # type: ignore[no-untyped-def]
        return len(value)

    producer = forgetful(latch, outputs=[File(T + "x")])
    consumer = size(producer)
    eventually(lambda: executor.stats()["tasks_waiting"] == 1)
    release(latch)
    error = consumer.exception(30)
    assert isinstance(error, DependencyError)
    assert isinstance(producer.exception(30), OutputMissing)
    assert cached(first_node(executor)) == []


def test_file_without_a_producer_is_refused(load: Load) -> None:
    load()
    with pytest.raises(FileNotFoundError, match="no task of this executor"):
        read(inputs=[File(T + "x")])


# --- the user's files ---


def test_chain_with_relative_paths(load: Load, home: Path) -> None:
    load()
    (home / "a.txt").write_text("a")
    first = read(inputs=[File("a.txt")], outputs=[File("out/b.txt")])
    second = run("cat {inputs[0]} - <<< c > {outputs[0]}", inputs=first.outputs, outputs=[File("out/d.txt")])
    third = read(inputs=[first.outputs[0], second.outputs[0]], outputs=[File(str(home / "e.txt"))])
    assert third.outputs[0].result(30).filepath == str(home / "e.txt")
    assert (home / "out" / "b.txt").read_text() == "a"
    assert (home / "out" / "d.txt").read_text() == "ac\n"
    assert (home / "e.txt").read_text() == "a+ac\n"
    assert sorted(os.listdir(home)) == ["a.txt", "e.txt", "out"]


def test_standard_streams(load: Load, home: Path) -> None:
    load()
    (home / "new").write_text("old\n")
    for word in ("one", "two"):
        future = run(f"echo {word}; echo err >&2", stdout="logs/out", stderr=("new", "w"))
        assert future.result(30) == 0
        assert (home / future.stdout).exists()
    assert (home / "logs" / "out").read_text() == "one\ntwo\n"
    assert (home / "new").read_text().endswith("err\n")
    assert "old" not in (home / "new").read_text()

    staged = run("echo staged", stdout=File("staged"))
    assert read(inputs=[staged.stdout]).result(30) == "staged\n"
    assert (home / "staged").read_text() == "staged\n"
    failed = run("echo why; exit 3", stdout=File("failed"))
    assert isinstance(failed.exception(30), BashExitFailure)
    assert (home / "failed").read_text() == "why\n"


@pytest.mark.parametrize("stdout", ["file/below", ("out", "no mode")])
def test_bad_standard_streams_are_refused(load: Load, home: Path, stdout: Any) -> None:
    load()
    (home / "file").write_text("")
    assert isinstance(run("true", stdout=stdout).exception(30), BadStdStreamFile)


# --- Parsl's staging ---


def test_files_are_put_into_zip_files(load: Load, home: Path, tmp_path: Path) -> None:
    executor = TaskVineExecutor(label="tv", cores=2)
    executor.working_dir = str(tmp_path / "work")
    load([executor])
    future = write("zipped", outputs=[File(f"zip:{home}/some.zip/inside/a.txt")])
    future.outputs[0].result(30)
    with zipfile.ZipFile(home / "some.zip") as archive:
        assert archive.read("inside/a.txt") == b"zipped"
    assert read(inputs=[File(f"zip:{home}/some.zip/inside/a.txt")]).result(30) == "zipped"


def test_staging_providers_of_an_executor_are_used() -> None:
    providers = TaskVineExecutor().storage_access
    urls = ("taskvinetemp:///x", "x", "/x", "http://host/x", "https://host/x", "ftp://host/x", "zip:/a.zip/x")
    for url in urls:
        assert any(provider.can_stage_in(File(url)) for provider in providers), url
    for url in ("taskvinetemp:///x", "x", "zip:/a.zip/x"):
        assert any(provider.can_stage_out(File(url)) for provider in providers), url
    given = [providers[1]]
    extended = TaskVineExecutor(storage_access=given).storage_access
    names = [type(each).__name__ for each in extended]
    assert names == ["TaskVineTempStaging", "NoOpFileStaging", "TaskVineRemoteStaging"]
    assert len(given) == 1
