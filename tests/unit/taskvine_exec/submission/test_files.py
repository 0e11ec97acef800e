"""Files in the arguments of a call, before it is sent."""

from __future__ import annotations

import os
import pickle
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest
from parsl.data_provider.files import File
from parsl.data_provider.ftp import FTPInTaskStaging
from parsl.data_provider.http import HTTPInTaskStaging, HTTPSeparateTaskStaging

from taskvine_exec.parsl_hooks.files import staging as staging_files
from taskvine_exec.submission.files import FilePlan, NestedFiles, absolute_stream, has_files
from taskvine_exec.submission.temp_files import TempFile, version_of
from taskvine_manager.runtime import sandbox
from taskvine_manager.wire.messages import FileUse
from tests.unit.taskvine_exec.submission.conftest import Planner

T = "taskvinetemp:///"


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's current directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


# --- has_files ---


@pytest.mark.parametrize(
    ("args", "kwargs"),
    [
        ((File("a"),), {}),
        ((), {"x": File("a")}),
        ((), {"inputs": [1, File("a")]}),
        ((), {"outputs": (File("a"),)}),
        ((), {"stdout": "out.txt"}),
        ((), {"stderr": ("err.txt", "w")}),
        ((), {"inputs": File("a")}),
    ],
)
def test_files_are_found(args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    assert has_files(args, kwargs)


@pytest.mark.parametrize(
    ("args", "kwargs"),
    [
        ((), {}),
        ((1, "a.txt", [File("a")]), {}),  # in containers they are plain values, as everywhere in Parsl
        ((), {"inputs": [], "outputs": [], "stdout": None, "stderr": None, "x": 1}),
        ((), {"inputs": ["a.txt"], "outputs": 3}),
    ],
)
def test_calls_without_files_have_no_plan(args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    assert not has_files(args, kwargs)


# --- local files ---


def test_relative_paths_are_staged(plan: Planner, here: Path) -> None:
    made = plan(
        File("a"),
        1,
        x=File("sub/b"),
        inputs=[File("c"), "text", File("a")],
        outputs=[File("./d")],
        stdout=File("e"),
    )
    assert made.inputs == [FileUse("local", name, str(here / name)) for name in ("a", "sub/b", "c")]
    assert set(made.outputs) == {FileUse("local", name, str(here / name)) for name in ("d", "e")}
    assert made.args[0].filepath == "a"
    assert made.kwargs["inputs"][1] == "text"
    assert list(made.kwargs) == ["x", "inputs", "outputs", "stdout"]


def test_tuples_of_files_are_accepted(plan: Planner) -> None:
    made = plan(inputs=(File("a"),), outputs=(File("b"),))
    assert (len(made.inputs), len(made.outputs)) == (1, 1)


def test_arguments_are_not_changed(plan: Planner) -> None:
    inputs, outputs = [File("../a"), File(T + "x")], [File(T + "x")]
    plan.files.produce(File(T + "x"), "before", Future())
    kwargs = {"inputs": inputs, "outputs": outputs}
    plan(**kwargs)
    assert kwargs == {"inputs": inputs, "outputs": outputs}
    assert [file.local_path for file in (*inputs, *outputs)] == [None, None, None]
    assert version_of(outputs[0]) is None


@pytest.mark.parametrize("path", ["/data/a", "file:///data/a"])
def test_absolute_paths_are_used_in_place(plan: Planner, path: str) -> None:
    file = File(path)
    made = plan(file, outputs=[file])
    assert (made.inputs, made.outputs) == ([], [])
    assert made.args == (file,)
    assert made.kwargs["outputs"] == [file]


@pytest.mark.parametrize(("path", "shared"), [("../a", False), ("b/../../a", False), ("a", True), ("b/a", True)])
def test_paths_outside_and_on_shared_file_systems_are_made_absolute(
    plan: Planner, here: Path, path: str, shared: bool
) -> None:
    made = plan(File(path), outputs=[File(path)], shared_fs=shared)
    assert (made.inputs, made.outputs) == ([], [])
    for file in (made.args[0], made.kwargs["outputs"][0]):
        assert file.filepath == os.path.normpath(here / path)


def test_paths_that_go_up_and_down_are_found_in_the_sandbox(plan: Planner, here: Path) -> None:
    made = plan(File("a/../b/c"), outputs=[File("a/../d")])
    assert made.inputs == [FileUse("local", "b/c", str(here / "b" / "c"))]
    assert made.args[0].filepath == "b/c"
    assert made.kwargs["outputs"][0].filepath == "d"


def test_two_files_of_one_name_are_refused(plan: Planner) -> None:
    plan.files.produce(File(T + "a"), "before", Future())
    with pytest.raises(ValueError, match="would be called 'a' in its sandbox"):
        plan(File("a"), File(T + "a"))
    with pytest.raises(ValueError, match="would be called 'a' in its sandbox"):
        plan(outputs=[File("a"), File(T + "a")])
    made = plan(inputs=[File("a")], outputs=[File("a")])  # changed in place by the task
    assert made.inputs == made.outputs


# --- files that Parsl's staging moves ---


def located(url: str, path: str) -> File:
    file = File(url)
    file.local_path = path
    return file


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("url", ["http://host/a", "https://host/a", "ftp://host/a"])
def test_files_fetched_inside_the_task_are_left_alone(plan: Planner, here: Path, url: str, shared: bool) -> None:
    (here / "a").write_text("stale")
    file = located(url, "a")
    made = plan(inputs=[file], shared_fs=shared, storage=[FTPInTaskStaging(), HTTPInTaskStaging()])
    assert made.inputs == []
    assert made.kwargs["inputs"] == [file]


def test_files_fetched_by_another_task_are_staged_from_home(plan: Planner, here: Path) -> None:
    storage = [HTTPSeparateTaskStaging()]
    file = located("http://host/a", "a")
    made = plan(outputs=[file], storage=storage)
    assert made.outputs == [FileUse("local", "a", str(here / "a"))]
    assert plan(inputs=[file], storage=storage).inputs == []
    (here / "a").write_text("fetched")
    assert plan(inputs=[file], storage=storage).inputs == [FileUse("local", "a", str(here / "a"))]


def test_unsupported_remote_file_is_left_to_the_task(plan: Planner) -> None:
    file = File("http://host/a")
    assert plan(file).args == (file,)


# --- standard streams ---


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("out.txt", "{here}/out.txt"),
        (Path("sub/out.txt"), "{here}/sub/out.txt"),
        (("out.txt", "w"), ("{here}/out.txt", "w")),
        ((Path("out.txt"), "a"), ("{here}/out.txt", "a")),
        ("/abs/out.txt", "/abs/out.txt"),
        (("/abs/out.txt", "w"), ("/abs/out.txt", "w")),
        (None, None),
        (("one", "two", "three"), ("one", "two", "three")),  # Parsl refuses these in the task
        (3, 3),
    ],
)
def test_streams_are_where_the_user_looks(here: Path, given: Any, expected: Any) -> None:
    def at(value: Any) -> Any:
        return value.format(here=here) if isinstance(value, str) else value

    expected = tuple(map(at, expected)) if isinstance(expected, tuple) else at(expected)
    assert absolute_stream("stdout", given) == expected


def test_streams_in_a_plan(plan: Planner, here: Path) -> None:
    made = plan(stdout="o", stderr=File("e"))
    assert made.kwargs["stdout"] == str(here / "o")
    assert made.outputs == [FileUse("local", "e", str(here / "e"))]


@pytest.mark.parametrize(
    ("given", "inside", "stream"),
    [("log/out", ("log/out", "a+"), "a"), (("a/../out", "w"), ("out", "w"), "w"), (("out", "a"), ("out", "a"), "a")],
)
def test_streams_travel_to_nodes_without_the_directory(plan: Planner, given: Any, inside: Any, stream: str) -> None:
    made = plan(stdout=given, travel=True)
    assert made.kwargs == {"stdout": inside}
    assert made.outputs == [FileUse("local", inside[0], os.path.abspath(inside[0]), 0, stream)]


@pytest.mark.parametrize("given", ["/shared/out", ("/shared/out", "w"), None, 3, "../out"])
def test_streams_elsewhere_do_not_travel(plan: Planner, given: Any) -> None:
    made = plan(stderr=given, travel=True)
    assert made.kwargs == {"stderr": absolute_stream("stderr", given)}
    assert made.outputs == []


def test_streams_do_not_travel_on_a_shared_file_system(plan: Planner) -> None:
    made = plan(stdout="out", travel=True, shared_fs=True)
    assert (made.kwargs, made.outputs) == ({"stdout": os.path.abspath("out")}, [])


def test_streams_that_are_also_outputs_travel_once(plan: Planner) -> None:
    made = plan(stdout="out", stderr="out", outputs=[File("out")], travel=True)
    assert [use.name for use in made.outputs] == ["out"]
    made = plan(stdout="out", stderr="out", travel=True)
    assert [use.name for use in made.outputs] == ["out"]


# --- where apps run in the user's directory ---


def test_in_place_relative_paths_stay_as_they_are(plan: Planner, here: Path) -> None:
    files = [File("a"), File("sub/../b"), File("../c"), File("/d")]
    made = plan(*files, in_place=True, directory=str(here), outputs=[File("new/folder/e"), File("../f")])
    assert [file.filepath for file in made.args] == ["a", "sub/../b", "../c", "/d"]
    assert [file.filepath for file in made.kwargs["outputs"]] == ["new/folder/e", "../f"]
    assert made.inputs == made.outputs == []
    assert os.listdir(here) == ["new"], "folders of outputs are made"


def test_in_place_streams_do_not_travel(plan: Planner, here: Path) -> None:
    made = plan(in_place=True, travel=True, directory=str(here), stdout="logs/out", stderr=("../err", "w"))
    assert made.kwargs == {"stdout": str(here / "logs" / "out"), "stderr": (str(here.parent / "err"), "w")}
    assert made.outputs == []


@pytest.mark.parametrize("in_place", [False, True])
def test_paths_are_relative_to_where_the_program_began(
    plan: Planner, here: Path, monkeypatch: pytest.MonkeyPatch, in_place: bool
) -> None:
    (here / "moved").mkdir()
    monkeypatch.chdir(here / "moved")
    made = plan(File("a"), in_place=in_place, directory=str(here), outputs=[File("new/b")], stdout="out")
    assert [use.source for use in (*made.inputs, *made.outputs)] == (
        [] if in_place else [str(here / "a"), str(here / "new" / "b")]
    )
    assert made.kwargs["stdout"] == str(here / "out")
    assert os.listdir(here / "moved") == []


def test_in_place_temp_files_are_found_in_the_sandbox(plan: Planner, here: Path) -> None:
    file = File(T + "folder/x")
    made = plan(in_place=True, outputs=[file])
    (sent,) = pickle.loads(pickle.dumps(made.kwargs["outputs"]))
    assert type(sent) is File
    assert (sent.url, sent.filepath, version_of(sent)) == (file.url, "folder/x", "folder/x@t0")
    sandbox.use("/box")
    try:
        (sent,) = pickle.loads(pickle.dumps(made.kwargs["outputs"]))
        assert sent.filepath == "/box/folder/x"
    finally:
        sandbox.use(None)
    assert made.outputs == [FileUse("temp", "folder/x", "folder/x@t0")]
    assert file.local_path is None


# --- directories ---


def test_existing_output_directory_is_prepared(plan: Planner, here: Path) -> None:
    (here / "old").mkdir()
    (here / "file").touch()
    made = plan(inputs=[File("old")], outputs=[File("old/"), File("new"), File("file")])
    assert [use.directory for use in made.outputs] == [True, False, False]
    assert [use.directory for use in made.inputs] == [False]
    assert made.outputs[0] == FileUse("local", "old", str(here / "old"), directory=True)


@pytest.mark.parametrize("path", [".", "./", "a/.."])
def test_current_directory_is_not_staged(plan: Planner, path: str) -> None:
    for files in ({"x": File(path)}, {"outputs": [File(path)]}):
        with pytest.raises(ValueError, match="all of the current directory"):
            plan(**files)
    assert plan(File(path), shared_fs=True).args[0].filepath == os.getcwd()


# --- Files that the pickler meets ---


def pickled(made: FilePlan, value: Any) -> Any:
    return pickle.loads(staging_files(made.nested, pickle.dumps, value))


def test_file_in_any_object_is_an_input(plan: Planner, here: Path) -> None:
    (here / "sub").mkdir()
    (here / "sub" / "a").touch()
    file = File("sub/../sub/a")
    made = plan()
    found = pickled(made, {"x": [file, (file,)]})
    assert found["x"][0].filepath == "sub/a"
    assert found["x"][0] is found["x"][1][0]
    assert made.inputs == [FileUse("local", "sub/a", str(here / "sub" / "a"))]
    assert file.local_path is None
    assert pickle.loads(pickle.dumps(file)).local_path is None, "it is over with the call"


def test_output_that_is_in_a_container_too_has_one_path(plan: Planner) -> None:
    file = File(T + "x")
    made = plan(in_place=True, outputs=[file], cfg={"out": file})
    sandbox.use("/box")
    try:
        found = pickled(made, made.kwargs)
    finally:
        sandbox.use(None)
    assert found["outputs"][0].filepath == found["cfg"]["out"].filepath == "/box/x"
    assert made.inputs == []


def test_file_given_twice_is_staged_once(plan: Planner, here: Path) -> None:
    for name in ("a", "b"):
        (here / name).touch()
    made = plan(File("a"), outputs=[File("b")])
    pickled(made, (made.args, made.kwargs))
    assert [use.name for use in made.inputs] == ["a"]
    assert [use.name for use in made.outputs] == ["b"]


def test_file_in_an_object_that_is_not_there_is_left_alone(plan: Planner, here: Path) -> None:
    made = plan()
    for url in ("missing", str(here / "missing"), "http://example.org/a"):
        found = pickled(made, [File(url)])[0]
        assert (found.url, found.local_path) == (url, None)
    assert made.inputs == []
    assert pickled(plan(shared_fs=True), [File("missing")])[0].filepath == str(here / "missing")


def test_temp_file_in_an_object_is_an_edge(plan: Planner) -> None:
    plan(outputs=[TempFile("x", replicas=2)])
    made = plan()
    assert pickled(made, [File(T + "x")])[0].filepath == "x"
    assert made.inputs == [FileUse("temp", "x", "x@t0")]
    plan(outputs=[File(T + "x")])
    later = plan()
    held = [TempFile("x", replicas=2)]
    for _ in range(2):  # arguments may be pickled twice
        assert pickled(later, held)[0].filepath == "x"
    assert later.inputs == [FileUse("temp", "x", "x@t2", 2)]


def test_task_that_rewrites_a_temp_file_reads_the_old_version(plan: Planner) -> None:
    file = File(T + "x")
    first = plan(outputs=[file])
    assert pickled(first, [file])[0].filepath == "x"
    assert first.inputs == []
    second = plan(outputs=[file])
    assert pickled(second, [file])[0].filepath == "x"
    assert [use.source for use in (*second.inputs, *second.outputs)] == ["x@t0", "x@t1"]


def test_plan_is_made_with_the_first_file_that_is_met(plan: Planner, here: Path) -> None:
    (here / "a").touch()
    nested = NestedFiles(None, plan)
    staging_files(nested, pickle.dumps, [1, 2])
    assert nested.plan is None
    staging_files(nested, pickle.dumps, [File("a")])
    assert nested.plan is not None
    assert [use.name for use in nested.plan.inputs] == ["a"]
    with pytest.raises(FileNotFoundError):
        staging_files(nested, pickle.dumps, [File(T + "never")])
    assert isinstance(nested.error, FileNotFoundError)
