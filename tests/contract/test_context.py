"""The environment of a call: its library's context, variables, init_command, and the Python environment."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from taskvine_exec import TaskVineExecutor
from taskvine_exec.errors import ContextFailed, EnvironmentFailed, LibraryFailed, SlotDied, TaskLost
from tests.conftest import first_node

Make = Callable[..., TaskVineExecutor]


# --- tasks and contexts ---


def build(path, *, factor=1):  # type: ignore[no-untyped-def]
    with open(path, "a") as log:
        log.write(f"{os.getpid()}\n")
    return {"factor": factor, "built by": os.getpid(), "calls": []}


def multiply(number):  # type: ignore[no-untyped-def]
    from taskvine_exec import load_variable_from_library

    load_variable_from_library("calls").append(number)
    return load_variable_from_library("factor") * number, load_variable_from_library("built by"), os.getpid()


def meet_and_multiply(fifo, flags):  # type: ignore[no-untyped-def]
    os.close(os.open(fifo, flags))
    return multiply(1)


def load(name):  # type: ignore[no-untyped-def]
    from taskvine_exec import load_variable_from_library

    return load_variable_from_library(name)


def variables(*names):  # type: ignore[no-untyped-def]
    return [os.environ.get(name) for name in names]


# --- context ---


def test_context_is_built_once_for_a_library(make_executor: Make, tmp_path: Path) -> None:
    log = tmp_path / "log"
    executor = make_executor(
        library_config={
            "num_slots": 2,
            "context": build,
            "context_args": (str(log),),
            "context_kwargs": {"factor": 3},
        }
    )
    os.mkfifo(tmp_path / "fifo")
    futures = [executor.submit(multiply, {}, number) for number in range(20)]
    futures += [
        executor.submit(meet_and_multiply, {}, str(tmp_path / "fifo"), flags) for flags in (os.O_RDONLY, os.O_WRONLY)
    ]
    products, builders, slots = zip(*(future.result(30) for future in futures), strict=True)
    assert products == (*(3 * number for number in range(20)), 3, 3)
    assert log.read_text().split() == [str(builders[0])]
    assert set(builders) == {builders[0]}
    assert len(set(slots)) == 2
    assert builders[0] not in slots


def test_context_of_a_slot_is_built_in_every_slot(make_executor: Make, tmp_path: Path) -> None:
    log = tmp_path / "log"
    library = {"num_slots": 2, "context": build, "context_args": (str(log),), "context_scope": "slot"}
    executor = make_executor(library_config=library)
    os.mkfifo(tmp_path / "fifo")
    futures = [
        executor.submit(meet_and_multiply, {}, str(tmp_path / "fifo"), flags) for flags in (os.O_RDONLY, os.O_WRONLY)
    ]
    futures += [executor.submit(multiply, {}, number) for number in range(10)]
    _, builders, slots = zip(*(future.result(30) for future in futures), strict=True)
    assert builders == slots
    assert sorted(log.read_text().split()) == sorted(map(str, set(slots)))
    assert len(set(slots)) == 2


def test_l1_tasks_have_the_context(make_executor: Make, tmp_path: Path) -> None:
    log = tmp_path / "log"
    executor = make_executor(
        function_exec_mode="L1", library_config={"context": build, "context_args": [str(log)], "context_scope": "slot"}
    )
    futures = [executor.submit(multiply, {}, number) for number in range(2)]
    _, builders, tasks = zip(*(future.result(30) for future in futures), strict=True)
    assert builders == tasks
    assert len(log.read_text().split()) == 2


def test_unknown_variables_are_reported(make_executor: Make, mode: str) -> None:
    with_context = make_executor(function_exec_mode=mode, library_config={"context": lambda: {"a": 1, "b": None}})
    without = make_executor(function_exec_mode=mode)
    futures = [executor.submit(load, {}, name) for executor, name in ((with_context, "c"), (without, "a"))]
    assert with_context.submit(load, {}, "b").result(30) is None
    for future, known in zip(futures, ("there are: a, b", "this library has no context"), strict=True):
        error = future.exception(30)
        assert isinstance(error, KeyError)
        assert known in str(error)


def raise_an_error():  # type: ignore[no-untyped-def]
    raise ValueError("no model")


def exit_with_status():  # type: ignore[no-untyped-def]
    raise SystemExit(4)


def return_a_list():  # type: ignore[no-untyped-def]
    return ["model"]


@pytest.mark.parametrize(
    ("context", "words"),
    [
        (raise_an_error, "ValueError: no model"),
        (exit_with_status, "SystemExit: 4"),
        (return_a_list, "TypeError: a context's setup function returns a dict of variables, not list"),
    ],
)
@pytest.mark.parametrize(("scope", "way"), [("library", "L2"), ("slot", "L2"), ("library", "L1")])
def test_context_that_fails_fails_every_call(
    make_executor: Make, scope: str, way: str, context: Callable[..., Any], words: str
) -> None:
    executor = make_executor(
        function_exec_mode=way, library_config={"num_slots": 2, "context": context, "context_scope": scope}
    )
    for count in (4, 1) if way == "L2" else (1,):
        futures = [executor.submit(abs, {}, 1) for _ in range(count)]
        for future in futures:
            error = future.exception(30)
            assert isinstance(error, ContextFailed)
            assert words in str(error)
            assert words in error.remote_traceback
            if context is not return_a_list:
                assert f"in {context.__name__}" in error.remote_traceback
            assert error.node == first_node(executor)["name"]
    if scope == "library":  # tasks without a library are not affected
        assert executor.stats()["tasks_pending"] == 0


@pytest.mark.parametrize(
    ("scope", "way", "kind"), [("library", "L2", LibraryFailed), ("slot", "L2", SlotDied), ("library", "L1", SlotDied)]
)
def test_context_that_exits_fails_every_call(make_executor: Make, scope: str, way: str, kind: type[TaskLost]) -> None:
    executor = make_executor(
        function_exec_mode=way, library_config={"num_slots": 2, "context": lambda: os._exit(3), "context_scope": scope}
    )
    for count in (4, 1) if way == "L2" else (1,):
        for future in [executor.submit(abs, {}, -1) for _ in range(count)]:
            error = future.exception(30)
            assert isinstance(error, kind)
            assert "3" in str(error).partition("lost on")[2].partition(":")[2]


# --- variables and commands ---


def test_tasks_see_env_vars(make_executor: Make, mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INHERITED", "1")
    monkeypatch.setenv("OVERRIDDEN", "user's")
    env_vars = {"OVERRIDDEN": "set", "NUMBER": 3, "OMP_NUM_THREADS": 7, "PATH": "/nowhere:" + os.environ["PATH"]}
    executor = make_executor(function_exec_mode=mode, env_vars=env_vars)
    names = ("INHERITED", "OVERRIDDEN", "NUMBER", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS")
    assert executor.submit(variables, {}, *names).result(30) == ["1", "set", "3", "7", "1"]
    two = executor.submit(variables, {"cores": 2}, *names).result(30)
    assert two == ["1", "set", "3", "7", "2"], "what the user sets goes before what a task's cores would have it be"
    assert executor.submit(variables, {}, "PATH").result(30)[0].startswith("/nowhere:")
    assert "NUMBER" not in os.environ


def test_init_command_is_run_before_tasks(make_executor: Make, mode: str, tmp_path: Path) -> None:
    command = f'export MADE="it\'s $GIVEN $#"; cd /; echo run >> {tmp_path}/log; : # a comment'
    executor = make_executor(function_exec_mode=mode, env_vars={"GIVEN": "given"}, init_command=command)
    for _ in range(2):
        assert executor.submit(variables, {}, "MADE").result(30) == ["it's given 0"]
    assert len((tmp_path / "log").read_text().split()) == {"L1": 2, "L2": 1}[mode]


@pytest.mark.parametrize(
    ("command", "words"),
    [("false", ""), ("echo oh dear >&2; exit 3", "oh dear"), ("no-such-command", "not found"), ("if then", "syntax")],
)
def test_init_command_that_fails_fails_every_call(make_executor: Make, mode: str, command: str, words: str) -> None:
    executor = make_executor(function_exec_mode=mode, init_command=command)
    for count in (2, 1):
        for future in [executor.submit(abs, {}, 1) for _ in range(count)]:
            error = future.exception(30)
            assert isinstance(error, EnvironmentFailed)
            assert "init_command failed" in str(error)
            assert words in error.stderr


# --- Python environments ---


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Python environment with one more module; it also finds the packages of this environment."""
    root = tmp_path_factory.mktemp("packed") / "env"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", "--symlinks", str(root)], check=True)
    packages = root / "lib" / f"python{sys.version_info[0]}.{sys.version_info[1]}" / "site-packages"
    (packages / "only_in_the_pack.py").write_text("VALUE = 'packed'")
    (packages / "in_both.py").write_text("VALUE = 'packed'")
    (packages / "more.pth").write_text(sysconfig.get_path("purelib"))
    return root


@pytest.fixture(scope="module")
def tarball(environment: Path) -> str:
    """The environment, packed."""
    path = str(environment.parent / "env.tar.gz")
    with tarfile.open(path, "w:gz", compresslevel=1) as archive:
        for entry in environment.iterdir():
            archive.add(entry, entry.name)
    return path


def look():  # type: ignore[no-untyped-def]
    import shutil
    import sys

    import in_both  # type: ignore[import-not-found]
    import only_in_the_pack  # type: ignore[import-not-found]

    return [only_in_the_pack.VALUE, in_both.VALUE], sys.prefix, os.environ["VIRTUAL_ENV"], shutil.which("python")


def test_packed_environment_is_unpacked_once_on_a_node(
    make_executor: Make, tarball: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "user").mkdir()
    (tmp_path / "user" / "in_both.py").write_text("VALUE = 'user'")
    monkeypatch.syspath_prepend(str(tmp_path / "user"))
    monkeypatch.setenv("PYTHONHOME", sys.base_prefix)
    executor = make_executor(env_pack=tarball)
    answers = [executor.submit(look, {"function_exec_mode": mode}).result(30) for mode in ("L2", "L1", "L2")]
    assert answers[0] == answers[1] == answers[2]
    values, prefix, virtual, python = answers[0]
    assert values == ["packed", "packed"]
    directory = os.path.join(first_node(executor)["directory"], "environments")
    (root,) = os.scandir(directory)
    assert prefix == virtual == root.path
    assert python == os.path.join(root.path, "bin", "python")


def test_environment_directory_is_used_in_place(make_executor: Make, environment: Path) -> None:
    before = sorted(environment.rglob("*.py"))
    executor = make_executor(env_pack=str(environment))
    values, prefix, _, _ = executor.submit(look, {}).result(30)
    assert (values, prefix) == (["packed", "packed"], str(environment))
    assert os.listdir(os.path.join(first_node(executor)["directory"], "environments")) == []
    assert sorted(environment.rglob("*.py")) == before


@pytest.mark.parametrize("what", ["cut short", "no python"])
def test_broken_environment_fails_every_call(
    make_executor: Make, mode: str, tarball: str, tmp_path: Path, what: str
) -> None:
    broken = tmp_path / "broken.tar.gz"
    if what == "cut short":
        packed = Path(tarball).read_bytes()
        broken.write_bytes(packed[: len(packed) // 2])
    else:
        with tarfile.open(broken, "w:gz") as archive:
            archive.add(__file__, "some/file.py")
    executor = make_executor(function_exec_mode=mode, env_pack=str(broken))
    for count in (2, 1):
        for future in [executor.submit(abs, {}, 1) for _ in range(count)]:
            error = future.exception(30)
            assert isinstance(error, EnvironmentFailed)
            assert str(broken) in str(error)
