"""vine_factory is watched. A script of the test stands for it."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from taskvine_manager import cleanup
from taskvine_manager.engine_api import NodesFail
from taskvine_manager.vine.manager import batch
from taskvine_manager.vine.manager.batch import BatchFactory
from tests.conftest import eventually

SUBMITTED = "2026/11/27 09:20:47.79 vine_factory[1]batch: job 1 submitted\n"
REFUSED = "2026/11/27 09:21:15.01 vine_factory[1]notice: job submission failed: no output from slurm\n"
REFUSED_BY_CONDOR = "2026/11/27 09:21:15.01 vine_factory[1]batch: failed to submit job to condor!\n"

Make = Callable[..., BatchFactory]


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Make]:
    """Start the stand-in for vine_factory: a shell script that gets its options."""
    monkeypatch.setattr(batch, "LOOK_SECONDS", 0.0)
    made: list[BatchFactory] = []
    (tmp_path / "scratch").mkdir()

    def start(script: str, *, last: str = "exec sleep 60") -> BatchFactory:
        program, begun = tmp_path / "vine_factory", tmp_path / "begun"
        program.write_text(f"#!/bin/sh\n{script}\ntouch {begun}\n{last}\n")
        program.chmod(0o755)
        made.append(BatchFactory([str(program), "--min=1"], str(tmp_path / "scratch"), str(tmp_path)))
        eventually(begun.exists)
        return made[-1]

    yield start
    for factory in made:
        factory.terminate()
        factory.kill()


def failure(factory: BatchFactory, *, joined: bool = False) -> NodesFail:
    """Return the reason with which it fails."""
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        try:
            factory.check(joined=joined)
        except NodesFail as error:
            return error
        time.sleep(0.01)
    raise AssertionError("it does not fail")


def fail(tmp_path: Path, number: int) -> None:
    (tmp_path / "scratch" / f"worker-n1-{number}.out{batch.ENDED}").write_text(f"worker {number} said this")


def test_factory_gets_its_directory_and_no_secrets(make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(cleanup.TOKEN, "/tmp/run")
    error = failure(make(f'echo "$*"; echo "token: ${cleanup.TOKEN}"', last="exit 3"))
    assert error.reason == f"vine_factory ended with status 3: see {tmp_path}/factory.out"
    options = "--debug-file=" + str(tmp_path / "factory.debug") + " --debug=batch --debug-file-size=16MB --min=1"
    assert error.stderr == f"{options}\ntoken: \n"


@pytest.mark.parametrize("said", [REFUSED, REFUSED_BY_CONDOR])
@pytest.mark.parametrize("where", ["factory.out", "factory.debug"])
def test_failing_submission_fails_the_run(make: Make, tmp_path: Path, said: str, where: str) -> None:
    factory = make("echo sbatch: error: invalid partition")
    factory.check(joined=False)
    with open(tmp_path / where, "a") as file:
        file.write(said)
    error = failure(factory)
    assert "cannot submit workers" in error.reason
    assert f"{tmp_path}/factory.out" in error.reason
    assert "invalid partition" in error.stderr


def test_failing_submission_after_the_first_worker_is_logged(
    make: Make, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    factory = make("")
    (tmp_path / "factory.debug").write_text(REFUSED[:50])
    factory.check(joined=True)
    (tmp_path / "factory.debug").write_text(REFUSED)  # the rest of the line comes
    for _ in range(3):
        factory.check(joined=True)
    assert len(caplog.records) == 1
    assert "factory.debug" in caplog.text
    (tmp_path / "factory.debug").write_text("a new file\n")
    factory.check(joined=False)


@pytest.mark.parametrize(("submitted", "enough"), [(1, 1), (2, 2), (5, 3)])
def test_failing_first_workers_fail_the_run(make: Make, tmp_path: Path, submitted: int, enough: int) -> None:
    factory = make("")
    (tmp_path / "factory.debug").write_text(SUBMITTED * submitted)
    factory.check(joined=False)
    for number in range(1, enough):
        fail(tmp_path, number)
        factory.check(joined=False)
    fail(tmp_path, enough)
    factory.check(joined=True)
    error = failure(factory)
    assert f"{enough} workers failed before one had joined" in error.reason
    assert "said this" in error.stderr


def test_factory_may_cancel_its_jobs_at_the_end(make: Make, tmp_path: Path) -> None:
    (tmp_path / "scratch" / "pwfile").touch()
    factory = make(
        f"trap 'sleep 0.3; touch {tmp_path}/cancelled; kill $!; exit 0' TERM; touch {tmp_path}/begun; sleep 60 & wait"
    )
    while not (tmp_path / "begun").exists():
        time.sleep(0.01)
    factory.terminate()
    factory.kill()
    assert (tmp_path / "cancelled").exists()
    assert not (tmp_path / "scratch" / "pwfile").exists()


def test_factory_ends_with_its_parent(tmp_path: Path) -> None:
    program = tmp_path / "vine_factory"
    program.write_text(
        f"#!/bin/sh\ntrap 'touch {tmp_path}/told; kill $!; exit' TERM\ntouch {tmp_path}/begun\nsleep 60 & wait\n"
    )
    program.chmod(0o755)
    start = f"""
import os, time
from taskvine_manager.vine.manager.batch import BatchFactory
BatchFactory([{str(program)!r}], {str(tmp_path)!r}, {str(tmp_path)!r})
while not os.path.exists({str(tmp_path / "begun")!r}):
    time.sleep(0.01)
os.kill(os.getpid(), 9)
"""
    subprocess.run([sys.executable, "-c", start], check=False)
    eventually((tmp_path / "told").exists)


def test_factory_that_does_not_end_is_killed(
    make: Make, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(batch, "END_SECONDS", 0.2)
    factory = make("trap '' TERM")
    factory.terminate()
    factory.kill()
    assert factory.ended
    assert "jobs may be left" in caplog.text


@pytest.mark.parametrize(("python", "status"), [(sys.executable, 0), (sys.executable, 3), ("/no/python", 0)])
def test_script_that_starts_a_worker(tmp_path: Path, python: str, status: int) -> None:
    program = tmp_path / "program.py"
    program.write_text(f"import sys; print(*sys.argv[1:]); sys.exit({status})")
    worker = tmp_path / "vine_worker"
    worker.write_text("#!/bin/sh\necho bare $*\n")
    worker.chmod(0o755)
    batch.write_script(str(tmp_path / batch.SCRIPT), python, str(program))
    command = ["sh", f"./{batch.SCRIPT}", "vine_worker", "head", "9123", "-C", "a b"]
    done = subprocess.run(command, cwd=tmp_path, check=False, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (status, "", "")
    (output,) = tmp_path.glob("worker-*")
    assert output.name.endswith(batch.ENDED) == bool(status)
    said = output.read_text()
    assert f"ended with status {status}" in said
    if os.path.exists(python):
        assert said.startswith(f"worker --executable {tmp_path}/vine_worker -C a b head 9123\n")
    else:
        assert said.startswith("there is no /no/python on ")
        assert "bare -C a b head 9123\n" in said
