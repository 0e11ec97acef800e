"""Where apps run: in the program's directory, or in sandboxes, where missing and undeclared files are reported."""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from parsl.app.bash import remote_side_bash_executor
from parsl.app.errors import BashExitFailure
from parsl.data_provider.files import File
from parsl.errors import ConfigurationError

from taskvine_exec import TaskVineExecutor
from taskvine_exec.errors import WorkingDirectoryMissing
from tests.conftest import first_node
from tests.contract.conftest import cached

Make = Callable[..., TaskVineExecutor]
SECONDS = 60
T = "taskvinetemp:///"


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The program's directory."""
    directory = tmp_path / "home"
    directory.mkdir()
    monkeypatch.chdir(directory)
    return directory


def notes(error: BaseException | None) -> str:
    return "\n".join(getattr(error, "__notes__", ()))


def read(path: str) -> str:
    return Path(path).read_text()


def write(path: str, text: str = "text") -> str:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text(text)
    return os.getcwd()


def bash(command: str, **streams: Any) -> Callable[..., int]:
    def line(*_: Any, **__: Any) -> str:
        return command

    return lambda *args, **kwargs: remote_side_bash_executor(line, *args, **{**streams, **kwargs})


# --- in the program's directory ---


def test_apps_run_in_the_programs_directory(make_executor: Make, mode: str, home: Path) -> None:
    (home / "data.txt").write_text("data")
    (home / "run.sh").write_text("#!/bin/sh\necho ran > ran.txt")
    (home / "run.sh").chmod(0o755)
    executor = make_executor(function_exec_mode=mode, cores=1)
    assert executor.submit(read, {}, "data.txt").result(SECONDS) == "data"
    assert executor.submit(write, {}, "made/here.txt").result(SECONDS) == str(home)
    assert executor.submit(bash("./run.sh"), {}).result(SECONDS) == 0
    executor.shutdown()
    assert sorted(os.listdir(home)) == ["data.txt", "made", "ran.txt", "run.sh"]


@pytest.mark.parametrize(
    ("settings", "in_place"),
    [
        ({"working_directory": "submit"}, True),
        ({"working_directory": "sandbox"}, False),
        ({"shared_fs": True}, True),
        ({"shared_fs": True, "working_directory": "sandbox"}, False),
        ({"worker_launch_method": "factory"}, True),
    ],
    ids=str,
)
def test_working_directory_can_be_chosen(
    make_executor: Make, home: Path, settings: dict[str, Any], in_place: bool
) -> None:
    executor = make_executor(**settings)
    assert (executor.submit(os.getcwd, {}).result(SECONDS) == str(home)) is in_place


def test_every_call_starts_in_the_directory(make_executor: Make, mode: str, home: Path) -> None:
    def wander() -> None:
        os.makedirs("deeper")
        os.chdir("deeper")
        os.rmdir(os.getcwd())

    def leave() -> None:
        os.chdir("/")

    (home / "folder").mkdir()
    (home / "folder" / "precious").write_text("precious")
    executor = make_executor(function_exec_mode=mode, cores=1)
    for mischief in (wander, leave, lambda: os.chdir("folder")):
        executor.submit(mischief, {}).result(SECONDS)
        assert executor.submit(os.getcwd, {}).result(SECONDS) == str(home)
    executor.shutdown()
    assert (home / "folder" / "precious").read_text() == "precious"
    assert os.listdir(home) == ["folder"]


def test_files_are_used_in_place(make_executor: Make, mode: str, home: Path) -> None:
    def task(first: File, inputs: list[File], outputs: list[File], stdout: File) -> list[str]:
        words = [open(file.filepath).read() for file in (first, *inputs)]
        for file in (*outputs, stdout):
            with open(file.filepath, "w") as stream:
                stream.write("+".join(words))
        return [file.filepath for file in (first, *inputs, *outputs)]

    for name in ("a", "folder/b", "folder/a.idx"):
        (home / name).parent.mkdir(exist_ok=True)
        (home / name).write_text(name)
    executor = make_executor(function_exec_mode=mode)
    future = executor.submit(
        task,
        {},
        File("a"),
        inputs=[File("folder/b"), File("../home/a")],
        outputs=[File("c"), File("new/folder/d")],
        stdout=File("log/e"),
    )
    assert future.result(SECONDS) == ["a", "folder/b", "../home/a", "c", "new/folder/d"]
    for name in ("c", "new/folder/d", "log/e"):
        assert (home / name).read_text() == "a+folder/b+a"
    assert cached(first_node(executor)) == []


def test_standard_streams_are_appended_to_in_place(make_executor: Make, mode: str, home: Path) -> None:
    executor = make_executor(function_exec_mode=mode)
    for word in ("one", "two"):
        run = bash(f"echo {word}; echo error >&2")
        assert executor.submit(run, {}, stdout="logs/out", stderr=("error", "w")).result(SECONDS) == 0
    assert (home / "logs" / "out").read_text() == "one\ntwo\n"
    assert (home / "error").read_text().endswith("error\n")


def test_temp_files_are_not_in_the_directory(make_executor: Make, mode: str, home: Path) -> None:
    def make(outputs: list[File]) -> list[str]:
        for file in outputs:
            Path(file.filepath).write_text("made")
        return [str(file) for file in outputs]

    def use(relative: str, inputs: list[File], outputs: list[File]) -> tuple[str, str, bool]:
        text = Path(relative).read_text() + Path(inputs[0]).read_text()
        Path(outputs[0]).write_text(text)
        Path(inputs[0]).write_text("scribbled")
        return os.getcwd(), text, os.path.isabs(inputs[0].filepath)

    (home / "x").write_text("mine ")
    executor = make_executor(function_exec_mode=mode, cores=1)
    kept = [File(T + "x"), File(T + "folder/y")]
    paths = executor.submit(make, {}, outputs=kept).result(SECONDS)
    for _ in range(2):
        future = executor.submit(use, {}, "x", inputs=[kept[0]], outputs=[File(T + "z")])
        assert future.result(SECONDS) == (str(home), "mine made", True)
    assert not any(Path(path).is_relative_to(home) or os.path.exists(path) for path in paths)
    assert Path(executor.fetch(kept[1], "fetched")).read_text() == "made"
    assert Path(executor.fetch(File(T + "z"), "fetched")).read_text() == "mine made"
    assert sorted(os.listdir(home)) == ["fetched", "x"]


def test_apps_stay_where_the_program_started(
    make_executor: Make, mode: str, home: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def copy(inputs: list[File], outputs: list[File]) -> str:
        shutil.copy(inputs[0], outputs[0])
        return os.getcwd()

    (home / "a").write_text("begin")
    executor = make_executor(function_exec_mode=mode)
    moved = tmp_path / "moved"
    moved.mkdir()
    (moved / "a").write_text("moved")
    (moved / "only").write_text("moved")
    monkeypatch.chdir(moved)
    assert executor.submit(copy, {}, inputs=[File("a")], outputs=[File("out/b")]).result(SECONDS) == str(home)
    assert executor.submit(bash("echo said"), {}, stdout="said").result(SECONDS) == 0
    assert (home / "out" / "b").read_text() == "begin"
    assert (home / "said").read_text() == "said\n"
    assert sorted(os.listdir(moved)) == ["a", "only"]
    error = executor.submit(read, {}, "only").exception(SECONDS)
    assert f"'only' exists in {moved}, but the task ran in {home}" in notes(error)


def test_missing_directory_is_named(make_executor: Make, mode: str, home: Path, tmp_path: Path) -> None:
    executor = make_executor(function_exec_mode=mode, cores=1)
    assert executor.submit(os.getcwd, {}).result(SECONDS) == str(home)
    os.chdir(tmp_path)
    home.rmdir()
    error = executor.submit(os.getcwd, {}).exception(SECONDS)
    assert isinstance(error, WorkingDirectoryMissing)
    assert error.path == str(home)
    assert "working_directory='sandbox'" in str(error)
    home.mkdir()
    assert executor.submit(os.getcwd, {}).result(SECONDS) == str(home)


def test_program_in_a_removed_directory(
    engine: str, run_dir: str, home: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    asked = TaskVineExecutor(engine=engine, working_directory="submit")  # type: ignore[arg-type]
    executor = TaskVineExecutor(engine=engine, cores=1)  # type: ignore[arg-type]
    executor.run_dir = run_dir
    home.rmdir()
    with pytest.raises(ConfigurationError, match="current directory of this program"):
        asked.start()
    executor.start()
    try:
        assert "apps run in private directories" in caplog.text
        assert executor.submit(write, {}, "a").result(SECONDS)
    finally:
        executor.shutdown()
        os.chdir(tmp_path)


def test_contexts_and_init_commands_run_in_the_directory(make_executor: Make, mode: str, home: Path) -> None:
    def load(path: str) -> dict[str, str]:
        return {"model": Path(path).read_text()}

    def model() -> tuple[Any, str | None]:
        from taskvine_exec import load_variable_from_library

        return load_variable_from_library("model"), os.environ.get("PREPARED")

    (home / "model.bin").write_text("model")
    (home / "prepare.sh").write_text("export PREPARED=yes")
    executor = make_executor(
        function_exec_mode=mode,
        init_command=". ./prepare.sh",
        library_config={"context": load, "context_args": ("model.bin",)},
    )
    assert executor.submit(model, {}).result(SECONDS) == ("model", "yes")


# --- in sandboxes ---


def fail_by_opening() -> None:
    open("data/a.txt")


def fail_by_starting() -> None:
    subprocess.check_call(["./run.sh"])


def fail_with_words() -> None:
    raise FileNotFoundError("data/a.txt not found.")


def fail_with_another() -> None:
    try:
        fail_by_opening()
    except FileNotFoundError as error:
        raise RuntimeError("no data") from error


@pytest.mark.parametrize(
    ("function", "name"),
    [
        (fail_by_opening, "data/a.txt"),
        (fail_by_starting, "./run.sh"),
        (fail_with_words, "data/a.txt"),
        (bash("./run.sh --verbose"), "./run.sh"),
        (bash("PATH=.:$PATH run.sh"), "run.sh"),
        (bash("cat < data/a.txt"), "data/a.txt"),
    ],
    ids=["open", "start", "words", "bash", "bash, by name", "bash, input"],
)
def test_file_missing_only_on_the_node_is_noted(
    make_executor: Make, mode: str, home: Path, function: Callable[[], Any], name: str
) -> None:
    (home / "data").mkdir()
    (home / "data" / "a.txt").write_text("a")
    (home / "run.sh").write_text("#!/bin/sh\n")
    (home / "run.sh").chmod(0o755)
    executor = make_executor(function_exec_mode=mode, working_directory="sandbox")
    error = executor.submit(function, {}).exception(SECONDS)
    assert isinstance(error, (FileNotFoundError, BashExitFailure))
    assert f"{name!r} exists in {home}, but the task ran in " in notes(error)
    assert f"inputs=[File({name!r})]" in notes(error)
    if sys.version_info >= (3, 11):
        assert notes(error) in "".join(traceback.format_exception(error))


def test_note_is_on_the_right_exception(make_executor: Make, home: Path) -> None:
    (home / "data").mkdir()
    (home / "data" / "a.txt").write_text("a")
    error = make_executor(working_directory="sandbox").submit(fail_with_another, {}).exception(SECONDS)
    assert isinstance(error, RuntimeError)
    assert notes(error) == ""
    assert "'data/a.txt' exists" in notes(error.__cause__)


@pytest.mark.parametrize(
    "function",
    [fail_by_opening, bash("./run.sh"), bash("exit 3 here"), lambda: open("/no/such/file")],
    ids=["open", "bash", "status", "absolute"],
)
def test_file_missing_everywhere_gets_no_note(make_executor: Make, home: Path, function: Callable[[], Any]) -> None:
    (home / "here").touch()  # a word of a command that names no file
    error = make_executor(working_directory="sandbox").submit(function, {}).exception(SECONDS)
    assert isinstance(error, (FileNotFoundError, BashExitFailure))
    assert notes(error) == ""


def test_undeclared_files_are_named(
    make_executor: Make, mode: str, home: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def litter(inputs: Any = (), outputs: Any = ()) -> None:
        write("made/a.txt")
        write("b.txt")
        os.symlink("b.txt", "link")
        os.makedirs("empty")
        for file in outputs:
            write(file.filepath)

    def many() -> None:
        for number in range(30):
            write(f"file{number:02}")

    def tidy(inputs: Any, outputs: Any) -> None:
        write("scratch")
        os.unlink("scratch")
        write(inputs[0].filepath)
        for file in outputs:
            write(file.filepath)

    def fail() -> None:
        write("why.txt")
        raise ValueError

    def warnings() -> list[str]:
        return [record.getMessage() for record in caplog.records if "does not declare" in record.getMessage()]

    (home / "in").write_text("in")
    executor = make_executor(function_exec_mode=mode, working_directory="sandbox")
    files = {"inputs": [File("in")], "outputs": [File("made/out"), File(T + "temp")]}
    with caplog.at_level(logging.WARNING):
        executor.submit(tidy, {}, **files).result(SECONDS)
        assert warnings() == []
        for _ in range(3):
            executor.submit(litter, {}).result(SECONDS)
        (said,) = warnings()
        assert "app 'litter' wrote files that it does not declare: 'b.txt', 'link', 'made/a.txt'. " in said
        executor.submit(many, {}).result(SECONDS)
        assert "'file08', 'file09' and others. " in warnings()[-1]
        assert isinstance(executor.submit(fail, {}).exception(SECONDS), ValueError)
        assert "app 'fail' wrote files that it does not declare: 'why.txt'. " in warnings()[-1]
        executor.submit(under_another_name(litter), {}, **files).result(SECONDS)
        assert "'b.txt', 'link', 'made/a.txt'. " in warnings()[-1]
    assert sorted(os.listdir(home)) == ["in", "made"]
    assert os.listdir(home / "made") == ["out"]


def under_another_name(function: Callable[..., Any]) -> Callable[..., Any]:
    """The same file under another name."""

    def other(*args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs)

    return other
