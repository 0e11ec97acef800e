"""The supervisor's beginning, as a worker sees it."""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import select
import shutil
import subprocess
import sys
import tarfile
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest

from taskvine_manager.runtime import failure
from taskvine_manager.vine import parcels
from taskvine_manager.vine.manager.outbound import runtime_archive
from taskvine_manager.vine.parcels import Answer, Parcel
from taskvine_manager.vine.worker import pipe
from taskvine_manager.wire.messages import L2, Invocation, Profile


def unpack(directory: Path) -> Path:
    with tarfile.open(fileobj=BytesIO(runtime_archive())) as archive:
        archive.extractall(directory, filter="data")
    return directory / "runtime" / "taskvine_manager"


def test_only_the_standard_library_is_imported_before_the_greeting(tmp_path: Path) -> None:
    program = unpack(tmp_path)
    code = (
        f"import sys; sys.path.insert(0, {str(program.parent)!r}); before = set(sys.modules)\n"
        "import taskvine_manager.vine.worker.supervisor\n"
        "names = {name.partition('.')[0] for name in set(sys.modules) - before}\n"
        "print(sorted(names - set(sys.stdlib_module_names) - {'taskvine_manager'}))"
    )
    said = subprocess.run([sys.executable, "-S", "-c", code], capture_output=True, text=True, check=True)
    assert said.stdout.strip() == "[]"


def complaint(tmp_path: Path, *, python: str = sys.executable, brief: bool = False) -> dict[str, Any]:
    """Return the answer to a call of a supervisor that cannot be set up."""
    program = unpack(tmp_path)
    calls, results = os.pipe(), os.pipe()
    profile = Profile(0, "f", "f", L2, None, None, None, None, 0.0, "f")
    command, _ = parcels.pack(Parcel("run", 1, (), (tuple(profile),), (tuple(Invocation(7, 0, b"")),), brief=brief))
    sandbox = tmp_path / "func.3"
    sandbox.mkdir()
    process = subprocess.Popen(
        [
            *(
                python,
                "-c",
                "import signal, sys, runpy; signal.signal(signal.SIGCHLD, signal.SIG_IGN)\n"
                "sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name='__main__')",
            ),
            *(str(program / "__main__.py"), "supervise", "lib", "no-such-config"),
            *("--in-pipe-fd", str(calls[0]), "--out-pipe-fd", str(results[1]), "--task-id", "2"),
            *("--worker-pid", str(os.getpid())),
        ],
        pass_fds=(calls[0], results[1]),
        cwd=tmp_path,
    )
    try:
        os.close(calls[0])
        os.close(results[1])
        os.write(calls[1], pipe.frame(f"3 {command} {sandbox} {sandbox}/.out"))
        assert select.select([results[0]], [], [], 30)[0]  # the supervisor's greeting
        # TaskVine kills its process group, and fails to make that group if the supervisor starts too quickly.
        assert os.getpgid(process.pid) == process.pid
        os.close(calls[1])
        assert process.wait(30) == 0
        said = os.read(results[0], 1000)
    finally:
        process.kill()
        process.wait()
        os.close(results[0])
    length, _, rest = said.partition(b"\n")
    assert json.loads(rest[: int(length)])["name"] == "lib"
    if rest[int(length) :] == pipe.ended(3, 0):
        answer = parcels.from_output((sandbox / ".out").read_text())
    else:  # with long paths in its traceback, it is too large for a call's output
        assert rest[int(length) :] == pipe.ended(3, 1)
        assert not brief
        answer = (sandbox / parcels.OUT).read_bytes()
    (done,) = Answer(*pickle.loads(answer)).done
    assert done[:2] == (7, failure.LOST)
    record: dict[str, Any] = pickle.loads(done[2])
    assert record["kind"] == "library"
    return record


@pytest.mark.parametrize("brief", [False, True])
def test_failed_setup_is_reported_to_every_call(tmp_path: Path, brief: bool) -> None:
    assert "no-such-config" in complaint(tmp_path, brief=brief)["reason"]


@pytest.mark.parametrize("late", [True, False])
def test_late_supervisor_without_messages_ends(tmp_path: Path, late: bool) -> None:
    """Its worker may have tried to kill it before it led its group, and now waits for its end."""
    program = unpack(tmp_path)
    calls, results = os.pipe(), os.pipe()
    code = (
        f"import signal, sys; sys.path.insert(0, {str(program.parent)!r})\n"
        "from taskvine_manager.vine.worker import supervisor\n"
        "supervisor.SILENCE, supervisor._wake = 0.3, lambda worker: None\n"
        "supervisor._node = lambda options: sys.exit(5)\n"
        "supervisor.main(sys.argv[1:])"
    )
    more = ["--in-pipe-fd", str(calls[0]), "--out-pipe-fd", str(results[1]), "--task-id", "2", "--worker-pid", "0"]
    process = subprocess.Popen(
        [sys.executable, "-c", code, "lib", "config", *more],
        pass_fds=(calls[0], results[1]),
        start_new_session=not late,
    )
    try:
        if late:
            assert process.wait(30) == 0
        else:  # it goes on, fails to be set up here, and reports that for every call
            os.close(calls[0])
            os.close(results[1])
            with pytest.raises(subprocess.TimeoutExpired):
                process.wait(1)
            os.close(calls[1])
            assert process.wait(30) == 0
    finally:
        process.kill()
        process.wait()
        for descriptor in (*calls, *results):
            with contextlib.suppress(OSError):
                os.close(descriptor)


def old_python() -> str | None:
    """A Python that is too old for nodes, if there is one here."""
    for version in ("3.9", "3.8", "3.7"):
        found = shutil.which(f"python{version}")
        if found and subprocess.run([found, "-c", ""], check=False, capture_output=True).returncode == 0:
            return found
    return None


@pytest.mark.skipif(old_python() is None, reason="there is no Python 3.7 to 3.9")
def test_too_old_python_is_reported(tmp_path: Path) -> None:
    python = old_python()
    assert python is not None
    assert "Python 3.10 or later is needed" in complaint(tmp_path, python=python)["reason"]


@pytest.mark.parametrize("name", ["msgpack", "networkx", "ndcctools"])
def test_node_needs_only_dependencies_of_parsl(tmp_path: Path, name: str) -> None:
    program = unpack(tmp_path)
    code = (
        f"import sys; sys.path.insert(0, {str(program.parent)!r}); sys.modules[{name!r}] = None\n"
        "import taskvine_manager.vine.worker.node, taskvine_manager.runtime.library, taskvine_manager.runtime.oneshot"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
