"""Remote files of apps: one request for many apps, retries, bash apps, and staging providers of the user."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from parsl.app.app import bash_app, python_app
from parsl.data_provider.files import File
from parsl.data_provider.http import HTTPInTaskStaging
from parsl.dataflow.dflow import DataFlowKernel
from parsl.dataflow.errors import DependencyError

from taskvine_exec import DAG_RESOLVER, TaskVineExecutor
from taskvine_exec.errors import RemoteInputFailed, RemoteOutputFailed
from tests.file_server import Answer, FileServer, serve

Load = Callable[..., DataFlowKernel]
SECONDS = 100  # far more than any test here takes, only so that none hangs


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's current directory."""
    directory = tmp_path / "home"
    directory.mkdir()
    monkeypatch.chdir(directory)
    return directory


@pytest.fixture
def server() -> Iterator[FileServer]:
    with serve() as served:
        yield served


@python_app
def read(inputs=()):  # type: ignore[no-untyped-def]
    return "+".join(open(file.filepath).read() for file in inputs)


@python_app
def size(file):  # type: ignore[no-untyped-def]
    return os.path.getsize(file.filepath)


@bash_app
def run(command, inputs=(), outputs=()):  # type: ignore[no-untyped-def]
    return command.format(inputs=inputs, outputs=outputs)


def on(engine: str, **settings: object) -> TaskVineExecutor:
    return TaskVineExecutor(label="tv", engine=engine, cores=1, **settings)  # type: ignore[arg-type]


def test_many_apps_read_one_url_with_one_request(load: Load, server: FileServer, engine: str) -> None:
    server.files["set.bin"] = os.urandom(1 << 20)
    executor = on(engine, worker_launch_method="factory", min_workers=2, max_workers=2)
    load([executor])
    sizes = [size(File(server.of("set.bin"))) for _ in range(40)]
    assert {each.result(SECONDS) for each in sizes} == {1 << 20}
    assert server.requests == {"set.bin": 1}
    assert executor.fetch(File(server.of("set.bin")), "here.bin") == os.path.abspath("here.bin")
    assert os.path.getsize("here.bin") == 1 << 20


def test_bash_apps_and_edges(load: Load, server: FileServer, engine: str) -> None:
    server.files["a.txt"] = b"a"
    load([on(engine)], dependency_resolver=DAG_RESOLVER)
    made = run(
        "cat {inputs[0]} {inputs[0]} > {outputs[0]}",
        inputs=[File(server.of("a.txt"))],
        outputs=[File(server.of("b.txt"))],
    )
    assert read(inputs=made.outputs).result(SECONDS) == "aa"
    assert server.files["b.txt"] == b"aa"
    assert os.listdir(".") == ["runinfo"] or os.listdir(".") == []


def test_a_retry_of_an_app_fetches_again(load: Load, server: FileServer, home: Path) -> None:
    server.files["a.txt"] = lambda earlier: Answer(b"a") if earlier else Answer(status=404)
    load(retries=1)
    assert read(inputs=[File(server.of("a.txt"))]).result(SECONDS) == "a"
    assert server.requests["a.txt"] == 2


def test_errors_reach_the_apps_future(load: Load, server: FileServer) -> None:
    server.files["refused/b.txt"] = Answer(status=403)
    load()
    failed = read(inputs=[File(server.of("none"))])
    error = failed.exception(SECONDS)
    assert isinstance(error, RemoteInputFailed)
    assert (error.status, error.url) == (404, server.of("none"))
    made = run("echo b > {outputs[0]}", outputs=[File(server.of("b.txt"))])
    error = made.exception(SECONDS)
    assert isinstance(error, RemoteOutputFailed)
    assert error.status == 403
    assert isinstance(read(inputs=made.outputs).exception(SECONDS), DependencyError)


def test_a_staging_provider_of_the_user_comes_first(load: Load, server: FileServer, home: Path) -> None:
    server.files["a.txt"] = b"a"
    load([TaskVineExecutor(label="tv", cores=1, storage_access=[HTTPInTaskStaging()])])
    for _ in range(2):
        assert read(inputs=[File(server.of("a.txt"))]).result(SECONDS) == "a"
    assert server.requests["a.txt"] == 2
    assert os.listdir(home) == ["a.txt"]
