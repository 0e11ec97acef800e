"""Directories as inputs and outputs: staged as trees, on either engine and in either mode."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from parsl.data_provider.files import File

from taskvine_exec import TaskVineExecutor
from taskvine_exec.errors import DiskFull, FileMissing, OutputMissing
from tests.conftest import first_node
from tests.contract.conftest import cached, embedded_only

Make = Callable[..., TaskVineExecutor]
T = "taskvinetemp:///"


@pytest.fixture
def working_directory() -> str:
    """Stage files into sandboxes."""
    return "sandbox"


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The user's current directory, with a umask that lets everybody read."""
    directory = tmp_path / "home"
    directory.mkdir()
    monkeypatch.chdir(directory)
    before = os.umask(0o022)
    yield directory
    os.umask(before)


# --- tasks ---


def listing(directory):  # type: ignore[no-untyped-def]
    """Describe all files in a tree: link targets, modes of directories, modes and texts of files."""
    found = {}
    top = os.fspath(directory)
    for root, folders, files in os.walk(top):
        for name in [*folders, *files]:
            path = os.path.join(root, name)
            mode = stat.S_IMODE(os.lstat(path).st_mode)
            if os.path.islink(path):
                said = os.readlink(path)
            elif os.path.isdir(path):
                said = mode
            else:
                with open(path) as file:
                    said = (mode, file.read())
            found[os.path.relpath(path, top)] = said
    return found


def make_tree(outputs, text="x"):  # type: ignore[no-untyped-def]
    for file in outputs:
        top = os.fspath(file)
        os.makedirs(os.path.join(top, "sub", "empty"), exist_ok=True)
        for name in ("sub/file", "run.sh"):
            with open(os.path.join(top, name), "w") as stream:
                stream.write(text)
        os.chmod(os.path.join(top, "run.sh"), 0o755)
        os.symlink("sub/file", os.path.join(top, "link"))
        os.symlink("/usr", os.path.join(top, "absolute"))


def copy_tree(inputs, outputs):  # type: ignore[no-untyped-def]
    import shutil

    shutil.copytree(inputs[0].filepath, outputs[0].filepath, symlinks=True)


def as_made(text: str = "x") -> dict[str, object]:
    return {
        "sub": 0o755,
        "sub/empty": 0o755,
        "sub/file": (0o644, text),
        "run.sh": (0o755, text),
        "link": "sub/file",
        "absolute": "/usr",
    }


# --- the user's directories ---


def test_relative_directories_are_staged_whole(make_executor: Make, mode: str, home: Path) -> None:
    make_tree([home / "given"])
    executor = make_executor(function_exec_mode=mode)
    for given in (File("given"), File("given/"), File("./given/sub/..")):
        assert executor.submit(listing, {}, given).result(30) == as_made()
    future = executor.submit(copy_tree, {}, inputs=[File("given")], outputs=[File("new/made")])
    future.result(30)
    assert listing(home / "new" / "made") == as_made()
    assert sorted(os.listdir(home)) == ["given", "new"]


def test_absolute_directories_are_used_in_place(make_executor: Make, mode: str, tmp_path: Path) -> None:
    executor = make_executor(function_exec_mode=mode)
    given, made = str(tmp_path / "given"), str(tmp_path / "made")
    make_tree([given])
    executor.submit(copy_tree, {}, inputs=[File(given)], outputs=[File(made)]).result(30)
    assert listing(made) == as_made()
    assert cached(first_node(executor)) == []


def test_task_may_write_into_its_input_directory(make_executor: Make, mode: str, home: Path) -> None:
    def scribble(given):  # type: ignore[no-untyped-def]
        found = listing(given)
        with open(given.filepath + "/sub/file", "r+") as file:
            file.write("scribble")
        open(given.filepath + "/more", "w").close()
        return found

    make_tree([home / "given"])
    executor = make_executor(function_exec_mode=mode)
    executor.submit(make_tree, {}, outputs=[File(T + "made")]).result(30)
    for name in ("given", T + "made"):
        assert [executor.submit(scribble, {}, File(name)).result(30) for _ in range(2)] == [as_made()] * 2
    assert listing(home / "given") == as_made()


def test_existing_output_directory_is_added_to(make_executor: Make, mode: str, home: Path) -> None:
    def add(outputs):  # type: ignore[no-untyped-def]
        for name in ("new", "changed"):
            with open(os.path.join(outputs[0], name), "w") as file:
                file.write(name)
        return os.listdir(outputs[0])

    (home / "out").mkdir()
    (home / "out" / "kept").write_text("kept")
    (home / "out" / "changed").write_text("old")
    executor = make_executor(function_exec_mode=mode)
    assert sorted(executor.submit(add, {}, outputs=[File("out")]).result(30)) == ["changed", "new"]
    assert {path.name: path.read_text() for path in (home / "out").iterdir()} == {
        "kept": "kept",
        "changed": "changed",
        "new": "new",
    }


def test_output_directory_of_a_failed_task_comes_home(make_executor: Make, home: Path) -> None:
    def fail(outputs):  # type: ignore[no-untyped-def]
        os.makedirs(outputs[0].filepath + "/sub")
        with open(outputs[0].filepath + "/sub/log", "w") as file:
            file.write("why")
        raise KeyError("why")

    assert isinstance(make_executor().submit(fail, {}, outputs=[File("out")]).exception(30), KeyError)
    assert (home / "out" / "sub" / "log").read_text() == "why"


def test_changed_directory_is_staged_again(make_executor: Make, home: Path) -> None:
    make_tree([home / "given"], "0")
    executor = make_executor()
    for count in range(1, 5):
        assert executor.submit(listing, {}, File("given")).result(30) == as_made(str(count - 1))
        for name in ("sub/file", "run.sh"):
            (home / "given" / name).write_text(str(count))


def test_unchanged_directory_is_cached_once(make_executor: Make, home: Path) -> None:
    make_tree([home / "given"])
    executor = make_executor()
    known = None
    for count in (1, 8):
        futures = [executor.submit(listing, {}, File("given")) for _ in range(count)]
        assert [future.result(30) for future in futures] == [as_made()] * count
        (entry,) = cached(first_node(executor))
        assert known in (None, (entry.name, entry.inode()))
        known = entry.name, entry.inode()


def test_links_to_the_outside_are_copied(make_executor: Make, home: Path) -> None:
    def link_to_input(given, outputs):  # type: ignore[no-untyped-def]
        os.mkdir(outputs[0].filepath)
        os.symlink(os.path.abspath(given.filepath), outputs[0].filepath + "/link")
        return listing(given)

    (home / "other").mkdir()
    (home / "other" / "file").write_text("other")
    (home / "given").mkdir()
    (home / "given" / "out").symlink_to("../other")
    executor = make_executor()
    found = executor.submit(link_to_input, {}, File("given"), outputs=[File("made")]).result(30)
    assert found["out/file"][1] == "other"
    assert (home / "made" / "link" / "out" / "file").read_text() == "other"


def test_archive_stays_a_file(make_executor: Make, mode: str, home: Path) -> None:
    from taskvine_manager.node.trees import MAGIC

    def copy(inputs, outputs):  # type: ignore[no-untyped-def]
        import shutil

        for source, target in zip(inputs, outputs):  # noqa: B905
            shutil.copy(source, target)

    content = MAGIC + b"no archive"
    (home / "given").write_bytes(content)
    executor = make_executor(function_exec_mode=mode)
    executor.submit(copy, {}, inputs=[File("given")], outputs=[File(T + "a")])
    executor.submit(copy, {}, inputs=[File(T + "a")], outputs=[File("made")]).result(30)
    assert (home / "made").read_bytes() == content


# --- directories that live on nodes ---


def test_temp_directory_passes_between_tasks(make_executor: Make, mode: str, home: Path) -> None:
    executor = make_executor(function_exec_mode=mode)
    executor.submit(make_tree, {}, outputs=[File(T + "a"), File(T + "dir/b")])
    executor.submit(copy_tree, {}, inputs=[File(T + "dir/b")], outputs=[File(T + "c")])
    assert executor.submit(listing, {}, File(T + "c")).result(30) == as_made()
    assert os.listdir(home) == []
    for name in ("a", "c"):
        executor.fetch(File(T + name), home / "fetched" / name)
        assert listing(home / "fetched" / name) == as_made()
    assert sorted(os.listdir(home / "fetched")) == ["a", "c"]


def test_output_link_leaves_its_target_alone(make_executor: Make, mode: str, tmp_path: Path) -> None:
    def link(original, outputs):  # type: ignore[no-untyped-def]
        os.symlink(original, outputs[0].filepath)
        os.link(original, outputs[1].filepath)

    original = tmp_path / "original"
    original.write_text("precious")
    executor = make_executor(function_exec_mode=mode)
    executor.submit(link, {}, str(original), outputs=[File(T + "soft"), File(T + "hard")]).result(30)
    for name in ("soft", "hard"):
        assert Path(executor.fetch(File(T + name), tmp_path / "fetched")).read_text() == "precious"
    assert original.read_text() == "precious"


# --- refusals ---


def test_unstageable_files_are_refused_with_a_reason(make_executor: Make, mode: str, home: Path) -> None:
    def make_pipe(outputs):  # type: ignore[no-untyped-def]
        os.mkdir(outputs[0].filepath)
        os.mkfifo(outputs[0].filepath + "/pipe")

    (home / "given").mkdir()
    os.mkfifo(home / "given" / "pipe")
    executor = make_executor(function_exec_mode=mode)
    missing = executor.submit(listing, {}, File("given")).exception(30)
    assert isinstance(missing, FileMissing)
    assert "only files, directories and symbolic links can be staged" in str(missing)
    for name in ("made", T + "made"):
        made = executor.submit(make_pipe, {}, outputs=[File(name)]).exception(30)
        assert isinstance(made, OutputMissing)
        assert "not a regular file" in str(made)
    with pytest.raises(ValueError, match="all of the current directory"):
        executor.submit(listing, {}, File("."))


def test_file_and_directory_do_not_take_each_others_place(make_executor: Make, home: Path) -> None:
    def make_file(outputs):  # type: ignore[no-untyped-def]
        os.rmdir(outputs[0].filepath)
        open(outputs[0].filepath, "w").close()

    executor = make_executor()
    (home / "file").write_text("mine")
    (home / "folder").mkdir()
    (home / "folder" / "mine").write_text("mine")
    for task, name in ((make_tree, "file"), (make_file, "folder")):
        assert isinstance(executor.submit(task, {}, outputs=[File(name)]).exception(30), OutputMissing)
    assert (home / "file").read_text() == (home / "folder" / "mine").read_text() == "mine"


@embedded_only  # TaskVine's workers do not evict
def test_quota_counts_all_files_of_a_directory(make_executor: Make, home: Path) -> None:
    executor = make_executor(disk=1)
    (home / "given").mkdir()
    for name in "abc":
        (home / "given" / name).write_text(name * 400_000)
    refused = executor.submit(listing, {}, File("given")).exception(30)
    assert isinstance(refused, DiskFull)
    assert "no room for given" in str(refused)
    made = executor.submit(make_tree, {}, text="x" * 600_000, outputs=[File(T + "made")]).exception(30)
    assert isinstance(made, DiskFull)
    (home / "given" / "c").unlink()
    assert len(executor.submit(listing, {}, File("given")).result(30)) == 2
    (entry,) = cached(first_node(executor))
    assert 800_000 < entry.stat().st_size < 801_000


# --- permissions ---


def test_tasks_make_files_with_the_users_umask(make_executor: Make, mode: str, tmp_path: Path) -> None:
    def touch(path):  # type: ignore[no-untyped-def]
        open(path, "w").close()

    os.umask(0o027)
    make_executor(function_exec_mode=mode).submit(touch, {}, str(tmp_path / "made")).result(30)
    assert stat.S_IMODE((tmp_path / "made").stat().st_mode) == 0o640


def test_permissions_are_those_of_the_latest_version(make_executor: Make, mode: str, home: Path) -> None:
    def permissions(file):  # type: ignore[no-untyped-def]
        return stat.S_IMODE(os.stat(file).st_mode)

    (home / "key").write_text("secret")
    executor = make_executor(function_exec_mode=mode)
    for asked in (0o644, 0o600, 0o755):
        (home / "key").chmod(asked)
        assert executor.submit(permissions, {}, File("key")).result(30) == asked
