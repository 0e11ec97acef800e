"""A worker's node. The test acts as ``vine_worker``."""

from __future__ import annotations

import asyncio
import json
import os
import pickle
import select
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import taskvine_manager
from taskvine_manager.runtime import failure, payload, pickling, search_path
from taskvine_manager.runtime.payload import Payload
from taskvine_manager.vine import parcels, seals
from taskvine_manager.vine.manager import listening
from taskvine_manager.vine.manager.admission import Admission
from taskvine_manager.vine.parcels import ANSWER, HELLO, PARCEL, Answer, Body, Parcel
from taskvine_manager.vine.worker import pipe
from taskvine_manager.vine.worker.worker import DIRECT
from taskvine_manager.wire.channel import Channel
from taskvine_manager.wire.messages import L1, L2, Completion, FileUse, Invocation, NodeInfo, Profile
from tests.conftest import eventually
from tests.unit.taskvine_manager.node.test_config import config

PROGRAM = os.path.join(os.path.dirname(os.path.abspath(taskvine_manager.__file__)), "__main__.py")
SECONDS = 30


def add(first: int, second: int) -> int:
    return first + second


def large() -> bytes:
    return bytes(100_000)


def wait_for(path: str) -> str:
    while not os.path.exists(path):
        time.sleep(0.005)
    return "found"


def copy_twice() -> None:
    with open("in.txt") as source, open("out.txt", "w") as target, open("shared.txt", "w") as other:
        content = source.read()
        target.write(content * 2)
        other.write(content)


def no_output() -> None:
    with open("out.txt", "w") as partial:
        partial.write("not all")


PROFILES = [
    Profile(number, each.__name__, each.__name__, mode, None, None, None, None, 0.0, each.__name__)
    for number, (each, mode) in enumerate(
        [(add, L2), (large, L2), (wait_for, L2), (copy_twice, L1), (no_output, L1), (add, L1)]
    )
]
ADD, LARGE, WAIT, COPY, NO_OUTPUT, ADD_L1 = PROFILES
FUNCTIONS: dict[str, Callable[..., Any]] = {
    each.__name__: each for each in (add, large, wait_for, copy_twice, no_output)
}


class Worker:
    """A worker that runs one supervisor, and sends it function calls."""

    def __init__(self, directory: Path, **fields: Any) -> None:
        self.directory = directory
        own = directory / "library"
        own.mkdir(parents=True)
        (own / "config").write_bytes(pickle.dumps(self._config(fields)))
        calls, results = os.pipe(), os.pipe()
        self.calls, self.results = calls[1], results[0]
        options = ["--in-pipe-fd", calls[0], "--out-pipe-fd", results[1], "--task-id", 2, "--library-cores", 2]
        options += ["--worker-pid", os.getpid()]
        with open(directory / "output", "wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, PROGRAM, "supervise", "lib", "config", *map(str, options)],
                pass_fds=(calls[0], results[1]),
                cwd=own,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        os.close(calls[0])
        os.close(results[1])
        self.numbers = iter(range(10, 1000))
        self._data = b""
        self._frame()  # the supervisor's greeting

    def _config(self, fields: dict[str, Any]) -> Any:
        return config(
            base=str(self.directory / "elsewhere"),
            python_version=sys.version_info[:2],
            sys_path=search_path.of_this_process(),
            program=PROGRAM,
            **fields,
        )

    def _frame(self) -> str:
        while True:
            length, newline, rest = self._data.partition(b"\n")
            if newline and len(rest) >= int(length):
                self._data = rest[int(length) :]
                return rest[: int(length)].decode()
            assert select.select([self.results], [], [], SECONDS)[0], "the supervisor is silent"
            data = os.read(self.results, 1 << 16)
            assert data, (self.directory / "output").read_text()
            self._data += data

    def send(self, parcel: Parcel, files: dict[str, bytes] | None = None) -> tuple[int, Path]:
        """Call a function; return the call's number and sandbox."""
        task = next(self.numbers)
        sandbox = self.directory / f"func.{task}"
        sandbox.mkdir()
        for name, content in (files or {}).items():
            (sandbox / name).write_bytes(content)
        command, data = parcels.pack(parcel)
        if data is not None:
            (sandbox / parcels.IN).write_bytes(data)
        os.write(self.calls, pipe.frame(f"{task} {command} {sandbox} {sandbox}/.out"))
        return task, sandbox

    def answer(self, call: tuple[int, Path]) -> tuple[Answer, int]:
        """Wait for the end of a call; return its answer and status."""
        task, sandbox = call
        number, status = map(int, self._frame().split())
        assert number == task
        output = sandbox / ".out"
        data = parcels.from_output(output.read_text()) if output.exists() else (sandbox / parcels.OUT).read_bytes()
        return Answer(*pickle.loads(data)), status

    def ask(self, parcel: Parcel, files: dict[str, bytes] | None = None) -> tuple[Answer, int]:
        return self.answer(self.send(parcel, files))

    def close(self) -> None:
        os.close(self.calls)
        try:
            assert self.process.wait(SECONDS) == 0, (self.directory / "output").read_text()
        finally:
            self.process.kill()
            self.process.wait()
            os.close(self.results)


@pytest.fixture
def worker(tmp_path: Path) -> Iterator[Worker]:
    made = Worker(tmp_path / "w")
    yield made
    made.close()


def call(number: int, profile: Profile, *args: Any, inputs: Any = (), outputs: Any = ()) -> Invocation:
    return Invocation(number, profile.number, pickle.dumps((args, {})), tuple(inputs), tuple(outputs))


def run(*calls: Invocation, number: int = 1, functions: dict[str, Payload] | None = None, **more: Any) -> Parcel:
    """A parcel of tasks, with their functions and profiles."""
    profiles = [profile for profile in PROFILES if profile.number in {each.profile for each in calls}]
    encoded = {profile.function: pickling.dumps(FUNCTIONS[profile.function]) for profile in profiles}
    return Parcel(
        "run",
        number,
        tuple((functions or encoded).items()),
        tuple(map(tuple, profiles)),
        tuple(map(tuple, calls)),
        **more,
    )


def results(answer: Answer) -> dict[int, Any]:
    """Return the values that tasks returned, or how they were lost."""
    found = {}
    for completion in (Completion(*item) for item in answer.done):
        assert isinstance(completion.body, bytes)
        found[completion.number] = pickle.loads(completion.body)
    return found


def test_node_describes_itself(worker: Worker) -> None:
    answer, status = worker.ask(Parcel("hello", 1))
    assert answer.info is not None
    info = NodeInfo(*answer.info)
    assert (info.cores, info.slots, info.directory) == (2.0, 2, str(worker.directory))
    assert (answer.node, status) == (info.name, 0)


def test_function_call_and_fresh_process(worker: Worker) -> None:
    answer, _ = worker.ask(run(call(1, ADD, 1, 2)))
    assert results(answer) == {1: 3}
    answer, _ = worker.ask(run(call(2, ADD_L1, 3, 4), number=2))
    assert results(answer) == {2: 7}


def test_large_result_is_in_the_answer(worker: Worker) -> None:
    answer, status = worker.ask(run(call(1, LARGE)))
    ((_, _, body, *_),) = answer.done
    assert len(Body(*body).data) > 100_000
    assert status == 1, "TaskVine fetches the answer's file only then"


def test_large_result_that_others_read_stays(worker: Worker) -> None:
    uses = [FileUse("value", "", "result")]
    sent = worker.send(run(call(1, LARGE, outputs=uses), staged={">result": "o0"}))
    answer, status = worker.answer(sent)
    ((_, outcome, body, *_, made, _),) = answer.done
    assert (outcome, body, status) == (failure.RETURNED, "", 0)
    path = sent[1] / "o0"
    assert made == (("result", seals.check(str(path)), 0),)
    assert answer.files is not None
    assert answer.files["result"][:3] == (path.stat().st_dev, path.stat().st_ino, path.stat().st_size)


FILES = {
    "inputs": [FileUse("local", "in.txt", "/home/in.txt")],
    "outputs": [FileUse("temp", "out.txt", "file"), FileUse("local", "shared.txt", "/home/shared.txt")],
}
STAGED = {"/home/in.txt": "i0", ">file": "o1", ">/home/shared.txt": "o2"}


def test_files_in_and_out(worker: Worker) -> None:
    sent = worker.send(run(call(1, COPY, **FILES), staged=STAGED), {"i0": b"text"})
    answer, status = worker.answer(sent)
    ((_, outcome, *_, made, _),) = answer.done
    assert (outcome, status) == (failure.RETURNED, 0)
    assert made == (("file", 8, 0),)
    assert seals.check(str(sent[1] / "o1")) == 8
    assert (sent[1] / "o2").read_bytes() == b"text"


def test_truncated_input_is_noticed(worker: Worker) -> None:
    parcel = run(call(1, COPY, **FILES), staged=STAGED, sizes={"/home/in.txt": 5})
    answer, status = worker.ask(parcel, {"i0": b"text"})
    assert results(answer)[1]["kind"] == "file-lost"
    assert status == 1


def test_missing_output_is_reported_with_undeclared_files(worker: Worker) -> None:
    uses = [FileUse("temp", "gone.txt", "file"), FileUse("local", "out.txt", "/home/out.txt")]
    parcel = run(call(1, NO_OUTPUT, outputs=uses), staged={">file": "o0", ">/home/out.txt": "o1"})
    answer, status = worker.ask(parcel)
    record = results(answer)[1]
    assert (record["kind"], record["path"], status) == ("output-missing", "gone.txt", 1)
    assert answer.left == {"/home/out.txt": b"not all"}


def test_results_of_long_calls_are_collected_later(worker: Worker, tmp_path: Path) -> None:
    path = tmp_path / "go"
    answer, _ = worker.ask(run(call(1, ADD, 1, 2), call(2, WAIT, str(path)), number=4))
    assert (results(answer), answer.open) == ({1: 3}, True)
    sent = worker.send(Parcel("collect", 4))
    path.touch()
    answer, _ = worker.answer(sent)
    assert (results(answer), answer.open) == ({2: "found"}, False)
    answer, _ = worker.ask(Parcel("collect", 4))
    assert (answer.done, answer.open) == ((), False)


def test_brief_answer_is_collected(worker: Worker) -> None:
    answer, _ = worker.ask(run(call(1, LARGE), brief=True))
    assert (answer.done, answer.open) == ((), True)
    answer, _ = worker.ask(Parcel("collect", 1))
    ((_, _, body, *_),) = answer.done
    assert len(Body(*body).data) > 100_000


def test_cancelled_call_is_lost(worker: Worker) -> None:
    sent = worker.send(run(call(1, WAIT, "/nowhere")))
    answer, _ = worker.ask(run(call(2, ADD, 1, 1), number=2))
    assert results(answer) == {2: 2}
    cancel = worker.send(Parcel("cancel", 3, numbers=(1,)))
    answer, _ = worker.answer(cancel)
    assert answer.done == ()
    answer, _ = worker.answer(sent)
    assert results(answer)[1]["kind"] == "cancelled"


def file_of(value: Any, directory: Path) -> bytes:
    """Return the bytes of a value's file."""
    return Path(str(payload.encode(value, str(directory), pickling.dumps, limit=0))).read_bytes()


def test_function_files_are_kept_until_they_are_retired(worker: Worker, tmp_path: Path) -> None:
    parcel = run(call(1, ADD, 1, 2), functions={"add": "/user/add"}, staged={"/user/add": "f0"})
    answer, _ = worker.ask(parcel, {"f0": file_of(add, tmp_path)})
    assert results(answer) == {1: 3}
    kept = worker.directory / "library" / "functions" / "add"
    assert kept.exists()
    worker.ask(Parcel("retire", 2, (("add", b""),), numbers=(ADD.number,)))
    eventually(lambda: not kept.exists(), SECONDS)


def test_pieces_of_files_are_sent(worker: Worker, tmp_path: Path) -> None:
    whole = tmp_path / "whole"
    whole.write_bytes(b"0123456789")
    seals.seal(str(whole))
    ask = Parcel("read", 1, staged={"file": "i0"}, numbers=(2, 3))
    assert worker.ask(ask, {"i0": whole.read_bytes()})[0].piece == (whole.stat().st_size, b"234")
    assert worker.ask(ask, {"i0": whole.read_bytes()[:-1]})[0].piece == parcels.CUT
    assert worker.ask(ask)[0].piece is None


def test_impossible_call_is_refused(worker: Worker) -> None:
    profile = ADD._replace(number=9, cores=3.0)
    parcel = run(call(1, ADD, 1, 2)._replace(profile=9))._replace(profiles=(tuple(profile),))
    record = results(worker.ask(parcel)[0])[1]
    assert (record["kind"], record["requested"]) == ("unsatisfiable", {"cores": 3.0})


def test_context_that_is_sent_as_bytes(tmp_path: Path) -> None:
    body = file_of((dict, (), {}), tmp_path)
    worker = Worker(tmp_path / "w", context_body=body)
    answer, _ = worker.ask(run(call(1, ADD, 1, 2)))
    assert results(answer) == {1: 3}
    assert (worker.directory / "library" / "functions" / "context").read_bytes() == body
    worker.close()


# --- the direct connection ---


class Manager:
    """A manager to which a worker's supervisor connects."""

    def __init__(self, base: Path) -> None:
        for name in ("spool", "nodes"):
            (base / name).mkdir(parents=True)
        (base / "manager.config").touch()
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(str(base / "manager.sock"))
        self._listener.listen()
        self._listener.settimeout(SECONDS)

    def accept(self, giver: socket.socket | None = None) -> str:
        """Accept the supervisor, or take its connection over; return the name of its node."""
        if giver is None:
            end = self._listener.accept()[0]
        else:
            end = socket.socket(fileno=socket.recv_fds(giver, 10, 1)[1][0])
        self._channel = Channel(end)
        kind, name = self.hear()
        assert kind == HELLO
        return str(name)

    def hear(self) -> tuple[Any, ...]:
        while (message := self._channel.next()) is None:
            assert not self._channel.ended
            assert select.select([self._channel], [], [], SECONDS)[0], "the supervisor is silent"
            self._channel.read()
        return message

    def send(self, parcel: Parcel) -> None:
        self._channel.send(PARCEL, pickle.dumps(tuple(parcel)))

    def answer(self, number: int) -> Answer:
        kind, parcel, data = self.hear()
        assert (kind, parcel) == (ANSWER, number)
        return Answer(*pickle.loads(data))

    def close(self) -> None:
        self._channel.close()
        self._listener.close()


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[Manager]:
    made = Manager(tmp_path / "w" / "elsewhere")
    yield made
    made.close()


@pytest.fixture
def direct(manager: Manager, worker: Worker) -> Manager:
    name = manager.accept()
    answer, _ = worker.ask(Parcel("hello", 1))
    assert answer.node == name
    return manager


def test_parcel_over_the_direct_connection_is_answered_there(direct: Manager) -> None:
    direct.send(run(call(1, ADD, 1, 2)))
    answer = direct.answer(1)
    assert (results(answer), answer.open) == ({1: 3}, False)


def test_large_result_is_named_by_path_there(direct: Manager) -> None:
    direct.send(run(call(1, LARGE)))
    ((_, outcome, path, *_),) = direct.answer(1).done
    assert (outcome, os.path.getsize(path) > 100_000) == (failure.RETURNED, True)


def test_results_are_collected_by_taskvine_after_the_connection_has_ended(
    direct: Manager, worker: Worker, tmp_path: Path
) -> None:
    path = tmp_path / "go"
    direct.send(run(call(1, WAIT, str(path)), call(2, ADD, 1, 2), number=4))
    assert results(direct.answer(4)) == {2: 3}, "the parcel has come"
    direct.close()
    sent = worker.send(Parcel("collect", 4))
    path.touch()
    assert results(worker.answer(sent)[0]) == {1: "found"}


def test_answer_to_an_ended_connection_is_dropped(direct: Manager, worker: Worker, tmp_path: Path) -> None:
    path = tmp_path / "go"
    direct.send(run(call(1, WAIT, str(path)), call(2, ADD, 1, 2), number=4))
    direct.answer(4)
    direct.send(Parcel("collect", 4))
    direct.close()
    path.touch()
    answer, _ = worker.ask(run(call(3, ADD, 3, 4), number=5))
    assert results(answer) == {3: 7}


@pytest.fixture
def far(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """Admit connections to a manager on another machine; return the socket that brings them."""
    password = tmp_path / "password"
    password.write_text("secret")
    loop = asyncio.new_event_loop()
    ours, direct = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.settimeout(SECONDS)
    with ours, direct, listening.listen("127.0.0.1", 0, fixed=False) as listener:
        monkeypatch.setenv(DIRECT, json.dumps([*listener.getsockname(), str(password)]))
        admits = Admission(listener, 0, b"secret", direct=direct)
        serving = loop.create_task(admits.serve())
        thread = threading.Thread(target=lambda: loop.run_until_complete(asyncio.wait([serving])))
        thread.start()
        yield ours
        loop.call_soon_threadsafe(serving.cancel)
        thread.join()
        loop.run_until_complete(admits.finish(SECONDS))
        loop.run_until_complete(loop.shutdown_default_executor())
    loop.close()


def test_supervisor_on_another_machine_connects_too(far: socket.socket, worker: Worker, tmp_path: Path) -> None:
    manager = Manager(tmp_path / "far")
    manager.accept(far)
    manager.send(run(call(1, ADD, 1, 2)))
    assert results(manager.answer(1)) == {1: 3}
    manager.send(run(call(2, LARGE), number=2))
    ((_, _, body, *_),) = manager.answer(2).done
    assert isinstance(body, Body), "the manager does not see the node's files"
    assert len(body.data) > 100_000
    manager.close()
    answer, _ = worker.ask(run(call(3, ADD, 3, 4), number=3))
    assert results(answer) == {3: 7}


def test_supervisor_serves_without_a_direct_connection(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(DIRECT, json.dumps(["127.0.0.1", 9, str(tmp_path / "no password")]))
    worker = Worker(tmp_path / "w")
    answer, _ = worker.ask(run(call(1, ADD, 1, 2)))
    assert results(answer) == {1: 3}
    worker.close()
    assert "no direct connection to the manager at 127.0.0.1:9" in (tmp_path / "w" / "output").read_text()
