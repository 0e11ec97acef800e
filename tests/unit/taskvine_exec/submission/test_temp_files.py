"""Temp files and their versions, and how Parsl stages them."""

from __future__ import annotations

import gc
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

from taskvine_exec.submission.temp_files import Outcome, TaskVineTempStaging, TempFiles, temp_name, version_of
from taskvine_manager.wire.messages import FileUse
from tests.unit.taskvine_exec.submission.conftest import Planner

T = "taskvinetemp:///"


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's current directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


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
def test_task_that_reads_and_writes_a_name_reads_the_old_version(plan: Planner, order: str) -> None:
    plan(outputs=[File(T + "x")])
    made = plan(**{key: [File(T + "x")] for key in order.split()})
    assert made.inputs == [FileUse("temp", "x", "x@t0")]
    assert made.outputs == [FileUse("temp", "x", "x@t1")]


def test_bound_version_does_not_change(plan: Planner) -> None:
    file = File(T + "x")
    plan.files.produce(file, 7, Future())
    first, second = plan(outputs=[file]), plan(outputs=[file])
    assert first.outputs == second.outputs == [FileUse("temp", "x", "x@7")]
    bound = pickle.loads(pickle.dumps(file))
    plan.files.produce(File(T + "x"), 8, Future())
    assert plan(bound).inputs == [FileUse("temp", "x", "x@7")]


def test_input_without_a_producer_is_refused(plan: Planner) -> None:
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
def test_names_of_temp_files(url: str, name: str) -> None:
    assert temp_name(File(url)) == name
    files = TempFiles()
    files.produce(File(url), 1, Future())
    assert files.versions(File(url)) == [f"{name}@1"]
    files.forget(f"{name}@1")
    with pytest.raises(FileNotFoundError):
        files.consume(File(url))


@pytest.mark.parametrize("url", ["", "/", "///", "///..", "///a/../b", "///./a", "///a//b"])
def test_invalid_names_are_refused(url: str) -> None:
    with pytest.raises(ValueError, match="needs a name"):
        temp_name(File(f"taskvinetemp:{url}"))


def test_forgotten_versions_are_returned() -> None:
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
    """A large object."""


def test_versions_keep_no_results_in_memory() -> None:
    files, producer = TempFiles(), Future[Any]()
    files.produce(File(T + "x"), 1, producer)
    result = Result()
    gone = weakref.ref(result)
    producer.set_result(result)
    del producer, result
    gc.collect()
    assert gone() is None
    assert files.producer("x@1").result(0) is None


def test_end_of_a_task_is_kept() -> None:
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


def test_only_temp_files_are_staged_by_us(staging: TaskVineTempStaging) -> None:
    for can in (staging.can_stage_in, staging.can_stage_out):
        assert can(File(T + "x"))
        assert not any(can(File(url)) for url in ("x", "/x", "http://host/x", "ftp://host/x", "zip:/a.zip/x"))
    assert not any(provider.can_stage_in(File(T + "x")) for provider in default_staging)


def test_ftp_files_are_staged_in_the_task() -> None:
    staging = FTPInTaskStaging()
    assert staging.can_stage_in(File("ftp://host/x"))
    assert not staging.can_stage_in(File("http://host/x"))


def test_output_is_bound_without_a_wait(staging: TaskVineTempStaging) -> None:
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


def test_edge_leads_to_the_task_of_its_future(staging: TaskVineTempStaging) -> None:
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


def test_function_is_not_wrapped(staging: TaskVineTempStaging) -> None:
    assert staging.replace_task(None, "label", File(T + "x"), print) is None
    assert staging.replace_task_stage_out(None, "label", File(T + "x"), print) is None
    assert repr(staging) == "TaskVineTempStaging()"
