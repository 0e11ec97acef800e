"""Remote outputs: written when their task has succeeded, and whole."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from parsl.data_provider.files import File

from taskvine_exec import TaskVineExecutor
from taskvine_exec.errors import OutputMissing, RemoteOutputFailed
from tests.file_server import Answer, FileServer, serve

Make = Callable[..., TaskVineExecutor]
SECONDS = 100  # far more than any test here takes, only so that none hangs


@pytest.fixture
def server() -> Iterator[FileServer]:
    with serve() as served:
        yield served


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's current directory."""
    directory = tmp_path / "home"
    directory.mkdir()
    monkeypatch.chdir(directory)
    return directory


def write(text, outputs, *, fails=False):  # type: ignore[no-untyped-def]
    for file in outputs:
        with open(file.filepath, "w") as stream:
            stream.write(text)
    if fails:
        raise KeyError(text)


def read(file):  # type: ignore[no-untyped-def]
    with open(file.filepath) as stream:
        return stream.read()


@pytest.mark.parametrize("working_directory", ["submit", "sandbox"])
def test_outputs_are_written(make_executor: Make, mode: str, server: FileServer, home: Path) -> None:
    executor = make_executor(function_exec_mode=mode)
    outputs = [File(server.of("a/out.txt")), File(server.of("b/out.txt")), File("here.txt")]
    assert executor.submit(write, {}, "text", outputs=outputs).result(SECONDS) is None
    assert server.files == {"a/out.txt": b"text", "b/out.txt": b"text"}
    assert [path.name for path in home.iterdir()] == ["here.txt"]


def test_what_reads_a_url_after_it_was_written_gets_the_new_version(make_executor: Make, server: FileServer) -> None:
    server.files["a"] = b"old"
    executor, file = make_executor(), File(server.of("a"))
    assert executor.submit(read, {}, file).result(SECONDS) == "old"
    executor.submit(write, {}, "new", outputs=[file]).result(SECONDS)
    assert executor.submit(read, {}, file).result(SECONDS) == "new"


def test_a_task_that_fails_writes_nothing(make_executor: Make, server: FileServer) -> None:
    executor, outputs = make_executor(), [File(server.of("a"))]
    with pytest.raises(KeyError):
        executor.submit(write, {}, "text", outputs=outputs, fails=True).result(SECONDS)
    missing = executor.submit(lambda outputs: None, {}, outputs=outputs).exception(SECONDS)
    assert isinstance(missing, OutputMissing)
    assert missing.path == server.of("a")
    assert server.files == {}
    executor.submit(write, {}, "text", outputs=outputs).result(SECONDS)
    assert server.files == {"a": b"text"}


def test_a_failed_upload_fails_the_task(make_executor: Make, mode: str, server: FileServer) -> None:
    server.files["refused/a"] = Answer(status=403)
    error = (
        make_executor(function_exec_mode=mode).submit(write, {}, "", outputs=[File(server.of("a"))]).exception(SECONDS)
    )
    assert isinstance(error, RemoteOutputFailed)
    assert (error.url, error.status) == (server.of("a"), 403)
    assert f"remote output {server.of('a')} could not be written (HTTP status 403): Forbidden" in str(error)


def test_what_cannot_be_written_is_refused_at_once(make_executor: Make, server: FileServer) -> None:
    executor = make_executor()
    for url in (f"zip://a::{server.of('b.zip')}", f"{server.of('a')}#sha256=00"):
        with pytest.raises(ValueError, match="output"):
            executor.submit(write, {}, "text", outputs=[File(url)])
