"""Remote inputs: fetched once, checked, shared between nodes, and fetched again if all copies are lost."""

from __future__ import annotations

import hashlib
import io
import os
import signal
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from parsl.data_provider.files import File

from taskvine_exec import TaskVineExecutor
from taskvine_exec.errors import FileLost, RemoteInputFailed
from tests.conftest import eventually
from tests.contract.conftest import cached, embedded_only
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


@pytest.fixture(params=["submit", "sandbox"])
def working_directory(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def read(*files, inputs=()):  # type: ignore[no-untyped-def]
    texts = []
    for file in (*files, *inputs):
        with open(file.filepath) as stream:
            texts.append(stream.read())
    return "+".join(texts)


def names_and_texts(file):  # type: ignore[no-untyped-def]
    found = {}
    for folder, _, names in os.walk(file.filepath):
        for name in names:
            path = os.path.join(folder, name)
            found[os.path.relpath(path, file.filepath)] = open(path).read()
    return os.path.basename(file.filepath), found


def failing(server: FileServer, times: int, last: Answer, status: int = 503) -> Callable[[int], Answer]:
    return lambda earlier: last if earlier >= times else Answer(b"try later", status)


# --- what tasks read ---


def test_a_file_is_fetched_once_for_all_tasks(make_executor: Make, mode: str, server: FileServer) -> None:
    server.files["a.txt"] = b"one"
    executor = make_executor(function_exec_mode=mode)
    file = File(server.of("a.txt"))
    futures = [executor.submit(read, {}, file, inputs=[File(server.of("a.txt"))]) for _ in range(4)]
    assert {future.result(SECONDS) for future in futures} == {"one+one"}
    server.files["a.txt"] = b"two"
    assert executor.submit(read, {}, file).result(SECONDS) == "one"
    assert server.requests["a.txt"] == 1
    executor.forget(file)
    assert executor.submit(read, {}, file).result(SECONDS) == "two"


@pytest.mark.parametrize("working_directory", ["submit"], indirect=True)
def test_files_are_found_in_containers_and_by_name(make_executor: Make, server: FileServer, home: Path) -> None:
    def task(nested, inputs):  # type: ignore[no-untyped-def]
        paths = [file.filepath for file in (*nested["files"], *inputs)]
        return [os.path.basename(path) for path in paths], [open(path).read() for path in paths]

    for number in range(3):
        server.files[f"{number}/part.csv"] = str(number).encode()
    first, *others = [File(server.of(f"{number}/part.csv")) for number in range(3)]
    found = make_executor().submit(task, {}, {"files": [first]}, inputs=others).result(SECONDS)
    assert found == (["part.csv"] * 3, ["0", "1", "2"])
    assert os.listdir(home) == []


@pytest.mark.parametrize("working_directory", ["submit"], indirect=True)
def test_nodes_get_a_file_from_each_other(make_executor: Make, server: FileServer, tmp_path: Path) -> None:
    def task(file, meeting, count):  # type: ignore[no-untyped-def]
        import time

        open(os.path.join(meeting, str(os.getpid())), "w").close()
        while len(os.listdir(meeting)) < count:  # so that all slots of all nodes are busy at once
            time.sleep(0.01)
        return os.path.getsize(file.filepath), os.environ["TASKVINE_EXEC_RADIO"]

    server.files["large.bin"] = os.urandom(2 << 20)
    (tmp_path / "meeting").mkdir()
    executor = make_executor(cores=1, worker_launch_method="factory", min_workers=3, max_workers=3)
    eventually(lambda: len(executor.nodes) == 3, SECONDS)
    file = File(server.of("large.bin"))
    futures = [executor.submit(task, {}, file, str(tmp_path / "meeting"), 3) for _ in range(12)]
    answers = [future.result(SECONDS) for future in futures]
    assert {size for size, _ in answers} == {2 << 20}
    assert len({radio for _, radio in answers}) == 3
    assert server.requests["large.bin"] == 1


@pytest.mark.parametrize("working_directory", ["submit"], indirect=True)
def test_a_lost_file_is_fetched_again(make_executor: Make, server: FileServer) -> None:
    server.files["a.txt"] = b"a" * 100_000
    executor = make_executor(worker_launch_method="factory", min_workers=1, max_workers=1)
    file = File(server.of("a.txt"))
    assert len(executor.submit(read, {}, file).result(SECONDS)) == 100_000
    os.kill(executor.nodes[0]["pid"], signal.SIGKILL)
    assert len(executor.submit(read, {}, file).result(SECONDS)) == 100_000
    assert server.requests["a.txt"] == 2


# --- what can go wrong ---


def refusal(executor: TaskVineExecutor, url: str) -> RemoteInputFailed:
    future = executor.submit(read, {}, File(url))
    error = future.exception(SECONDS)
    assert isinstance(error, RemoteInputFailed), error
    assert error.task_id == future.parsl_executor_task_id
    return error


@pytest.mark.parametrize("working_directory", ["submit"], indirect=True)
def test_an_error_of_the_server_names_url_and_status(make_executor: Make, mode: str, server: FileServer) -> None:
    executor = make_executor(function_exec_mode=mode)
    error = refusal(executor, server.of("none.txt"))
    assert (error.url, error.status) == (server.of("none.txt"), 404)
    assert f"remote input {server.of('none.txt')} could not be fetched (HTTP status 404): Not Found" in str(error)
    assert server.requests["none.txt"] == 1
    server.files["none.txt"] = b"there now"
    assert executor.submit(read, {}, File(server.of("none.txt"))).result(SECONDS) == "there now"


@pytest.mark.parametrize("working_directory", ["submit"], indirect=True)
def test_failures_that_pass_are_retried(make_executor: Make, server: FileServer) -> None:
    server.files["a.txt"] = failing(server, 2, Answer(b"a"))
    server.files["b.txt"] = lambda earlier: Answer(b"b" * 1000, cut=0 if earlier else 400)
    executor = make_executor()
    futures = [executor.submit(read, {}, File(server.of(name))) for name in ("a.txt", "b.txt")]
    assert [future.result(SECONDS) for future in futures] == ["a", "b" * 1000]
    assert server.requests == {"a.txt": 3, "b.txt": 2}


@pytest.mark.parametrize("working_directory", ["submit"], indirect=True)
def test_a_wrong_checksum_is_an_error(make_executor: Make, server: FileServer) -> None:
    server.files["a.txt"] = b"data"
    executor = make_executor()
    digest = hashlib.sha256(b"data").hexdigest()
    assert executor.submit(read, {}, File(f"{server.of('a.txt')}#sha256={digest}")).result(SECONDS) == "data"
    error = refusal(executor, f"{server.of('a.txt')}#md5={'0' * 32}")
    assert "its md5 is 8d777f385d3dfec8815d20f7496026dc" in str(error)


@pytest.mark.parametrize("working_directory", ["submit"], indirect=True)
def test_a_file_that_changed_is_not_mixed_with_the_first_version(make_executor: Make, server: FileServer) -> None:
    server.files["a.txt"] = Answer(b"one", headers={"ETag": '"1"'})
    executor = make_executor(worker_launch_method="factory", min_workers=1, max_workers=1)
    file = File(server.of("a.txt"))
    assert executor.submit(read, {}, file).result(SECONDS) == "one"
    server.files["a.txt"] = Answer(b"two", headers={"ETag": '"2"'})
    os.kill(executor.nodes[0]["pid"], signal.SIGKILL)
    error = executor.submit(read, {}, file).exception(SECONDS)
    assert isinstance(error, FileLost), error
    assert 'it has changed since it was first read in this run (3 bytes, "1" then, 3 bytes, "2" now)' in str(error)
    executor.forget(file)
    assert executor.submit(read, {}, file).result(SECONDS) == "two"


# --- archives ---


def zipped(files: dict[str, str]) -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as archive:
        for name, text in files.items():
            archive.writestr(name, text)
    return made.getvalue()


def tarred(files: dict[str, str]) -> bytes:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w:gz") as archive:
        for name, text in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(text)
            archive.addfile(entry, io.BytesIO(text.encode()))
    return made.getvalue()


@pytest.mark.parametrize("working_directory", ["submit"], indirect=True)
@pytest.mark.parametrize(("kind", "make", "suffix"), [("zip", zipped, ".zip"), ("tar", tarred, ".tar.gz")])
def test_members_of_archives(
    make_executor: Make, server: FileServer, kind: str, make: Callable[[dict[str, str]], bytes], suffix: str
) -> None:
    files = {"top.txt": "top", "data/a.txt": "a", "data/b/c.txt": "c"}
    server.files[f"set{suffix}"] = make(files)
    archive = server.of(f"set{suffix}")
    executor = make_executor()
    one = executor.submit(read, {}, File(f"{kind}://data/a.txt::{archive}"))
    part = executor.submit(names_and_texts, {}, File(f"{kind}://data::{archive}"))
    whole = executor.submit(names_and_texts, {}, File(f"{kind}://::{archive}"))
    assert one.result(SECONDS) == "a"
    assert part.result(SECONDS) == ("data", {"a.txt": "a", "b/c.txt": "c"})
    assert whole.result(SECONDS) == ("set", files)
    assert server.requests[f"set{suffix}"] == 1
    error = refusal(executor, f"{kind}://none::{archive}")
    assert f"{archive} could not be fetched: the archive has no member 'none'" in str(error)
    assert refusal(executor, f"{kind}://::{server.of('none.zip')}").status == 404


@embedded_only  # TaskVine's workers do not evict
@pytest.mark.parametrize("working_directory", ["submit"], indirect=True)
def test_fetched_files_keep_to_the_quota(make_executor: Make, server: FileServer) -> None:
    for number in range(4):
        server.files[str(number)] = str(number).encode() * 600_000
    executor = make_executor(disk=1)
    for turn in (1, 2):
        for number in range(4):
            assert executor.submit(read, {}, File(server.of(str(number)))).result(SECONDS)[0] == str(number)
            assert sum(entry.stat().st_size for entry in cached(executor.nodes[0])) == 600_000
            assert server.requests[str(number)] == turn
    server.files["large"] = b"x" * 2**21
    error = executor.submit(read, {}, File(server.of("large"))).exception(SECONDS)
    assert isinstance(error, RemoteInputFailed)
    assert "no space was left" in str(error)
