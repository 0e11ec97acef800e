"""Results on nodes that are truncated or deleted, and Files anywhere in the arguments of apps."""

from __future__ import annotations

import os
from collections import namedtuple
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import parsl
import pytest
from parsl.data_provider.files import File
from parsl.dataflow.dflow import DataFlowKernel

from taskvine_exec import DAG_RESOLVER, TaskVineExecutor
from taskvine_exec.errors import FileMissing
from tests.conftest import first_node
from tests.contract.conftest import cached, engine, mode  # noqa: F401

Load = Callable[..., DataFlowKernel]
T = "taskvinetemp:///"


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's current directory."""
    directory = tmp_path / "home"
    directory.mkdir()
    monkeypatch.chdir(directory)
    return directory


@pytest.fixture(params=[False, True], ids=["", "dag"])
def start(request: pytest.FixtureRequest, load: Load, engine: str, mode: str) -> Callable[[], TaskVineExecutor]:  # noqa: F811
    """Load Parsl, with the resolver and without it."""

    def make() -> TaskVineExecutor:
        executor = TaskVineExecutor(
            label="tv", cores=2, engine=engine, function_exec_mode=mode, working_directory="sandbox"
        )
        load([executor], **({"dependency_resolver": DAG_RESOLVER} if request.param else {}))
        return executor

    return make


# --- Files in containers ---


@dataclass
class Sample:
    name: str
    file: Any


Pair = namedtuple("Pair", ["first", "second"])


@parsl.python_app
def read_all(*found, **named):  # type: ignore[no-untyped-def]
    """Return the texts of all files in the arguments, in order."""

    def texts(item):  # type: ignore[no-untyped-def]
        if hasattr(item, "filepath"):
            with open(item.filepath) as stream:
                return [stream.read()]
        if isinstance(item, dict):
            item = list(item.values())
        if hasattr(item, "__dataclass_fields__"):
            item = list(vars(item).values())
        return [text for each in item for text in texts(each)] if isinstance(item, (list, tuple, set)) else []

    return texts([found, named])


@parsl.python_app
def write(text, outputs=()):  # type: ignore[no-untyped-def]
    for file in outputs:
        with open(file.filepath, "w") as stream:
            stream.write(text)


CONTAINERS: dict[str, Callable[[Any], Any]] = {
    "list": lambda file: [file],
    "tuple": lambda file: (1, file),
    "set": lambda file: {file},
    "dict": lambda file: {"a": file},
    "nested": lambda file: {"a": [1, (2, {"b": [file]})]},
    "namedtuple": lambda file: Pair(1, file),
    "dataclass": lambda file: Sample("a", [file]),
    "long_list": lambda file: [*range(1000), file],
}


def test_files_in_containers_are_staged(start: Callable[[], TaskVineExecutor], home: Path) -> None:
    start()
    (home / "sub").mkdir()
    (home / "sub" / "a").write_text("a")
    write("t", outputs=[File(T + "t")]).result()
    for file, text in ((File("sub/a"), "a"), (File(T + "t"), "t")):
        # Each app gets a different argument: the long ones are pickled by another pickler.
        every = read_all(*(put(file) for put in CONTAINERS.values()))
        named = read_all(inputs=[File("sub/a")], **{name: put(file) for name, put in CONTAINERS.items()})
        assert every.result(60) == [text] * len(CONTAINERS)
        assert sorted(named.result(60)) == sorted(["a", *[text] * len(CONTAINERS)])
        assert file.local_path is None, "the user's object is not changed"


@pytest.mark.parametrize("name", CONTAINERS)
@pytest.mark.parametrize("mode", ["L2"], indirect=True)
def test_file_in_a_container_is_staged(start: Callable[[], TaskVineExecutor], home: Path, name: str) -> None:
    (home / "a").write_text("a")
    start()
    assert read_all(CONTAINERS[name](File("a"))).result(60) == ["a"]


def test_files_in_containers_and_as_arguments(start: Callable[[], TaskVineExecutor], home: Path) -> None:
    start()
    for name in "abc":
        (home / name).write_text(name)
    same = File("a")
    texts = read_all(same, [same, File("a"), File("b")], File("b"), x={"y": File("c")}).result(60)
    assert texts == ["a", "a", "a", "b", "b", "c"]
    assert read_all([File(str(home / "a")), File("../home/b")]).result(60) == ["a", "b"]


def test_missing_file_in_a_container(start: Callable[[], TaskVineExecutor], home: Path) -> None:
    start()
    (home / "pipe").mkdir()
    os.mkfifo(home / "pipe" / "pipe")
    never = read_all([File(T + "never")]).exception(60)
    assert isinstance(never, FileNotFoundError)
    assert "no task of this executor" in str(never)
    assert isinstance(read_all({"a": File("pipe")}).exception(60), FileMissing)
    assert isinstance(read_all([File("missing")]).exception(60), FileNotFoundError)


def test_outputs_of_another_app_in_a_container_are_staged(start: Callable[[], TaskVineExecutor], home: Path) -> None:
    executor = start()
    made = write("made", outputs=[File(T + "x"), File("out")])
    made.result()
    assert read_all([File(T + "x"), [File("out")]]).result(60) == ["made", "made"]
    assert executor.fetch(made.outputs[0], home / "fetched")


# --- results ---


@parsl.python_app
def make_large(log):  # type: ignore[no-untyped-def]
    with open(log, "a") as stream:
        stream.write("ran\n")
    return bytearray(b"x" * 3_000_000)


@parsl.python_app
def count(value):  # type: ignore[no-untyped-def]
    return len(value), value.count(b"x")


def cut(path: str) -> None:
    os.truncate(path, os.path.getsize(path) // 2)


@pytest.mark.parametrize("harm", [cut, os.unlink], ids=["cut short", "deleted"])
@pytest.mark.parametrize("start", [True], indirect=True, ids=["dag"])
@pytest.mark.parametrize(
    "ask", [lambda large: count(large).result(60)[1], lambda large: len(large.result(60))], ids=["task", "user"]
)
def test_damaged_result_is_recreated(
    start: Callable[[], TaskVineExecutor],
    tmp_path: Path,
    harm: Callable[[str], None],
    ask: Callable[[Any], int],
) -> None:
    executor = start()
    log = tmp_path / "log"
    large = make_large(str(log))
    assert count(large).result(60) == (3_000_000, 3_000_000)
    (entry,) = (entry for entry in cached(first_node(executor)) if entry.stat().st_size >= 3_000_000)
    harm(os.path.realpath(entry.path))
    assert ask(large) == 3_000_000
    assert log.read_text() == "ran\n" * 2
