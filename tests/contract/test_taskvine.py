"""Tests of the TaskVine engine only: TaskVine's processes, a network, and values that travel over it."""

from __future__ import annotations

import contextlib
import csv
import functools
import os
import shlex
import shutil
import signal
import statistics
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cloudpickle
import numpy as np
import psutil
import pytest
from parsl.app.bash import remote_side_bash_executor
from parsl.app.errors import BashExitFailure
from parsl.data_provider.files import File
from parsl.executors.errors import BadStateException

from taskvine_exec import TaskVineExecutor
from taskvine_exec.errors import NodeLost, WorkerLaunchFailed
from tests.conftest import Gate, command, first_node
from tests.engines import ABSENT

Make = Callable[..., TaskVineExecutor]
Start = Callable[[TaskVineExecutor], Any]
SECONDS = 30


@pytest.fixture(params=["taskvine"])
def engine(request: pytest.FixtureRequest) -> str:
    if ABSENT is not None:
        pytest.skip(ABSENT)
    return str(request.param)


def descendants(executor: TaskVineExecutor, program: str) -> list[psutil.Process]:
    children = psutil.Process(first_node(executor)["pid"]).children(recursive=True)
    return [child for child in children if any(program in word for word in command(child)[:3])]


@pytest.mark.parametrize("megabytes", [0.001, 1, 16])
def test_values_travel(by_hand: Make, mode: str, megabytes: float) -> None:
    def double(array: np.ndarray) -> np.ndarray:
        array *= 2
        return array

    given = np.arange(int(megabytes * 2**17), dtype=np.float64)
    executor = by_hand(function_exec_mode=mode)
    for _ in range(2):
        assert np.array_equal(executor.submit(double, {}, given).result(SECONDS), np.arange(given.size) * 2.0)


def test_large_functions_and_exceptions_travel(by_hand: Make) -> None:
    text = "x" * 100_000

    def fail() -> None:
        raise ValueError(text)

    executor = by_hand()
    for _ in range(3):
        error = executor.submit(fail, {}).exception(SECONDS)
        assert isinstance(error, ValueError)
        assert str(error) == text


def test_files_travel(by_hand: Make, mode: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def join(inputs: list[File], outputs: list[File]) -> int:
        texts = [open(file.filepath).read() for file in inputs]
        open(outputs[0].filepath, "w").write("+".join(texts))
        return len(texts)

    monkeypatch.chdir(tmp_path)
    (tmp_path / "a").write_text("a")
    executor = by_hand(function_exec_mode=mode)
    kept, out = File("taskvinetemp:///kept"), File("out/b")
    assert executor.submit(join, {}, inputs=[File("a"), File("a")], outputs=[kept]).result(SECONDS) == 2
    assert executor.submit(join, {}, inputs=[kept, File("a")], outputs=[out]).result(SECONDS) == 2
    assert (tmp_path / "out" / "b").read_text() == "a+a+a"
    assert Path(executor.fetch(kept, tmp_path / "fetched")).read_text() == "a+a"


def test_directories_travel(by_hand: Make, mode: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def copy(inputs: list[File], outputs: list[File], fails: bool = False) -> None:
        import shutil

        shutil.copytree(inputs[0].filepath, outputs[0].filepath, symlinks=True)
        assert not fails

    monkeypatch.chdir(tmp_path)
    (tmp_path / "a" / "empty").mkdir(parents=True)
    (tmp_path / "a" / "file").write_text("a")
    (tmp_path / "a" / "link").symlink_to("file")
    executor = by_hand(function_exec_mode=mode)
    kept = File("taskvinetemp:///kept")
    executor.submit(copy, {}, inputs=[File("a")], outputs=[kept])
    executor.submit(copy, {}, inputs=[kept], outputs=[File("out/b")]).result(SECONDS)
    executor.fetch(kept, "fetched")
    failed = executor.submit(copy, {}, fails=True, inputs=[kept], outputs=[File("left")])
    assert isinstance(failed.exception(SECONDS), AssertionError)
    for name in ("out/b", "fetched", "left"):
        assert sorted(path.name for path in (tmp_path / name).iterdir()) == ["empty", "file", "link"]
        assert os.readlink(tmp_path / name / "link") == "file"
        assert (tmp_path / name / "link").read_text() == "a"


def test_standard_streams_travel(
    make_executor: Make,
    bare_worker: Callable[[TaskVineExecutor], None],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Files that are appended to grow, also by calls that fail. A file that is never written need not exist."""

    def line(text: str, stdout: object = None, stderr: object = None) -> str:
        return f"echo {text}; echo error {text} >&2; test {text} != bad"

    def silent(stdout: object = None) -> int:
        return 3

    monkeypatch.chdir(tmp_path)
    executor = make_executor(worker_launch_method="manual")
    bare_worker(executor)
    run = functools.partial(remote_side_bash_executor, line)
    for text in ("one", "two"):
        future = executor.submit(run, {}, text, stdout="logs/out", stderr=("error", "w"))
        assert future.result(SECONDS) == 0
    failed = executor.submit(run, {}, "bad", stdout="logs/out", stderr=("error", "w"))
    assert isinstance(failed.exception(SECONDS), BashExitFailure)
    assert executor.submit(silent, {}, stdout="logs/out").result(SECONDS) == 3
    assert (tmp_path / "logs" / "out").read_text().split() == ["one", "two", "bad"]
    error = (tmp_path / "error").read_text()  # with the command, as Parsl writes it
    assert error.endswith("error bad\n")
    assert "one" not in error


@pytest.fixture
def bare_worker(tmp_path: Path) -> Iterator[Callable[[TaskVineExecutor], None]]:
    """Start workers that the executor has not started, in directories that it does not know."""
    started: list[subprocess.Popen[bytes]] = []

    def start(executor: TaskVineExecutor) -> None:
        words = shlex.split(executor.launch_cmd)
        workspace = str(tmp_path / f"worker-{len(started)}")
        command = ["vine_worker", "--password", words[words.index("--password") + 1], "--workspace", workspace]
        with open(os.devnull, "wb") as nothing:
            started.append(
                subprocess.Popen([*command, *words[-2:]], stdout=nothing, stderr=nothing, start_new_session=True)
            )

    yield start
    for process in started:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def test_large_file_comes_home_in_pieces(
    make_executor: Make, bare_worker: Callable[[TaskVineExecutor], None], tmp_path: Path
) -> None:
    def write(outputs: list[File]) -> None:
        with open(outputs[0].filepath, "wb") as file:
            for number in range(24):
                file.write(bytes([number]) * (1 << 20))
            file.write(b"end")

    executor = make_executor(worker_launch_method="manual")
    bare_worker(executor)
    executor.submit(write, {}, outputs=[File("taskvinetemp:///large")]).result(SECONDS)
    made = Path(executor.fetch(File("taskvinetemp:///large"), tmp_path / "large"))
    content = made.read_bytes()
    assert len(content) == (24 << 20) + 3
    assert [content[number << 20] for number in range(24)] == list(range(24))
    assert content.endswith(b"end")


def test_results_on_another_machine_come_home_when_the_run_ends(
    make_executor: Make, bare_worker: Callable[[TaskVineExecutor], None]
) -> None:
    pytest.importorskip("proxystore")

    def make(number: int, megabytes: int) -> Any:
        import numpy as np

        return np.full(megabytes * 2**17, float(number))

    executor = make_executor(worker_launch_method="manual", results="reference")
    bare_worker(executor)
    futures = [executor.submit(make, {}, number, 6 if number == 3 else 1) for number in range(24)]
    proxies = [future.result(SECONDS) for future in futures]
    del proxies[5], futures
    executor.shutdown()
    assert [proxy[-1] for proxy in proxies] == [float(number) for number in range(24) if number != 5]


def test_packed_environment_travels(
    make_executor: Make, bare_worker: Callable[[TaskVineExecutor], None], tmp_path: Path
) -> None:
    """The tarball is sent with the library."""

    def prefix() -> str:
        import sys

        return sys.prefix

    environment = tmp_path / "environment"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", environment], check=True)
    (site,) = environment.glob("lib/python*/site-packages")
    (site / "here.pth").write_text(os.path.dirname(os.path.dirname(cloudpickle.__file__)))
    pack = tmp_path / "environment.tar.gz"
    with tarfile.open(pack, "w:gz") as archive:
        archive.add(environment, ".")
    executor = make_executor(worker_launch_method="manual", env_pack=str(pack))
    bare_worker(executor)
    assert executor.submit(prefix, {}).result(SECONDS).startswith(str(tmp_path / "worker-0"))
    (brought,) = (tmp_path / "worker-0").glob("*/env_pack")
    assert brought.stat().st_size == pack.stat().st_size


def test_context_travels(by_hand: Make) -> None:
    def load(numbers: np.ndarray) -> dict[str, float]:
        return {"sum": float(numbers.sum())}

    def use() -> Any:
        from taskvine_manager.runtime.context import load_variable_from_library

        return load_variable_from_library("sum")

    executor = by_hand(library_config={"context": load, "context_args": (np.ones(100_000),)})
    assert executor.submit(use, {}).result(SECONDS) == 100_000


# --- no idle second ---


def test_long_call_delays_no_new_calls(make_executor: Make, gate: Gate) -> None:
    executor = make_executor()
    held = executor.submit(gate.task, {})
    gate.wait(1)
    taken = []
    for _ in range(20):
        start = time.perf_counter()
        assert executor.submit(int, {}).result(SECONDS) == 0
        taken.append(time.perf_counter() - start)
    gate.open()
    held.result(SECONDS)
    assert statistics.median(taken) < 0.1  # TaskVine alone takes a second


def test_results_of_a_batch_do_not_wait_for_its_longest(make_executor: Make, gate: Gate) -> None:
    """The calls were known to be short, but one of them is long."""
    executor = make_executor()
    hold = gate.task

    def perhaps(number: int) -> int:
        return hold(number)[0] if number == 5 else number  # type: ignore[return-value]

    assert [executor.submit(perhaps, {}, 0).result(SECONDS) for _ in range(4)] == [0] * 4
    futures = [executor.submit(perhaps, {}, number) for number in range(200)]
    gate.wait(1)
    assert [future.result(SECONDS) for future in futures if future is not futures[5]]
    assert not futures[5].done()
    gate.open()
    assert futures[5].result(SECONDS) == 5


# --- faults ---


@pytest.mark.parametrize("what", ["launcher", "vine_worker", "group", "everything"])
def test_killed_worker_is_replaced(make_executor: Make, gate: Gate, what: str) -> None:
    """Its transfer server inherits its connection, so TaskVine would not notice if only the worker process died."""
    executor = make_executor(worker_launch_method="factory")
    future = executor.submit(gate.task, {})
    gate.wait(1)
    launcher = psutil.Process(first_node(executor)["pid"])
    (worker,) = (child for child in launcher.children() if child.name() == "vine_worker")
    if what == "launcher":
        launcher.kill()
    elif what == "vine_worker":
        worker.kill()
    elif what == "group":
        os.killpg(worker.pid, signal.SIGKILL)
    else:
        for victim in launcher.children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):
                victim.kill()
    gate.wait(2)
    gate.open()
    assert future.result(SECONDS)[0] == "task"


def test_files_made_before_libraries_died_can_be_recreated(make_executor: Make) -> None:
    """TaskVine has given up the library that its task is for."""

    def write(outputs: list[File]) -> None:
        open(outputs[0].filepath, "w").write("made")

    def read(file: File) -> str:
        return open(file.filepath).read()

    executor = make_executor(max_retries=10)
    executor.submit(write, {}, outputs=[File("taskvinetemp:///x")]).result(SECONDS)
    for _ in range(3):
        (supervisor,) = descendants(executor, "supervise")
        supervisor.kill()
        assert executor.submit(int, {}).result(SECONDS) == 0
    os.kill(first_node(executor)["pid"], signal.SIGKILL)
    assert executor.submit(read, {}, File("taskvinetemp:///x")).result(SECONDS) == "made"


def test_supervisor_that_dies_is_started_again(make_executor: Make) -> None:
    """The same with output, which TaskVine's manager would read as the beginning of the next message."""
    executor = make_executor()
    for round in range(3):  # TaskVine gives up a library that has ended twice
        executor.submit(int, {}).result(SECONDS)
        worker = first_node(executor)["name"]
        (supervisor,) = descendants(executor, "supervise")
        for descriptor in (1, 2):
            with open(f"/proc/{supervisor.pid}/fd/{descriptor}", "a") as stream:
                stream.write("x" * 100 * round)
        supervisor.kill()
    assert executor.submit(int, {}).result(SECONDS) == 0
    assert first_node(executor)["name"] == worker


def test_call_that_kills_its_workers_is_given_up(make_executor: Make) -> None:
    def kill_worker() -> None:
        import os
        import signal

        import psutil

        process = psutil.Process()
        while "vine_worker" not in process.name():
            process = process.parent()
        os.kill(process.pid, signal.SIGKILL)
        signal.pause()  # otherwise its result may be home before its node is gone

    executor = make_executor(worker_launch_method="factory", min_workers=2, max_workers=2, max_retries=1)
    assert executor.wait_for_nodes(2, SECONDS)
    error = executor.submit(kill_worker, {}).exception(60)
    assert isinstance(error, NodeLost)
    assert "attempt 2" in str(error)
    assert executor.submit(int, {}).result(SECONDS) == 0


def test_workers_that_always_end_are_reported(make_executor: Make) -> None:
    executor = make_executor(worker_launch_method="factory", worker_options="--no-such-option")
    assert isinstance(executor.submit(int, {}).exception(60), BadStateException)
    assert isinstance(executor.executor_exception, WorkerLaunchFailed)
    assert "ended before they joined" in str(executor.executor_exception)


# --- logs ---


@pytest.mark.slow
def test_report_tool_reads_the_log(make_executor: Make, gate: Gate) -> None:
    """The log is of a run with files, batches, failures, L1 tasks, a cancelled call, a lost worker, and recovery."""
    tool = shutil.which("vine_parse")
    if tool is None:
        pytest.skip("vine_parse of taskvine-report-tool is not on PATH")

    def make(outputs: list[File]) -> None:
        open(outputs[0].filepath, "wb").write(bytes(2**20))

    def read(inputs: list[File]) -> int:
        import os

        return os.path.getsize(inputs[0].filepath)

    executor = make_executor(worker_launch_method="factory")
    kept = File("taskvinetemp:///kept")
    executor.submit(make, {}, outputs=[kept]).result(SECONDS)
    assert [executor.submit(int, {}, number).result(SECONDS) for number in range(3)] == [0, 1, 2]
    assert [future.result(SECONDS) for future in [executor.submit(int, {}) for _ in range(100)]] == [0] * 100
    assert executor.submit(int, {}, "x").exception(SECONDS)
    executor.submit(int, {"function_exec_mode": "L1"}).result(SECONDS)
    held = executor.submit(gate.task, {})
    gate.wait(1)
    psutil.Process(first_node(executor)["pid"]).kill()
    gate.wait(2)
    gate.open()
    held.result(SECONDS)
    assert executor.submit(read, {}, inputs=[kept]).result(SECONDS) == 2**20
    executor.shutdown()
    told = subprocess.run(
        [tool, "--logs-dir", executor.run.places.log, "-R"], capture_output=True, text=True, timeout=60, check=False
    )
    (logs,) = Path(executor.run.places.log).glob("vine-*/vine-logs")
    assert "1 log directory processed successfully" in told.stdout, told.stdout + told.stderr
    metadata = dict(csv.reader((logs.parent / "csv-files" / "metadata.csv").read_text().splitlines()))
    assert int(metadata["undispatched_tasks"]) <= 2  # files on their way to the worker that was killed
    assert int(metadata["recovery_tasks"]) >= 1
