"""What becomes of files in the arguments of a call, before it is sent."""

from __future__ import annotations

import gc
import os
import pickle
import weakref
from concurrent.futures import CancelledError, Future
from pathlib import Path
from typing import Any

import pytest
from parsl.app.futures import DataFuture
from parsl.data_provider.data_manager import default_staging
from parsl.data_provider.files import File
from parsl.data_provider.ftp import FTPInTaskStaging
from parsl.data_provider.http import HTTPInTaskStaging, HTTPSeparateTaskStaging

from taskvine_exec.parsl_hooks.files import staging as staging_files
from taskvine_exec.submission.files import FilePlan, NestedFiles, absolute_stream, has_files
from taskvine_exec.submission.temp_files import Outcome, TaskVineTempStaging, TempFile, TempFiles, temp_name, version_of
from taskvine_manager.runtime import sandbox
from taskvine_manager.wire.messages import FileUse

T = "taskvinetemp:///"


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's current directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


class Planner:
    """Plans of the tasks t0, t1 and so on of one executor."""

    def __init__(self) -> None:
        self.files = TempFiles()
        self.futures: list[Future[Any]] = []

    def __call__(
        self,
        *args: Any,
        shared_fs: bool = False,
        storage: Any = (),
        travel: bool = False,
        directory: str | None = None,
        in_place: bool = False,
        **kwargs: Any,
    ) -> FilePlan:
        task = f"t{len(self.futures)}"
        self.futures.append(Future())
        return FilePlan(
            args,
            kwargs,
            files=self.files,
            task=task,
            producer=self.futures[-1],
            shared_fs=shared_fs,
            storage=storage,
            streams_travel=travel,
            directory=directory,
            in_place=in_place,
        )


@pytest.fixture
def plan() -> Planner:
    return Planner()


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
def test_calls_with_files(args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
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
def test_calls_without_files(args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
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


def test_tuples_of_files(plan: Planner) -> None:
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
    made = plan(inputs=[File("a")], outputs=[File("a")])  # to be changed in place
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


def test_files_fetched_by_a_task_of_their_own_come_home_and_go_out_again(plan: Planner, here: Path) -> None:
    storage = [HTTPSeparateTaskStaging()]
    file = located("http://host/a", "a")
    made = plan(outputs=[file], storage=storage)
    assert made.outputs == [FileUse("local", "a", str(here / "a"))]
    assert plan(inputs=[file], storage=storage).inputs == []
    (here / "a").write_text("fetched")
    assert plan(inputs=[file], storage=storage).inputs == [FileUse("local", "a", str(here / "a"))]


def test_remote_file_that_nobody_stages_is_left_for_the_task(plan: Planner) -> None:
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


# --- temp files ---


def test_output_is_a_new_version_and_the_next_input_reads_it(plan: Planner) -> None:
    for number in range(2):
        written = plan(outputs=[File(T + "dir/x")])
        assert written.outputs == [FileUse("temp", "dir/x", f"dir/x@t{2 * number}")]
        assert written.kwargs["outputs"][0].filepath == "dir/x"
        read = plan(File(T + "dir/x"))
        assert read.inputs == written.outputs
        assert read.args[0].filepath == "dir/x"


@pytest.mark.parametrize("order", ["inputs outputs", "outputs inputs"])
def test_task_that_reads_and_writes_a_name_reads_the_version_before_its_own(plan: Planner, order: str) -> None:
    plan(outputs=[File(T + "x")])
    made = plan(**{key: [File(T + "x")] for key in order.split()})
    assert made.inputs == [FileUse("temp", "x", "x@t0")]
    assert made.outputs == [FileUse("temp", "x", "x@t1")]


def test_the_version_a_file_was_bound_to_stays(plan: Planner) -> None:
    file = File(T + "x")
    plan.files.produce(file, 7, Future())
    first, second = plan(outputs=[file]), plan(outputs=[file])
    assert first.outputs == second.outputs == [FileUse("temp", "x", "x@7")]
    bound = pickle.loads(pickle.dumps(file))
    plan.files.produce(File(T + "x"), 8, Future())
    assert plan(bound).inputs == [FileUse("temp", "x", "x@7")]


def test_input_that_nobody_makes(plan: Planner) -> None:
    with pytest.raises(FileNotFoundError, match=r"taskvinetemp:///x: no task of this executor"):
        plan(File(T + "x"))


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("taskvinetemp:///a", "a"),
        ("taskvinetemp://a/b", "a/b"),
        ("taskvinetemp:a", "a"),
        ("taskvinetemp:///a#1", "a#1"),
        ("taskvinetemp:///a?x=1;y", "a?x=1;y"),
        ("taskvinetemp:///a@b", "a@b"),
        ("taskvinetemp:///ä b", "ä b"),
    ],
)
def test_names(url: str, name: str) -> None:
    assert temp_name(File(url)) == name
    files = TempFiles()
    files.produce(File(url), 1, Future())
    assert files.versions(File(url)) == [f"{name}@1"]
    files.forget(f"{name}@1")
    with pytest.raises(FileNotFoundError):
        files.consume(File(url))


@pytest.mark.parametrize("url", ["", "/", "///", "///..", "///a/../b", "///./a", "///a//b"])
def test_names_that_are_none(url: str) -> None:
    with pytest.raises(ValueError, match="needs a name"):
        temp_name(File(f"taskvinetemp:{url}"))


def test_forgotten_versions() -> None:
    files = TempFiles()
    file, other = File(T + "x"), File(T + "x@1")
    for task in (1, 2):
        files.produce(file.cleancopy(), task, Future())
    files.produce(other, 1, Future())
    files.made.update(("x@1", "x@2"))
    assert files.versions(file) == ["x@1", "x@2"]
    files.forget("x@2")
    files.forget("x@2")
    assert files.made == {"x@1"}
    with pytest.raises(FileNotFoundError):
        files.consume(file.cleancopy())
    with pytest.raises(FileNotFoundError, match=r"taskvinetemp:///x was removed by executor\.forget"):
        files.producer("x@2")
    assert files.consume(file.cleancopy(), 1) == "x@1"
    files.forget("x@1")
    with pytest.raises(FileNotFoundError):
        files.versions(file)
    assert files.versions(other.cleancopy()) == ["x@1@1"]


class Result:
    """Something large."""


def test_no_version_keeps_the_result_of_its_task_in_memory() -> None:
    files, producer = TempFiles(), Future[Any]()
    files.produce(File(T + "x"), 1, producer)
    result = Result()
    gone = weakref.ref(result)
    producer.set_result(result)
    del producer, result
    gc.collect()
    assert gone() is None
    assert files.producer("x@1").result(0) is None


def test_how_a_task_ended_is_kept() -> None:
    raised, cancelled = Future[Any](), Future[Any]()
    raised.tid = 3  # type: ignore[attr-defined]
    raised.set_exception(KeyError("no"))
    cancelled.cancel()
    assert isinstance(Outcome(raised).exception(0), KeyError)
    assert Outcome(raised).tid == 3
    assert isinstance(Outcome(cancelled).exception(0), CancelledError)
    files = TempFiles()
    files.produce(File(T + "x"), 1, raised)
    assert files.producer("x@1").exception(0) is raised.exception()


# --- as Parsl sees it ---


@pytest.fixture
def staging() -> TaskVineTempStaging:
    made = TaskVineTempStaging()
    made.bind(TempFiles())
    return made


def test_only_temp_files_are_ours(staging: TaskVineTempStaging) -> None:
    for can in (staging.can_stage_in, staging.can_stage_out):
        assert can(File(T + "x"))
        assert not any(can(File(url)) for url in ("x", "/x", "http://host/x", "ftp://host/x", "zip:/a.zip/x"))
    assert not any(provider.can_stage_in(File(T + "x")) for provider in default_staging)


def test_ftp_is_staged_in_the_task() -> None:
    staging = FTPInTaskStaging()
    assert staging.can_stage_in(File("ftp://host/x"))
    assert not staging.can_stage_in(File("http://host/x"))


def test_an_output_is_bound_and_its_future_is_no_wait(staging: TaskVineTempStaging) -> None:
    task = Future[Any]()
    task.tid = 5  # type: ignore[attr-defined]
    written = File(T + "x")
    assert staging.stage_out(None, "label", written, task) is None
    assert version_of(written) == "x@5"
    read = File(T + "x")
    edge = staging.stage_in(None, "label", read, DataFuture(task, File(T + "x"), tid=5))
    assert edge is not None
    assert not task.done()
    assert edge.done()
    assert edge.result(0) is read
    assert (version_of(read), read.filepath, edge.tid) == ("x@5", "x", 5)


def test_an_edge_names_the_task_and_not_the_latest_version(staging: TaskVineTempStaging) -> None:
    futures = {}
    for number in (1, 2):
        futures[number] = Future[Any]()
        futures[number].tid = number  # type: ignore[attr-defined]
        staging.stage_out(None, "label", File(T + "x"), futures[number])
    old, latest = File(T + "x"), File(T + "x")
    staging.stage_in(None, "label", old, DataFuture(futures[1], File(T + "x"), tid=1))
    assert staging.stage_in(None, "label", latest, None) is None
    assert (version_of(old), version_of(latest)) == ("x@1", "x@2")
    with pytest.raises(FileNotFoundError):
        staging.stage_in(None, "label", File(T + "x"), DataFuture(futures[1], File(T + "x"), tid=3))


def test_nothing_wraps_the_function(staging: TaskVineTempStaging) -> None:
    assert staging.replace_task(None, "label", File(T + "x"), print) is None
    assert staging.replace_task_stage_out(None, "label", File(T + "x"), print) is None
    assert repr(staging) == "TaskVineTempStaging()"


@pytest.mark.parametrize(
    ("given", "inside", "stream"),
    [("log/out", ("log/out", "a+"), "a"), (("a/../out", "w"), ("out", "w"), "w"), (("out", "a"), ("out", "a"), "a")],
)
def test_streams_travel_where_nodes_do_not_see_them(plan: Planner, given: Any, inside: Any, stream: str) -> None:
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


def test_streams_that_are_outputs_too_or_one_file_are_brought_once(plan: Planner) -> None:
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


def test_output_directory_that_is_there_is_prepared(plan: Planner, here: Path) -> None:
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


def test_file_that_is_an_argument_too_is_dealt_with_once(plan: Planner, here: Path) -> None:
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


def test_temp_file_that_the_task_writes_too_is_the_version_before(plan: Planner) -> None:
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
