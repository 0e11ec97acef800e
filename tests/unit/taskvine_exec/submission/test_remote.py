"""Remote files in the arguments of a call: which tasks fetch them, and under which names tasks get them."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, NamedTuple

import pytest
from parsl.data_provider.files import File
from parsl.data_provider.http import HTTPInTaskStaging

from taskvine_exec.errors import DiskFull, RemoteInputFailed
from taskvine_exec.submission.files import FilePlan, FileRules
from taskvine_exec.submission.remote import RemoteInputs, TaskVineRemoteStaging, staging_providers
from taskvine_exec.submission.temp_files import TempFiles
from taskvine_manager.runtime import sandbox
from taskvine_manager.runtime.remote import outputs, tasks
from taskvine_manager.wire.messages import FileUse


class Own(NamedTuple):
    """A task of the executor's own."""

    function: Callable[..., Any]
    args: tuple[Any, ...]
    inputs: tuple[FileUse, ...]
    output: FileUse
    future: Future[Any]


class Executor:
    """Plans the files of tasks, and keeps the executor's own tasks."""

    def __init__(self) -> None:
        self.files = TempFiles()
        self.ran: list[Own] = []
        self.remote = RemoteInputs(self.files, self._run, "/spool")
        self.storage = staging_providers(None, self.files)
        self.producers: list[Future[Any]] = []

    def _run(self, function: Any, args: Any, inputs: Any, output: FileUse) -> Future[Any]:
        future = Future[Any]()
        args = pickle.loads(pickle.dumps(args))
        self.ran.append(Own(function, args, inputs, output, future))
        return future

    def plan(self, *args: Any, in_place: bool = False, **kwargs: Any) -> FilePlan:
        rules = FileRules(
            temp_files=self.files, shared_fs=False, storage=self.storage, remote=self.remote, in_place=in_place
        )
        self.producers.append(Future())
        return FilePlan(args, kwargs, rules, task=f"t{len(self.producers)}", producer=self.producers[-1])


@pytest.fixture
def executor() -> Executor:
    return Executor()


URL = "https://host/a.csv"


def test_a_url_is_fetched_once(executor: Executor) -> None:
    plans = [executor.plan(File(URL)), executor.plan(inputs=[File(URL), File(URL)])]
    (own,) = executor.ran
    assert own.function is tasks.fetch
    assert own.args == (URL, "content", "/spool", own.output.source)
    assert own.output == FileUse("temp", "content", own.output.source)
    for plan in plans:
        assert plan.inputs == [FileUse("temp", "a.csv", own.output.source)]
    assert plans[0].args[0].filepath == "a.csv"


def test_the_path_is_absolute_for_tasks_that_run_elsewhere(executor: Executor) -> None:
    plan = executor.plan(File(URL), in_place=True)
    sandbox.use("/sandbox")
    try:
        assert pickle.loads(pickle.dumps(plan.args[0])).filepath == "/sandbox/a.csv"
    finally:
        sandbox.use(None)


def test_equal_names_get_directories(executor: Executor) -> None:
    files = [File(f"https://host/{number}/a.csv") for number in range(3)]
    plan = executor.plan(inputs=[*files, files[1]])
    assert [file.filepath for file in plan.kwargs["inputs"]] == ["a.csv", "1/a.csv", "2/a.csv", "1/a.csv"]
    assert len(plan.inputs) == 3


def test_a_file_that_could_not_be_fetched_is_tried_again(executor: Executor) -> None:
    first = executor.plan(File(URL)).inputs
    executor.ran[0].future.set_exception(RemoteInputFailed(task_id=0, reason="no", url=URL))
    second = executor.plan(File(URL)).inputs
    assert first != second
    executor.ran[1].future.set_result((1, "tag", 0.1))
    assert executor.plan(File(URL)).inputs == second
    assert len(executor.ran) == 2


def test_a_forgotten_file_is_fetched_again(executor: Executor) -> None:
    version = executor.plan(File(URL)).inputs[0].source
    assert executor.files.version(File(URL)) == version
    assert executor.files.versions(File(URL)) == [version]
    executor.files.forget(version)
    assert executor.plan(File(URL)).inputs[0].source != version
    with pytest.raises(FileNotFoundError, match=r"https://host/a\.csv was removed by executor\.forget"):
        executor.files.producer(version)


def test_members_of_an_archive_share_it(executor: Executor) -> None:
    archive = "https://host/set.zip"
    plan = executor.plan(File(f"zip://a/b.txt::{archive}"), File(f"zip://::{archive}"))
    fetched, first, second = executor.ran
    assert [own.function for own in executor.ran] == [tasks.fetch, tasks.unpack, tasks.unpack]
    assert first.inputs == second.inputs == (FileUse("temp", "archive", fetched.output.source),)
    assert [use.name for use in plan.inputs] == ["b.txt", "set"]


def test_errors_are_those_of_the_task_that_reads(executor: Executor) -> None:
    version = executor.plan(File("https://me:secret@host/a?token=secret")).inputs[0].source
    assert "secret" not in version
    failed = executor.remote.error(version, 7, RemoteInputFailed(task_id=0, reason="no", url=URL, status=404))
    assert isinstance(failed, RemoteInputFailed)
    assert (failed.task_id, failed.status, failed.url) == (7, 404, URL)
    full = executor.remote.error(version, 7, DiskFull(task_id=0, path="/cache"))
    assert isinstance(full, RemoteInputFailed)
    assert "no space was left" in str(full)
    assert isinstance(full.__cause__, DiskFull)
    assert executor.remote.error("name@t7", 7, KeyError()) is None


# --- outputs ---


def test_outputs_are_located_in_the_task(executor: Executor) -> None:
    plan = executor.plan(outputs=[File(URL)])
    assert (plan.inputs, plan.outputs) == ([], [])
    try:
        made = pickle.loads(pickle.dumps(plan.kwargs["outputs"][0]))
        assert type(made) is File
        assert os.path.basename(made.filepath) == "a.csv"
        assert outputs.expected()
    finally:
        outputs.discard()


def test_what_is_read_after_an_output_was_written_is_fetched_anew(executor: Executor) -> None:
    old = executor.plan(File(URL)).inputs
    executor.plan(outputs=[File(URL)])
    assert executor.plan(File(URL)).inputs == old  # not written yet
    executor.producers[1].set_result(None)
    assert executor.plan(File(URL)).inputs != old


def test_an_output_that_is_named_elsewhere_too_is_no_input(executor: Executor) -> None:
    plan = executor.plan(outputs=[File(URL)])
    assert plan.nested(File(URL)) is plan.kwargs["outputs"][0]
    plan.nested(File("https://host/b"))
    assert [use.name for use in plan.inputs] == ["b"]


# --- whose files they are ---


@pytest.mark.parametrize("url", ["a", "/a", "file:///a", "taskvinetemp:///a", "globus://go#ep1/a", "zip:/a.zip/b"])
def test_other_files_are_left_alone(url: str) -> None:
    staging = TaskVineRemoteStaging()
    assert not staging.can_stage_in(File(url))
    assert not staging.can_stage_out(File(url))


def test_staging_providers_of_the_user_come_first(executor: Executor) -> None:
    executor.storage = staging_providers([HTTPInTaskStaging()], executor.files)
    assert executor.plan(File(URL)).inputs == []
    assert [use.name for use in executor.plan(File("s3://bucket/b")).inputs] == ["b"]
